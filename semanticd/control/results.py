"""The shapes of the results that clients read most, as typed dictionaries for type checkers.

Rule: every key is optional (`total=False`). A newer daemon sends more keys, an older one fewer; readers take what is
there. Sizes end in `_bytes`, counts start with `num_`, durations end in `_s` or `_ms`, `_at` is seconds since 1970.
"""

from __future__ import annotations

from typing import Any, TypedDict


class HelloResult(TypedDict, total=False):
    """`hello`: who answers."""

    server: str
    version: str
    protocol: int
    pid: int
    features: list[str]
    commands: list[str]
    topics: list[str]


class LoadedModelFacts(TypedDict, total=False):
    """One loaded model within `status`."""

    id: str
    current: bool
    context_length: int
    weights_bytes: int
    bytes_per_token: int
    precision: str


class EngineFacts(TypedDict, total=False):
    """What the engine is doing, within `status`."""

    num_running: int
    num_waiting: int
    num_prefilling: int
    batch_size: int
    max_batch_size: int
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    decode_step_ms: float
    draining: bool
    failure: str | None


class CacheStats(TypedDict, total=False):
    """`cache.stats`, and `cache` within `status`: the byte ledger, both tiers, and counters since start."""

    budget_bytes: int
    running_bytes: int
    hot_bytes: int
    pinned_bytes: int
    dirty_bytes: int
    in_flight_bytes: int
    promised_bytes: int
    free_bytes: int
    num_hot_blocks: int
    num_shared_blocks: int
    warm_bytes: int
    warm_cap_bytes: int | None
    num_warm_blocks: int
    num_quarantined: int
    written_today_bytes: int
    write_budget_bytes: int | None
    hot_hit_tokens: int
    warm_hit_tokens: int
    computed_tokens: int
    evictions: dict[str, int]
    num_evictions: int
    num_lost_blocks: int
    num_skipped_blocks: int


class FailureRow(TypedDict, total=False):
    """A request that failed (our fault) or was refused; `at` is seconds since 1970, `status` the HTTP answer's."""

    at: float
    kind: str
    code: str
    message: str
    request: str
    agent: str | None
    status: int


class FailuresResult(TypedDict, total=False):
    """`requests.failures`, newest first."""

    failures: list[FailureRow]


class OutcomeFacts(TypedDict, total=False):
    """How requests ended since the start, within `status`; `last` is the newest failure or refusal."""

    num_answered: int
    num_failed: int
    num_refused: int
    num_failed_in_a_row: int
    num_failed_last_minute: int
    num_refused_last_minute: int
    last: FailureRow | None


class SavedFacts(TypedDict, total=False):
    """Prompt tokens from the cache and the prefill they stood for; tokens computed again after an eviction."""

    reused_tokens: int
    saved_s: float
    recomputed_tokens: int
    recomputed_s: float


class SavingsFacts(SavedFacts, total=False):
    """What was saved since the start, and in `today` (UTC) of that."""

    today: SavedFacts


class HistoryResult(TypedDict, total=False):
    """`history`: samples with the numbers `first` to `last`, a value or None (nothing to measure) for each series."""

    step_s: int
    first: int
    last: int
    ended_at: float
    series: dict[str, list[float | None]]


class StatusResult(TypedDict, total=False):
    """`status`, and the data of the event `status`. `state`: starting, ready, draining or stopped."""

    version: str
    pid: int
    state: str
    uptime_s: float
    address: str
    socket: str
    model: str | None
    models: list[LoadedModelFacts]
    model_stage: str
    model_progress: float
    model_error: str | None
    free_memory_bytes: int
    engine: EngineFacts
    cache: CacheStats
    outcomes: OutcomeFacts
    savings: SavingsFacts


AgentRow = TypedDict(
    "AgentRow",
    {
        "id": str,
        "state": str,
        "tier": str,
        "anonymous": bool,
        "model": "str | None",
        "num_tokens": int,
        "num_turns": int,
        "num_blocks": int,
        "num_hot_blocks": int,
        "hot_bytes": int,
        "own_hot_bytes": int,
        "shared_hot_bytes": int,
        "warm_bytes": int,
        "shared_with": "list[str]",
        "num_shared_with": int,
        "created_at": float,
        "last_used_at": float,
        "class": str,
        "ttl_s": "float | None",
        "pinned": bool,
        "kept": bool,
        "last_reuse_ratio": "float | None",
        "last_ttft_ms": "float | None",
        "last_tokens_per_s": "float | None",
        "num_errors": int,
        "saved_s": float,
    },
    total=False,
)
"""One agent; `state` is cold, warm, hot or active, `class` interactive or background."""


class AgentsResult(TypedDict, total=False):
    """`agents.list`, and the data of the event `agents`."""

    agents: list[AgentRow]


class ModelRow(TypedDict, total=False):
    """One known model; `installed`: its files are here, `current`: it answers requests for the default."""

    id: str
    description: str
    loaded: bool
    installed: bool
    current: bool
    context_length: int | None
    path: str
    size_bytes: int
    weights_bytes: int
    bytes_per_token: int
    fingerprint: str
    precision: str


class ModelsResult(TypedDict, total=False):
    """`models.list`."""

    models: list[ModelRow]


class ModelProgress(TypedDict, total=False):
    """Data of the event `model`: `stage` in a word (loading, draining, ready, failed, ...), `progress` 0 to 1."""

    model: str
    stage: str
    progress: float
    reason: str


RequestRow = TypedDict(
    "RequestRow",
    {
        "id": str,
        "agent": str,
        "model": str,
        "state": str,
        "class": str,
        "prompt_tokens": int,
        "prefilled_tokens": int,
        "prefill_progress": float,
        "completion_tokens": int,
        "max_new_tokens": int,
        "age_s": float,
        "ttft_ms": "float | None",
        "tokens_per_s": "float | None",
        "cached_tokens": int,
        "num_preemptions": int,
        "restore_progress": "float | None",
        "wait_reason": "str | None",
        "wait_behind": "str | None",
    },
    total=False,
)
"""One running or waiting request; `state` is waiting, prefilling, decoding or finished."""


class RequestsResult(TypedDict, total=False):
    """`requests.list`, and the data of the event `requests`."""

    requests: list[RequestRow]


class TokenEvent(TypedDict, total=False):
    """Data of the event `token`: text that the model just wrote, and how many tokens its answer has by now."""

    agent: str
    request: str
    text: str
    num_tokens: int


class LogEvent(TypedDict, total=False):
    """Data of the event `log`: one line of the daemon's log."""

    timestamp: str
    level: str
    event: str
    fields: dict[str, Any]


class Finding(TypedDict, total=False):
    """One finding of `doctor`: `state` is ok, warning or error; `advice` says what to do."""

    check: str
    state: str
    message: str
    advice: str
    facts: dict[str, Any]


class DoctorResult(TypedDict, total=False):
    """`doctor`: `ok` unless a finding is an error."""

    ok: bool
    findings: list[Finding]


class ConfigValue(TypedDict, total=False):
    """One effective setting: its dotted name, its value (secrets masked), and where it came from."""

    name: str
    value: Any
    origin: str
    env: str


class ConfigResult(TypedDict, total=False):
    """`config.show`."""

    settings: list[ConfigValue]
