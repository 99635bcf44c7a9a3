"""Which BLAS is loaded, and on whose threads; each case in a process of its own, since a library stays loaded."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys

import pytest

MULTIPLY = """
from semanticd.adapters.mlx.platform.blas import load_fast_blas
choice = load_fast_blas()
import mlx.core as mx
mx.eval(mx.ones((64, 64), stream=mx.cpu) @ mx.ones((64, 64), stream=mx.cpu))
with open("/proc/self/maps") as maps:
    loaded = maps.read()
print(choice.name, choice.reason, "libmkl_tbb" in loaded, "libiomp5" in loaded, sep="|")
"""


def _installed(distribution: str) -> bool:
    return any(importlib.metadata.distributions(name=distribution))


needs_mkl = pytest.mark.skipif(
    sys.platform != "linux" or not _installed("mkl"), reason="MKL is not installed"
)


def choose(*before: str, **env: str) -> list[str]:
    """Return name, reason, and whether the libraries of TBB's and OpenMP's threads were loaded."""
    program = "\n".join([*before, MULTIPLY])
    rest = {name: value for name, value in os.environ.items() if name != "MKL_THREADING_LAYER"}
    done = subprocess.run(
        [sys.executable, "-c", program], env={**rest, **env}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip().split("|")


@needs_mkl
def test_mkl_runs_on_tbbs_threads() -> None:
    assert choose() == ["mkl", "loaded before mlx, on TBB threads", "True", "False"]


@needs_mkl
def test_a_threading_layer_that_the_user_named_is_kept() -> None:
    found = choose(MKL_THREADING_LAYER="INTEL")
    assert found == ["mkl", "loaded before mlx, on its own threads", "False", "True"]


@needs_mkl
def test_without_tbb_mkl_keeps_its_own_threads() -> None:
    hide = """
import importlib.metadata as metadata
files = metadata.files
metadata.files = lambda name: None if name == "tbb" else files(name)
"""
    assert choose(hide) == ["mkl", "loaded before mlx, on its own threads", "False", "True"]


@pytest.mark.skipif(sys.platform != "linux", reason="macOS brings Accelerate")
def test_a_blas_that_comes_too_late_is_not_called_loaded() -> None:
    name, reason, *_ = choose("import mlx.core")
    assert (name, reason) == ("reference", "mlx was imported first; load the BLAS before it")
