"""What other threads want of the engine, in the order in which it came: bounded, and open until the engine's end."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from semanticd.application.engine.running_sequence import Submission
from semanticd.domain.errors import DrainingError, QueueFullError

_T = TypeVar("_T")

Action = Callable[[], None]


class EngineQueue:
    """Actions for the engine thread, and the places of submissions that are not answered yet."""

    def __init__(self, *, max_queue: int, max_queue_per_agent: int) -> None:
        """Hold so many unanswered submissions, in all and of one agent; other actions are always taken."""
        self._max_queue = max_queue
        self._max_queue_per_agent = max_queue_per_agent
        self._condition = threading.Condition()
        self._actions: deque[Action] = deque()
        self._queued: dict[str, int] = {}
        self._stopping = False
        self._closed = False
        self.draining = False
        """Whether new submissions are refused."""

    # Any thread.

    @property
    def num_live(self) -> int:
        """Submissions not yet answered in full."""
        return sum(self._queued.values())

    @property
    def stopping(self) -> bool:
        """Whether the engine was told to end."""
        return self._stopping

    def submit(self, submissions: tuple[Submission, ...], take: Callable[[Submission], None]) -> None:
        """Give each submission a place and hand it to `take`, all or none.

        Raises:
            QueueFullError: The queue, or the agent's part of it, is full.
            DrainingError: The daemon is stopping.
        """
        agent = submissions[0].agent_id
        with self._condition:
            if self.draining or self._stopping:
                raise DrainingError("the daemon is stopping and takes no new requests", retry_after_s=5.0)
            if self.num_live + len(submissions) > self._max_queue:
                raise QueueFullError(f"the queue is full: {self._max_queue} requests are running or waiting")
            if self._queued.get(agent, 0) + len(submissions) > self._max_queue_per_agent:
                raise QueueFullError(
                    f"agent {agent!r} has {self._max_queue_per_agent} requests running or waiting already"
                )
            self._queued[agent] = self._queued.get(agent, 0) + len(submissions)
            for submission in submissions:
                self._actions.append(lambda submission=submission: take(submission))  # type: ignore[misc]
            self._condition.notify()

    def leave(self, submission: Submission) -> None:
        """Give a submission's place back."""
        with self._condition:
            self._queued[submission.agent_id] -= 1
            if not self._queued[submission.agent_id]:
                del self._queued[submission.agent_id]

    def post(self, action: Action) -> bool:
        """Have something done soon; False after the end."""
        with self._condition:
            if not self._closed:
                self._actions.append(action)
                self._condition.notify()
            return not self._closed

    def call(self, function: Callable[[], _T]) -> Future[_T]:
        """Have something done and its result brought; after the end the future holds a `DrainingError`."""
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

    # Engine thread.

    def take(self, *, wait_s: float | None, even_stopping: bool = False) -> list[Action]:
        """Return what came, at once or after waiting for it (seconds); once told to stop there is no waiting."""
        with self._condition:
            if wait_s is not None and not self._actions and (even_stopping or not self._stopping):
                self._condition.wait(wait_s)
            actions = list(self._actions)
            self._actions.clear()
        return actions

    def close(self) -> None:
        """Take nothing any more."""
        with self._condition:
            self._closed = True
