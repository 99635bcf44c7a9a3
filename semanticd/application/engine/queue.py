"""EngineQueue: what other threads want of the engine, in the order in which it came, until the engine's end.

Submissions are bounded: each takes a place and gives it back when it was answered. Cancels and actions are always
taken, for they make room.
"""

from __future__ import annotations

import threading
from collections import deque
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
    """Run this on the engine thread; what it raises is the fault of `sequence_id`, if one is given."""

    run: Callable[[], None]
    sequence_id: SequenceId | None = None


Asked = Submission | EmbeddingJob
"""What takes a place until it was answered."""

QueueItem = Asked | Cancel | Action


class EngineQueue:
    """Items for the engine thread, and the places of submissions that are not answered yet."""

    def __init__(self, *, max_queue: int, max_queue_per_agent: int) -> None:
        """Hold at most so many unanswered submissions, in all and of one agent."""
        self.max_queue = max_queue
        self.max_queue_per_agent = max_queue_per_agent
        self._condition = threading.Condition()
        self._items: deque[QueueItem] = deque()
        self._queued: dict[str, int] = {}
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
    def stopping(self) -> bool:
        """Whether the engine was asked to end."""
        return self._stopping

    def submit(self, *submissions: Asked) -> None:
        """Take the submissions of one request, all or none.

        Raises:
            QueueFullError: The queue, or the agent's part of it, is full.
            DrainingError: The daemon is stopping.
        """
        quota = submissions[0].quota
        with self._condition:
            if self.draining or self._stopping:
                raise DrainingError("the daemon is stopping and takes no new requests", retry_after_s=5.0)
            if self._num_unanswered + len(submissions) > self.max_queue:
                raise QueueFullError(f"the queue is full: {self.max_queue} requests are running or waiting")
            num_queued = self._queued.get(quota, 0)
            if num_queued + len(submissions) > self.max_queue_per_agent:
                raise self.agent_is_full(quota, num_queued, len(submissions))
            self._queued[quota] = num_queued + len(submissions)
            self._num_unanswered += len(submissions)
            self._items.extend(submissions)
            self._condition.notify()

    def num_queued(self, quota: str) -> int:
        """Return how many submissions of an agent are not answered yet."""
        return self._queued.get(quota, 0)

    def agent_is_full(self, agent_id: str, num_queued: int, num_more: int) -> QueueFullError:
        """Return the error that says why an agent's part of the queue has no room for so many more."""
        return QueueFullError(
            f"agent {agent_id!r} has {num_queued} requests running or waiting, and {num_more} more would be above "
            f"{self.max_queue_per_agent} (SEMANTIC_MLX_MAX_QUEUE_PER_AGENT)"
        )

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
        """Give a submission's place back."""
        with self._condition:
            self._num_unanswered -= 1
            quota = submission.quota
            self._queued[quota] -= 1
            if not self._queued[quota]:
                del self._queued[quota]

    def cancel(self, request_id: RequestId) -> None:
        """Cancel a request's sequences soon; unknown ids are ignored."""
        self._put(Cancel(request_id))

    def is_cancelled(self, request_id: RequestId) -> bool:
        """Whether a cancel of this request waits to be taken."""
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
        """Take no more submissions and wake the engine."""
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
        """Return what came, after waiting for the first item for at most so long (seconds)."""
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
