"""What forms cost: decode rates plain, with a JSON schema and with a thinking budget, as one line of JSON.

Usage: `python -m contrib.dev.bench.form_rates`. One process, one model, taken in turn, behind a prompt of 512 tokens.
The budget is never used up, and the schema's answer never ends.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING, Any

from contrib.dev.bench.raw_mlx import prompts
from contrib.dev.bench.servers import MODEL, models_dir
from semanticd.adapters.mlx.platform.blas import load_fast_blas
from semanticd.adapters.mlx.platform.heap import return_freed_memory
from semanticd.domain.generation import OutputConstraint, SamplingParams
from semanticd.domain.ids import ModelFingerprint, SequenceId

if TYPE_CHECKING:
    from semanticd.adapters.mlx.model.runner import MlxModelRunner

LENGTH, STEPS, ROUNDS = 512, 24, 6
SCHEMA = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "number": {"type": "integer"},
            "done": {"type": "boolean"},
        },
        "required": ["name", "number", "done"],
        "additionalProperties": False,
    },
    "minItems": 1000,
}
PLAIN, WITH_SCHEMA, THINKING = None, OutputConstraint("json_schema", schema=SCHEMA), OutputConstraint("any")
FORMS = {"plain": PLAIN, "schema": WITH_SCHEMA, "thinking": THINKING}


def step_s(runner: MlxModelRunner, ids: list[int], number: int, form: OutputConstraint | None) -> float:
    """Return the seconds of a decode step."""
    sequence = SequenceId(number)
    runner.open(sequence, prefix=[], state=None, capacity_tokens=LENGTH + STEPS + 8)
    runner.prefill(sequence, ids[:LENGTH])
    runner.start_decode(
        sequence, last_token=ids[-1], context=ids[:LENGTH], num_generated=0, constraint=form, seed=0,
        sampling=SamplingParams(temperature=0),
    )  # fmt: skip
    runner.decode()
    runner.decode()
    began = time.perf_counter()
    for _ in range(STEPS):
        runner.decode()
    took = (time.perf_counter() - began) / STEPS
    runner.close(sequence)
    return took


def main() -> None:
    """Measure in turn, and print the best of each."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    # Both before MLX is imported, or they do nothing.
    return_freed_memory(budget_bytes=4 << 30)
    load_fast_blas()
    import mlx.core as mx
    from mlx_lm.utils import dequantize_model, load

    from semanticd.adapters.mlx.constraints.processor import AnswerBounds, ConstraintProcessor
    from semanticd.adapters.mlx.constraints.thinking_gate import ThinkingGate
    from semanticd.adapters.mlx.model.runner import MlxModelRunner
    from semanticd.adapters.mlx.platform import cpu_math
    from semanticd.adapters.mlx.text.tokenizer import MlxTokenizer

    model, wrapper = load(str(models_dir() / MODEL))[:2]
    dequantize_model(model)
    model.set_dtype(mx.float32)
    mx.eval(model.parameters())
    cpu_math.install(model)
    tokenizer = MlxTokenizer(wrapper, model_type="llama")

    def processor(constraint: OutputConstraint, num_context: int) -> Any:
        if constraint is not THINKING:
            return tokenizer.constraints.processor(constraint, num_context=num_context)
        gate = ThinkingGate(start=[], end=[2, 2], begun=True, budget=1 << 30)
        return ConstraintProcessor(None, bounds=AnswerBounds(num_context), eos_token_ids=[2], gate=gate)

    (ids,) = prompts(1, LENGTH + 1, int(wrapper.vocab_size), seed=7)
    runner = MlxModelRunner(model, fingerprint=ModelFingerprint("00" * 32), constraint_processor=processor)
    taken: dict[str, list[float]] = {name: [] for name in FORMS}
    for number in range(ROUNDS * len(FORMS)):
        name = list(FORMS)[number % len(FORMS)]
        taken[name].append(step_s(runner, ids, number + 1, FORMS[name]))
    print(json.dumps({f"decode/{name}": 1 / min(steps) for name, steps in taken.items()}))


if __name__ == "__main__":
    main()
