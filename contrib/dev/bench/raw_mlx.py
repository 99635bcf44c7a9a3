"""What mlx-lm itself reaches, without a server: prefill and decode rates by batch size, as one line of JSON.

Usage: `python -m contrib.dev.bench.raw_mlx '[900, 2048]' '[[4, 256]]'`. Same BLAS, same float32 weights and same chunk
as semanticd. Runs in a process of its own, so that nothing of ours that changes the library is loaded.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from typing import Any

from contrib.dev.bench.servers import MODEL, PREFILL_CHUNK, models_dir
from semanticd.adapters.mlx.platform.blas import load_fast_blas

DECODE_PROMPT_TOKENS = 52
DECODE_STEPS = 40


def prompts(batch: int, length: int, vocabulary: int, seed: int) -> list[list[int]]:
    """Return random token ids."""
    choose = random.Random(seed)
    return [[choose.randrange(100, vocabulary) for _ in range(length)] for _ in range(batch)]


def load_in_float32() -> tuple[Any, Any]:
    """Return the benchmarked model with float32 weights, and its tokenizer; MLX must not have been imported before."""
    load_fast_blas()  # before MLX is imported, or it is not used
    import mlx.core as mx
    from mlx_lm.utils import dequantize_model, load

    model, tokenizer = load(str(models_dir() / MODEL))[:2]
    dequantize_model(model)
    model.set_dtype(mx.float32)
    mx.eval(model.parameters())
    return model, tokenizer


def measure(model: Any, *, batch: int, length: int, vocabulary: int, steps: int) -> tuple[float, float]:
    """Return prefill and decode rates of the whole batch in tokens per second."""
    from mlx_lm.generate import BatchGenerator

    generator = BatchGenerator(
        model, max_tokens=steps + 8, prefill_batch_size=batch, prefill_step_size=PREFILL_CHUNK
    )
    began = time.perf_counter()
    uids = generator.insert(prompts(batch, length, vocabulary, seed=batch * length))
    waiting = set(uids)
    while waiting:
        _, answers = generator.next()
        waiting -= {answer.uid for answer in answers}
    first = time.perf_counter()
    tokens = 0
    for _ in range(steps):
        tokens += len(generator.next()[1])
    return batch * length / (first - began), tokens / (time.perf_counter() - first) if steps else 0.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lengths", type=json.loads, help="prompts in tokens, one at a time: a JSON list")
    parser.add_argument("batches", type=json.loads, help="[prompts, tokens] at a time: a JSON list of pairs")
    options = parser.parse_args()
    model, tokenizer = load_in_float32()
    vocabulary = int(tokenizer.vocab_size)
    measure(model, batch=1, length=64, vocabulary=vocabulary, steps=4)
    rates: dict[str, float] = {}
    for length in options.lengths:
        rates[f"prefill/1x{length}"] = measure(model, batch=1, length=length, vocabulary=vocabulary, steps=0)[
            0
        ]
    for batch, length in options.batches:
        rates[f"prefill/{batch}x{length}"] = measure(
            model, batch=batch, length=length, vocabulary=vocabulary, steps=0
        )[0]
    for batch in (1, 4, 8):
        rates[f"decode/{batch}"] = measure(
            model, batch=batch, length=DECODE_PROMPT_TOKENS, vocabulary=vocabulary, steps=DECODE_STEPS
        )[1]
    print(json.dumps(rates))


if __name__ == "__main__":
    main()
