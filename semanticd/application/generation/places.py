"""Places for requests whose prompts are being read: taken before the work, so that a full queue costs nothing.

The engine's own queue counts what was submitted; here stands what is on its way there. One thread (the event loop's).
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator

from semanticd.domain.errors import QueueFullError
from semanticd.domain.ids import AgentId


class ReadingPlaces:
    """As many places as the queue has, less those that submitted requests hold."""

    def __init__(self, *, max_queue: int, max_queue_per_agent: int, num_live: Callable[[], int]) -> None:
        """`num_live` returns how many submitted answers are not complete."""
        self._max_queue = max_queue
        self._max_queue_per_agent = max_queue_per_agent
        self._num_live = num_live
        self._agents: Counter[AgentId] = Counter()
        self.num_taken = 0

    @contextlib.contextmanager
    def take(self, agent_id: AgentId | None, count: int) -> Iterator[None]:
        """Hold `count` places, of a named agent's part too, until the request is submitted or refused.

        Raises:
            QueueFullError: there are not so many left.
        """
        if self.num_taken + self._num_live() + count > self._max_queue:
            raise QueueFullError(f"the queue is full: {self._max_queue} requests are running or waiting")
        if agent_id is not None and self._agents[agent_id] + count > self._max_queue_per_agent:
            raise QueueFullError(
                f"agent {agent_id!r} has {self._max_queue_per_agent} requests running or waiting already"
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
