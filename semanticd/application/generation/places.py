"""Places for requests whose prompts are being read: taken before the work, so that a full queue costs nothing.

The engine's own queue counts what was submitted; here stands what is on its way there. One thread (the event loop's).
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

from semanticd.application.engine.queue import EngineQueue
from semanticd.domain.errors import QueueFullError
from semanticd.domain.ids import AgentId


class ReadingPlaces:
    """As many places as the queue has, less those that submitted requests hold."""

    def __init__(self, queue: EngineQueue) -> None:
        """Have as many places as this queue, less those that are taken there."""
        self._queue = queue
        self._agents: Counter[AgentId] = Counter()
        self.num_taken = 0

    @contextlib.contextmanager
    def take(self, agent_id: AgentId | None, count: int) -> Iterator[None]:
        """Hold `count` places, of a named agent's part too, until the request is submitted or refused.

        Raises:
            QueueFullError: there are not so many left.
        """
        if self.num_taken + self._queue.num_unanswered + count > self._queue.max_queue:
            raise QueueFullError(
                f"the queue is full: {self._queue.max_queue} requests are running or waiting"
            )
        if agent_id is not None and self._agents[agent_id] + count > self._queue.max_queue_per_agent:
            raise QueueFullError(
                f"agent {agent_id!r} has {self._queue.max_queue_per_agent} requests running or waiting already"
            )
        self.num_taken += count
        if agent_id is not None:
            self._agents[agent_id] += count
        try:
            yield
        finally:
            self.num_taken -= count
            if agent_id is not None:
                self._agents[agent_id] -= count
                if not self._agents[agent_id]:
                    del self._agents[agent_id]
