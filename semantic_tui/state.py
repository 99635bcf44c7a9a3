"""What the dashboard knows: the daemon's last words, kept in bounded memory. Pure: no clock, no terminal, no socket.

Rule: every key may be missing (an older daemon sends less), and nothing here grows without bound.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Facts = Mapping[str, Any]

HISTORY = 120
"""Points that a sparkline remembers; one per `status` event."""
MAX_LOG_LINES = 2000
MAX_STREAM_CHARS = 64_000
MAX_STREAMS = 256
MAX_DETAILS = 32
"""Agents whose turns and words are kept after a look at them."""

SERIES = ("hit_rate", "evictions", "ttft_ms", "itl_ms", "tokens_per_s", "queue")


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


@dataclass(slots=True)
class WatchState:
    """Everything that is shown; screens read it, the connection writes it."""

    connection: str = "connecting"
    """connecting, connected, lost, absent (no process listens) or mismatch."""
    reason: str = ""
    retry_in_s: float = 0.0
    last_heard_at: float | None = None
    daemon: dict[str, Any] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    agents: list[dict[str, Any]] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    models: list[dict[str, Any]] = field(default_factory=list)
    blocks: list[tuple[str, int]] | None = None
    """Per block its state and how many agents hold it; None where the daemon does not send it."""
    changes: OrderedDict[str, dict[str, Any]] = field(default_factory=OrderedDict)
    """Per model its last progress, newest last."""
    log: deque[LogLine] = field(default_factory=lambda: deque(maxlen=MAX_LOG_LINES))
    num_log_lines: int = 0
    streams: OrderedDict[str, Stream] = field(default_factory=OrderedDict)
    num_dropped: int = 0
    num_token_events: int = 0
    doctor: dict[str, Any] | None = None
    details: OrderedDict[str, dict[str, Any]] = field(default_factory=OrderedDict)
    """`agents.show` of the agents that were opened, with their `messages`; the last ones are kept."""
    history: dict[str, deque[float]] = field(
        default_factory=lambda: {name: deque(maxlen=HISTORY) for name in SERIES}
    )
    _counted: tuple[float, float, float] | None = None
    _turns: dict[str, Any] = field(default_factory=dict)
    _ttfts: deque[float] = field(default_factory=lambda: deque(maxlen=HISTORY))

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
        if event == "token":
            self._take_token(data)
        elif event == "status":
            self.take_status(data)
        elif event == "agents":
            self._take_agents([dict(row) for row in data.get("agents") or []])
        elif event == "requests":
            self.requests = [dict(row) for row in data.get("requests") or []]
        elif event == "model":
            self._take_change(data)
        elif event == "log":
            self._take_log(data)

    def take_status(self, data: Facts) -> None:
        """Take a snapshot of the daemon and add a point to every sparkline."""
        self.status = dict(data)
        cache, engine = self.cache, self.engine
        now = (
            float((cache.get("hot_hit_tokens") or 0) + (cache.get("warm_hit_tokens") or 0)),
            float(cache.get("computed_tokens") or 0),
            float(cache.get("num_evictions") or 0),
        )
        before, self._counted = self._counted or (0.0, 0.0, now[2]), now
        reused, computed, evicted = (max(0.0, b - a) for a, b in zip(before, now, strict=True))
        if reused + computed:
            self.history["hit_rate"].append(reused / (reused + computed))
        else:
            self._repeat("hit_rate")
        self.history["evictions"].append(evicted)
        if self._ttfts:
            self.history["ttft_ms"].append(sum(self._ttfts) / len(self._ttfts))
            self._ttfts.clear()
        else:
            self._repeat("ttft_ms")
        self.history["itl_ms"].append(float(engine.get("decode_step_ms") or 0))
        self.history["tokens_per_s"].append(float(engine.get("decode_tokens_per_s") or 0))
        self.history["queue"].append(float(engine.get("num_waiting") or 0))

    def _repeat(self, series: str) -> None:
        """Keep in step with the other series where nothing new was measured."""
        points = self.history[series]
        points.append(points[-1] if points else 0.0)

    def _take_agents(self, rows: list[dict[str, Any]]) -> None:
        self.agents = rows
        turns = {str(row.get("id")): row.get("num_turns") for row in rows}
        for row in rows:
            if turns[str(row.get("id"))] != self._turns.get(str(row.get("id"))) and row.get("last_ttft_ms"):
                self._ttfts.append(float(row["last_ttft_ms"]))
        self._turns = turns

    def take_details(self, agent: str, data: Facts) -> None:
        """Keep the answer about an agent."""
        self.details[agent] = dict(data)
        self.details.move_to_end(agent)
        while len(self.details) > MAX_DETAILS:
            self.details.popitem(last=False)

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
        model = str(data.get("model", "?"))
        self.changes[model] = dict(data)
        self.changes.move_to_end(model)
        while len(self.changes) > 16:
            self.changes.popitem(last=False)

    def _take_log(self, data: Facts) -> None:
        fields = data.get("fields")
        self.log.append(
            LogLine(
                self.num_log_lines,
                str(data.get("timestamp", "")),
                str(data.get("level", "info")).lower(),
                str(data.get("event", "")),
                fields if isinstance(fields, Mapping) else {},
            )
        )
        self.num_log_lines += 1

    @property
    def cache(self) -> dict[str, Any]:
        """The cache's part of the last status."""
        return self.status.get("cache") or {}

    @property
    def engine(self) -> dict[str, Any]:
        """The engine's part of the last status."""
        return self.status.get("engine") or {}

    def agent(self, agent_id: str) -> dict[str, Any]:
        """Return an agent's row; empty when it is gone."""
        return next((row for row in self.agents if row.get("id") == agent_id), {})

    def requests_of(self, agent_id: str) -> list[dict[str, Any]]:
        """Return the agent's requests in the engine."""
        return [row for row in self.requests if row.get("agent") == agent_id]
