"""How long the model takes for so many new tokens behind so many that are cached, as one line of JSON.

Usage: `python -m contrib.dev.bench.step_times '[[2048, 37]]'`: pairs of cached and new tokens. What a warm first token
cannot go below: one step of the model as semanticd runs it on this machine, and nothing else.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from contrib.dev.bench.raw_mlx import load_in_float32, prompts
from semanticd.adapters.mlx.platform.heap import return_freed_memory
from semanticd.bench.statistics import median

ROUNDS = 7
CHUNK = 256


def step_s(model: Any, ids: list[int], num_new: int) -> float:
    """Return the median seconds of the step that computes the last `num_new` ids and chooses the next token."""
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache, trim_prompt_cache

    cache = make_prompt_cache(model)
    known, new = ids[:-num_new], mx.array(ids[-num_new:])[None]
    for start in range(0, len(known), CHUNK):
        mx.eval(model(mx.array(known[start : start + CHUNK])[None], cache=cache))
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        mx.eval(mx.argmax(model(new, cache=cache)[:, -1], axis=-1))
        times.append(time.perf_counter() - began)
        trim_prompt_cache(cache, num_new)
    return median(times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", type=json.loads, help="[cached, new] tokens: a JSON list of pairs")
    options = parser.parse_args()
    # Before MLX is imported, or it does nothing.
    return_freed_memory(budget_bytes=4 << 30)
    model, tokenizer = load_in_float32()
    from semanticd.adapters.mlx.platform import cpu_math

    cpu_math.install(model)
    vocabulary = int(tokenizer.vocab_size)
    found = {}
    for num_cached, num_new in options.pairs:
        (ids,) = prompts(1, num_cached + num_new, vocabulary, seed=num_cached)
        found[f"{num_cached}+{num_new}"] = step_s(model, ids, num_new)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
