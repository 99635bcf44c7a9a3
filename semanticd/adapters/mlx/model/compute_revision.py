"""compute_revision: names the software and hardware that compute KV here, to keep blocks of others apart.

Minor versions of mlx and mlx-lm may round otherwise, and a mistake in a model's code may be put right; so may our own
attention, and what weights are made from packed ones. Chips of one family run the same kernels.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from importlib.metadata import version

import mlx.core as mx

from semanticd.adapters.mlx.model import latent_attention, weights
from semanticd.adapters.mlx.platform import cpu_math

_APPLE_FAMILY = re.compile(r"applegpu_g(\d+)")


@functools.cache
def compute_revision() -> str:
    """Return letters, digits, dots and dashes such as `mlx0.32-lm0.32-a1.1.1-apple.g14`."""
    info: Mapping[str, object] = mx.device_info(mx.default_device())
    own = f"a{latent_attention.REVISION}.{cpu_math.REVISION}.{weights.REVISION}"
    chip = chip_family(
        architecture=str(info.get("architecture", "")), on_cpu=mx.default_device() == mx.Device(mx.cpu)
    )
    return f"mlx{_minor(version('mlx'))}-lm{_minor(version('mlx-lm'))}-{own}-{chip}"


def chip_family(*, architecture: str, on_cpu: bool) -> str:
    """Return the family of what MLX calls the architecture: `cpu.x86_64`, `apple.g14` (M2's), `gpu.sm_90`."""
    apple = _APPLE_FAMILY.match(architecture)
    if apple:
        return f"apple.g{apple.group(1)}"
    name = re.sub(r"[^A-Za-z0-9_.]+", "_", architecture) or "unknown"
    return f"{'cpu' if on_cpu else 'gpu'}.{name}"


def _minor(release: str) -> str:
    return ".".join(release.split(".")[:2])
