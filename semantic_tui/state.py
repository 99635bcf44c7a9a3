"""What the dashboard knows: the daemon's last facts, kept in bounded memory. Pure: no clock, no terminal, no socket.

Rule: every key may be missing (an older daemon sends less), nothing here grows without bound, and all text from the
daemon passes the sanitizer as it is taken, so that screens may show whatever is here.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from semantic_tui.history import History
from semantic_tui.live import first_turn_row
from semanticd.control.results import (
    CacheStats,
    EngineFacts,
    ModelProgress,
    ModelRow,
    OutcomeFacts,
    StatusResult,
    TurnRow,
    read,
    read_all,
)
from semanticd.control.terminal_text import safe_values

Facts = Mapping[str, Any]

MAX_LOG_LINES = 2000
MAX_STREAM_CHARS = 64_000
MAX_STREAMS = 256
MAX_DETAILS = 32
"""Agents whose turns and words are kept after a look at them."""


@dataclass(slots=True)
class Stream:
    """What one agent's newest request has said so far; only its last `MAX_STREAM_CHARS` are kept."""

    request: str = ""
    num_tokens: int = 0
    num_chars: int = 0
    pieces: deque[str] = field(default_factory=deque)

    def add(self, request: str, text: str, num_tokens: int) -> None:
        """Take one token event; another request begins anew."""
        if request != self.request:
            self.request, self.num_chars = request, 0
            self.pieces.clear()
        self.num_tokens = num_tokens
        self.pieces.append(text)
        self.num_chars += len(text)
        while self.num_chars > MAX_STREAM_CHARS and len(self.pieces) > 1:
            self.num_chars -= len(self.pieces.popleft())

    @property
    def text(self) -> str:
        """The kept text."""
        return "".join(self.pieces)

    def tail(self, num_chars: int) -> str:
        """Return the last characters without joining the whole."""
        taken: list[str] = []
        length = 0
        for piece in reversed(self.pieces):
            taken.append(piece)
            length += len(piece)
            if length >= num_chars:
                break
        return "".join(reversed(taken))[-num_chars:]


@dataclass(slots=True)
class LogLine:
    """One line of the daemon's log; `number` counts from the first that was seen."""

    number: int
    timestamp: str
    level: str
    event: str
    fields: Mapping[str, Any]

    @property
    def text(self) -> str:
        """The line as it is searched and shown."""
        text = " ".join(f"{key}={value}" for key, value in self.fields.items())
        return f"{self.event}  {text}".rstrip()


@dataclass(frozen=True, slots=True)
class ModelChange:
    """How far a model's change is, and which model was the current one then."""

    progress: ModelProgress
    served: str | None = None


@dataclass(slots=True)
class WatchState:
    """Everything that is shown; screens read it, the connection writes it."""

    connection: str = "connecting"
    """connecting, connected, lost, absent (no process listens), mismatch (of versions), refused (no access) or
    untrusted (the socket, or who listens on it, is another user's)."""
    reason: str = ""
    where: str = ""
    """Which socket, in words, where it was given; empty for this user's own."""
    retry_in_s: float = 0.0
    last_heard_at: float | None = None
    daemon: dict[str, Any] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    agents: list[dict[str, Any]] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    models: tuple[ModelRow, ...] = ()
    blocks: list[tuple[str, int]] | None = None
    """Per block its state and how many agents hold it; None where the daemon does not send it."""
    changes: OrderedDict[str, ModelChange] = field(default_factory=OrderedDict)
    """Per model its last progress, newest last."""
    log: deque[LogLine] = field(default_factory=lambda: deque(maxlen=MAX_LOG_LINES))
    num_log_lines: int = 0
    streams: OrderedDict[str, Stream] = field(default_factory=OrderedDict)
    num_dropped: int = 0
    num_token_events: int = 0
    doctor: dict[str, Any] | None = None
    details: OrderedDict[str, dict[str, Any]] = field(default_factory=OrderedDict)
    """`agents.show` of the agents that were opened, with their `messages`; the last ones are kept."""
    history: History = field(default_factory=History)
    failures: list[dict[str, Any]] = field(default_factory=list)
    """The last requests that failed or were refused, newest first."""
    _fetched_until: str = ""
    """Timestamp of the newest line of the log that was fetched."""

    @property
    def connected(self) -> bool:
        """Whether what is shown is live."""
        return self.connection == "connected"

    @property
    def stale(self) -> bool:
        """Whether something is shown that may have changed since."""
        return not self.connected and bool(self.status)

    def take(self, event: str, data: Facts, dropped: int = 0) -> None:
        """Take one event of a subscription; unknown ones are ignored."""
        self.num_dropped += dropped
        data = safe_values(dict(data))
        if event == "token":
            self._take_token(data)
        elif event == "status":
            self.status = dict(data)
        elif event == "agents":
            self.agents = [dict(row) for row in data.get("agents") or []]
        elif event == "requests":
            self.requests = [dict(row) for row in data.get("requests") or []]
        elif event == "model":
            self._take_change(data)
        elif event == "log":
            self._take_log(data)

    def begin(self, daemon: Facts) -> None:
        """A connection begins: what was dropped before is of no interest, another process has another history."""
        if daemon.get("pid") != self.daemon.get("pid"):
            self.history.forget()
            self.changes.clear()
            self.failures = []
        self.daemon = safe_values(dict(daemon))
        self.num_dropped = 0

    def take_recent_log(self, lines: Iterable[Facts]) -> None:
        """Take the lines that were logged before the connection; those known already are left out."""
        newest = self.log[-1].timestamp if self.log else ""
        for line in lines:
            if str(line.get("timestamp", "")) > newest:
                self._take_log(safe_values(dict(line)))
        if self.log:
            self._fetched_until = self.log[-1].timestamp

    def take_failures(self, rows: Iterable[Facts]) -> None:
        """Take an answer of `requests.failures`."""
        self.failures = [safe_values(dict(row)) for row in rows]

    def take_models(self, rows: Iterable[Facts]) -> None:
        """Take an answer of `models.list`."""
        self.models = read_all(ModelRow, safe_values(list(rows)))

    def take_doctor(self, report: Facts) -> None:
        """Take an answer of `doctor`."""
        self.doctor = safe_values(dict(report))

    def take_details(self, agent: str, data: Facts) -> None:
        """Keep the answer about an agent."""
        self.details[agent] = safe_values(dict(data))
        self.details.move_to_end(agent)
        while len(self.details) > MAX_DETAILS:
            self.details.popitem(last=False)

    def turns(self, agent: str) -> tuple[TurnRow, ...]:
        """Return the agent's turns as far as they were fetched, oldest first."""
        return read_all(TurnRow, self.details.get(agent, {}).get("turns"))

    def take_blocks(self, stats: Facts) -> None:
        """Take the per-block facts of `cache.stats`, if the daemon sends them."""
        blocks = stats.get("blocks")
        if isinstance(blocks, list):
            self.blocks = [
                (str(b[0]), int(b[1])) for b in blocks if isinstance(b, (list, tuple)) and len(b) >= 2
            ]

    def _take_token(self, data: Facts) -> None:
        agent = str(data.get("agent", ""))
        stream = self.streams.get(agent)
        if stream is None:
            stream = self.streams[agent] = Stream()
            while len(self.streams) > MAX_STREAMS:
                self.streams.popitem(last=False)
        stream.add(str(data.get("request", "")), str(data.get("text", "")), int(data.get("num_tokens") or 0))
        self.streams.move_to_end(agent)
        self.num_token_events += 1

    def _take_change(self, data: Facts) -> None:
        progress = read(ModelProgress, data)
        model = progress.model or "?"
        # What served when it failed stays what is shown, whatever serves later.
        self.changes[model] = ModelChange(progress, served=self.facts.model)
        self.changes.move_to_end(model)
        while len(self.changes) > 16:
            self.changes.popitem(last=False)

    def _take_log(self, data: Facts) -> None:
        fields, timestamp = data.get("fields"), str(data.get("timestamp", ""))
        if timestamp and timestamp <= self._fetched_until:
            # It was among the lines that were fetched when the connection began.
            return
        self.log.append(
            LogLine(
                self.num_log_lines,
                timestamp,
                str(data.get("level", "info")).lower(),
                str(data.get("event", "")),
                fields if isinstance(fields, Mapping) else {},
            )
        )
        self.num_log_lines += 1

    @property
    def facts(self) -> StatusResult:
        """The last status."""
        return read(StatusResult, self.status)

    @property
    def cache(self) -> CacheStats:
        """The cache's part of the last status."""
        return read(CacheStats, self.status.get("cache"))

    @property
    def engine(self) -> EngineFacts:
        """The engine's part of the last status."""
        return read(EngineFacts, self.status.get("engine"))

    @property
    def outcomes(self) -> OutcomeFacts:
        """How requests ended, of the last status."""
        return read(OutcomeFacts, self.status.get("outcomes"))

    def agent(self, agent_id: str) -> dict[str, Any]:
        """Return an agent's row; empty when it is gone."""
        return next((row for row in self.agents if row.get("id") == agent_id), {})

    def requests_of(self, agent_id: str) -> list[dict[str, Any]]:
        """Return the agent's requests in the engine."""
        return [row for row in self.requests if row.get("agent") == agent_id]

    def rows(self) -> list[dict[str, Any]]:
        """Return the agents, each with its `requests`; first those in their first turn, which are not listed yet."""
        running: dict[str, list[dict[str, Any]]] = {}
        for request in self.requests:
            running.setdefault(str(request.get("agent")), []).append(request)
        listed = [{**row, "requests": running.pop(str(row.get("id")), [])} for row in self.agents]
        return [{**first_turn_row(requests), "requests": requests} for requests in running.values()] + listed
