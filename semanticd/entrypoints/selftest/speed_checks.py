"""Checks of speed: prefill by chunk, decode against the library alone, forms, batches, and the first token after rest.

Rule: what is compared is measured in turns and the best of each counts, so that a machine that does other things too
does not decide. A slow result is a warning; only one that says that something is broken fails.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from semanticd.adapters.machine_record import MachineRecord
from semanticd.domain.chat import ChatPrompt, TokenPrompt
from semanticd.domain.generation import GenerationResult, OutputConstraint
from semanticd.domain.ids import SequenceId
from semanticd.domain.memory_plan import RESERVE_BYTES, in_gb
from semanticd.entrypoints.selftest.outcome import Outcome, fail, ok, skipped, warn
from semanticd.entrypoints.selftest.prompts import question, token_ids, words
from semanticd.entrypoints.temporary_daemon import TemporaryDaemon

CHUNKS = (128, 256, 512, 1024, 2048)
QUICK_CHUNKS = (256, 1024)
_PROBE_TOKENS = 128
_PREFILL_S = 5.0
"""Maximum seconds to measure one chunk size: a slow model reads a shorter prompt."""
_ALL_PREFILL_S = 25.0
"""After so long nothing more is measured."""
_ENOUGH_SIZES = 3
_EQUAL = 0.97
"""A smaller chunk is as good as a larger one that is less than 3 % faster: others wait less for it."""

MOST_TOKENS, _FEWEST_TOKENS = 32, 12
_DECODE_S = 2.0
"""Maximum seconds of one answer: a slow model writes shorter ones."""
_PROMPT_TOKENS = 96
_ROUNDS, _ROUNDS_OF_SLOW = 4, 2
_OF_LIBRARY, _FAR_BELOW = 0.95, 0.5
_OF_PLAIN = {"schema": 0.95, "thinking": 0.97}

_THINKING_TOKENS = 8
_CLOSING_TOKENS = 8
"""Tokens that closing the thinking may take in addition to the budget."""

_NEAR_LOGPROB = 0.05
_FAR_LOGPROB = 0.5
"""Natural logarithms: kernels round by the number of rows, in bfloat16 by a few hundredths."""
_BATCHES = (1, 2, 4)

IDLE_S = 60.0
_SLOWER_AFTER_REST = 2.0
_ANY_TTFT_S = 0.25


def judge_prefill(rates: Mapping[int, float], extra_bytes: Mapping[int, int], *, num_tokens: int) -> Outcome:
    """Choose the chunk (tokens) with the best rate (tokens per second), and judge the memory that each takes."""
    fastest = max(rates.values())
    best = min(chunk for chunk, rate in rates.items() if rate >= fastest * _EQUAL)
    figures = {
        "num_tokens": num_tokens,
        "tokens_per_s": {str(chunk): round(rate, 1) for chunk, rate in rates.items()},
        "extra_bytes": {str(chunk): extra for chunk, extra in extra_bytes.items()},
        "best_chunk": best,
    }
    listed = ", ".join(f"{chunk}: {rate:.0f}" for chunk, rate in rates.items())
    text = f"tokens/s by chunk {listed}; best {best}"
    greedy = [chunk for chunk, extra in extra_bytes.items() if extra > RESERVE_BYTES]
    if greedy:
        chunk = greedy[0]
        return warn(
            f"{text}; chunks of {chunk} take {in_gb(extra_bytes[chunk])} in addition to weights, more than the reserve",
            **figures,
        )
    if best == min(rates) and len(rates) > 2:
        return warn(f"{text}: larger chunks should not be slower than the smallest", **figures)
    return ok(text, **figures)


def is_worth_keeping(found: Outcome, rates: Mapping[int, float], chunks: Sequence[int]) -> bool:
    """Return whether the fastest measured chunk length should limit the chunks of later starts.

    Where the prompt had to be short, a longer chunk than all that were measured may be better still; such a one is
    never used, for it would take too long.
    """
    told = found.figures["best_chunk"] < max(rates) or max(rates) == max(chunks)
    return told and found.verdict == "ok" and len(rates) >= _ENOUGH_SIZES


async def check_prefill(
    daemon: TemporaryDaemon, chunks: Sequence[int], *, record: MachineRecord | None
) -> Outcome:
    """Read one prompt with chunks of different sizes, alone, and keep the best size for this machine in `record`."""
    room = daemon.loaded.context_length - 1
    if room < 2 * _PROBE_TOKENS:
        return skipped(f"the model's context of {room + 1} tokens is too short")
    spec = daemon.loaded.runner.spec
    ids = token_ids(daemon.loaded.tokenizer, min(room, max(chunks)), seed=1)
    await _prefill(daemon, ids[:_PROBE_TOKENS], _PROBE_TOKENS)
    probed = await _prefill(daemon, ids[:_PROBE_TOKENS], _PROBE_TOKENS)
    affordable = int(probed[0] * _PREFILL_S) // _PROBE_TOKENS * _PROBE_TOKENS
    num_tokens = min(max(affordable, 2 * _PROBE_TOKENS), max(chunks), len(ids))
    rates: dict[int, float] = {}
    extra: dict[int, int] = {}
    sizes = [one for one in chunks if one <= num_tokens]
    began = time.perf_counter()
    # There and back: what else runs meanwhile, and kernels that are made ready, decide less.
    for chunk in (*sizes, *reversed(sizes)):
        if time.perf_counter() - began < _ALL_PREFILL_S:
            rate, peak = await _prefill(daemon, ids[:num_tokens], chunk)
            rates[chunk], extra[chunk] = max(rates.get(chunk, 0.0), rate), max(extra.get(chunk, 0), peak)
    found = judge_prefill(rates, extra, num_tokens=num_tokens)
    if record is not None and is_worth_keeping(found, rates, chunks):
        record.keep_chunks(
            fingerprint=spec.fingerprint,
            computed_by=spec.compute_revision,
            best=found.figures["best_chunk"],
            tokens_per_s=rates,
        )
    return found


async def _prefill(daemon: TemporaryDaemon, ids: Sequence[int], chunk: int) -> tuple[float, int]:
    """Return the rate in tokens per second, and the peak bytes beyond the previously active memory."""
    from semanticd.adapters.mlx.platform.counters import read_memory, reset_peak

    def measure() -> tuple[float, int]:
        runner, uid = daemon.loaded.runner, SequenceId(-1)
        before = read_memory().active_bytes
        reset_peak()
        began = time.perf_counter()
        try:
            runner.open(uid, prefix=(), state=None, capacity_tokens=len(ids) + 1)
            for start in range(0, len(ids), chunk):
                runner.prefill(uid, ids[start : start + chunk])
            took_s = time.perf_counter() - began
            peak = read_memory().peak_bytes
        finally:
            runner.close(uid)
        return len(ids) / took_s, peak - before

    return await daemon.on_engine(measure)


@dataclass(frozen=True, slots=True)
class DecodeRates:
    """Best rates of several rounds in tokens per second."""

    engine: float
    library: float


def judge_decode(rates: DecodeRates) -> Outcome:
    """Judge our engine against the library's own loop."""
    share = rates.engine / max(rates.library, 1e-9)
    figures = {
        "engine_tokens_per_s": round(rates.engine, 1),
        "mlx_lm_tokens_per_s": round(rates.library, 1),
        "ratio": round(share, 3),
    }
    text = f"{rates.engine:.1f} tokens/s, {share:.0%} of mlx-lm's own {rates.library:.1f}"
    if share < _FAR_BELOW:
        return fail(f"{text}: less than half", **figures)
    return (ok if share >= _OF_LIBRARY else warn)(text, **figures)


async def check_decode(daemon: TemporaryDaemon) -> Outcome:
    """Decode through the engine and with mlx-lm's own loop on the same weights, in turns."""
    tokenizer = daemon.loaded.tokenizer
    engine, library = [], []
    num_tokens = await _answer_tokens(daemon)
    for round_number in _rounds(num_tokens):
        ids = token_ids(tokenizer, _prompt_tokens(daemon), seed=10 + round_number)
        engine.append(decode_rate(await daemon.ask(TokenPrompt(tuple(ids)), max_tokens=num_tokens)))
        library.append(await _library_rate(daemon, ids, num_tokens))
    return judge_decode(DecodeRates(max(engine), max(library)))


async def _library_rate(daemon: TemporaryDaemon, ids: Sequence[int], num_tokens: int) -> float:
    from semanticd.adapters.mlx.model.library_decode import library_decode_rate

    return await daemon.on_engine(
        lambda: library_decode_rate(
            daemon.library_model(),
            ids,
            num_tokens=num_tokens,
            decoder=daemon.loaded.tokenizer.stream_decoder(),
        )
    )


def _rounds(num_tokens: int) -> range:
    """Return the number of rounds that compare answers of this many tokens: fewer if each is slow."""
    return range(_ROUNDS if num_tokens == MOST_TOKENS else _ROUNDS_OF_SLOW)


async def _answer_tokens(daemon: TemporaryDaemon) -> int:
    """Return how many tokens an answer has that takes about `_DECODE_S`."""
    ids = token_ids(daemon.loaded.tokenizer, 16, seed=9)
    rate = decode_rate(await daemon.ask(TokenPrompt(tuple(ids)), max_tokens=_FEWEST_TOKENS))
    return min(max(int(rate * _DECODE_S), _FEWEST_TOKENS), MOST_TOKENS)


def _prompt_tokens(daemon: TemporaryDaemon) -> int:
    return min(_PROMPT_TOKENS, daemon.loaded.context_length // 4)


def decode_rate(result: GenerationResult) -> float:
    """Return an answer's tokens per second, without its first token."""
    usage = result.usage
    return (usage.completion_tokens - 1) / max(usage.timings.decode_ms / 1000, 1e-9)


_FORM_TOKENS = 64
"""As short as an answer in this form can be, and some more."""
_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 40},
        "numbers": {"type": "array", "items": {"type": "integer"}, "minItems": 12, "maxItems": 40},
    },
    "required": ["title", "numbers"],
    "additionalProperties": False,
}


def judge_form(name: str, *, plain: float, formed: float, problem: str | None) -> Outcome:
    """Judge decoding with a form against decoding without, both in tokens per second; `problem`: it was not kept."""
    share = formed / max(plain, 1e-9)
    figures = {
        "tokens_per_s": round(formed, 1),
        "plain_tokens_per_s": round(plain, 1),
        "ratio": round(share, 3),
    }
    text = f"{formed:.1f} tokens/s, {share:.0%} of plain decoding"
    if problem is not None:
        return fail(f"{problem}; {text}", **figures)
    return (ok if share >= _OF_PLAIN[name] else warn)(text, **figures)


async def check_schema(daemon: TemporaryDaemon) -> Outcome:
    """Decode an answer that must follow a JSON schema."""
    plain, formed, problem = [], [], None
    num_tokens = await _answer_tokens(daemon)
    for round_number in _rounds(num_tokens):
        topic = words(3, seed=20 + round_number)
        prompt = question(daemon.loaded.tokenizer, f"Answer in JSON: a title and numbers about {topic}.")
        plain.append(decode_rate(await daemon.ask(prompt, max_tokens=num_tokens)))
        constraint = OutputConstraint("json_schema", schema=_SCHEMA)
        found = await daemon.ask(
            prompt, max_tokens=max(num_tokens, _FORM_TOKENS), constraint=constraint, ignore_eos=False
        )
        formed.append(decode_rate(found))
        problem = problem or schema_problem(found.choices[0].text)
    return judge_form("schema", plain=max(plain), formed=max(formed), problem=problem)


def schema_problem(text: str) -> str | None:
    """Return what of the schema an answer does not follow; None where it does."""
    try:
        value = json.loads(text)
    except ValueError:
        return f"the answer is not JSON: {text[:60]!r}"
    if not isinstance(value, dict) or set(value) != {"title", "numbers"}:
        return f"the answer has other keys than the schema: {text[:60]!r}"
    numbers = value["numbers"]
    whole = isinstance(numbers, list) and all(type(number) is int for number in numbers)
    if not isinstance(value["title"], str) or not whole or not 12 <= len(numbers) <= 40:
        return f"the answer does not follow the schema: {text[:60]!r}"
    return None


async def check_thinking(daemon: TemporaryDaemon) -> Outcome:
    """Decode with a bound on the thinking; for models that think."""
    tokenizer = daemon.loaded.tokenizer
    prompt = question(tokenizer, "Is 91 a prime number?")
    if not isinstance(prompt, ChatPrompt) or not tokenizer.with_thinking(
        prompt, None, budget=_THINKING_TOKENS, max_tokens=MOST_TOKENS
    ):
        return skipped("the model is not a thinking model")
    plain, formed, problem = [], [], None
    num_tokens = await _answer_tokens(daemon)
    for round_number in _rounds(num_tokens):
        prompt = question(tokenizer, f"Is {91 + round_number} a prime number?")
        plain.append(decode_rate(await daemon.ask(prompt, max_tokens=num_tokens)))
        found = await daemon.ask(prompt, max_tokens=num_tokens, thinking_budget=_THINKING_TOKENS)
        formed.append(decode_rate(found))
        if found.usage.reasoning_tokens > _THINKING_TOKENS + _CLOSING_TOKENS:
            problem = f"{found.usage.reasoning_tokens} tokens of thinking, {_THINKING_TOKENS} were allowed"
    return judge_form("thinking", plain=max(plain), formed=max(formed), problem=problem)


def judge_batches(rates: Mapping[int, float], differences: Mapping[int, float]) -> Outcome:
    """Judge tokens per second of all rows together, and the largest difference of a log-probability, by batch size."""
    figures = {
        "tokens_per_s": {str(size): round(rate, 1) for size, rate in rates.items()},
        "logprob_difference": {str(size): round(value, 5) for size, value in differences.items()},
    }
    listed = ", ".join(f"{size}: {rate:.0f}" for size, rate in rates.items())
    text = f"tokens/s by rows {listed}; log-probabilities differ by {max(differences.values()):.4f} at most"
    worst = max(differences.values())
    if worst > _FAR_LOGPROB:
        return fail(f"{text}: a row's answer depends on its neighbours", **figures)
    if worst > _NEAR_LOGPROB:
        return warn(f"{text}: more than rounding explains", **figures)
    if rates[max(rates)] < rates[min(rates)]:
        return warn(f"{text}: a batch is slower than one row alone", **figures)
    return ok(text, **figures)


async def check_batches(daemon: TemporaryDaemon) -> Outcome:
    """Decode 1, 2 and 4 rows together; what a row's tokens weigh must not depend on the others."""
    length = _prompt_tokens(daemon)
    ids = [
        token_ids(daemon.loaded.tokenizer, length - 3 * row, seed=30 + row) for row in range(max(_BATCHES))
    ]
    num_tokens = await _answer_tokens(daemon)
    sizes = [size for size in _BATCHES if size <= daemon.parts.engine.max_batch_size]
    rates: dict[int, float] = {}
    differences: dict[int, float] = {}
    alone: list[GenerationResult] = []
    for size in sizes:
        asks = [
            daemon.ask(TokenPrompt(tuple(row)), max_tokens=num_tokens, logprobs=True) for row in ids[:size]
        ]
        results = await asyncio.gather(*asks)
        # Rows join one after another, so the batch is whole for the time of its shortest decoding.
        rates[size] = sum(decode_rate(one) for one in results)
        alone = alone or list(results)
        differences[size] = logprob_difference(alone[0], results[0])
    return judge_batches(rates, differences)


def logprob_difference(one: GenerationResult, other: GenerationResult) -> float:
    """Return how much two answers' log-probabilities differ at most, as far as their tokens are the same."""
    worst = 0.0
    for left, right in zip(one.choices[0].logprobs, other.choices[0].logprobs, strict=False):
        if left.token_id != right.token_id:
            break
        worst = max(worst, abs(left.logprob - right.logprob))
    else:
        return worst
    first = one.choices[0].logprobs[:1], other.choices[0].logprobs[:1]
    if [entry.token_id for entry in first[0]] != [entry.token_id for entry in first[1]]:
        # Not one token is the same, so nothing was compared: as far apart as the likelier one says.
        return max(worst, *(abs(a.logprob - b.logprob) for a, b in zip(*first, strict=True)), 1.0)
    return worst


def judge_rest(before_s: float, after_s: float, *, rested_s: float) -> Outcome:
    """Judge the time to the first token before and after a rest, in seconds."""
    figures = {
        "before_ms": round(1000 * before_s, 1),
        "after_ms": round(1000 * after_s, 1),
        "rested_s": rested_s,
    }
    text = f"first token after {1000 * before_s:.0f} ms, and {1000 * after_s:.0f} ms after {rested_s:.0f} s of rest"
    if after_s > before_s * _SLOWER_AFTER_REST + _ANY_TTFT_S:
        return warn(f"{text}: the machine takes long to wake", **figures)
    return ok(text, **figures)


async def check_rest(daemon: TemporaryDaemon, *, rest_s: float = IDLE_S) -> Outcome:
    """Compare the time to the first token with that of a request after a minute without any."""
    tokenizer, length = daemon.loaded.tokenizer, _prompt_tokens(daemon)
    times = []
    for seed in (40, 41, 42):
        prompt = TokenPrompt(tuple(token_ids(tokenizer, length, seed=seed)))
        times.append((await daemon.ask(prompt, max_tokens=2)).usage.timings.ttft_ms / 1000)
    await asyncio.sleep(rest_s)
    prompt = TokenPrompt(tuple(token_ids(tokenizer, length, seed=43)))
    after = (await daemon.ask(prompt, max_tokens=2)).usage.timings.ttft_ms / 1000
    return judge_rest(min(times), after, rested_s=rest_s)
