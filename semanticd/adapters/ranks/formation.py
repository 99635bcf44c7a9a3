"""Formation: ranks that form one ring and hold one model, for as long as all of them work.

The engine thread calls steps; each goes to every rank, in the same order, and is done when all have answered. Blocks of
the workers' disks go over links of their own, whose answers a thread takes. Any failure of one rank (it is gone, it is
slow, its answer differs from the others') ends the formation permanently: every call from then on raises.
"""

from __future__ import annotations

import selectors
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from semanticd.adapters.ranks.handshake import Introduction
from semanticd.adapters.ranks.link import Link, LinkLostError, encoded
from semanticd.adapters.ranks.wire import StepFacts, error_in
from semanticd.application.ports.telemetry import Log
from semanticd.domain.errors import EngineError, RanksLostError, SemanticError

RETRY_S = 5.0
LOADING_SILENCE_S = 120.0
"""Minimum time limit for the silence of a rank that loads the model, in seconds: imports may hold Python's lock."""
_PING_EVERY_S = 2.0
_LONGEST_WAIT_S = 0.5
_FAILED_S = 2.0
"""Seconds that the other ranks have to end a step that failed on one of them."""


@dataclass(slots=True)
class Member:
    """One rank's process, with its two links."""

    rank: int
    address: str
    introduction: Introduction
    steps: Link
    blocks: Link
    facts: StepFacts | None = None
    heard_at: float = field(default_factory=time.monotonic)
    answers: dict[int, Any] = field(default_factory=dict)
    waits_for: str = ""
    """Its last report of the neighbour that it waits for while the ring is formed; empty: none."""

    def close(self) -> None:
        """End both links; the process ends with them."""
        self.steps.close()
        self.blocks.close()


@dataclass(frozen=True, slots=True)
class Step:
    """A step that was sent and is not answered by all yet."""

    number: int
    name: str


class Formation:
    """The ranks of one ring; steps on the engine thread, blocks on any."""

    def __init__(
        self,
        members: Sequence[Member],
        *,
        model_id: str,
        timeout_s: float,
        log: Log,
        on_end: Callable[[str, bool], None],
    ) -> None:
        """Take over members, in the order of their ranks, for a model.

        `on_end` hears once why the formation ends, and whether that was wanted; it calls nothing of the formation.
        """
        self.members = tuple(members)
        self.model_id = model_id
        self.timeout_s = timeout_s
        self.loading_silence_s = LOADING_SILENCE_S
        self.fingerprint = ""
        """Of the model that the ranks hold."""
        self._log = log
        self._on_end = on_end
        self._ended: str | None = None
        self.lost_rank: int | None = None
        """Rank whose loss ended it; None: it works, or no single rank was at fault."""
        self._lock = threading.Lock()
        self._next = 0
        self._selector = selectors.DefaultSelector()
        for member in self.members:
            self._selector.register(member.steps, selectors.EVENT_READ, member)
        self.dropped: deque[int] = deque()
        """Handles that are no longer held; sent to the ranks with the next step."""
        self._asked: dict[tuple[int, int], Future[Any]] = {}
        self._next_question = 0
        self._pinged_at = time.monotonic()
        for member in self.members:
            name = f"semanticd-rank-{member.rank}-blocks"
            threading.Thread(target=self._listen, args=(member,), name=name, daemon=True).start()

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return len(self.members)

    @property
    def ended(self) -> str | None:
        """Reason why no further step can run; None if all ranks work."""
        return self._ended

    @property
    def waits_for(self) -> str:
        """Report of the neighbour that a rank waits for while the model is loaded; empty: none."""
        if self.fingerprint:
            return ""
        return next((member.waits_for for member in self.members if member.waits_for), "")

    def end(self, reason: str, *, rank: int | None = None, wanted: bool = False) -> None:
        """End all links, and with them the ranks' processes; any thread, idempotent. `rank` is the one at fault."""
        with self._lock:
            if self._ended is not None:
                return
            self.lost_rank = rank
            # Before `ended` is set: a thread that sees it set finds the failure counted and rank 0 renewed.
            self._on_end(reason, wanted)
            self._ended = reason
            asked, self._asked = self._asked, {}
        for member in self.members:
            member.close()
        for future in asked.values():
            future.set_exception(self._error())

    def _error(self) -> RanksLostError:
        return RanksLostError(
            f"the machines that compute this model lost their connection: {self._ended}; they are reconnecting",
            retry_after_s=RETRY_S,
        )

    # Steps: engine thread.

    def call(self, name: str, *arguments: Any, first: Sequence[Any] | None = None) -> Any:
        """Let every rank do a step, and return rank 0's result.

        `first` are rank 0's own arguments where they differ.

        Raises:
            RanksLostError: The formation has ended, or ends with this step.
            SemanticError: The error that all ranks concerned raised.
        """
        step = self.begin(name, *arguments, first=first)
        return self._finish(step, time.monotonic() + self.timeout_s)

    def call_first(self, name: str, *arguments: Any) -> Any:
        """Like `call`, for what rank 0 alone does: its answer must not depend on the others."""
        step = self._send(name, [arguments], self.members[:1])
        return self._finish(step, time.monotonic() + self.timeout_s, self.members[:1])

    def begin(self, name: str, *arguments: Any, first: Sequence[Any] | None = None) -> Step:
        """Send a step; it is to be finished before the next one is begun."""
        return self._send(name, [arguments if first is None else first, arguments], self.members)

    def _send(self, name: str, arguments: Sequence[Sequence[Any]], members: Sequence[Member]) -> Step:
        if self._ended is not None:
            raise self._error()
        self._next += 1
        dropped: list[int] = []
        if members is self.members:
            while self.dropped:
                dropped.append(self.dropped.popleft())
        step = Step(self._next, name)
        own = encoded([step.number, name, list(arguments[0]), dropped])
        others = (
            own
            if arguments[-1] is arguments[0]
            else encoded([step.number, name, list(arguments[-1]), dropped])
        )
        for member in members:
            self._send_to(member, own if member.rank == 0 else others)
        return step

    def _send_to(self, member: Member, data: bytes) -> None:
        try:
            member.steps.send_bytes(data)
        except LinkLostError as error:
            self._lose(member, error)

    def poll(self, step: Step, *, wait_s: float = 0.0) -> bool:
        """Read the answers that have arrived; returns whether all ranks have answered the step.

        Raises:
            RanksLostError: The formation has ended, or ends with this step.
            SemanticError: The error that all ranks concerned raised.
        """
        return self._answered(step, self.members, wait_s)

    def results(self, step: Step) -> list[Any]:
        """Return all ranks' results of an answered step.

        Raises:
            RanksLostError: The formation has ended, or ends with this step.
            SemanticError: The error that all ranks concerned raised.
        """
        return self._results(step, self.members)

    def failure_of(self, step: Step) -> SemanticError | None:
        """Return what a rank has raised in a step that is not answered by all yet."""
        for member in self.members:
            _, sent, _ = member.answers.get(step.number, (None, None, None))
            if sent is not None:
                return error_in(sent) or EngineError(
                    f"rank {member.rank} ({member.address}) failed: {sent[1]}"
                )
        return None

    def _finish(self, step: Step, deadline: float, members: Sequence[Member] | None = None) -> Any:
        asked = self.members if members is None else members
        limit_s = self.timeout_s
        while not self._answered(step, asked, deadline - time.monotonic()):
            failure = self.failure_of(step)
            if failure is not None and limit_s > _FAILED_S:
                # The others may wait for it in the middle of theirs.
                limit_s = _FAILED_S
                deadline = min(deadline, time.monotonic() + _FAILED_S)
            if failure is not None and time.monotonic() >= deadline:
                self.end(failure.message)
                raise self._error()
            if time.monotonic() >= deadline:
                late = [member.rank for member in asked if step.number not in member.answers]
                self.end(
                    f"rank {late[0]} did not answer within {self.timeout_s:g} s ({step.name})", rank=late[0]
                )
                raise self._error()
        return self._results(step, asked)[0]

    def _answered(self, step: Step, members: Sequence[Member], wait_s: float) -> bool:
        if self._ended is not None:
            raise self._error()
        if all(step.number in member.answers for member in members):
            return True
        # In short waits: a link that another thread has closed meanwhile reports nothing.
        for key, _ in self._selector.select(min(max(wait_s, 0.0), _LONGEST_WAIT_S)):
            member: Member = key.data
            try:
                for number, *answer in member.steps.ready():
                    member.answers[number] = answer
            except (LinkLostError, ValueError, TypeError) as error:
                self._lose(member, error)
        return all(step.number in member.answers for member in members)

    def _lose(self, member: Member, error: Exception) -> None:
        self.end(f"rank {member.rank} ({member.address}): {error}", rank=member.rank)
        raise self._error() from error

    def _results(self, step: Step, members: Sequence[Member]) -> list[Any]:
        answers = [member.answers.pop(step.number) for member in members]
        failed: list[tuple[Member, Any]] = []
        for member, (_, error, facts) in zip(members, answers, strict=True):
            member.facts = (
                replace(StepFacts(*facts), seconds=0.0) if step.name in _SETUP else StepFacts(*facts)
            )
            member.heard_at = time.monotonic()
            if error is not None:
                failed.append((member, error))
        if failed:
            raise self._failure(step, failed, num_asked=len(members))
        return [result for result, _, _ in answers]

    def _failure(self, step: Step, failed: Sequence[tuple[Member, Any]], *, num_asked: int) -> SemanticError:
        """Return the error of a step.

        Where rank 0's own part alone failed (a form, a sampler), or all agree, or nothing was computed, the ranks are
        as they were. Everything else has left them in different states.
        """
        member, sent = failed[0]
        error = error_in(sent)
        alone = len(failed) == 1 and member.rank == 0 and step.name == "start_decode"
        if error is not None and (alone or len(failed) == num_asked or step.name in _HARMLESS):
            return error
        self.end(f"rank {member.rank} ({member.address}) failed: {sent[1]}", rank=member.rank)
        return self._error()

    # Blocks: any thread.

    def ask(self, member: Member, name: str, *arguments: Any) -> Future[Any]:
        """Ask a rank something about its blocks; the future gets its answer, or why there is none."""
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        with self._lock:
            if self._ended is not None:
                future.set_exception(self._error())
                return future
            self._next_question += 1
            number = self._next_question
            self._asked[(member.rank, number)] = future
        try:
            member.blocks.send([number, name, list(arguments)])
        except LinkLostError as error:
            self.end(f"rank {member.rank} ({member.address}): {error}", rank=member.rank)
        return future

    def tell_workers(self, name: str, *arguments: Any) -> None:
        """Ask all ranks but the first, and wait for nothing."""
        for member in self.members[1:]:
            self.ask(member, name, *arguments)

    def check(self) -> None:
        """End the formation if a rank was silent for too long; called every second or so, on any thread."""
        now = time.monotonic()
        if self._ended is not None:
            return
        limit_s = self.timeout_s if self.fingerprint else max(self.timeout_s, self.loading_silence_s)
        member = min(self.members, key=lambda one: one.heard_at)
        if now - member.heard_at > limit_s:
            self.end(f"rank {member.rank} ({member.address}) was silent for {limit_s:g} s", rank=member.rank)
            return
        if now - self._pinged_at >= _PING_EVERY_S:
            self._pinged_at = now
            for member in self.members:
                # One that takes nothing more is as good as silent, and must not hold up others.
                if member.blocks.takes_more():
                    self.ask(member, "ping").add_done_callback(partial(self._ponged, member))

    def _ponged(self, member: Member, done: Future[Any]) -> None:
        """Take what a rank waits for, and log it once."""
        text = "" if done.exception() is not None else str(done.result() or "")
        if text and text != member.waits_for:
            self._log.warning("rank_waits", rank=member.rank, address=member.address, reason=text)
        member.waits_for = text

    def _listen(self, member: Member) -> None:
        """Take a rank's answers about blocks, until the formation ends."""
        try:
            member.blocks.wait_for_ever()
            while True:
                number, result, error = member.blocks.receive()
                member.heard_at = time.monotonic()
                with self._lock:
                    future = self._asked.pop((member.rank, number), None)
                if future is None:
                    continue
                if error is None:
                    future.set_result(result)
                else:
                    future.set_exception(error_in(error) or self._error())
        except (LinkLostError, OSError, ValueError, TypeError) as error:
            self.end(f"rank {member.rank} ({member.address}): {error}", rank=member.rank)
        except Exception as error:  # noqa: BLE001 (a listener's own; the thread's end must be known)
            self._log.error("rank_listener_failed", rank=member.rank, error=repr(error))
            self.end(f"rank {member.rank}: {error!r}", rank=member.rank)


_SETUP = frozenset({"find", "load"})
"""Steps that compute nothing: their time is not that of a step."""
_HARMLESS = frozenset({"restore", "dump", "form", "num_cached", "find"})
"""Steps after whose failure in some ranks all are as before."""
