"""The results for clients, as frozen values with defaults, and `read`, which makes them from a result or event data.

    status = read(StatusResult, client.call("status"))
    print(status.cache.hot_bytes)

Rule: a newer daemon sends more keys, an older one fewer. A field that is missing, null or of another type has its
default, and unknown keys are left out. Sizes end in `_bytes`, counts start with `num_`, durations end in `_s` or
`_ms`, `_at` is seconds since 1970.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, Final, TypeGuard, TypeVar

_T = TypeVar("_T")

SHOWN_TOKENS_PER_STEP: Final = 1.05
"""Below it a figure of one digit says no more than that a step brings a token."""

_CLASS: Final = {"key": "class"}
"""The key, where it is a word that Python keeps for itself."""


@dataclass(frozen=True, slots=True)
class HelloResult:
    """`hello`: the daemon that replies."""

    server: str = ""
    version: str = ""
    protocol: int = 0
    pid: int = 0
    features: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LoadedModelFacts:
    """One loaded model within `status`."""

    id: str = ""
    current: bool = False
    context_length: int = 0
    weights_bytes: int = 0
    bytes_per_token: int = 0
    precision: str = ""
    block_bytes: int = 0
    compute_dtype: str | None = None
    warning: str | None = None


@dataclass(frozen=True, slots=True)
class DraftSourceFacts:
    """Tokens guessed from one source since the start (`forced`, `own`, `earlier`), and those that were right."""

    source: str = ""
    num_tokens: int = 0
    num_accepted: int = 0


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """The engine's activity, within `status`."""

    num_running: int = 0
    num_waiting: int = 0
    num_prefilling: int = 0
    batch_size: int = 0
    max_batch_size: int = 0
    prefill_tokens_per_s: float = 0.0
    decode_tokens_per_s: float = 0.0
    decode_step_ms: float = 0.0
    tokens_per_step: float = 1.0
    """Tokens that a sequence got from each of the last decode steps: more than 1 where drafts were right."""
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    """Of the draft tokens those that were right, since the start: each saved a decode step."""
    draft_sources: tuple[DraftSourceFacts, ...] = ()
    """The same by what they were guessed from; empty: not known."""
    draining: bool = False
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class CacheStats:
    """`cache.stats`, and `cache` within `status`: the byte ledger, both tiers, and counters since the start."""

    budget_bytes: int = 0
    planned_bytes: int = 0
    running_bytes: int = 0
    hot_bytes: int = 0
    pinned_bytes: int = 0
    dirty_bytes: int = 0
    in_flight_bytes: int = 0
    promised_bytes: int = 0
    free_bytes: int = 0
    text_bytes: int = 0
    num_hot_blocks: int = 0
    num_shared_blocks: int = 0
    warm_bytes: int = 0
    warm_cap_bytes: int | None = None
    num_warm_blocks: int = 0
    num_quarantined: int = 0
    recovered_share: float | None = None
    free_disk_bytes: int | None = None
    disk_reserve_bytes: int = 0
    num_refused_blocks: int = 0
    written_today_bytes: int = 0
    write_budget_bytes: int | None = None
    hot_hit_tokens: int = 0
    warm_hit_tokens: int = 0
    computed_tokens: int = 0
    evictions: Mapping[str, int] = field(default_factory=dict)
    num_evictions: int = 0
    num_lost_blocks: int = 0
    num_skipped_blocks: int = 0
    num_unsaved_agents: int = 0
    num_unsaved_responses: int = 0
    folder_problem: str | None = None

    @property
    def used_bytes(self) -> int:
        """Used part of the budget, in bytes."""
        return self.hot_bytes + self.running_bytes + self.in_flight_bytes


@dataclass(frozen=True, slots=True)
class ModelSizeRow:
    """The disk space of one model's blocks in one layout, within `cache.sizes`."""

    fingerprint: str = ""
    layout: str = ""
    num_blocks: int = 0
    num_bytes: int = 0


@dataclass(frozen=True, slots=True)
class FailureRow:
    """A request that failed (the daemon's fault) or was refused; `status` is the HTTP answer's."""

    at: float = 0.0
    kind: str = ""
    code: str = ""
    message: str = ""
    request: str = ""
    agent: str | None = None
    status: int = 0


@dataclass(frozen=True, slots=True)
class OutcomeFacts:
    """Outcomes of requests since the start, part of `status`; `last` is the newest failure or refusal."""

    num_answered: int = 0
    num_failed: int = 0
    num_refused: int = 0
    num_failed_in_a_row: int = 0
    num_failed_last_minute: int = 0
    num_refused_last_minute: int = 0
    last: FailureRow | None = None


@dataclass(frozen=True, slots=True)
class SavedFacts:
    """Prompt tokens from the cache and the prefill they stood for; tokens computed again after an eviction."""

    reused_tokens: int = 0
    saved_s: float = 0.0
    recomputed_tokens: int = 0
    recomputed_s: float = 0.0


@dataclass(frozen=True, slots=True)
class SavingsFacts:
    """The savings since counting began, and `today`'s part of them (by the daemon's calendar)."""

    reused_tokens: int = 0
    saved_s: float = 0.0
    recomputed_tokens: int = 0
    recomputed_s: float = 0.0
    today: SavedFacts = SavedFacts()


@dataclass(frozen=True, slots=True)
class PeerFacts:
    """A machine that blocks are read from, within `status`; `state`: ready, or resting after a failure."""

    address: str = ""
    state: str = ""
    num_asked: int = 0
    num_found: int = 0
    num_blocks: int = 0
    num_bytes: int = 0
    num_failures: int = 0
    bytes_per_s: float | None = None
    last_failure: str | None = None


@dataclass(frozen=True, slots=True)
class RankFacts:
    """One of the machines that compute a model together; `state` is missing, joined or ready."""

    rank: int = 0
    address: str = ""
    state: str = ""
    memory_bytes: int = 0
    step_ms: float = 0.0
    sent_bytes: int = 0
    received_bytes: int = 0
    last_failure: str | None = None


@dataclass(frozen=True, slots=True)
class StatusResult:
    """`status`, and the data of the event `status`. `state`: starting, ready, no_model, draining or stopped."""

    version: str = ""
    pid: int = 0
    state: str = ""
    uptime_s: float = 0.0
    address: str = ""
    socket: str = ""
    model: str | None = None
    models: tuple[LoadedModelFacts, ...] = ()
    model_stage: str = "idle"
    model_progress: float = 0.0
    model_error: str | None = None
    free_memory_bytes: int | None = None
    engine: EngineFacts = EngineFacts()
    cache: CacheStats = CacheStats()
    outcomes: OutcomeFacts | None = None
    """None from a daemon that does not count them, as `savings`."""
    savings: SavingsFacts | None = None
    peers: tuple[PeerFacts, ...] = ()
    ranks: tuple[RankFacts, ...] = ()
    """None where one machine computes alone."""
    model_away: str | None = None
    """Reason why the model is missing that the ranks reload once all have joined."""


@dataclass(frozen=True, slots=True)
class HistoryResult:
    """`history`: samples with the numbers `first` to `last`, a value or None (nothing to measure) for each series."""

    step_s: int = 1
    first: int = 0
    last: int = -1
    ended_at: float = 0.0
    series: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AgentRow:
    """One agent of `agents.list`; `state` is cold, warm, hot or active, `priority` interactive or background."""

    id: str = ""
    anonymous: bool = False
    model: str = ""
    num_tokens: int = 0
    num_turns: int = 0
    created_at: float = 0.0
    last_used_at: float = 0.0
    priority: str = field(default="", metadata=_CLASS)
    ttl_s: float | None = None
    last_reuse_ratio: float | None = None
    last_ttft_ms: float | None = None
    last_tokens_per_s: float | None = None
    state: str = ""
    tier: str = ""
    num_blocks: int = 0
    num_hot_blocks: int = 0
    hot_bytes: int = 0
    own_hot_bytes: int | None = None
    """None, as `num_errors` and `saved_s`, from a daemon that does not count them."""
    shared_hot_bytes: int = 0
    warm_bytes: int = 0
    pinned: bool = False
    kept: bool = False
    shared_with: tuple[str, ...] = ()
    num_shared_with: int = 0
    num_errors: int | None = None
    saved_s: float | None = None
    unsaved: bool = False
    """Whether the disk refused its newest state, so that it is in memory only."""


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model of `models.list`; `installed`: its files are here, `current`: it answers requests for the default."""

    id: str = ""
    created: int = 0
    owned_by: str = ""
    loaded: bool = False
    installed: bool = False
    current: bool = False
    description: str = ""
    context_length: int | None = None
    path: str | None = None
    start_name: str | None = None
    """The user's folder or file, by which a new daemon finds a model that it cannot find by its id."""
    size_bytes: int | None = None
    modified_at: float | None = None
    download_bytes: int | None = None
    """About what fetching it downloads; of a model that is not installed."""
    memory_needed_bytes: int | None = None
    fingerprint: str | None = None
    weights_bytes: int | None = None
    bytes_per_token: int | None = None
    precision: str | None = None
    warning: str | None = None
    """Of a loaded one: what its loader warns of, and what happened to its files since."""


@dataclass(frozen=True, slots=True)
class ModelProgress:
    """Data of the event `model`: `stage` in a word (loading, draining, ready, failed, ...), `progress` 0 to 1."""

    model: str = ""
    stage: str = ""
    progress: float = 0.0
    reason: str | None = None
    at: float = 0.0
    """Time of the event, seconds since the epoch; 0: an older daemon does not report it."""
    total_bytes: int = 0
    """Of a file or download, while one is read; 0: not known."""


@dataclass(frozen=True, slots=True)
class RequestRow:
    """One request of `requests.list`; `state` is waiting, prefilling, decoding or finished."""

    id: str = ""
    agent: str = ""
    model: str = ""
    state: str = ""
    priority: str = field(default="", metadata=_CLASS)
    prompt_tokens: int = 0
    prefilled_tokens: int = 0
    prefill_progress: float = 0.0
    completion_tokens: int = 0
    max_new_tokens: int = 0
    age_s: float = 0.0
    ttft_ms: float | None = None
    tokens_per_s: float | None = None
    tokens_per_step: float | None = None
    cached_tokens: int = 0
    num_preemptions: int = 0
    restore_progress: float | None = None
    wait_reason: str | None = None
    wait_behind: str | None = None


@dataclass(frozen=True, slots=True)
class MissRow:
    """Point at which a turn's prompt left the cache, and why: `expected` was cached, `found` was sent."""

    cause: str = ""
    position: int | None = None
    expected: str = ""
    found: str = ""


@dataclass(frozen=True, slots=True)
class TurnRow:
    """One turn of `agents.show`, and `last` of `agents.why`: times in milliseconds, and where the prompt came from."""

    request_id: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    reused_hot_tokens: int | None = None
    """None, as the other counts, where the daemon does not say it."""
    restored_warm_tokens: int | None = None
    computed_tokens: int | None = None
    queue_ms: float = 0.0
    restore_ms: float = 0.0
    decode_ms: float = 0.0
    decode_steps: int = 0
    """Fewer than the answer's tokens where drafts were right; 0: not known."""
    ttft_ms: float | None = None
    finish_reason: str = ""
    verdict: str = ""
    miss: MissRow | None = None
    """None if the turn computed only new tokens."""

    @property
    def tokens_per_step(self) -> float | None:
        """Tokens that a decode step brought on average; None where it is not known."""
        return (self.completion_tokens or 0) / self.decode_steps if self.decode_steps else None


@dataclass(frozen=True, slots=True)
class SharedBlocks:
    """Hot blocks that another agent holds too, within `agents.show`."""

    agent: str = ""
    num_blocks: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class AgentResult(AgentRow):
    """`agents.show`: the agent's row, its configuration, its turns (oldest first) and what the cache saved it."""

    system: str = ""
    tools: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    turns: tuple[TurnRow, ...] = ()
    sharing: tuple[SharedBlocks, ...] = ()
    """Agents that share blocks with this one, largest share first."""
    savings: SavedFacts = SavedFacts()


@dataclass(frozen=True, slots=True)
class MessagePart:
    """One part of a message: `type` is text, thinking, tool_call or tool_result, and says which fields it has."""

    type: str = ""
    text: str = ""
    thinking: str = ""
    id: str = ""
    name: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    content: str = ""
    is_error: bool = False


@dataclass(frozen=True, slots=True)
class MessageRow:
    """One message of `agents.messages`: its text, or its parts; `role` is transcript for a piece of a prompt's text."""

    role: str = ""
    content: str | tuple[MessagePart, ...] = ""
    num_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class WhyResult:
    """`agents.why`: the last turn, None before one has ended."""

    last: TurnRow | None = None
    turns: tuple[TurnRow, ...] = ()
    """The last ones, oldest first."""


SAID = "say-"
"""Prefix of the request ids that `agents.say` makes; other requests of the agent may run alongside them."""


def is_said(request: str) -> bool:
    """Return whether this is the id of an `agents.say` request."""
    return request.startswith(SAID)


@dataclass(frozen=True, slots=True)
class SayResult:
    """`agents.say`: the whole answer, and the agent that has it now."""

    text: str = ""
    agent: str = ""
    unsaved: bool = False


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """Data of the event `token`: text that the model just wrote, and how many tokens its answer has by now."""

    agent: str = ""
    request: str = ""
    text: str = ""
    num_tokens: int = 0


@dataclass(frozen=True, slots=True)
class LogEvent:
    """Data of the event `log`: one line of the daemon's log."""

    timestamp: str = ""
    level: str = "info"
    event: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding of `doctor`: `state` is ok, warning or error; `advice` says what to do."""

    check: str = ""
    state: str = ""
    message: str = ""
    advice: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DoctorResult:
    """`doctor`: `ok` unless a finding is an error."""

    ok: bool = False
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class ConfigValue:
    """One effective setting: its dotted name, its value (secrets masked), and where it came from."""

    name: str = ""
    value: Any = None
    origin: str = ""
    env: str = ""
    flag: str = ""
    meaning: str = ""
    expected: str = ""


@dataclass(frozen=True, slots=True)
class ConfigResult:
    """`config.show`."""

    settings: tuple[ConfigValue, ...] = ()
    config_file: str = ""


def step_text(tokens_per_step: float | None) -> str:
    """Return tokens per decode step in words, as in `2.3 tokens a step`; empty where it is one, or not known."""
    if tokens_per_step is None or tokens_per_step < SHOWN_TOKENS_PER_STEP:
        return ""
    return f"{tokens_per_step:.1f} tokens per step"


_SOURCES = {"forced": "by a form", "own": "from own text", "earlier": "from earlier turns"}


def drafts_text(engine: EngineFacts) -> str:
    """Return what lookup decoding saved since the start, in words; empty where nothing was guessed."""
    if not engine.num_draft_tokens:
        return ""
    text = f"{engine.num_accepted_tokens} of {engine.num_draft_tokens} drafted tokens accepted"
    if engine.num_accepted_tokens:
        text += ", each saved one decode step"
    sources = [
        f"{_SOURCES.get(one.source, one.source)} {one.num_accepted} of {one.num_tokens}"
        for one in engine.draft_sources
        if one.num_tokens
    ]
    return f"{text} ({', '.join(sources)})" if len(sources) > 1 else text


@dataclass(frozen=True, slots=True)
class FreedResult:
    """The bytes freed by `cache.prune` (`freed_bytes`) and `cache.clear` (the two others)."""

    freed_bytes: int = 0
    freed_hot_bytes: int = 0
    freed_warm_bytes: int = 0


@dataclass(frozen=True, slots=True)
class DrainResult:
    """`drain` and `shutdown`: how many requests are still answered."""

    num_requests: int = 0


def rows_in(result: object, name: str) -> list[dict[str, Any]]:
    """Return the rows of a result under a name, as they were sent: `rows_in(client.call("agents.list"), "agents")`.

    A value that is not a list of maps has none.
    """
    rows = result.get(name) if isinstance(result, Mapping) else None
    return [dict(row) for row in rows if isinstance(row, Mapping)] if isinstance(rows, list | tuple) else []


def read(kind: type[_T], data: object) -> _T:
    """Return a result of this kind with the values of `data`; never raises, for any `data`."""
    given = data if isinstance(data, Mapping) else {}
    taken = {}
    any_kind: Any = kind
    for name, key, take in _readers(any_kind):
        value = take(given.get(key))
        if value is not None:
            taken[name] = value
    return kind(**taken)


def read_all(kind: type[_T], rows: object) -> tuple[_T, ...]:
    """Return a result of this kind for each map in a list."""
    if not isinstance(rows, list | tuple):
        return ()
    return tuple(read(kind, row) for row in rows if isinstance(row, Mapping))


_Reader = Callable[[object], Any]


@cache
def _readers(kind: Any) -> tuple[tuple[str, str, _Reader], ...]:
    """Return each field's name, its key in messages, and what makes its value, or None for the default."""
    hints = typing.get_type_hints(kind)
    return tuple(
        (one.name, one.metadata.get("key", one.name), _reader(hints[one.name])) for one in fields(kind)
    )


def _reader(hint: Any) -> _Reader:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return lambda value: value
    if origin in (typing.Union, types.UnionType):
        return _first_of(tuple(_reader(one) for one in arguments if one is not type(None)))
    if origin is tuple:
        return _list_reader(arguments[0])
    if is_dataclass(hint):
        inner: Any = hint
        return lambda value: read(inner, value) if isinstance(value, Mapping) else None
    if hint is float:
        return lambda value: float(value) if _is_number(value) else None
    if hint is int:
        return lambda value: int(value) if _is_number(value) else None
    if origin is Mapping:
        return _map_reader(arguments[1])
    return lambda value: value if isinstance(value, hint) else None


def _first_of(readers: tuple[_Reader, ...]) -> _Reader:
    if len(readers) == 1:
        return readers[0]
    return lambda value: next((taken for one in readers if (taken := one(value)) is not None), None)


def _map_reader(item: Any) -> _Reader:
    if item is Any:
        return lambda value: value if isinstance(value, Mapping) else None
    take = _reader(item)

    def taken(value: object) -> Any:
        if not isinstance(value, Mapping):
            return None
        read_items = ((str(key), take(one)) for key, one in value.items())
        return {key: one for key, one in read_items if one is not None}

    return taken


def _list_reader(item: Any) -> _Reader:
    if is_dataclass(item):
        inner: Any = item
        return lambda value: read_all(inner, value) if isinstance(value, list | tuple) else None
    take = _reader(item)
    # In a list that may hold None, an unreadable value keeps its place as None.
    gaps = type(None) in typing.get_args(item)

    def taken(value: object) -> Any:
        if not isinstance(value, list | tuple):
            return None
        read_items = (take(one) for one in value)
        return tuple(one for one in read_items if gaps or one is not None)

    return taken


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and value - value == 0  # finite
