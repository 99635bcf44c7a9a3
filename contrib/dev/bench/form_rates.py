"""What forms cost: decode rates plain, with a JSON schema and with a thinking budget, as one line of JSON.

Usage: `python -m contrib.dev.bench.form_rates`. One process, one model, a step of each in turn, behind a prompt of 512
tokens. Of the plain steps' times the lower quartile counts, which other processes disturb least; the others' rates
follow from the median of how much longer or shorter a step took than the plain one of its turn. The budget is never
used up, and the schema's answer never ends.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import TYPE_CHECKING, Any

from contrib.dev.bench.raw_mlx import load_in_float32, prompts
from semanticd.adapters.mlx.platform.heap import return_freed_memory
from semanticd.domain.generation import OutputConstraint, SamplingParams
from semanticd.domain.ids import ModelFingerprint, SequenceId

if TYPE_CHECKING:
    from semanticd.adapters.mlx.model.runner import MlxModelRunner

LENGTH, STEPS = 512, 120
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


def begin(runner: MlxModelRunner, ids: list[int], group: int, form: OutputConstraint | None) -> None:
    """Begin an answer in a decode batch of its own."""
    sequence = SequenceId(group + 1)
    runner.open(sequence, prefix=[], state=None, capacity_tokens=LENGTH + STEPS + 8)
    runner.prefill(sequence, ids[:LENGTH])
    runner.start_decode(
        sequence, last_token=ids[-1], context=ids[:LENGTH], num_generated=0, constraint=form, seed=0, group=group,
        sampling=SamplingParams(temperature=0),
    )  # fmt: skip
    runner.decode(group)
    runner.decode(group)


def main() -> None:
    """Measure in turn, and print."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    # Before MLX is imported, or it does nothing.
    return_freed_memory(budget_bytes=4 << 30)
    model, wrapper = load_in_float32()
    from semanticd.adapters.mlx.constraints.processor import AnswerBounds, ConstraintProcessor
    from semanticd.adapters.mlx.constraints.thinking_gate import ThinkingGate
    from semanticd.adapters.mlx.model.runner import Decoding, MlxModelRunner
    from semanticd.adapters.mlx.platform import cpu_math
    from semanticd.adapters.mlx.text.tokenizer import MlxTokenizer

    cpu_math.install(model)
    tokenizer = MlxTokenizer(wrapper, model_type="llama")

    def processor(constraint: OutputConstraint, num_context: int) -> Any:
        if constraint is not THINKING:
            return tokenizer.constraints.processor(constraint, num_context=num_context)
        gate = ThinkingGate(start=[], end=[2, 2], begun=True, budget=1 << 30)
        return ConstraintProcessor(None, bounds=AnswerBounds(num_context), eos_token_ids=[2], gate=gate)

    (ids,) = prompts(1, LENGTH + 1, int(wrapper.vocab_size), seed=7)
    runner = MlxModelRunner(model, fingerprint=ModelFingerprint("00" * 32), decoding=Decoding(processor))
    for group, form in enumerate(FORMS.values()):
        begin(runner, ids, group, form)
    taken: dict[str, list[float]] = {name: [] for name in FORMS}
    for _ in range(STEPS):
        for group, name in enumerate(FORMS):
            began = time.perf_counter()
            runner.decode(group)
            taken[name].append(time.perf_counter() - began)
    plain = taken["plain"]
    rate = 1 / sorted(plain)[STEPS // 4]
    shares = {
        name: statistics.median(one / other for one, other in zip(plain, steps, strict=True))
        for name, steps in taken.items()
    }
    print(json.dumps({f"decode/{name}": rate * share for name, share in shares.items()}))


if __name__ == "__main__":
    main()
