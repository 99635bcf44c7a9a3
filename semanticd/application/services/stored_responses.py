"""Responses kept for later ones to continue from: the latest in memory, all in the archive as far as it has room."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from concurrent.futures import Future

from semanticd.application.ports.response_archive import ResponseArchive, StoredItem, StoredResponse
from semanticd.domain.deletion import refused_deletion
from semanticd.domain.ids import AgentId
from semanticd.domain.limits import LIMITS

MAX_AGENTS = 1000
_ITEM_BYTES = 256
"""Estimated bytes of Python objects besides the text."""


class StoredResponses:
    """Stored responses by id, bounded per agent and in bytes, the oldest go first; the event loop's thread."""

    def __init__(
        self,
        *,
        archive: ResponseArchive | None = None,
        max_per_agent: int = LIMITS.stored_responses_per_agent,
        max_bytes: int = LIMITS.stored_responses_bytes,
    ) -> None:
        """Keep at most `max_per_agent` responses of each agent, and `max_bytes` in all, in memory; all in `archive`.

        Anonymous callers count as one agent. A response that alone has more than `max_bytes` is not kept.
        """
        self._archive = archive
        self._max_per_agent = max_per_agent
        self._max_bytes = max_bytes
        self.num_bytes = 0
        """Estimated bytes in memory; items that several responses share count in each."""
        self._by_id: dict[str, StoredResponse] = {}
        self._by_item: dict[str, StoredItem] = {}
        self._uses: Counter[str] = Counter()
        """Number of responses in memory that hold a referable item, by the item's id."""
        self._by_agent: OrderedDict[AgentId | None, OrderedDict[str, None]] = OrderedDict()
        """Response ids by who asked."""
        self._by_holder: dict[AgentId | None, set[str]] = {}
        """Response ids by whose cache holds the conversation."""

    @property
    def num_refused(self) -> int:
        """Number of responses that are in memory only because the disk refused them."""
        return 0 if self._archive is None else self._archive.num_refused

    @property
    def is_refused(self) -> bool:
        """Whether the disk refused the last write, so that responses are kept in memory only."""
        return self._archive is not None and self._archive.is_refusing

    def keep(self, response: StoredResponse) -> Future[bool]:
        """Store a response; the future holds whether the disk has it. True where nothing is archived."""
        saved: Future[bool] = Future()
        size = _size(response)
        if self._archive is None or size > self._max_bytes:
            saved.set_result(True)
        if size > self._max_bytes:
            return saved
        if self._archive is not None:
            saved = self._archive.save(response)
        ids = self._by_agent.setdefault(response.agent_id, OrderedDict())
        self._by_agent.move_to_end(response.agent_id)
        ids[response.response_id] = None
        self._by_id[response.response_id] = response
        self._by_holder.setdefault(response.held_by, set()).add(response.response_id)
        self.num_bytes += size
        # All its items, each time: so nothing is called for each of them.
        referable = {item.item_id: item for item in response.items if item.is_referable}
        self._by_item.update(referable)
        self._uses.update(referable.keys())
        while len(ids) > self._max_per_agent:
            oldest, _ = ids.popitem(last=False)
            self._drop(oldest)
        while len(self._by_agent) > MAX_AGENTS:
            _, gone = self._by_agent.popitem(last=False)
            for response_id in gone:
                self._drop(response_id)
        while self.num_bytes > self._max_bytes:
            self._drop_oldest()
        return saved

    def _drop_oldest(self) -> None:
        """Drop the oldest response of the agent that kept one least recently."""
        agent_id, ids = next(iter(self._by_agent.items()))
        oldest, _ = ids.popitem(last=False)
        self._drop(oldest)
        if not ids:
            del self._by_agent[agent_id]

    def _drop(self, response_id: str) -> None:
        dropped = self._by_id.pop(response_id)
        held = self._by_holder[dropped.held_by]
        held.discard(response_id)
        if not held:
            del self._by_holder[dropped.held_by]
        self.num_bytes -= _size(dropped)
        referable = {item.item_id for item in dropped.items if item.is_referable}
        for item_id in referable:
            self._uses[item_id] -= 1
            if not self._uses[item_id]:
                del self._uses[item_id], self._by_item[item_id]

    async def find(self, response_id: str) -> StoredResponse | None:
        """Return a response, or None where it is not kept (any more)."""
        found = self._by_id.get(response_id)
        if found is None and self._archive is not None:
            return await asyncio.to_thread(self._archive.load, response_id)
        return found

    async def item(self, item_id: str) -> bytes | None:
        """Return a referable item of a response that is kept, as the dialect's JSON, or None."""
        found = self._by_item.get(item_id)
        if found is not None:
            return found.document
        return None if self._archive is None else await asyncio.to_thread(self._archive.item, item_id)

    async def forget(self, response_id: str) -> bool:
        """Forget a response; returns whether it was there.

        Raises:
            CacheError: The disk refuses; the response stays.
        """
        if await self.find(response_id) is None:
            return False
        if self._archive is not None:
            answer = await asyncio.wrap_future(self._archive.delete(response_id))
            if answer != "done":
                raise refused_deletion(answer, f"response {response_id!r}")
        if response_id in self._by_id:
            self._forget(self._by_id[response_id])
        return True

    async def forget_agent(self, agent_id: AgentId) -> None:
        """Forget all responses that an agent asked for or holds.

        Raises:
            CacheError: The disk refuses; all responses stay.
        """
        known = {*self._by_agent.get(agent_id, ()), *self._by_holder.get(agent_id, ())}
        if self._archive is not None:
            answer = await asyncio.wrap_future(self._archive.delete_agent(agent_id))
            if answer != "done":
                raise refused_deletion(answer, f"agent {agent_id!r}, with the responses stored for it,")
        for response_id in known & self._by_id.keys():
            self._forget(self._by_id[response_id])

    def _forget(self, response: StoredResponse) -> None:
        self._drop(response.response_id)
        ids = self._by_agent[response.agent_id]
        ids.pop(response.response_id, None)
        if not ids:
            del self._by_agent[response.agent_id]


def _size(response: StoredResponse) -> int:
    documents = [item.document for item in response.items]
    return len(response.document) + _ITEM_BYTES * len(documents) + sum(map(len, documents))
