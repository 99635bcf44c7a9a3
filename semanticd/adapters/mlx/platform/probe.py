"""Whether MLX works at all here: one small matrix product, for the doctor."""

from __future__ import annotations

import time
from dataclasses import dataclass

from semanticd.adapters.mlx.platform.blas import load_fast_blas


@dataclass(frozen=True, slots=True)
class MlxProbe:
    """The default device, and how long the first product of two 512 x 512 matrices took."""

    device: str
    took_ms: float


def probe_mlx() -> MlxProbe:
    """Multiply on the default device. Not to be called while an engine thread runs.

    Raises:
        Exception: Any exception of a broken back end.
    """
    load_fast_blas()  # before mlx.core is imported
    import mlx.core as mx

    started = time.perf_counter()
    ones = mx.ones((512, 512))
    mx.eval(ones @ ones)
    return MlxProbe(str(mx.default_device()), 1000 * (time.perf_counter() - started))
