"""Imports mlx-lm: with an error that names the package to install, and without changing the limit of open files.

`mlx_lm.utils` sets the limits to 2,048 and 4,096 as it is imported. That fails where the hard limit is lower, so that
nothing can be served, and lowers limits that are higher. The server sets the limit that it needs itself.
"""

from __future__ import annotations

import importlib
import resource
from typing import Any

from semanticd.adapters.mlx.platform.transformers_names import quick_names
from semanticd.domain.errors import DaemonError

BACK_END_ADVICE = (
    "on Linux, install a back end: `pip install 'semanticd[cpu]'`, or `[cuda]` with an NVIDIA GPU"
)
"""MLX's package for Linux has none: `pip install semanticd` without an extra leaves it without a library."""


def import_mlx() -> Any:
    """Import and return `mlx.core`.

    Raises:
        DaemonError: It is not installed, or has no back end here.
    """
    try:
        return importlib.import_module("mlx.core")
    except ImportError as error:
        raise DaemonError(f"MLX does not work here: {error}; {BACK_END_ADVICE}") from error


def import_mlx_lm() -> None:
    """Import `mlx_lm.utils`, with the limits left as they are. To be called before there are other threads.

    Raises:
        DaemonError: MLX is not installed, or has no back end here.
    """
    import_mlx()
    original = resource.setrlimit
    resource.setrlimit = _leave_as_it_is
    try:
        with quick_names():
            importlib.import_module("mlx_lm.utils")
    finally:
        resource.setrlimit = original


def _leave_as_it_is(limit: int, values: tuple[int, int], /) -> None:
    """Set nothing."""
