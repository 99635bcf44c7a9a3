"""Places for requests whose prompts are being read: taken before the work, so that a full queue costs nothing.

They are reservations in the engine's queue; what is submitted meanwhile uses them up. One thread (the event loop's).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from semanticd.application.engine.queue import EngineQueue
from semanticd.domain.agent_name import stand_in
from semanticd.domain.ids import AgentId

_T = TypeVar("_T")

COUNTING = stand_in("counting")
"""Shared holder of the places of prompts that are only counted."""


class TakenPlaces:
    """The places that one request has reserved and not yet used."""

    def __init__(self, count: int) -> None:
        """Begin with `count` submissions that are to come."""
        self.num_left = count

    def used(self, count: int) -> None:
        """Record the number that was submitted."""
        self.num_left -= count


class ReadingPlaces:
    """Reserves places in the queue."""

    def __init__(self, queue: EngineQueue) -> None:
        """Reserve in this queue."""
        self._queue = queue
        self._readers = itertools.count()
        self._counting = asyncio.Semaphore(1)
        self._counter = ThreadPoolExecutor(1, thread_name_prefix="semanticd-counting")

    @property
    def num_taken(self) -> int:
        """Submissions that places are reserved for."""
        return self._queue.num_reserved

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
    def take(
        self, agent_id: AgentId | None, count: int, *, holder: str | None = None
    ) -> Iterator[TakenPlaces]:
        """Hold queue places for `count` submissions, also in a named agent's share; unused places are returned.

        Without a named agent they are `holder`'s, which the submissions name too; None: nothing will be submitted.

        Raises:
            QueueFullError: there are not so many left.
        """
        holder = agent_id or holder or stand_in(f"reader {next(self._readers)}")
        self._queue.reserve(holder, count, is_agent=agent_id is not None)
        taken = TakenPlaces(count)
        try:
            yield taken
        finally:
            self._queue.give_back(holder, taken.num_left)
