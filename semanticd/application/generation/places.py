"""Places for requests whose prompts are being read: taken before the work, so that a full queue costs nothing.

The engine's own queue counts what was submitted; here stands what is on its way there. One thread (the event loop's).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from semanticd.application.engine.queue import EngineQueue
from semanticd.domain.errors import QueueFullError
from semanticd.domain.ids import AgentId

_T = TypeVar("_T")


class TakenPlaces:
    """The places that one request holds while its prompts are read."""

    def __init__(self, places: ReadingPlaces, agent_id: AgentId | None, count: int) -> None:
        """Hold `count` places that were taken for this agent."""
        self._places = places
        self._agent_id = agent_id
        self.count = count

    def give_back(self, count: int) -> None:
        """Give places back whose prompts are submitted: the engine's queue counts those from here on."""
        self.count -= count
        self._places.put_back(self._agent_id, count)


class ReadingPlaces:
    """As many places as the queue has, less those that submitted requests hold."""

    def __init__(self, queue: EngineQueue) -> None:
        """Have as many places as this queue, less those that are taken there."""
        self._queue = queue
        self._agents: Counter[AgentId] = Counter()
        self.num_taken = 0
        self._counting = asyncio.Semaphore(1)
        self._counter = ThreadPoolExecutor(1, thread_name_prefix="semanticd-counting")

    @property
    def to_count(self) -> AbstractAsyncContextManager[object]:
        """The turn of a request whose prompt is only counted: one at a time, for others wait for answers."""
        return self._counting

    async def count(self, read: Callable[[], _T]) -> _T:
        """Read a prompt that is only counted, in the thread for those: no other request's reading waits for it.

        The thread of one whose client has left reads on: there is no second one then.
        """
        return await asyncio.get_running_loop().run_in_executor(self._counter, read)

    @contextlib.contextmanager
    def take(self, agent_id: AgentId | None, count: int) -> Iterator[TakenPlaces]:
        """Hold `count` places, of a named agent's part too, until they are given back, at the latest at the end.

        Raises:
            QueueFullError: there are not so many left.
        """
        if self.num_taken + self._queue.num_unanswered + count > self._queue.max_queue:
            raise QueueFullError(
                f"the queue is full: {self._queue.max_queue} requests are running or waiting"
            )
        if agent_id is not None:
            num_before = self._agents[agent_id] + self._queue.num_queued(agent_id)
            if num_before + count > self._queue.max_queue_per_agent:
                raise self._queue.agent_is_full(agent_id, num_before, count)
            self._agents[agent_id] += count
        self.num_taken += count
        taken = TakenPlaces(self, agent_id, count)
        try:
            yield taken
        finally:
            taken.give_back(taken.count)

    def put_back(self, agent_id: AgentId | None, count: int) -> None:
        """Take places back; see `TakenPlaces`."""
        self.num_taken -= count
        if agent_id is not None:
            self._agents[agent_id] -= count
            if not self._agents[agent_id]:
                del self._agents[agent_id]
