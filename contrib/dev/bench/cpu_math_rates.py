"""What the CPU's own attention and activations bring: prefill and decode with and without, as one line of JSON.

Usage: `python -m contrib.dev.bench.cpu_math_rates`. One process, one model, taken in turn. `library` is mlx-lm alone
with its batch, its masks and its functions, `off` is our runner with `SEMANTIC_MLX_CPU_MATH=false`, `on` our runner as
it is.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING, Any

from contrib.dev.bench.raw_mlx import load_in_float32, prompts
from semanticd.adapters.mlx.platform.heap import return_freed_memory
from semanticd.domain.generation import SamplingParams
from semanticd.domain.ids import ModelFingerprint, SequenceId

if TYPE_CHECKING:
    from semanticd.adapters.mlx.model.runner import MlxModelRunner

LENGTH, CHUNK, STEPS, ROUNDS = 1024, 128, 12, 4


def library(model: Any, ids: list[int]) -> tuple[float, float]:
    """Return the seconds of the prefill, and of a decode step behind it, with mlx-lm's own batches."""
    from mlx_lm.generate import GenerationBatch, PromptProcessingBatch
    from mlx_lm.models.cache import make_prompt_cache

    batch = PromptProcessingBatch(model, [0], [make_prompt_cache(model)])
    batch.samplers, batch.logits_processors, batch.max_tokens = [None], [[]], [STEPS + 8]
    began = time.perf_counter()
    for start in range(0, LENGTH, CHUNK):
        batch.prompt([ids[start : start + CHUNK]])
    prefilled = time.perf_counter()
    generation: GenerationBatch = batch.generate([[ids[-1]]])
    generation.next()
    stepping = time.perf_counter()
    for _ in range(STEPS):
        generation.next()
    return prefilled - began, (time.perf_counter() - stepping) / STEPS


def ours(runner: MlxModelRunner, ids: list[int], number: int) -> tuple[float, float]:
    """Return the same with our runner."""
    sequence = SequenceId(number)
    runner.open(sequence, prefix=[], state=None, capacity_tokens=LENGTH + STEPS + 8)
    began = time.perf_counter()
    for start in range(0, LENGTH, CHUNK):
        runner.prefill(sequence, ids[start : start + CHUNK])
    prefilled = time.perf_counter()
    runner.start_decode(
        sequence, last_token=ids[-1], context=ids[:LENGTH], num_generated=0, constraint=None, seed=0,
        sampling=SamplingParams(temperature=0),
    )  # fmt: skip
    runner.decode()
    stepping = time.perf_counter()
    for _ in range(STEPS):
        runner.decode()
    step_s = (time.perf_counter() - stepping) / STEPS
    runner.close(sequence)
    return prefilled - began, step_s


def main() -> None:
    """Measure in turn, and print the best of each."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    # Before MLX is imported, or it does nothing.
    return_freed_memory(budget_bytes=4 << 30)
    model, tokenizer = load_in_float32()
    from semanticd.adapters.mlx.model.runner import MlxModelRunner
    from semanticd.adapters.mlx.platform import cpu_math

    (ids,) = prompts(1, LENGTH + 1, int(tokenizer.vocab_size), seed=7)
    runner = MlxModelRunner(model, fingerprint=ModelFingerprint("00" * 32))
    taken: dict[str, list[tuple[float, float]]] = {"library": [], "off": [], "on": []}
    for number in range(ROUNDS):
        cpu_math.uninstall(model)
        taken["library"].append(library(model, ids))
        taken["off"].append(ours(runner, ids, 2 * number))
        cpu_math.install(model)
        taken["on"].append(ours(runner, ids, 2 * number + 1))
    rates = {}
    for name, pairs in taken.items():
        rates[f"prefill/{name}"] = LENGTH / min(prefill for prefill, _ in pairs)
        rates[f"decode/{name}"] = 1 / min(step for _, step in pairs)
    print(json.dumps(rates))


if __name__ == "__main__":
    main()
