"""Gives MLX's CPU back-end a fast BLAS: loaded before `mlx.core`, its symbols win over the reference one's.

MLX's own Linux wheel brings a reference BLAS (about 2 GFLOP/s on two cores); MKL or OpenBLAS give many times that.
On macOS, Accelerate is built in and nothing is done.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.metadata
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class BlasChoice:
    """Which BLAS is in use: `accelerate`, `mkl`, `openblas`, or `reference` with the reason."""

    name: str
    path: str | None
    reason: str


_choice: BlasChoice | None = None


def load_fast_blas() -> BlasChoice:
    """Load the best BLAS there is, once per process; later calls return the first choice."""
    global _choice
    if _choice is None:
        _choice = _choose()
    return _choice


def _choose() -> BlasChoice:
    if sys.platform == "darwin":
        return BlasChoice("accelerate", None, "macOS: MLX uses Accelerate and Metal")
    if "mlx.core" in sys.modules:
        return BlasChoice("reference", None, "mlx was imported first; load the BLAS before it")
    for name, path in _candidates():
        try:
            ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return BlasChoice(name, path, "loaded before mlx")
    return BlasChoice(
        "reference",
        None,
        "neither MKL nor OpenBLAS was found: `pip install mkl` (x86-64) or install libopenblas",
    )


def _candidates() -> list[tuple[str, str]]:
    found = [("mkl", str(path)) for path in _mkl_files()]
    openblas = ctypes.util.find_library("openblas")
    if openblas:
        found.append(("openblas", openblas))
    return found


def _mkl_files() -> list[Path]:
    try:
        files = importlib.metadata.files("mkl") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    paths = [Path(str(file.locate())).resolve() for file in files if file.name.startswith("libmkl_rt.so")]
    return [path for path in paths if path.exists()]
