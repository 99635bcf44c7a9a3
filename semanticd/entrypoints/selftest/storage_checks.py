"""Checks of storage: a block's way to the disk and back, turns around a restart, memory that runs out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from semanticd.application.ports.inference import LoadedModel, ModelLoader, ModelRunner, PrefixPart
from semanticd.application.ports.models import InstalledModel
from semanticd.application.ports.warm_store import BlockRecord, TensorBytes
from semanticd.domain.block import Block, hash_block
from semanticd.domain.chat import Message, TokenPrompt
from semanticd.domain.errors import OutOfMemoryError, SemanticError
from semanticd.domain.generation import GenerationResult
from semanticd.domain.ids import BlockHash, SequenceId
from semanticd.domain.memory_plan import in_gb
from semanticd.entrypoints.selftest.outcome import Outcome, fail, ok, skipped, warn
from semanticd.entrypoints.selftest.prompts import conversation, token_ids, words
from semanticd.entrypoints.temporary_daemon import TemporaryDaemon

_ORIGINAL, _RESTORED = SequenceId(-2), SequenceId(-3)
_SCORED_TOKENS = 24
_NEAR_LOGPROB, _FAR_LOGPROB = 0.02, 0.5
_LOSSY_LOGPROB = 2.0
"""With stored KV of fewer bits, which round on purpose."""
_PATIENCE_S = 60.0


@dataclass(slots=True)
class _Journey:
    """A block's way: times in milliseconds, and whether the bytes read equal those written."""

    num_tokens: int
    num_bytes: int = 0
    copy_ms: float = 0.0
    dump_ms: float = 0.0
    write_ms: float = 0.0
    read_ms: float = 0.0
    restore_ms: float = 0.0
    is_back: bool = False
    is_equal: bool = False
    difference: float = 0.0


def judge_blocks(journey: _Journey, *, exact: bool) -> Outcome:
    """Judge a block's way to the disk and back."""
    steps = ("copy_ms", "dump_ms", "write_ms", "read_ms", "restore_ms")
    figures: dict[str, Any] = {step: round(getattr(journey, step), 2) for step in steps}
    figures |= {"num_tokens": journey.num_tokens, "num_bytes": journey.num_bytes}
    if not journey.is_back:
        return fail(
            "a block that was written could not be read back: its checksum or its file is wrong", **figures
        )
    if not journey.is_equal:
        return fail("a block read from the disk has different bytes", **figures)
    figures["logprob_difference"] = round(journey.difference, 5)
    text = (
        f"{journey.num_tokens} tokens, {journey.num_bytes / 1e6:.1f} MB: copy {journey.copy_ms:.1f} ms, dump "
        f"{journey.dump_ms:.1f}, write {journey.write_ms:.1f}, read {journey.read_ms:.1f}, restore "
        f"{journey.restore_ms:.1f}; bytes equal, log-probabilities differ by {journey.difference:.4f} at most"
    )
    near, far = (_NEAR_LOGPROB, _FAR_LOGPROB) if exact else (_FAR_LOGPROB, _LOSSY_LOGPROB)
    if journey.difference > far:
        return fail(f"{text}: the model's output differs after the restore", **figures)
    return (ok if journey.difference <= near else warn)(text, **figures)


async def check_blocks(daemon: TemporaryDaemon) -> Outcome:
    """Copy a block out of a running cache, bring it to the disk and back, and continue from it."""
    spec = daemon.loaded.runner.spec
    size = spec.block_tokens
    if daemon.loaded.context_length < size + _SCORED_TOKENS + 2:
        return skipped(
            f"the model's context of {daemon.loaded.context_length} tokens is shorter than a block"
        )
    ids = token_ids(daemon.loaded.tokenizer, size + _SCORED_TOKENS + 1, seed=50)
    journey = _Journey(num_tokens=size)
    records, scores = await daemon.on_engine(lambda: _copied(daemon.loaded.runner, ids, journey))
    began = time.perf_counter()
    written = await asyncio.wait_for(asyncio.wrap_future(daemon.parts.warm.write(records)), _PATIENCE_S)
    journey.write_ms = _ms_since(began)
    if written.num_written < len(records):
        return fail(f"the disk took {written.num_written} of {len(records)} records: {written.reason}")
    began = time.perf_counter()
    names = [record.block.block_hash for record in records]
    back = [await asyncio.wrap_future(daemon.parts.warm.read(name)) for name in names]
    journey.read_ms = _ms_since(began)
    found = [record for record in back if record is not None]
    journey.is_back = len(found) == len(records)
    if journey.is_back:
        pairs = zip(records, found, strict=True)
        journey.is_equal = all(_same_bytes(one.tensors, other.tensors) for one, other in pairs)
    if journey.is_equal:
        journey.difference = await daemon.on_engine(
            lambda: _restored(daemon.loaded.runner, ids, found, journey, scores)
        )
    return judge_blocks(journey, exact=spec.precision == "exact")


def _copied(
    runner: ModelRunner, ids: Sequence[int], journey: _Journey
) -> tuple[list[BlockRecord], list[float]]:
    """Compute a prompt; return its first block as records, and the log-probabilities of the later tokens."""
    spec = runner.spec
    try:
        runner.open(_ORIGINAL, prefix=(), state=None, capacity_tokens=len(ids))
        runner.prefill(_ORIGINAL, ids[: spec.block_tokens])
        began = time.perf_counter()
        (payload,) = runner.copy_blocks(_ORIGINAL, [(0, spec.block_tokens)])
        state = runner.copy_state(_ORIGINAL)
        journey.copy_ms = _ms_since(began)
        began = time.perf_counter()
        tensors = runner.dump(payload)
        states = runner.dump(state) if state is not None else ()
        journey.dump_ms = _ms_since(began)
        scores = _scores(runner, _ORIGINAL, ids)
    finally:
        runner.close(_ORIGINAL)
    block = _record(runner, ids[: spec.block_tokens], spec.root, tensors)
    records = [block, _record(runner, (), block.block.block_hash, states)] if states else [block]
    journey.num_bytes = sum(record.block.num_bytes for record in records)
    return records, scores


def _record(
    runner: ModelRunner, ids: Sequence[int], parent: BlockHash, tensors: tuple[TensorBytes, ...]
) -> BlockRecord:
    spec = runner.spec
    kind: Any = "kv" if ids else "state"
    name = hash_block(
        fingerprint=spec.fingerprint, layout=spec.layout, parent=parent, token_ids=ids, kind=kind
    )
    size = sum(len(memoryview(one.data).cast("B")) for one in tensors)
    return BlockRecord(Block(name, parent, tuple(ids), size, kind), spec.fingerprint, spec.layout, tensors)


def _restored(
    runner: ModelRunner,
    ids: Sequence[int],
    records: Sequence[BlockRecord],
    journey: _Journey,
    scores: Sequence[float],
) -> float:
    """Continue from the read block; return the maximum difference of log-probabilities from the original."""
    num_tokens = runner.spec.block_tokens
    try:
        began = time.perf_counter()
        payloads = [runner.restore(record.tensors) for record in records]
        runner.open(
            _RESTORED,
            prefix=(PrefixPart(payloads[0], num_tokens),),
            state=payloads[1] if len(payloads) > 1 else None,
            capacity_tokens=len(ids),
        )
        journey.restore_ms = _ms_since(began)
        found = _scores(runner, _RESTORED, ids)
    finally:
        runner.close(_RESTORED)
    return max(abs(one - other) for one, other in zip(scores, found, strict=True))


def _scores(runner: ModelRunner, uid: SequenceId, ids: Sequence[int]) -> list[float]:
    start = runner.spec.block_tokens
    scored = runner.prefill_logprobs(uid, ids[start:-1], targets=ids[start + 1 :], top=0)
    return [token.logprob or 0.0 for token in scored]


def _same_bytes(one: Sequence[TensorBytes], other: Sequence[TensorBytes]) -> bool:
    def key(tensor: TensorBytes) -> tuple[str, str, tuple[int, ...], bytes]:
        return tensor.name, tensor.dtype, tuple(tensor.shape), bytes(tensor.data)

    return sorted(map(key, one)) == sorted(map(key, other))


def _ms_since(began: float) -> float:
    return 1000 * (time.perf_counter() - began)


# Turns.

_AGENT = "selftest"
_SYSTEM_WORDS, _TURN_WORDS = 500, 120
_TURN_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Turn:
    """The cost of a turn's prompt in tokens."""

    name: str
    prompt_tokens: int
    new_tokens: int
    """Tokens that the turn before did not have: its answer and the new messages."""
    computed_tokens: int
    warm_tokens: int
    ttft_ms: float


def judge_turns(turns: Sequence[Turn], *, block_tokens: int) -> Outcome:
    """Check that a turn computes only its new tokens and at most one more block; the last one came from the disk."""
    figures = {
        turn.name: {
            "prompt_tokens": turn.prompt_tokens,
            "computed_tokens": turn.computed_tokens,
            "ttft_ms": round(turn.ttft_ms, 1),
        }
        for turn in turns
    }
    listed = ", ".join(f"{turn.name} {turn.computed_tokens} of {turn.prompt_tokens}" for turn in turns)
    text = f"tokens computed: {listed}"
    for turn in turns[1:]:
        if turn.computed_tokens > turn.new_tokens + block_tokens:
            return fail(f"{text}: the {turn.name} one computed cached tokens again", **figures)
    if not turns[-1].warm_tokens:
        return fail(f"{text}: nothing came from the disk after the restart", **figures)
    return ok(text, **figures)


async def check_turns(daemon: TemporaryDaemon) -> Outcome:
    """Take turns with an agent whose client sends answers back without thoughts, before and after a restart."""
    turn_words, system_words = _TURN_WORDS, _SYSTEM_WORDS
    if daemon.loaded.context_length < 4 * (system_words + 3 * turn_words):
        return skipped(f"the model's context of {daemon.loaded.context_length} tokens is too short")
    messages = [Message.of("user", f"{words(system_words, seed=60)}. {words(turn_words, seed=61)}.")]
    turns: list[Turn] = []
    for name in ("first", "second", "restarted"):
        if name == "restarted":
            await daemon.restart()
        result = await daemon.ask(
            conversation(daemon.loaded.tokenizer, messages),
            max_tokens=_TURN_TOKENS,
            agent=_AGENT,
            ignore_eos=False,
        )
        turns.append(_turn(name, result, turns))
        answer = result.choices[0].text or "Yes."
        messages += [
            Message.of("assistant", answer),
            Message.of("user", f"{words(turn_words, seed=62 + len(turns))}?"),
        ]
    return judge_turns(turns, block_tokens=daemon.loaded.runner.spec.block_tokens)


def _turn(name: str, result: GenerationResult, before: Sequence[Turn]) -> Turn:
    cache = result.usage.cache
    earlier = before[-1].prompt_tokens if before else 0
    return Turn(
        name=name,
        prompt_tokens=cache.prompt_tokens,
        new_tokens=cache.prompt_tokens - earlier,
        computed_tokens=cache.computed_tokens,
        warm_tokens=cache.restored_warm_tokens,
        ttft_ms=result.usage.timings.ttft_ms,
    )


# Memory that runs out.


class Shortage:
    """Set of prompts that run out of memory: those that repeat one token, once it is set."""

    def __init__(self) -> None:
        """Begin with none."""
        self.token_id: int | None = None

    def strikes(self, token_ids: Sequence[int]) -> bool:
        """Return whether computing these tokens runs out of memory."""
        return self.token_id is not None and all(token == self.token_id for token in token_ids)

    def around(self, loader: ModelLoader) -> ModelLoader:
        """Return a loader whose models run out of memory so."""
        return _LoaderOfShortRunners(loader, self)


class _LoaderOfShortRunners:
    def __init__(self, loader: ModelLoader, shortage: Shortage) -> None:
        self._loader = loader
        self._shortage = shortage

    def load(self, installed: InstalledModel, *, on_progress: Any) -> Generator[None, None, LoadedModel]:
        loaded = yield from self._loader.load(installed, on_progress=on_progress)
        return replace(loaded, runner=cast("ModelRunner", _ShortRunner(loaded.runner, self._shortage)))

    def check(self, installed: InstalledModel) -> Generator[None, None, None]:
        return self._loader.check(installed)


class _ShortRunner:
    """The real runner, whose prefill asks for too much memory when the shortage strikes."""

    def __init__(self, runner: ModelRunner, shortage: Shortage) -> None:
        self._runner = runner
        self._shortage = shortage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def prefill(self, sequence_id: SequenceId, token_ids: Sequence[int], **more: Any) -> bool:
        if self._shortage.strikes(token_ids):
            from semanticd.adapters.mlx.platform.counters import allocate_too_much
            from semanticd.adapters.mlx.platform.shortage import raising_shortage

            raising_shortage(allocate_too_much)()
        return self._runner.prefill(sequence_id, token_ids, **more)


def judge_shortage(
    *,
    victim: GenerationResult | Exception,
    others: Sequence[GenerationResult | Exception],
    budgets: tuple[int, int],
    real: bool,
) -> Outcome:
    """Judge what happened to requests when one of them ran out of memory; `real`: an allocation did fail."""
    figures = {"budget_before_bytes": budgets[0], "budget_after_bytes": budgets[1], "real_allocation": real}
    lost = [other for other in others if isinstance(other, BaseException)]
    if lost:
        reason = lost[0].message if isinstance(lost[0], SemanticError) else repr(lost[0])
        return fail(f"{len(lost)} of {len(others)} other requests failed too: {reason}"[:400], **figures)
    if not isinstance(victim, OutOfMemoryError):
        what = repr(victim) if isinstance(victim, BaseException) else "an answer"
        return fail(f"a request that ran out of memory got {what[:200]}", **figures)
    if budgets[1] > budgets[0]:
        return fail("the KV budget rose after memory ran out", **figures)
    text = f"one request failed, {len(others)} others did not; KV budget {in_gb(budgets[0])} -> {in_gb(budgets[1])}"
    if not real:
        text += "; the failure was simulated, because MLX's CPU back end ends the process"
    return ok(text, **figures)


async def check_shortage(daemon: TemporaryDaemon, shortage: Shortage) -> Outcome:
    """Let one request ask for more memory than there is, alongside another one and before a third."""
    from semanticd.adapters.mlx.platform.counters import allocation_fails_cleanly

    ledger = daemon.parts.store.ledger
    before = ledger().budget_bytes
    tokenizer = daemon.loaded.tokenizer
    length = min(300, daemon.loaded.context_length // 2)
    ids = [TokenPrompt(tuple(token_ids(tokenizer, length // 2, seed=70 + number))) for number in range(2)]
    shortage.token_id = tokenizer.encode(" a")[-1]
    try:
        victim, beside = await asyncio.gather(
            daemon.ask(TokenPrompt((shortage.token_id,) * length), max_tokens=4, agent="large"),
            daemon.ask(ids[0], max_tokens=24, agent="small"),
            return_exceptions=True,
        )
        (after,) = await asyncio.gather(
            daemon.ask(ids[1], max_tokens=4, agent="small"), return_exceptions=True
        )
    finally:
        shortage.token_id = None
    return judge_shortage(
        victim=cast("GenerationResult | Exception", victim),
        others=[cast("GenerationResult | Exception", one) for one in (beside, after)],
        budgets=(before, ledger().budget_bytes),
        real=await daemon.on_engine(allocation_fails_cleanly),
    )
