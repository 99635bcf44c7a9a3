"""What verifying drafts gains: decode rates with lookup decoding as shares of those without, as one line of JSON.

Usage: `python -m contrib.dev.bench.lookup_rates [--rounds 3] [--rows 4]`. One process, one model, two runners that
give the same answers, a step of each in turn, one with drafts and one without; the median of the rounds' ratios
counts. Workloads: `edit`, an answer that repeats a passage of the prompt with two sentences replaced; `edits`, the
same with a word in thirty changed as well; `prose`, the passage where the prompt has nothing of it; `call`, a tool
call whose form leaves no choice about most of its tokens; `own`, what the model says by itself. Three are about what
the agent answered before: `again`, the prose asked once more; `gone`, the edit where an earlier answer has the passage
and the prompt does not; `other`, the prose where the earlier answers are full of something else. A small model does not
do what it is asked for: all answers but those of `call` and `own` are given to it token by token, at the cost of a
form, and only the guesses are guesses. With `--cpu` processor time counts instead of the clock: for a machine that does
other things too. With `--rows`, so many sequences decode together, each of them the same workload behind
a prompt of its own. Each ratio comes with the tokens of one step, and with whether both answers were the same.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrib.dev.bench.servers import MODEL, models_dir
from semanticd.adapters.mlx.platform.blas import load_fast_blas
from semanticd.adapters.mlx.platform.heap import return_freed_memory
from semanticd.domain.earlier_text import EarlierText
from semanticd.domain.generation import OutputConstraint, SamplingParams
from semanticd.domain.ids import ModelFingerprint, SequenceId

if TYPE_CHECKING:
    from semanticd.adapters.mlx.constraints.packed_mask import PackedMask
    from semanticd.adapters.mlx.model.runner import MlxModelRunner

MAX_DRAFTS = 12
GREEDY = SamplingParams(temperature=0, ignore_eos=True)
PASSAGE = (
    "The harbour of Ellisport was built in 1871 by a company of merchants who wanted a shorter way to the northern "
    "markets. It has two stone piers, each of them four hundred metres long, and a lighthouse at the end of the "
    "western one. For thirty years most of the grain of the county was shipped from here, and on some days more than "
    "sixty ships lay at anchor in the bay. When the railway was opened in 1903 the trade went inland, and the company "
    "was dissolved two years later. The warehouses stood empty until the town bought them and turned them into a "
    "market hall, a school for carpenters and a museum of navigation. Today the harbour is used by fishing boats and "
    "by visitors. The ferry to the islands leaves every morning at seven and returns in the evening; in winter it "
    "runs three times a week only. A storm damaged the eastern pier in 1962, and it was repaired with concrete "
    "blocks, which can be seen at low tide. The lighthouse has been automatic since 1984, and its last keeper, Anna "
    "Lindqvist, wrote a book about her forty years of service. Every August the town holds a festival with a race of "
    "old sailing ships, a concert on the pier and a fair in the market hall, to which several thousand people come "
    "from all parts of the county. The harbour master publishes the times of the tides on a board beside his office, "
    "where children from the school learn to read them. Plans for a second ferry were made in 2011 and again in 2019, "
    "but both times the council found that too few people live on the islands to pay for it, and the money was spent "
    "on the road along the coast instead, which had been washed away twice."
)
EDIT = "<|im_start|>user\nRepeat this text, with other words:\n\n{passage}<|im_end|>\n<|im_start|>assistant\n"
PROSE = "<|im_start|>user\nTell me about a harbour in the north.<|im_end|>\n<|im_start|>assistant\n"
GIVEN = OutputConstraint("any")
CALL = "Please book a table for four people at eight o'clock on Friday. The call of the tool is:\n"
CALL_SCHEMA = {
    "type": "object",
    "properties": {
        "tool_name": {"const": "restaurant_reservation_service.create_reservation"},
        "arguments": {
            "type": "object",
            "properties": {
                "number_of_people": {"type": "integer", "minimum": 1, "maximum": 20},
                "reservation_date_and_time": {"enum": ["Friday evening", "Saturday evening"]},
                "requires_wheelchair_access": {"type": "boolean"},
                "confirmation_by_text_message": {"type": "boolean"},
            },
            "required": [
                "number_of_people", "reservation_date_and_time", "requires_wheelchair_access",
                "confirmation_by_text_message",
            ],
            "additionalProperties": False,
        },
    },
    "required": ["tool_name", "arguments"],
    "additionalProperties": False,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Workload:
    """A prompt, and what kind of answer."""

    prompt: str
    script: str = ""
    """The answer, where it is given."""
    num_tokens: int = 0
    """How long it may be, where it is not."""
    sampling: SamplingParams = GREEDY
    form: OutputConstraint | None = None
    ends: bool = False
    """Whether it ends by itself."""
    earlier: tuple[tuple[str, str], ...] = ()
    """Prompts and answers of the agent before; an empty prompt is this one."""


def rewritten(text: str) -> str:
    """Return a text with two of its sentences replaced."""
    sentences = text.split(". ")
    sentences[3] = "Nobody remembers who laid the first stone"
    sentences[8] = "In 1950 a circus came by sea, and its two elephants walked from the pier to the market"
    return ". ".join(sentences)


def edited(text: str) -> str:
    """Return a text with two of its sentences replaced, and every thirtieth word."""
    words = rewritten(text).split()
    words[29::30] = ["indeed"] * len(words[29::30])
    return " ".join(words)


def pages() -> list[str]:
    """Return long texts of another kind, in the same language: the documentation's pages."""
    folder = Path(__file__).resolve().parents[3] / "docs"
    return [
        (folder / name).read_text(encoding="utf-8")[:24_000] for name in ("user-guide.md", "operations.md")
    ]


WORKLOADS = {
    "edit": Workload(EDIT.format(passage=PASSAGE), script=rewritten(PASSAGE), form=GIVEN),
    "edits": Workload(EDIT.format(passage=PASSAGE), script=edited(PASSAGE), form=GIVEN),
    "prose": Workload(PROSE, script=PASSAGE, form=GIVEN),
    "call": Workload(
        CALL, num_tokens=120, form=OutputConstraint("json_schema", schema=CALL_SCHEMA), ends=True
    ),
    "again": Workload(PROSE, script=PASSAGE, form=GIVEN, earlier=(("", PASSAGE),)),
    "gone": Workload(PROSE, script=rewritten(PASSAGE), form=GIVEN, earlier=(("Hello.", PASSAGE),)),
    "other": Workload(
        PROSE, script=PASSAGE, form=GIVEN, earlier=tuple((page[:40], page) for page in pages())
    ),
    "own": Workload(
        PROSE, num_tokens=256, sampling=SamplingParams(temperature=1.0, top_p=0.95, ignore_eos=True)
    ),
}


class Script:
    """A form that has one answer, and does not say so beforehand."""

    def __init__(self, ids: list[int], num_context: int) -> None:
        """Give these ids after `num_context` others."""
        self._ids, self._num_context = ids, num_context

    def needs_last(self, ids: Sequence[int]) -> bool:
        """Only how many there are counts."""
        return False

    def mask(self, ids: Sequence[int], last: int | None, *, size: int) -> PackedMask | None:
        """Allow the next one."""
        from semanticd.adapters.mlx.constraints.packed_mask import only

        place = len(ids) + 1 - self._num_context
        return only([self._ids[min(place, len(self._ids) - 1)]])

    def forced(self, ids: Sequence[int], last: int) -> list[int]:
        """Say nothing."""
        return []


@dataclass(slots=True)
class Answers:
    """Answers that are being made together: their ids, and the seconds of each step behind the first tokens."""

    runner: MlxModelRunner
    workload: Workload
    num_tokens: int
    eos: frozenset[int]
    clock: Callable[[], float] = time.perf_counter
    earlier: list[tuple[list[int], list[int]]] = field(default_factory=list)
    """Prompts and answers before; one without ids is its own."""
    ids: dict[SequenceId, list[int]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)

    def begin(self, prompts: Sequence[list[int]], *, seed: int) -> None:
        """Read the prompts, and get the first tokens."""
        for number, prompt in enumerate(prompts):
            uid = SequenceId(number)
            self.runner.open(uid, prefix=[], state=None, capacity_tokens=len(prompt) + self.num_tokens)
            self.runner.prefill(uid, prompt[:-1])
            earlier = EarlierText()
            for asked, answer in self.earlier:
                earlier = earlier.with_answer(asked or prompt, answer)
            self.runner.start_decode(
                uid, last_token=prompt[-1], context=prompt[:-1], num_generated=0, constraint=self.workload.form,
                seed=seed + number, sampling=self.workload.sampling, max_length=len(prompt) + self.num_tokens,
                earlier=earlier,
            )  # fmt: skip
            self.ids[uid] = []
        self._take()

    @property
    def is_over(self) -> bool:
        """Whether all of them are complete."""
        return all(map(self._is_complete, self.ids.values()))

    def step(self) -> None:
        """Run a step, unless they are over."""
        if self.is_over:
            return
        began = self.clock()
        self._take()
        self.seconds.append(self.clock() - began)

    def end(self) -> list[list[int]]:
        """Return the answers, without what came behind their ends."""
        for ids in self.ids.values():
            ends = [ids.index(one) + 1 for one in self.eos & set(ids)] if self.workload.ends else []
            del ids[min([*ends, self.num_tokens]) :]
        return list(self.ids.values())

    def _take(self) -> None:
        for token in self.runner.decode():
            self.ids[token.sequence_id].append(token.token_id)
        for uid, ids in self.ids.items():
            if self._is_complete(ids):
                self.runner.close(uid)

    def _is_complete(self, ids: list[int]) -> bool:
        ended = self.workload.ends and not self.eos.isdisjoint(ids)
        return ended or len(ids) >= self.num_tokens


def repeated_share(ids: tuple[int, ...], passage: list[int], gram: int = 4) -> float:
    """Return the share of an answer's tokens that stand in a run which the passage has too."""
    known = {tuple(passage[n : n + gram]) for n in range(len(passage))}
    covered: set[int] = set()
    for n in range(len(ids) - gram + 1):
        if ids[n : n + gram] in known:
            covered.update(range(n, n + gram))
    return len(covered) / max(len(ids), 1)


def main() -> None:
    """Measure in turn, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--only", action="append", default=[], choices=WORKLOADS)
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()
    # Both before MLX is imported, or they do nothing.
    return_freed_memory(budget_bytes=4 << 30)
    load_fast_blas()
    import mlx.core as mx
    from mlx_lm.utils import dequantize_model, load

    from semanticd.adapters.mlx.model.runner import Decoding, MlxModelRunner
    from semanticd.adapters.mlx.platform import cpu_math
    from semanticd.adapters.mlx.text.tokenizer import MlxTokenizer

    model, wrapper = load(str(models_dir() / MODEL))[:2]
    if mx.default_device() == mx.Device(mx.cpu):
        dequantize_model(model)
        model.set_dtype(mx.float32)
        cpu_math.install(model)
    mx.eval(model.parameters())
    tokenizer = MlxTokenizer(wrapper, model_type="llama")

    scripts: list[int] = []

    def processor(constraint: OutputConstraint, num_context: int) -> Any:
        if constraint is GIVEN:
            return Script(scripts, num_context)
        return tokenizer.constraints.processor(constraint, num_context=num_context)

    runners = [
        MlxModelRunner(
            model,
            fingerprint=ModelFingerprint("00" * 32),
            decoding=Decoding(processor, max_drafts),
        )
        for max_drafts in (0, MAX_DRAFTS)
    ]
    row: dict[str, Any] = {}
    for name, workload in WORKLOADS.items():
        if not options.only or name in options.only:
            scripts[:] = tokenizer.encode(workload.script)
            num_tokens = len(scripts) or workload.num_tokens
            row |= measured(
                name, workload, runners, tokenizer,
                num_tokens=num_tokens, rounds=options.rounds, num_rows=options.rows,
                clock=time.process_time if options.cpu else time.perf_counter,
            )  # fmt: skip
    print(json.dumps(row))


def measured(
    name: str,
    workload: Workload,
    runners: list[MlxModelRunner],
    tokenizer: Any,
    *,
    num_tokens: int,
    rounds: int,
    num_rows: int,
    clock: Callable[[], float],
) -> dict[str, Any]:
    """Return one workload's figures."""
    earlier = [(tokenizer.encode(asked), tokenizer.encode(answer)) for asked, answer in workload.earlier]
    prompts = [tokenizer.encode("Hello. " * number + workload.prompt) for number in range(num_rows)]
    ratios, per_step, same = [], [], True
    for seed in range(rounds):
        off, on = (
            Answers(runner, workload, num_tokens, tokenizer.eos_token_ids, clock, earlier)
            for runner in runners
        )
        off.begin(prompts, seed=seed)
        on.begin(prompts, seed=seed)
        # A step of each in turn: what else this machine does meanwhile is shared.
        while not off.is_over:
            off.step()
            on.step()
        while not on.is_over:
            on.step()
        answers = on.end()
        same = same and answers == off.end()
        # The one with drafts was over earlier: only steps that have a neighbour count for the other's.
        step_s = statistics.mean(off.seconds[: len(on.seconds)])
        ratios.append(len(off.seconds) * step_s / sum(on.seconds))
        per_step.append(sum(map(len, answers)) / len(on.seconds))
    found: dict[str, Any] = {
        f"{name}/ratio": round(statistics.median(ratios), 3),
        f"{name}/tokens_per_step": round(statistics.median(per_step), 2),
        f"{name}/same_answers": same,
        f"{name}/num_tokens": sum(map(len, answers)),
    }
    if workload.prompt == WORKLOADS["edit"].prompt:
        found[f"{name}/repeated"] = round(repeated_share(tuple(answers[0]), tokenizer.encode(PASSAGE)), 3)
    return found


if __name__ == "__main__":
    main()
