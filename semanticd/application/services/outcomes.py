"""The outcomes of requests: answered, failed or refused, with agent and reason.

A refusal is an answer that the request itself, a limit or the daemon's state earned (too large, rate limited,
draining); a failure is ours. Rule: bounded memory, constant work per request; the event loop's thread only.
"""

from __future__ import annotations

import json
from array import array
from collections import OrderedDict
from dataclasses import astuple, dataclass
from typing import Literal

from semanticd.application.ports.telemetry import Clock
from semanticd.domain.packed_lines import PackedLines

MAX_FAILURES_KEPT = 200
MAX_AGENTS_COUNTED = 4096
_MINUTE_S = 60
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
        self._last: Failure | None = None
        self._kept = PackedLines(MAX_FAILURES_KEPT)
        self._last_minute: dict[Kind, _LastMinute] = {"failed": _LastMinute(), "refused": _LastMinute()}
        self._by_agent: OrderedDict[str, int] = OrderedDict()

    def answered(self) -> None:
        """A request was answered in full."""
        self.num_answered += 1
        self._num_failed_in_a_row = 0

    def not_answered(
        self, error_code: str, message: str, *, kind: Kind, request_id: str, agent_id: str | None, status: int
    ) -> None:
        """A request failed or was refused."""
        self._last = Failure(
            at=self._clock.wall(),
            kind=kind,
            code=error_code,
            message=message[:_MAX_MESSAGE_CHARS],
            request=request_id,
            agent=agent_id,
            status=status,
        )
        self._kept.add(json.dumps(astuple(self._last)).encode())
        self._last_minute[kind].add(self._clock.monotonic())
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
            num_failed_last_minute=self._last_minute["failed"].count(self._clock.monotonic()),
            num_refused_last_minute=self._last_minute["refused"].count(self._clock.monotonic()),
            last=self._last,
        )

    def recent(self) -> tuple[Failure, ...]:
        """Return the last failures and refusals, newest first."""
        return tuple(Failure(*json.loads(line)) for line in reversed(list(self._kept)))


class _LastMinute:
    """The number of events in the last minute, counted by the second."""

    def __init__(self) -> None:
        self._counts = array("q", [0]) * _MINUTE_S
        self._second = 0

    def add(self, now: float) -> None:
        self._pass_to(int(now))
        self._counts[self._second % _MINUTE_S] += 1

    def count(self, now: float) -> int:
        self._pass_to(int(now))
        return sum(self._counts)

    def _pass_to(self, second: int) -> None:
        for passed in range(max(self._second, second - _MINUTE_S), second):
            self._counts[(passed + 1) % _MINUTE_S] = 0
        self._second = second
