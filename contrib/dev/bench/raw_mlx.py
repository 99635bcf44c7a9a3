"""What mlx-lm itself reaches, without a server: prefill and decode rates by batch size, as one line of JSON.

Same BLAS, same float32 weights and same chunk as semanticd. Runs in a process of its own, so that nothing of ours that
changes the library is loaded.
"""

from __future__ import annotations

import json
import random
import sys
import time
from typing import Any

from semanticd.adapters.mlx.platform.blas import load_fast_blas

load_fast_blas()

import mlx.core as mx  # noqa: E402
from mlx_lm.generate import BatchGenerator  # noqa: E402
from mlx_lm.utils import dequantize_model, load  # noqa: E402

from contrib.dev.bench.servers import MODEL, PREFILL_CHUNK, models_dir  # noqa: E402

DECODE_PROMPT_TOKENS = 52
DECODE_STEPS = 40


def prompts(batch: int, length: int, vocabulary: int, seed: int) -> list[list[int]]:
    """Return random token ids."""
    choose = random.Random(seed)
    return [[choose.randrange(100, vocabulary) for _ in range(length)] for _ in range(batch)]


def measure(model: Any, *, batch: int, length: int, vocabulary: int, steps: int) -> tuple[float, float]:
    """Return prefill and decode rates of the whole batch in tokens per second."""
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
    model, tokenizer = load(str(models_dir() / MODEL))[:2]
    dequantize_model(model)
    model.set_dtype(mx.float32)
    mx.eval(model.parameters())
    vocabulary = int(tokenizer.vocab_size)
    measure(model, batch=1, length=64, vocabulary=vocabulary, steps=4)
    rates: dict[str, float] = {}
    for length in json.loads(sys.argv[1]):
        rates[f"prefill/1x{length}"] = measure(model, batch=1, length=length, vocabulary=vocabulary, steps=0)[
            0
        ]
    for batch, length in json.loads(sys.argv[2]):
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
