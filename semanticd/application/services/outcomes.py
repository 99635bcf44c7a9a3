"""The outcomes of requests: answered, failed or refused, with agent and reason.

A refusal is an answer that the request itself, a limit or the daemon's state earned (too large, rate limited,
draining); a failure is ours. Rule: bounded memory, constant work per request; the event loop's thread only.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Literal

from semanticd.application.ports.telemetry import Clock

MAX_FAILURES_KEPT = 200
MAX_AGENTS_COUNTED = 4096
_MINUTE_S = 60.0
_MAX_MESSAGE_CHARS = 500

Kind = Literal["failed", "refused"]


@dataclass(frozen=True, slots=True)
class Failure:
    """One request that was not answered; `at` is seconds since the epoch, `code` the error's."""

    at: float
    kind: Kind
    code: str
    message: str
    request: str
    agent: str | None
    status: int
    """The HTTP status; for a stream that failed after its beginning, the status that it would have had."""


@dataclass(frozen=True, slots=True)
class OutcomeFacts:
    """The counters since the start; `last` is the newest failure or refusal."""

    num_answered: int
    num_failed: int
    num_refused: int
    num_failed_in_a_row: int
    num_failed_last_minute: int
    num_refused_last_minute: int
    last: Failure | None


class Outcomes:
    """Counts ends of requests and keeps the last failures and refusals."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self.num_answered = 0
        self.num_failed = 0
        self.num_refused = 0
        self._num_failed_in_a_row = 0
        self._kept: deque[Failure] = deque(maxlen=MAX_FAILURES_KEPT)
        self._minutes: dict[Kind, deque[float]] = {
            "failed": deque(maxlen=10_000),
            "refused": deque(maxlen=10_000),
        }
        self._by_agent: OrderedDict[str, int] = OrderedDict()

    def answered(self) -> None:
        """A request was answered in full."""
        self.num_answered += 1
        self._num_failed_in_a_row = 0

    def not_answered(
        self, error_code: str, message: str, *, kind: Kind, request_id: str, agent_id: str | None, status: int
    ) -> None:
        """A request failed or was refused."""
        self._kept.append(
            Failure(
                at=self._clock.wall(),
                kind=kind,
                code=error_code,
                message=message[:_MAX_MESSAGE_CHARS],
                request=request_id,
                agent=agent_id,
                status=status,
            )
        )
        self._minutes[kind].append(self._clock.monotonic())
        if kind == "failed":
            self.num_failed += 1
            self._num_failed_in_a_row += 1
        else:
            self.num_refused += 1
        if agent_id is not None:
            self._by_agent[agent_id] = self._by_agent.pop(agent_id, 0) + 1
            while len(self._by_agent) > MAX_AGENTS_COUNTED:
                self._by_agent.popitem(last=False)

    def of_agent(self, agent_id: str) -> int:
        """Return how many requests of an agent failed or were refused since the start."""
        return self._by_agent.get(agent_id, 0)

    def facts(self) -> OutcomeFacts:
        """Return the counters as they are now."""
        return OutcomeFacts(
            num_answered=self.num_answered,
            num_failed=self.num_failed,
            num_refused=self.num_refused,
            num_failed_in_a_row=self._num_failed_in_a_row,
            num_failed_last_minute=self._in_last_minute("failed"),
            num_refused_last_minute=self._in_last_minute("refused"),
            last=self._kept[-1] if self._kept else None,
        )

    def recent(self) -> tuple[Failure, ...]:
        """Return the last failures and refusals, newest first."""
        return tuple(reversed(self._kept))

    def _in_last_minute(self, kind: Kind) -> int:
        times, since = self._minutes[kind], self._clock.monotonic() - _MINUTE_S
        while times and times[0] < since:
            times.popleft()
        return len(times)
