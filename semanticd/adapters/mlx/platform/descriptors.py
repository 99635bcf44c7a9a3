"""Imports mlx-lm without what it does to the number of files that the process may have open.

`mlx_lm.utils` sets the limits to 2,048 and 4,096 as it is imported. That fails where the hard limit is lower, so that
nothing can be served, and lowers limits that are higher. The server sets the limit that it needs itself.
"""

from __future__ import annotations

import importlib
import resource


def import_mlx_lm() -> None:
    """Import `mlx_lm.utils`, with the limits left as they are. To be called while no other thread sets limits."""
    original = resource.setrlimit
    resource.setrlimit = _leave_as_it_is
    try:
        importlib.import_module("mlx_lm.utils")
    finally:
        resource.setrlimit = original


def _leave_as_it_is(limit: int, values: tuple[int, int], /) -> None:
    """Set nothing."""
