"""The dashboard's state: the daemon's last facts, kept in bounded memory. Pure: no clock, no terminal, no socket.

Rule: what the daemon sends is read into values as it is taken (what is missing has its default), nothing here grows
without bound, and all text passes the sanitizer before, so that screens may show whatever is here.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from semantic_tui.history import History
from semantic_tui.live import LiveAgent, live_agents
from semantic_tui.more_agents import MoreAgents
from semanticd.control.results import (
    AgentResult,
    AgentRow,
    CacheStats,
    ConfigResult,
    ConfigValue,
    DoctorResult,
    EngineFacts,
    FailureRow,
    HelloResult,
    HistoryResult,
    LogEvent,
    MessageRow,
    ModelProgress,
    ModelRow,
    OutcomeFacts,
    RequestRow,
    StatusResult,
    TokenEvent,
    TurnRow,
    is_said,
    read,
    read_all,
)
from semanticd.control.terminal_text import safe_values

Facts = Mapping[str, Any]

MAX_LOG_LINES = 2000
MAX_STREAM_CHARS, MIN_STREAM_CHARS = 64_000, 4000
MAX_STREAMS_CHARS = 1_000_000
"""Of all streams together, as far as `MIN_STREAM_CHARS` of each allow."""
STREAM_PIECE_CHARS = 512
"""Characters up to which tokens are kept as one text: each text of its own takes 60 bytes more."""
MAX_STREAMS = 256
MAX_OTHER_STREAMS = 32
"""Streams of further requests of an agent, next to the one that it shows."""
MAX_DETAILS = 32
"""Agents whose turns and words are kept after a look at them."""
MAX_PROMPTS = 8
"""Prompts of running requests that are kept after a look at them."""
_NOTHING_HEARD = StatusResult()


@dataclass(slots=True)
class Stream:
    """The output of one agent's newest request so far; only its last characters are kept."""

    request: str = ""
    num_tokens: int = 0
    num_chars: int = 0
    pieces: deque[str] = field(default_factory=deque)

    def add(self, request: str, text: str, num_tokens: int, *, max_chars: int) -> None:
        """Take one token event and keep the last `max_chars`; another request starts again."""
        if request != self.request:
            self.request, self.num_chars = request, 0
            self.pieces.clear()
        self.num_tokens = num_tokens
        if self.pieces and len(self.pieces[-1]) + len(text) <= STREAM_PIECE_CHARS:
            self.pieces[-1] += text
        else:
            self.pieces.append(text)
        self.num_chars += len(text)
        while self.num_chars > max_chars and len(self.pieces) > 1:
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
class AgentDetails:
    """The fetched details of an opened agent: its facts with its turns, and its conversation."""

    facts: AgentResult = field(default_factory=AgentResult)
    messages: tuple[MessageRow, ...] = ()


@dataclass(frozen=True, slots=True)
class Said:
    """A turn sent to an agent from here; its conversation contains it only when the answer has finished.

    `num_turns_before` and `requests_before` identify this turn: how many turns the user had, and which requests
    the agent, until it was said.
    """

    text: str
    num_turns_before: int = 0
    requests_before: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ModelChange:
    """Progress of a model change, and the model that was current when it began."""

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
    """Description of the socket if one was given; empty: this user's own."""
    retry_in_s: float = 0.0
    starting_since: float | None = None
    """Start of a `semanticd start` run from here, on the dashboard's clock; None: it is not running."""
    starting_says: str = ""
    """The last line that it has printed."""
    last_heard_at: float | None = None
    daemon: HelloResult = field(default_factory=HelloResult)
    status: StatusResult = _NOTHING_HEARD
    """The last status; all defaults before the first."""
    agents: tuple[AgentRow, ...] = ()
    num_agents: int = 0
    """Agents that the daemon knows; its events hold those used last."""
    more: MoreAgents = field(default_factory=MoreAgents)
    """Agents that were found beyond them."""
    requests: tuple[RequestRow, ...] = ()
    models: tuple[ModelRow, ...] = ()
    last_model: str = ""
    """The model that this daemon served last; empty where none was seen."""
    settings: tuple[ConfigValue, ...] = ()
    """The settings of this daemon, as far as it said them."""
    blocks: list[tuple[str, int]] | None = None
    """Per block its state and how many agents hold it; None where the daemon does not send it."""
    changes: OrderedDict[str, ModelChange] = field(default_factory=OrderedDict)
    """Per model its last progress, newest last."""
    log: deque[LogLine] = field(default_factory=lambda: deque(maxlen=MAX_LOG_LINES))
    num_log_lines: int = 0
    streams: OrderedDict[str, Stream] = field(default_factory=OrderedDict)
    """By agent, of the request that began first of those that run; of the newest where none does."""
    other_streams: OrderedDict[str, tuple[str, Stream]] = field(default_factory=OrderedDict)
    """By request its agent and stream, while the agent's stream is another request's that still runs."""
    num_dropped: int = 0
    num_token_events: int = 0
    doctor: DoctorResult | None = None
    examined_at: str = ""
    """Time of the doctor's findings, in words."""
    is_examining: bool = False
    """Whether the daemon examines its installation now."""
    is_silent: bool = False
    """Whether a daemon that is connected has said nothing for longer than it ever does."""
    details: OrderedDict[str, AgentDetails] = field(default_factory=OrderedDict)
    """Of the agents that were opened; the last ones are kept."""
    prompts: OrderedDict[str, tuple[MessageRow, ...]] = field(default_factory=OrderedDict)
    """Prompts of running requests, by the request's id; the last ones are kept."""
    said: dict[str, Said] = field(default_factory=dict)
    """Messages sent from here that are being answered, by agent."""
    history: History = field(default_factory=History)
    failures: tuple[FailureRow, ...] = ()
    """The last requests that failed or were refused, newest first."""
    _fetched_until: str = ""
    """Timestamp of the newest line of the log that was fetched."""

    @property
    def connected(self) -> bool:
        """Whether the displayed data is live."""
        return self.connection == "connected"

    @property
    def heard(self) -> bool:
        """Whether a status was received on this or an earlier connection."""
        return self.status != _NOTHING_HEARD

    @property
    def stale(self) -> bool:
        """Whether the displayed data may be out of date."""
        return self.heard and (not self.connected or self.is_silent)

    def take(self, event: str, data: Facts, dropped: int = 0) -> None:
        """Take one event of a subscription; unknown ones are ignored."""
        self.num_dropped += dropped
        data = safe_values(dict(data))
        if event == "token":
            self._take_token(data)
        elif event == "status":
            self.status = read(StatusResult, data)
            self.last_model = self.status.model or self.last_model
        elif event == "agents":
            self._take_agents(data)
        elif event == "requests":
            self.requests = read_all(RequestRow, data.get("requests"))
            self._show_other_streams()
        elif event == "model":
            self._take_change(data)
        elif event == "log":
            self._take_log(read(LogEvent, data))

    def _take_agents(self, data: Facts) -> None:
        """Take the whole list, or what changed of it."""
        rows = read_all(AgentRow, data.get("agents"))
        if data.get("changes"):
            news = {row.id: row for row in rows}
            gone = {*news, *map(str, data.get("removed") or ())}
            kept = (row for row in self.agents if row.id not in gone)
            # As the daemon lists them: most recently used first.
            rows = tuple(sorted((*news.values(), *kept), key=lambda row: -row.last_used_at))
        self.agents = rows
        number = data.get("num_agents")
        self.num_agents = number if isinstance(number, int) else len(rows)

    def begin(self, daemon: HelloResult) -> None:
        """Reset at a new connection: the count of dropped events, and the history of another process."""
        hello = read(HelloResult, safe_values(asdict(daemon)))
        if hello.pid != self.daemon.pid:
            self.history.forget()
            self.changes.clear()
            self.failures, self.settings, self.last_model = (), (), ""
            # Of its blocks and of its installation nothing is known yet.
            self.blocks, self.doctor, self.examined_at = None, None, ""
            self.more.forget()
            self.prompts.clear()
        self.daemon = hello
        self.num_dropped = 0

    def take_recent_log(self, answer: Facts) -> None:
        """Take an answer of `log.recent`; the lines that are known already are left out."""
        newest = self.log[-1].timestamp if self.log else ""
        for line in read_all(LogEvent, safe_values(answer.get("lines"))):
            if line.timestamp > newest:
                self._take_log(line)
        if self.log:
            self._fetched_until = self.log[-1].timestamp

    def take_failures(self, answer: Facts) -> None:
        self.failures = read_all(FailureRow, safe_values(answer.get("failures")))

    def take_models(self, answer: Facts) -> None:
        self.models = read_all(ModelRow, safe_values(answer.get("models")))

    def take_settings(self, answer: Facts) -> None:
        """Take an answer of `config.show` unchanged: these values are not shown."""
        self.settings = read(ConfigResult, answer).settings

    def take_doctor(self, report: Facts, at: str = "") -> None:
        """Take an answer of `doctor` that came at this time."""
        self.doctor, self.examined_at = read(DoctorResult, safe_values(dict(report))), at

    def take_history(self, answer: Facts) -> None:
        self.history.take(read(HistoryResult, answer))

    def take_details(self, agent: str, facts: Facts, messages: object = ()) -> None:
        """Keep the answer of `agents.show` about an agent, and the rows of `agents.messages`."""
        self.details[agent] = AgentDetails(
            read(AgentResult, safe_values(dict(facts))), read_all(MessageRow, safe_values(messages))
        )
        self.details.move_to_end(agent)
        while len(self.details) > MAX_DETAILS:
            self.details.popitem(last=False)

    def take_prompt(self, request: str, answer: Facts) -> None:
        """Take an answer of `requests.prompt`; an empty one: it has ended, or is too long to be sent."""
        self.prompts[request] = read_all(MessageRow, safe_values(answer.get("messages")))
        while len(self.prompts) > MAX_PROMPTS:
            self.prompts.popitem(last=False)

    def forget(self, agent: str) -> None:
        """Drop the details of an agent that the daemon no longer has: deleted text is not shown."""
        self.details.pop(agent, None)
        self.streams.pop(agent, None)
        for request in [request for request, (owner, _) in self.other_streams.items() if owner == agent]:
            del self.other_streams[request]
        self.more.drop(agent)

    def turns(self, agent: str) -> tuple[TurnRow, ...]:
        """Return the agent's turns as far as they were fetched, oldest first."""
        details = self.details.get(agent)
        return () if details is None else details.facts.turns

    def take_blocks(self, stats: Facts) -> None:
        """Take the per-block facts of `cache.stats`, if the daemon sends them."""
        blocks = stats.get("blocks")
        if isinstance(blocks, list):
            self.blocks = [
                (str(b[0]), int(b[1])) for b in blocks if isinstance(b, (list, tuple)) and len(b) >= 2
            ]

    def _take_token(self, data: Facts) -> None:
        said = read(TokenEvent, data)
        self.num_token_events += 1
        shown = self.streams.get(said.agent)
        if shown is not None and shown.request != said.request and self._runs(shown.request):
            # Two requests of one agent: their tokens come by turns, and one text of both would be neither's.
            _, stream = self.other_streams.setdefault(said.request, (said.agent, Stream()))
            stream.add(said.request, said.text, said.num_tokens, max_chars=MIN_STREAM_CHARS)
            while len(self.other_streams) > MAX_OTHER_STREAMS:
                self.other_streams.popitem(last=False)
            return
        if shown is None:
            shown = self.streams[said.agent] = Stream()
            while len(self.streams) > MAX_STREAMS:
                self.streams.popitem(last=False)
        share = MAX_STREAMS_CHARS // len(self.streams)
        max_chars = min(MAX_STREAM_CHARS, max(MIN_STREAM_CHARS, share))
        shown.add(said.request, said.text, said.num_tokens, max_chars=max_chars)
        self.streams.move_to_end(said.agent)

    def _runs(self, request: str) -> bool:
        return any(row.id == request for row in self.requests)

    def _show_other_streams(self) -> None:
        """Show a request that ran alongside another one, once that has ended."""
        for request, (agent, stream) in list(self.other_streams.items()):
            shown = self.streams.get(agent)
            if shown is None or not self._runs(shown.request):
                self.streams[agent] = stream
                del self.other_streams[request]
            elif not self._runs(request):
                del self.other_streams[request]

    def requests_heard(self, agent: str) -> frozenset[str]:
        """Return the requests of which tokens of this agent are kept."""
        shown = self.streams.get(agent)
        others = {request for request, (owner, _) in self.other_streams.items() if owner == agent}
        return frozenset(others | ({shown.request} if shown is not None else set()))

    def answer(self, agent: str, said: Said) -> Stream | None:
        """Return the answer so far to the sent turn; None before its first token, whatever other clients request."""
        shown = self.streams.get(agent)
        streams = [
            *([shown] if shown else ()),
            *(stream for owner, stream in self.other_streams.values() if owner == agent),
        ]
        mine = (one for one in streams if is_said(one.request) and one.request not in said.requests_before)
        return next(mine, None)

    def _take_change(self, data: Facts) -> None:
        progress = read(ModelProgress, data)
        model = progress.model or "?"
        # The model that served at the time of the failure stays displayed, whatever serves later.
        self.changes[model] = ModelChange(progress, served=self.status.model)
        self.changes.move_to_end(model)
        while len(self.changes) > 16:
            self.changes.popitem(last=False)

    def _take_log(self, line: LogEvent) -> None:
        if line.timestamp and line.timestamp <= self._fetched_until:
            # It was among the lines that were fetched when the connection began.
            return
        self.log.append(
            LogLine(self.num_log_lines, line.timestamp, line.level.lower(), line.event, line.fields)
        )
        self.num_log_lines += 1

    @property
    def cache(self) -> CacheStats:
        """The cache's part of the last status."""
        return self.status.cache

    @property
    def engine(self) -> EngineFacts:
        """The engine's part of the last status."""
        return self.status.engine

    @property
    def outcomes(self) -> OutcomeFacts:
        """Outcomes of requests by the last status; all zero if the daemon does not count them."""
        return self.status.outcomes or OutcomeFacts()

    def agent(self, agent_id: str) -> AgentRow | None:
        """Return an agent's row; None when it is gone."""
        return next(
            (row for rows in (self.agents, self.more.rows) for row in rows if row.id == agent_id), None
        )

    def requests_of(self, agent_id: str) -> list[RequestRow]:
        """Return the agent's requests in the engine."""
        return [row for row in self.requests if row.agent == agent_id]

    def rows(self, watched: Collection[str] = ()) -> list[LiveAgent]:
        """Return the agents, each with its requests; first those in their first turn, which are not listed yet."""
        return live_agents(self.known_agents, self.requests, watched)

    @property
    def known_agents(self) -> tuple[AgentRow, ...]:
        """The agents of the events, then those that were found beyond them."""
        if not self.more.rows:
            return self.agents
        live = {row.id for row in self.agents}
        return (*self.agents, *(row for row in self.more.rows if row.id not in live))

    @property
    def num_known_to_daemon(self) -> int:
        """Total number of agents, including those that the daemon did not send."""
        return max(self.num_agents, len(self.agents))

    @property
    def has_more_agents(self) -> bool:
        """Whether the daemon has more agents than the known ones, which can be requested."""
        return self.num_agents > len(self.agents) and self.more.has_more
