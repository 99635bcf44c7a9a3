"""A step that verifies a draft gives what steps of one token give: tokens, scores, KV, and what forms have seen."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from semanticd.adapters.mlx.constraints.packed_mask import PackedMask, only
from semanticd.adapters.mlx.constraints.processor import AnswerBounds, ConstraintProcessor
from semanticd.adapters.mlx.constraints.thinking_gate import ThinkingGate
from semanticd.adapters.mlx.model import drafts, latent_attention, runner
from semanticd.adapters.mlx.model.decode_batch import DecodeBatch
from semanticd.adapters.mlx.model.drafts import RowDrafts
from semanticd.adapters.mlx.model.kv_codec import KvPayload
from semanticd.adapters.mlx.model.runner import Decoding, MlxModelRunner
from semanticd.application.ports.inference import DecodedToken, DraftCounts, Drafted
from semanticd.domain.earlier_text import EarlierText
from semanticd.domain.generation import OutputConstraint, SamplingParams
from semanticd.domain.ids import ModelFingerprint, SequenceId
from tests.fakes.mlx_rig import prompt_of
from tests.fakes.tiny_mlx import VOCAB, build

UID = SequenceId(1)
ROUNDING = 128 * 2.0**-24
"""What the order of a float32 sum of 128 products, the widest of these models, may change, as a share of its terms."""
GREEDY = SamplingParams(temperature=0)
SAMPLINGS = {
    "greedy": GREEDY,
    "scored": SamplingParams(temperature=0, logprobs=True, top_logprobs=3),
    "sampled": SamplingParams(temperature=0.8, top_k=20, top_p=0.95, logprobs=True),
    "penalized": SamplingParams(
        temperature=0, repetition_penalty=1.3, frequency_penalty=0.2, logit_bias={9: 2.0}
    ),
    "both": SamplingParams(temperature=0.8, presence_penalty=0.5, penalty_window=7),
}


@dataclass(slots=True)
class Oracle:
    """Drafts that know the answer, and are wrong at times."""

    prompt: Sequence[int]
    answer: Sequence[int]
    source: random.Random = field(default_factory=lambda: random.Random(0))
    noted: list[int] = field(default_factory=list)
    made: list[int] = field(default_factory=list)

    def expect(self, ids: Sequence[int], *, room: int) -> bool:
        return True

    def make(self, ids: Sequence[int], pending: int) -> list[int]:
        begin = len(ids) + 1 - len(self.prompt)
        draft = list(self.answer[begin : begin + self.source.randrange(0, 9)])
        if draft and self.source.random() < 0.5:
            wrong = self.source.randrange(len(draft))
            draft[wrong] = (draft[wrong] + 1) % VOCAB
        self.made.append(len(draft))
        return draft

    def note(self, *, num_drafted: int, num_accepted: int, length: int) -> DraftCounts:
        self.noted.append(num_accepted)
        return DraftCounts(own=Drafted(num_drafted, num_accepted))


def made(
    family: str, *, max_drafts: int = 12, form: Callable[[], Any] | None = None, model: Any = None
) -> MlxModelRunner:
    if model is None:
        model = build(family)
        latent_attention.install(model)
    return MlxModelRunner(
        model,
        fingerprint=ModelFingerprint("00" * 32),
        block_tokens=16,
        decoding=Decoding(
            None if form is None else lambda constraint, num_context: form(), max_drafts=max_drafts
        ),
    )


def begin(
    runner: MlxModelRunner,
    prompt: Sequence[int],
    sampling: SamplingParams = GREEDY,
    *,
    uid: SequenceId = UID,
    formed: bool = False,
    seed: int = 5,
    max_length: int | None = None,
    earlier: EarlierText | None = None,
) -> None:
    runner.open(uid, prefix=(), state=None, capacity_tokens=len(prompt))
    runner.prefill(uid, prompt[:-1])
    runner.start_decode(
        uid, last_token=prompt[-1], context=prompt[:-1], num_generated=0, sampling=sampling, seed=seed,
        constraint=OutputConstraint("any") if formed else None, max_length=max_length, earlier=earlier,
    )  # fmt: skip


def tokens_of(runner: MlxModelRunner, count: int) -> list[DecodedToken]:
    """Return at least so many tokens."""
    found: list[DecodedToken] = []
    while len(found) < count:
        found += runner.decode()
    return found


class EveryThird:
    """A form: an id may be followed by those only that differ from it by a multiple of three."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def needs_last(self, ids: Sequence[int]) -> bool:
        return True

    def mask(self, ids: Sequence[int], last: int | None, *, size: int) -> PackedMask | None:
        assert last is not None
        self.seen.append(last)
        return only([token for token in range(size) if (token - last) % 3 == 0])

    def forced(self, ids: Sequence[int], last: int) -> list[int]:
        return []


def thinking() -> ConstraintProcessor:
    gate = ThinkingGate(start=[4], end=[5, 6], begun=True, budget=9)
    return ConstraintProcessor(None, bounds=AnswerBounds(num_context=24), eos_token_ids=[2], gate=gate)


def same_kv(one: MlxModelRunner, other: MlxModelRunner, length: int) -> None:
    spans = [(0, length // 2), (length // 2, length)]
    for a, b in zip(one.copy_blocks(UID, spans), other.copy_blocks(UID, spans), strict=True):
        assert isinstance(a, KvPayload)
        assert isinstance(b, KvPayload)
        for name, tensor in a.tensors.items():
            expected = np.array(b.tensors[name])
            furthest = ROUNDING * np.abs(expected).max()
            np.testing.assert_allclose(np.array(tensor), expected, rtol=0, atol=furthest)


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
@pytest.mark.parametrize("form", [None, EveryThird, thinking], ids=["free", "form", "thinking"])
@pytest.mark.parametrize("family", ["llama", "deepseek_v2"])
def test_right_and_wrong_drafts_change_nothing(
    family: str, form: Callable[[], Any] | None, sampling: SamplingParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt, count = prompt_of(24, 3), 60
    plain = made(family, max_drafts=0, form=form)
    begin(plain, prompt, sampling, formed=form is not None)
    expected = tokens_of(plain, count)
    oracle = Oracle(prompt, [token.token_id for token in expected])
    monkeypatch.setattr(runner, "RowDrafts", lambda *_, **more: oracle)
    drafted = made(family, form=form, model=plain.model)
    begin(drafted, prompt, sampling, formed=form is not None)
    found: list[DecodedToken] = []
    while len(found) < count - 9:
        found += drafted.decode()
    assert [token.token_id for token in found] == [token.token_id for token in expected[: len(found)]]
    for one, other in zip(found, expected, strict=False):
        assert (one.logprob is None) == (other.logprob is None)
        if one.logprob is not None and other.logprob is not None:
            assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
        assert [rank[0] for rank in one.top] == [rank[0] for rank in other.top]
    counts = drafted.take_draft_counts()
    assert counts.num_accepted == sum(oracle.noted) > 15
    assert 0 < counts.num_steps == len(oracle.noted) < sum(1 for width in oracle.made if width) + 1
    assert counts.num_drafted == sum(oracle.made) > counts.num_accepted, "some were wrong"
    assert drafted.take_draft_counts() == DraftCounts()
    length = drafted.num_cached(UID)
    assert length in (len(prompt) + len(found) - 1, len(prompt) + len(found))
    same_kv(plain, drafted, min(length, plain.num_cached(UID)))


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
@pytest.mark.parametrize("form", [None, EveryThird, thinking], ids=["free", "form", "thinking"])
@pytest.mark.parametrize("family", ["llama", "deepseek_v2"])
def test_drafts_from_the_former_answer_change_nothing(
    family: str, form: Callable[[], Any] | None, sampling: SamplingParams
) -> None:
    prompt, count = prompt_of(24, 3), 60
    plain = made(family, max_drafts=0, form=form)
    begin(plain, prompt, sampling, formed=form is not None)
    expected = [token.token_id for token in tokens_of(plain, count)]
    former = list(expected)
    former[10::15] = [(token_id + 1) % VOCAB for token_id in former[10::15]]
    drafted = made(family, form=form, model=plain.model)
    earlier = EarlierText().with_answer(prompt, former)
    begin(drafted, prompt, sampling, formed=form is not None, earlier=earlier)
    found = [token.token_id for token in tokens_of(drafted, count - 13)]
    assert found == expected[: len(found)]
    counts = drafted.take_draft_counts()
    assert 20 < counts.earlier.num_accepted < counts.earlier.num_drafted
    length = drafted.num_cached(UID)
    same_kv(plain, drafted, min(length, plain.num_cached(UID)))


def test_a_form_sees_the_answer_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    prompt, seen = prompt_of(24, 3), []
    for max_drafts in (0, 12):
        form = EveryThird()
        one = made("llama", max_drafts=max_drafts, form=lambda form=form: form)  # type: ignore[misc]
        oracle = Oracle(prompt, seen[0][1:]) if seen else None
        monkeypatch.setattr(runner, "RowDrafts", lambda *_, oracle=oracle, **more: oracle)
        begin(one, prompt, formed=True)
        tokens_of(one, 40)
        seen.append(form.seen[:40])
    assert seen[0] == seen[1]


class Forcing(EveryThird):
    """A form that leaves no choice: a fixed text, but for every tenth token, which is free."""

    def __init__(self, num_context: int) -> None:
        super().__init__()
        self._num_context = num_context

    def _allowed(self, place: int) -> int | None:
        return None if place % 10 == 9 else 7 + place % 200

    def mask(self, ids: Sequence[int], last: int | None, *, size: int) -> PackedMask | None:
        assert last is not None
        self.seen.append(last)
        token_id = self._allowed(len(ids) + 1 - self._num_context)
        return None if token_id is None else only([token_id])

    def forced(self, ids: Sequence[int], last: int) -> list[int]:
        found: list[int] = []
        while (token_id := self._allowed(len(ids) + 1 - self._num_context + len(found))) is not None:
            found.append(token_id)
        return found


def test_what_a_form_forces_takes_a_step() -> None:
    prompt = prompt_of(24, 3)
    answers, num_calls = [], []
    for max_drafts in (0, 12):
        form = Forcing(len(prompt))
        one = made("llama", max_drafts=max_drafts, form=lambda form=form: form)  # type: ignore[misc]
        begin(one, prompt, formed=True)
        found, calls = [], 0
        while len(found) < 60:
            found += [token.token_id for token in one.decode()]
            calls += 1
        answers.append(found[:60])
        num_calls.append(calls)
        # A mask is made once for each position, in order.
        assert form.seen[: len(found)] == [prompt[-1], *found][: len(found)]
    assert answers[0] == answers[1]
    assert num_calls[1] <= 60 / 10 * 2 + 3 < num_calls[0], "the run behind each free token is one step"


class Verse(EveryThird):
    """A form whose answer is one verse again and again; it does not say so beforehand."""

    def mask(self, ids: Sequence[int], last: int | None, *, size: int) -> PackedMask | None:
        return only([prompt_of(30, 8)[len(ids) % 30]])


def test_repeated_text_takes_fewer_steps_and_is_the_same() -> None:
    answers, num_calls = [], []
    for max_drafts in (0, 12):
        one = made("llama", max_drafts=max_drafts, form=Verse)
        begin(one, prompt_of(20, 1), formed=True)
        found, calls = [], 0
        while len(found) < 200:
            found += [token.token_id for token in one.decode()]
            calls += 1
        answers.append(found[:200])
        num_calls.append(calls)
    assert answers[0] == answers[1]
    # The first verse a token a step, then drafts of 2, 4, 8 and 12.
    assert num_calls[1] < 30 + 170 / 10 + 8 < num_calls[0]


def test_drafts_end_with_the_answer_and_with_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = [7, 8, 9] * 81  # 243 tokens, in a cache with room for 256
    made_drafts: list[tuple[int, int]] = []

    class Noting(RowDrafts):
        def make(self, ids: Sequence[int], pending: int) -> list[int]:
            draft = super().make(ids, pending)
            made_drafts.append((len(ids), len(draft)))
            return draft

    monkeypatch.setattr(runner, "RowDrafts", Noting)
    monkeypatch.setattr(drafts, "Drafter", AlwaysMost)
    one = made("llama")
    begin(one, prompt, SamplingParams(temperature=0, logit_bias={7: 99.0, 8: 99.0, 9: 99.0}), max_length=283)
    before = one.running_bytes()
    sizes = []
    while one.num_cached(UID) < 282:
        one.decode()
        sizes.append((one.num_cached(UID), one.running_bytes()))
    assert any(width for _, width in made_drafts)
    for length, width in made_drafts:
        assert length + 1 + width <= 256 or length >= 256 or not width, "no draft makes the cache grow"
        assert length + 1 + width <= 283, "nothing beyond the end of the answer"
    assert all(size == before for length, size in sizes if length <= 256)


class AlwaysMost:
    """Guesses as far as it is asked for, whatever became of it."""

    guess = "own"

    def __init__(self, max_drafts: int, **more: Any) -> None:
        pass

    def expect(self, ids: Sequence[int]) -> list[int]:
        return [-1]

    def continue_from(self, ids: Sequence[int], ahead: Sequence[int], *, most: int) -> list[int]:
        return [7] * most

    def note(self, **more: int) -> None:
        pass


@pytest.mark.parametrize("family", ["gemma3_text", "mamba2", "qwen3_next", "gpt_oss"])
def test_layers_that_cannot_be_cut_have_no_drafts(family: str) -> None:
    one = made(family)
    begin(one, [7, 8, 9] * 12, SamplingParams(temperature=0, logit_bias={7: 99.0}))
    tokens_of(one, 20)
    assert one.take_draft_counts() == DraftCounts()


KINDS: list[tuple[str, Callable[[], Any] | None]] = [
    ("greedy", None), ("sampled", EveryThird), ("penalized", None), ("both", None), ("scored", thinking),
    ("greedy", EveryThird),
]  # fmt: skip


@pytest.mark.parametrize("family", ["llama", "deepseek_v2"])
def test_rows_of_a_batch_get_from_drafts_what_they_get_alone_without(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of all kinds, of different lengths, that join one after the other; some leave in between."""
    count = 40
    next_form: list[Any] = [None]
    plain = made(family, max_drafts=0, form=lambda: next_form[0]())
    one = made(family, model=plain.model, form=lambda: next_form[0]())
    prompts = [
        prompt_of(24, 3) if kind[1] is thinking else prompt_of(10 + 9 * n, n) for n, kind in enumerate(KINDS)
    ]
    oracles = []
    for number, (sampling, form) in enumerate(KINDS):
        next_form[0] = form
        begin_row(plain, number, prompts[number], SAMPLINGS[sampling], is_formed=form is not None)
        expected = tokens_of(plain, count)
        plain.close(SequenceId(number))
        oracles.append(
            (Oracle(prompts[number], [token.token_id for token in expected], random.Random(number)), expected)
        )
    found: dict[int, list[DecodedToken]] = {number: [] for number in range(len(KINDS))}
    waiting, source = list(found), random.Random(1)
    running: list[int] = []
    num_steps = 0
    while waiting or running:
        if waiting and (len(running) < 3 or num_steps % 4 == 0):
            running.append(number := waiting.pop(0))
            monkeypatch.setattr(runner, "RowDrafts", lambda *_, number=number, **more: oracles[number][0])
            sampling, next_form[0] = KINDS[number]
            begin_row(one, number, prompts[number], SAMPLINGS[sampling], is_formed=next_form[0] is not None)
        for token in one.decode():
            found[token.sequence_id].append(token)
        num_steps += 1
        for number in list(running):
            if len(found[number]) >= count - 12 or source.random() < 0.02:
                running.remove(number)
                one.close(SequenceId(number))
    for number, tokens in found.items():
        expected = oracles[number][1][: len(tokens)]
        assert [token.token_id for token in tokens] == [token.token_id for token in expected], number
        for mine, other in zip(tokens, expected, strict=True):
            if other.logprob is not None:
                assert mine.logprob == pytest.approx(other.logprob, abs=1e-3)
    counts = one.take_draft_counts()
    assert counts.num_drafted > counts.num_accepted > 40
    assert sum(map(len, found.values())) > 2 * num_steps
    assert one.running_bytes() == 0


def begin_row(
    one: MlxModelRunner, number: int, prompt: Sequence[int], sampling: SamplingParams, *, is_formed: bool
) -> None:
    uid = SequenceId(number)
    one.open(uid, prefix=(), state=None, capacity_tokens=len(prompt))
    one.prefill(uid, prompt[:-1])
    one.start_decode(
        uid, last_token=prompt[-1], context=prompt[:-1], num_generated=0, sampling=sampling, seed=number,
        constraint=OutputConstraint("any") if is_formed else None,
    )  # fmt: skip


def test_a_batch_is_given_drafts_where_most_rows_have_one() -> None:
    repeats, wanders = SamplingParams(temperature=0, logit_bias={7: 99.0}), SamplingParams(temperature=3.0)
    one = made("llama")
    for number in (0, 1):
        begin_row(one, number, [7] * (20 + number), repeats, is_formed=False)
    found = tokens_of(one, 60)
    assert {token.token_id for token in found} == {7}
    assert {token.sequence_id for token in found} == {0, 1}
    assert one.take_draft_counts().num_accepted > 30
    for number in (2, 3):
        begin_row(one, number, prompt_of(20, number), wanders, is_formed=False)
    one.take_draft_counts()
    for _ in range(8):
        tokens = one.decode()
        assert len({token.sequence_id for token in tokens}) == len(tokens)
    assert one.take_draft_counts() == DraftCounts(), "two of four are not most"
    one.close(SequenceId(2))
    one.close(SequenceId(1))
    one.close(SequenceId(3))
    assert {token.token_id for token in tokens_of(one, 20)} == {7}
    assert one.take_draft_counts().num_accepted > 0


def test_a_sampler_that_breaks_in_a_draft_ends_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    biased = SamplingParams(temperature=1.0, logit_bias={7: 99.0})
    one = made("llama")
    begin(one, [7] * 20, biased)
    tokens_of(one, 8)
    one.take_draft_counts()

    def broken(*_: Any, **more: Any) -> Any:
        raise ValueError("no")

    monkeypatch.setattr(mx.random, "categorical", broken)
    found = one.decode()
    assert one.take_draft_counts().num_steps == 1, "it was a draft"
    assert all(isinstance(token.error, ValueError) for token in found)


def test_a_wait_is_for_drafts_only(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[int] = []
    pending = DecodeBatch.pending
    monkeypatch.setattr(DecodeBatch, "pending", lambda batch: waits.append(1) or pending(batch))
    one = made("llama")
    begin(one, prompt_of(40, 2), SamplingParams(temperature=3.0))
    tokens_of(one, 12)
    assert not waits


@pytest.mark.parametrize("is_earlier", [False, True], ids=["own", "earlier"])
def test_what_is_sampled_has_the_models_distribution(
    monkeypatch: pytest.MonkeyPatch, is_earlier: bool
) -> None:
    """Chi-square over pairs of tokens, the second of which is drafted; the seeds are fixed."""
    # Warm, so that no pair is rare.
    sampling = SamplingParams(temperature=5.0, top_k=4)
    prompt, plain = prompt_of(12, 4), made("llama", max_drafts=0)

    def likely(ids: Sequence[int]) -> dict[int, float]:
        logits = plain.model(mx.array([list(ids)]))[0, -1].astype(mx.float32)
        best = [int(token_id) for token_id in mx.argsort(-logits)[:4].tolist()]  # type: ignore[union-attr]
        weights = mx.softmax(logits[mx.array(best)] / sampling.temperature).tolist()
        return dict(zip(best, weights, strict=True))  # type: ignore[arg-type]

    firsts = likely(prompt)
    seconds = {first: likely([*prompt, first]) for first in firsts}
    earlier = EarlierText()
    if is_earlier:
        # Of each first token the likeliest second one, in answers to prompts with the same end, and to this one.
        for first, shares in seconds.items():
            answer = [first, max(shares, key=lambda token_id: shares[token_id])]
            earlier = earlier.with_answer([first, *prompt[-3:]], answer)
        earlier = earlier.with_answer(prompt, answer)
    else:
        monkeypatch.setattr(runner, "RowDrafts", lambda *_, **more: Likeliest(seconds))
    one = made("llama", model=plain.model)
    pairs: Counter[tuple[int, int]] = Counter()
    num_drawn = 250
    for seed in range(num_drawn):
        begin(one, prompt, sampling, seed=seed, earlier=earlier if is_earlier else None)
        first, second = (token.token_id for token in tokens_of(one, 2)[:2])
        pairs[first, second] += 1
        one.close(UID)
    counts = one.take_draft_counts()
    assert num_drawn / 10 < counts.num_accepted < counts.num_drafted
    assert counts.num_drafted == (counts.earlier if is_earlier else counts.own).num_drafted
    statistic = cells = 0.0
    for first, share in firsts.items():
        for second, of_it in seconds[first].items():
            expected = num_drawn * share * of_it
            assert expected >= 5, "too few for this test"
            statistic += (pairs.pop((first, second), 0) - expected) ** 2 / expected
            cells += 1
    assert not pairs, "tokens that the model would not have chosen"
    # 15 degrees of freedom: above 37.7 one time in a thousand.
    assert cells == 16
    assert statistic < 37.7


@dataclass(slots=True)
class Likeliest:
    """Drafts of one token, the likeliest one behind the pending one."""

    following: dict[int, dict[int, float]]

    def expect(self, ids: Sequence[int], *, room: int) -> bool:
        return True

    def make(self, ids: Sequence[int], pending: int) -> list[int]:
        shares = self.following.get(pending, {})
        return sorted(shares, key=lambda token_id: -shares[token_id])[:1]

    def note(self, *, num_drafted: int, num_accepted: int, length: int) -> DraftCounts:
        return DraftCounts(own=Drafted(num_drafted, num_accepted))
