"""Gives MLX's CPU back-end a fast BLAS: loaded before `mlx.core`, its symbols win over the reference one's.

MLX's own Linux wheel brings a reference BLAS (about 2 GFLOP/s on two cores); MKL or OpenBLAS give many times that.
On macOS, Accelerate is built in and nothing is done.

MKL runs on TBB's threads where it can. OpenMP's, its default, meet at a barrier in every product and spin between
products: a decode step makes hundreds of small ones while Python describes the next, and takes a sixth longer.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.metadata
import os
import sys
from dataclasses import dataclass
from pathlib import Path

_MKL_ON_TBB = 4
"""Value of TBB in `MKL_Set_Threading_Layer`; 0 is Intel's OpenMP."""


@dataclass(frozen=True, slots=True)
class BlasChoice:
    """The BLAS in use: `accelerate`, `mkl`, `openblas`, or `reference` with the reason."""

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
            library = ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        threads = "TBB" if name == "mkl" and _run_on_tbb(library) else "its own"
        return BlasChoice(name, path, f"loaded before mlx, on {threads} threads")
    return BlasChoice(
        "reference",
        None,
        "neither MKL nor OpenBLAS was found: `pip install mkl` (x86-64) or install libopenblas",
    )


def _candidates() -> list[tuple[str, str]]:
    found = [("mkl", str(path)) for path in _files("mkl", "libmkl_rt.so")]
    openblas = ctypes.util.find_library("openblas")
    if openblas:
        found.append(("openblas", openblas))
    return found


def _run_on_tbb(mkl: ctypes.CDLL) -> bool:
    """Let MKL use TBB's threads; False where TBB is missing or the user named a threading layer himself."""
    if os.environ.get("MKL_THREADING_LAYER"):
        return False
    # Loaded by its path: MKL asks for it by its name, and the loader does not search a virtual environment.
    for path in _files("tbb", "libtbb.so"):
        try:
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return bool(mkl.MKL_Set_Threading_Layer(_MKL_ON_TBB) == _MKL_ON_TBB)
    return False


def _files(distribution: str, prefix: str) -> list[Path]:
    """Return the files of an installed distribution whose names begin so."""
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    paths = [Path(str(file.locate())).resolve() for file in files if file.name.startswith(prefix)]
    return [path for path in paths if path.exists()]
