"""Responses kept in memory for `previous_response_id`: a bounded number per agent, the oldest go first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from semanticd.adapters.http.openai.responses import wire
from semanticd.domain.chat import Message
from semanticd.domain.errors import InvalidRequestError, NotFoundError
from semanticd.domain.ids import AgentId

MAX_AGENTS = 1000


class PreviousResponseNotFoundError(InvalidRequestError):
    """The response that the client wants to go on from is not kept (any more)."""

    code = "previous_response_not_found"


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response, and the conversation up to and with its answer, without instructions."""

    response: wire.Response
    messages: tuple[Message, ...]
    agent_id: AgentId | None


class ResponseStore:
    """Stored responses by id."""

    def __init__(self, *, max_per_agent: int) -> None:
        """Keep at most `max_per_agent` responses of each agent; anonymous callers count as one agent."""
        self._max_per_agent = max_per_agent
        self._by_id: dict[str, StoredResponse] = {}
        self._by_item: dict[str, str] = {}
        self._by_agent: OrderedDict[AgentId | None, OrderedDict[str, None]] = OrderedDict()

    def keep(self, stored: StoredResponse) -> None:
        """Keep a response."""
        ids = self._by_agent.setdefault(stored.agent_id, OrderedDict())
        self._by_agent.move_to_end(stored.agent_id)
        ids[stored.response.id] = None
        self._by_id[stored.response.id] = stored
        self._by_item.update((item["id"], stored.response.id) for item in stored.response.output)
        while len(ids) > self._max_per_agent:
            oldest, _ = ids.popitem(last=False)
            self._drop(oldest)
        while len(self._by_agent) > MAX_AGENTS:
            _, gone = self._by_agent.popitem(last=False)
            for response_id in gone:
                self._drop(response_id)

    def _drop(self, response_id: str) -> None:
        for item in self._by_id.pop(response_id).response.output:
            self._by_item.pop(item["id"], None)

    def previous(self, response_id: str) -> StoredResponse:
        """Return the response to go on from; raises `PreviousResponseNotFoundError`."""
        found = self._by_id.get(response_id)
        if found is None:
            raise PreviousResponseNotFoundError(
                f"Previous response with id '{response_id[:80]}' not found.", param="previous_response_id"
            )
        return found

    def item(self, item_id: str) -> Mapping[str, Any] | None:
        """Return an output item of a response that is kept, or None."""
        response_id = self._by_item.get(item_id)
        if response_id is None:
            return None
        return next(item for item in self._by_id[response_id].response.output if item["id"] == item_id)

    def get(self, response_id: str) -> StoredResponse:
        """Return a response; raises `NotFoundError`."""
        found = self._by_id.get(response_id)
        if found is None:
            raise NotFoundError(f"Response with id '{response_id[:80]}' not found.", param="response_id")
        return found

    def forget(self, response_id: str) -> None:
        """Drop a response; raises `NotFoundError`."""
        stored = self.get(response_id)
        self._drop(response_id)
        self._by_agent[stored.agent_id].pop(response_id, None)
