"""A decode step waits for the device once, whatever shapes its rows' answers, and forms wait while it computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.generate import GenerationBatch, PromptProcessingBatch
from mlx_lm.models.cache import make_prompt_cache

from semanticd.adapters.mlx.constraints.packed_mask import PackedMask, all_but, masked, only, within
from semanticd.adapters.mlx.constraints.processor import AnswerBounds, ConstraintProcessor
from semanticd.adapters.mlx.constraints.thinking_gate import ThinkingGate
from semanticd.adapters.mlx.model.decode_batch import DecodeBatch
from semanticd.adapters.mlx.model.runner import Decoding, MlxModelRunner
from semanticd.adapters.mlx.model.sampling import SequenceSampler, greedy, logits_processors
from semanticd.adapters.mlx.platform import cpu_math
from semanticd.domain.generation import OutputConstraint, SamplingParams
from semanticd.domain.ids import ModelFingerprint, SequenceId
from tests.fakes.mlx_device import Device, watched
from tests.fakes.mlx_rig import VOCAB, prompt_of
from tests.fakes.tiny_mlx import build

END, EOS = 5, 2
PROMPT = prompt_of(24, 3)
GREEDY = SamplingParams(temperature=0)


class EveryThird:
    """A form: an id may be followed by those only that differ from it by a multiple of three."""

    def __init__(self, device: list[Device] | None = None) -> None:
        self.seen: list[int] = []
        self._device = device if device is not None else []

    def needs_last(self, ids: Sequence[int]) -> bool:
        return True

    def mask(self, ids: Sequence[int], last: int | None, *, size: int) -> PackedMask | None:
        assert last is not None
        for device in self._device:
            device.note("form")
        self.seen.append(last)
        return only([token for token in range(size) if (token - last) % 3 == 0])


def thinking(budget: int) -> ConstraintProcessor:
    gate = ThinkingGate(start=[4], end=[END], begun=True, budget=budget)
    return ConstraintProcessor(
        None, bounds=AnswerBounds(num_context=len(PROMPT)), eos_token_ids=[EOS], gate=gate
    )


def runner_with(form: Any) -> MlxModelRunner:
    model = build("llama")
    # What the CPU computes in Python waits for its arrays; a GPU has nothing of it.
    cpu_math.uninstall(model)
    return MlxModelRunner(
        model,
        fingerprint=ModelFingerprint("00" * 32),
        block_tokens=16,
        decoding=Decoding(lambda constraint, num_context: form),
    )


def begin(runner: MlxModelRunner, number: int, *, formed: bool, sampling: SamplingParams = GREEDY) -> None:
    uid = SequenceId(number)
    runner.open(uid, prefix=(), state=None, capacity_tokens=256)
    runner.prefill(uid, PROMPT[:-1])
    runner.start_decode(
        uid, last_token=PROMPT[-1], context=PROMPT[:-1], num_generated=0, sampling=sampling, seed=7,
        constraint=OutputConstraint("any") if formed else None,
    )  # fmt: skip
    # The first token may come without a step of its own.
    runner.decode()
    runner.decode()


@pytest.mark.parametrize(
    "kind", ["plain", "sampled", "penalized", "form", "thinking", "thinking ends", "mixed batch"]
)
def test_a_step_waits_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    budget = 3 if kind == "thinking ends" else 1000
    runner = runner_with(EveryThird() if kind in ("form", "mixed batch") else thinking(budget))
    sampling = {
        "sampled": SamplingParams(temperature=1.0, top_k=20, top_p=0.9, min_p=0.01),
        "penalized": SamplingParams(temperature=0, repetition_penalty=1.2, logit_bias={3: 1.0}),
    }.get(kind, GREEDY)
    begin(runner, 1, formed=kind not in ("plain", "sampled", "penalized"), sampling=sampling)
    if kind == "mixed batch":
        begin(runner, 2, formed=False, sampling=SamplingParams(temperature=0.7, top_p=0.5))
    with watched(monkeypatch) as device:
        for _ in range(8):
            runner.decode()
    assert device.seen["wait"] == 8


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "qwen3_next"])
def test_steps_are_the_librarys_with_another_order_of_waiting(family: str) -> None:
    model = build(family)
    penalized = SamplingParams(temperature=0, repetition_penalty=1.3, logit_bias={9: 2.0})

    def prefilled(length: int, sampling: SamplingParams, seed: int | None) -> PromptProcessingBatch:
        ids = prompt_of(length, length)
        batch = PromptProcessingBatch(model, [length], [make_prompt_cache(model)], tokens=[[]])
        batch.prompt([ids[:-1]])
        batch.samplers = [greedy if seed is None else SequenceSampler(SamplingParams(), seed=seed)]
        batch.logits_processors = [list(logits_processors(sampling))]
        batch.max_tokens = [1000]
        return batch

    def answers(begin: Callable[[PromptProcessingBatch, int], GenerationBatch]) -> list[list[int]]:
        rows = [(20, GREEDY, None), (31, penalized, None), (26, GREEDY, 5)]
        batches = [begin(prefilled(*row), prompt_of(row[0], row[0])[-1]) for row in rows]
        whole = batches[0]
        for other in batches[1:]:
            whole.extend(other)
        steps = [[response.token for response in whole.next()] for _ in range(6)]
        whole.filter([0, 2])
        steps += [[response.token for response in whole.next()] for _ in range(3)]
        assert [len(tokens) for tokens in whole.tokens] == [20 + 9, 26 + 9]
        return steps

    assert answers(DecodeBatch.begin) == answers(lambda batch, last: batch.generate([[last]]))


def test_the_logits_are_begun_before_the_form_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[Device] = []
    runner = runner_with(EveryThird(devices))
    begin(runner, 1, formed=True)
    with watched(monkeypatch) as device:
        devices.append(device)
        runner.decode()
    assert device.order == ["begin", "wait", "form", "begin"]


def test_a_budget_of_thinking_that_is_far_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = runner_with(thinking(1000))
    begin(runner, 1, formed=True)
    with watched(monkeypatch) as device:
        runner.decode()
    assert device.order == ["begin", "wait"], "as without a form"


def test_a_form_that_breaks_ends_its_row_and_no_other() -> None:
    class Broken(EveryThird):
        def mask(self, ids: Sequence[int], last: int | None, *, size: int) -> PackedMask | None:
            if len(self.seen) > 3:
                raise ValueError("no")
            return super().mask(ids, last, size=size)

    runner = runner_with(Broken())
    begin(runner, 1, formed=True)
    begin(runner, 2, formed=False)
    found = [token for _ in range(4) for token in runner.decode()]
    assert {token.sequence_id for token in found if token.error is not None} == {1}
    assert {token.sequence_id for token in found if token.error is None} == {1, 2}


def test_a_form_sees_each_token_once_and_in_order() -> None:
    form = EveryThird()
    runner = runner_with(form)
    begin(runner, 1, formed=True)
    answer = [token.token_id for _ in range(6) for token in runner.decode()]
    assert form.seen[-6:] == answer
    assert all((token - PROMPT[-1]) % 3 == 0 for token in answer)


@pytest.mark.parametrize("budget", [0, 1, 2, 5, 40])
@pytest.mark.parametrize("begun", [True, False])
def test_a_gate_that_asks_late_forces_the_same_tokens(budget: int, begun: bool) -> None:
    def gate() -> ThinkingGate:
        return ThinkingGate(start=[4, 7], end=[END, 9], begun=begun, budget=budget)

    bounds = AnswerBounds(num_context=3)
    said, eager, asked = [1, 1, 1], gate(), 0
    late = ConstraintProcessor(None, bounds=bounds, eos_token_ids=[EOS], gate=gate())
    wishes = iter([6, 4, 7, *[11] * 20, END, 9, *[12] * 20])
    for _ in range(40):
        known, last = said[:-1], said[-1]
        needed = late.needs_last(known)
        asked += needed
        mask = late.mask(known, last if needed else None, size=64)
        forced = eager.forced
        assert (None if mask is None else mask.tolist()) == (
            None if forced is None else only([forced]).tolist()
        )
        token = next(wishes) if forced is None else forced
        said.append(token)
        eager.take(token)
    assert asked <= (40 if budget == 0 else 4), "only around the end of the budget"


@pytest.mark.parametrize("size", [VOCAB, 64, 70, 31])
def test_packed_masks_hide_what_they_leave_out(size: int) -> None:
    logits = mx.arange(size, dtype=mx.float32)[None]

    def left(mask: PackedMask) -> list[int]:
        return [number for number, value in enumerate(masked(logits, mask)[0].tolist()) if value >= 0]

    assert left(only([0, 3, 30])) == [0, 3, 30]
    assert left(all_but([1, 30], size)) == [number for number in range(size) if number not in (1, 30)]
    assert left(within(all_but([], 4096), size)) == list(range(size))
    assert within(all_but([], 4096), size).sum() == all_but([], size).sum()
