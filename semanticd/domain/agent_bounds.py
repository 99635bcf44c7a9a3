"""The bounds of an agent's record from any source: a file, a database.

Rule: a value passes only if everything that shows it, sums it or sends it on can take it. Python's integers, floats and
text hold more than a timestamp, SQLite, MessagePack and UTF-8 do, and one such value in a list costs the whole list.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace

from semanticd.domain.agent import Agent, AgentConfig, Retained, Turn
from semanticd.domain.agent_summary import AgentSummary
from semanticd.domain.chat import ToolCallPart
from semanticd.domain.limits import LIMITS
from semanticd.domain.whole_text import has_half

MAX_COUNT = 2**40
"""Of tokens, turns, blocks or bytes: more than an agent comes to; the sum over 8,000 agents is exact in a float."""
MAX_TIME = 253_402_214_400.0
"""Seconds since the epoch: the last day of the year 9999, which is shown in every time zone."""
MIN_TTL_S = 1.0
"""Minimum that a client may request: less is a mistaken unit. Stored values may be shorter."""
MAX_TTL_S = 10 * 365 * 86400.0
MAX_NAME_CHARACTERS = 4096
"""Of a model's name, which may be a path."""

_SHOWN_CHARACTERS = 40


class OutOfBoundsError(ValueError):
    """A value that the rest of the program cannot take; the message begins with its field."""


def check_agent(agent: Agent) -> None:
    """Check an agent's record, except its lists.

    Raises:
        OutOfBoundsError: A field is out of bounds.
    """
    _check_times(agent, "created_at", "last_used_at")
    _check_ends(agent)
    if len(agent.model_id) > MAX_NAME_CHARACTERS:
        raise _wrong("model_id", agent.model_id, f"at most {MAX_NAME_CHARACTERS} characters")
    _check_counts(agent, "num_turns")
    for at, snapshot in enumerate(agent.snapshots):
        _check_counts(snapshot, "position", "num_bytes", "turn", prefix=f"snapshots[{at}].")
    for name in ("agent_id", "model", "model_id", "salt", "conversation", "config"):
        _check_value(getattr(agent, name), name)


def check_turn(turn: Turn) -> None:
    """Check a turn.

    Raises:
        OutOfBoundsError: A field is out of bounds.
    """
    _check_times(turn, "finished_at")
    _check_counts(turn, "prompt_tokens", "completion_tokens", "num_segments", "decode_steps")
    counts = ("prompt_tokens", "reused_hot_tokens", "restored_warm_tokens", "computed_tokens")
    _check_counts(turn.cache, *counts, prefix="cache.")
    if turn.cache.miss is not None:
        _check_counts(turn.cache.miss, "position", prefix="cache.miss.")
    for one in fields(turn.timings):
        duration = getattr(turn.timings, one.name)
        if not abs(duration) <= MAX_TIME:
            raise _wrong(f"timings.{one.name}", duration, f"at most {MAX_TIME:.0f} ms")
    _check_value(turn, "")


def check_summary(summary: AgentSummary) -> None:
    """Check a summary.

    Raises:
        OutOfBoundsError: A field is out of bounds.
    """
    _check_times(summary, "created_at", "last_used_at")
    _check_counts(summary, "num_tokens", "num_turns", "num_blocks")
    _check_ends(summary)
    _check_value(replace(summary, pinned_until=None, kept_until=None), "")


def check_arguments(call: ToolCallPart, where: str) -> None:
    """Check the numbers in a tool call's arguments; text and integers may be anything that JSON can represent.

    Raises:
        OutOfBoundsError: A number is not finite.
    """
    _check_value(call.arguments, where, as_json=True)


def check_config(config: AgentConfig) -> None:
    """Check the settings of an agent's life like those of a client's request.

    Raises:
        OutOfBoundsError: A field is out of bounds.
    """
    if config.ttl_s is not None and not 0 < config.ttl_s <= MAX_TTL_S:
        raise _wrong("config.ttl_s", config.ttl_s, f"above 0 and at most {MAX_TTL_S:.0f}")
    size = metadata_characters(config.metadata)
    if size > LIMITS.metadata_characters:
        raise OutOfBoundsError(
            f"config.metadata has {size} characters, more than {LIMITS.metadata_characters}"
        )
    if not all(tool.name for tool in config.tools) or len({tool.name for tool in config.tools}) < len(
        config.tools
    ):
        raise OutOfBoundsError("config.tools has an empty or duplicate name")
    texts = [config.model or "", config.system or "", *config.metadata, *config.metadata.values()]
    for tool in config.tools:
        if _depth(tool.parameters) > LIMITS.nesting:
            raise OutOfBoundsError(f"config.tools has parameters nested deeper than {LIMITS.nesting}")
        parameters = json.dumps(tool.parameters, separators=(",", ":"), ensure_ascii=False)
        texts += [tool.name, tool.description, tool.input_grammar, parameters]
    num_bytes = sum(len(text.encode()) for text in texts)
    if num_bytes > LIMITS.agent_bytes:
        raise OutOfBoundsError(f"config has {num_bytes} bytes, more than {LIMITS.agent_bytes}")


def metadata_characters(metadata: Mapping[str, str]) -> int:
    """Return what counts towards the limit on metadata: characters of names and values."""
    return sum(len(key) + len(value) for key, value in metadata.items())


def count_or_nothing(value: object) -> int:
    """Return a count unchanged, or 0 if the value is not a count."""
    return value if isinstance(value, int) and 0 <= value <= MAX_COUNT else 0


def time_or_nothing(value: object) -> float:
    """Return a time (seconds since the epoch) unchanged, or 0 if the value is not a time."""
    return value if isinstance(value, int | float) and 0 <= value <= MAX_TIME else 0.0


def _check_times(record: object, *names: str) -> None:
    for name in names:
        value = getattr(record, name)
        if not 0 <= value <= MAX_TIME:
            raise _wrong(name, value, f"a time from 0 to {MAX_TIME:.0f} s")


def _check_ends(record: Retained) -> None:
    """Check until when blocks stay: compared with the clock, never shown, and permanently where it is infinite."""
    for name in ("pinned_until", "kept_until"):
        until = getattr(record, name)
        if until is None:
            continue
        if (
            isinstance(until, bool)
            or not isinstance(until, int | float)
            or not -math.inf <= until <= math.inf
        ):
            raise _wrong(name, until, "a number")


def _check_counts(record: object, *names: str, prefix: str = "") -> None:
    for name in names:
        value = getattr(record, name)
        if not 0 <= value <= MAX_COUNT:
            raise _wrong(prefix + name, value, f"a whole number from 0 to {MAX_COUNT}")


def _check_value(value: object, where: str, *, as_json: bool = False) -> None:
    """Check all numbers and texts in a value of dataclasses, mappings and sequences."""
    if isinstance(value, str):
        if not as_json and has_half(value):
            raise OutOfBoundsError(f"{where} holds half of a surrogate pair")
    elif isinstance(value, int):
        if not as_json and not -(2**63) <= value < 2**64:
            raise _wrong(where, value, "a number of 64 bits")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise _wrong(where, value, "a finite number")
    elif is_dataclass(value):
        for one in fields(value):
            _check_value(getattr(value, one.name), _within(where, one.name), as_json=as_json)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _check_value(key, f"a key of {where}", as_json=as_json)
            _check_value(item, _within(where, key[:_SHOWN_CHARACTERS]), as_json=as_json)
    elif isinstance(value, list | tuple):
        for at, item in enumerate(value):
            _check_value(item, f"{where}[{at}]", as_json=as_json)


def _depth(value: object) -> int:
    """Return how many mappings and sequences lie in one another."""
    inner = (
        value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else None
    )
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)


def _within(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _wrong(where: str, value: object, expected: str) -> OutOfBoundsError:
    # Thousands of digits are slow to write, and refused by Python.
    is_long = isinstance(value, int) and value.bit_length() > 256
    shown = "too large" if is_long else repr(value)[:_SHOWN_CHARACTERS]
    return OutOfBoundsError(f"{where} is {shown}, expected {expected}")
