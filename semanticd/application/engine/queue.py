"""EngineQueue: commands from other threads to the engine, in their order of arrival, until the engine ends.

Submissions are bounded: each is held by a client until it was answered, a named agent, an anonymous body of several
prompts, or a client's other anonymous requests together. A holder of many takes no more places than an agent may, so
that others find room behind hundreds of prompts; it holds as many submissions as the queue has places, at most. Places
can be reserved for what is still to be submitted. Cancels and actions are always taken, for they make room.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from semanticd.application.engine.embedding_job import EmbeddingJob
from semanticd.application.engine.running_sequence import Submission
from semanticd.domain.errors import DrainingError, InvalidRequestError, QueueFullError
from semanticd.domain.ids import RequestId, SequenceId

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Cancel:
    """End this request's sequences."""

    request_id: RequestId


@dataclass(frozen=True, slots=True)
class Action:
    """Run this on the engine thread; an exception fails `sequence_id`, if one is given."""

    run: Callable[[], None]
    sequence_id: SequenceId | None = None


Asked = Submission | EmbeddingJob
"""Submissions that hold a place until they are answered."""

QueueItem = Asked | Cancel | Action


class EngineQueue:
    """Items for the engine thread, and the places of submissions that are not answered yet."""

    def __init__(self, *, max_queue: int, max_queue_per_agent: int) -> None:
        """Limit the number of unanswered submissions, in total and per agent."""
        self.max_queue = max_queue
        self.max_queue_per_agent = max_queue_per_agent
        self._condition = threading.Condition()
        self._items: deque[QueueItem] = deque()
        self._held: Counter[str] = Counter()
        """Reserved or unanswered submissions by holder."""
        self._reserved: Counter[str] = Counter()
        self._num_places = 0
        self._num_unanswered = 0
        self._stopping = False
        self._closed = False
        self.draining = False
        """Whether new submissions are refused."""

    # Any thread.

    @property
    def num_unanswered(self) -> int:
        """Submissions not yet answered in full."""
        return self._num_unanswered

    @property
    def num_reserved(self) -> int:
        """Submissions that places are reserved for."""
        with self._condition:
            return self._reserved.total()

    @property
    def stopping(self) -> bool:
        """Whether the engine was asked to stop."""
        return self._stopping

    def reserve(self, holder: str, count: int, *, is_agent: bool) -> None:
        """Reserve places for `count` future submissions, which use them up.

        Raises:
            QueueFullError: The queue, or the agent's part of it, is full.
        """
        with self._condition:
            self._hold(holder, count, is_agent=is_agent)
            self._reserved[holder] += count

    def give_back(self, holder: str, count: int) -> None:
        """Release the reservations of this number of submissions, or as many as there are."""
        with self._condition:
            count = min(count, self._reserved[holder])
            self._reserved[holder] -= count
            self._let_go(holder, count)

    def submit(self, *submissions: Asked) -> None:
        """Take the submissions of one request, all or none; those that are reserved always find room.

        Raises:
            QueueFullError: The queue, or the agent's part of it, is full.
            DrainingError: The daemon is stopping.
        """
        first, count = submissions[0], len(submissions)
        with self._condition:
            if self.draining or self._stopping:
                raise DrainingError("the daemon is stopping and takes no new requests", retry_after_s=5.0)
            reserved = min(self._reserved[first.holder], count)
            self._hold(first.holder, count - reserved, is_agent=first.is_held_by_agent)
            self._reserved[first.holder] -= reserved
            self._num_unanswered += count
            self._items.extend(submissions)
            self._condition.notify()

    def _hold(self, holder: str, count: int, *, is_agent: bool) -> None:
        before = self._held[holder]
        num_more = self._places(before + count) - self._places(before)
        if self._num_places + num_more > self.max_queue or before + count > self.max_queue:
            raise QueueFullError(f"the queue is full: {self.max_queue} requests are running or waiting")
        if is_agent and count and before + count > self.max_queue_per_agent:
            raise QueueFullError(
                f"agent {holder!r} has {before} requests running or waiting, and {count} more would be above "
                f"{self.max_queue_per_agent} (SEMANTIC_MLX_MAX_QUEUE_PER_AGENT)"
            )
        self._held[holder] += count
        self._num_places += num_more

    def _let_go(self, holder: str, count: int) -> None:
        before = self._held[holder]
        self._num_places -= self._places(before) - self._places(before - count)
        self._held[holder] -= count
        if not self._held[holder]:
            del self._held[holder]
        if not self._reserved[holder]:
            del self._reserved[holder]

    def _places(self, num_held: int) -> int:
        """Return how many places a client with this number of submissions takes."""
        return min(num_held, self.max_queue_per_agent)

    def check_size(self, num_prompts: int, num_choices: int, *, anonymous: bool) -> None:
        """Raise `InvalidRequestError` when a body asks for more answers than can ever be queued.

        The part of one agent bounds the choices of each prompt, and all prompts of a body that names an agent.
        """
        most = min(self.max_queue, self.max_queue_per_agent)
        if num_choices > most:
            raise InvalidRequestError(
                f"n is {num_choices}: this server answers one request with at most {most} choices "
                "(SEMANTIC_MLX_MAX_QUEUE_PER_AGENT)",
                param="n",
            )
        setting = "SEMANTIC_MLX_MAX_QUEUE" if anonymous else "SEMANTIC_MLX_MAX_QUEUE_PER_AGENT"
        most = self.max_queue if anonymous else most
        if num_prompts * num_choices > most:
            choices = f" with {num_choices} choices each" if num_choices > 1 else ""
            raise InvalidRequestError(
                f"{num_prompts} prompts{choices} are {num_prompts * num_choices} requests: this server takes at most "
                f"{most} in one body ({setting})",
                param="prompt",
            )

    def release_place(self, submission: Asked) -> None:
        """Let go of a submission that was answered."""
        with self._condition:
            self._num_unanswered -= 1
            self._let_go(submission.holder, 1)

    def cancel(self, request_id: RequestId) -> None:
        """Cancel a request's sequences soon; unknown ids are ignored."""
        self._put(Cancel(request_id))

    def is_cancelled(self, request_id: RequestId) -> bool:
        """Return whether a cancellation of this request is pending."""
        with self._condition:
            return any(isinstance(item, Cancel) and item.request_id == request_id for item in self._items)

    def post(self, run: Callable[[], None], *, sequence_id: SequenceId | None = None) -> bool:
        """Run something on the engine thread soon; False after the engine's end. See `Action`."""
        return self._put(Action(run, sequence_id))

    def call(self, function: Callable[[], _T]) -> Future[_T]:
        """Run a function on the engine thread between two steps; after the end the future holds a `DrainingError`."""
        future: Future[_T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        if not self.post(run):
            future.set_exception(DrainingError("the engine has stopped", retry_after_s=5.0))
        return future

    def stop(self) -> None:
        """Close the queue to submissions and wake the engine."""
        with self._condition:
            self._stopping = True
            self._condition.notify()

    def _put(self, item: QueueItem) -> bool:
        with self._condition:
            if not self._closed:
                self._items.append(item)
                self._condition.notify()
            return not self._closed

    # Engine thread.

    def take(self, *, wait_s: float = 0.0) -> list[QueueItem]:
        """Return the queued items, after waiting at most this long for the first one (seconds)."""
        with self._condition:
            if wait_s and not self._items:
                self._condition.wait(wait_s)
            items = list(self._items)
            self._items.clear()
        return items

    def close(self) -> list[QueueItem]:
        """Take nothing any more; returns what had come by then."""
        with self._condition:
            self._closed = True
        return self.take()
