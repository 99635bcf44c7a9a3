"""Run mlx_lm.server at this processor's full speed: with MKL loaded first and its weights in float32.

Usage: `python contrib/dev/bench/mlx_lm_float32.py --model FOLDER --port N …`, with the options of `mlx_lm.server`.
On the CPU its wheel brings a reference BLAS, and quantized weights are slower than float32 ones; without this a
comparison would only measure the BLAS.
"""

from __future__ import annotations

import sys
from typing import Any

from semanticd.adapters.mlx.platform.blas import load_fast_blas

# Before mlx: its own symbols win otherwise.
BLAS = load_fast_blas()

import mlx.core as mx  # noqa: E402
import mlx_lm.server as server  # noqa: E402
from mlx_lm.utils import dequantize_model  # noqa: E402

load_as_it_is = server.load


def load_float32(*arguments: Any, **options: Any) -> Any:
    """Load as the server would, and widen the weights."""
    model, *others = load_as_it_is(*arguments, **options)
    dequantize_model(model)
    model.set_dtype(mx.float32)
    mx.eval(model.parameters())
    return (model, *others)


if __name__ == "__main__":
    print(f"BLAS: {BLAS.name}", file=sys.stderr)
    server.load = load_float32
    server.main()
