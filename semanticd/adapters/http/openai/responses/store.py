"""Responses kept in memory for `previous_response_id`: bounded per agent and in bytes, the oldest go first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from semanticd.adapters.http.openai.responses import wire
from semanticd.domain.chat import Message, ToolCallPart, ToolResultPart
from semanticd.domain.errors import InvalidRequestError, NotFoundError
from semanticd.domain.ids import AgentId
from semanticd.domain.limits import LIMITS

MAX_AGENTS = 1000
_MESSAGE_BYTES = 256
_PART_BYTES = 128
"""What Python's objects take besides the text (estimated)."""


class PreviousResponseNotFoundError(InvalidRequestError):
    """The response that the client wants to go on from is not kept (any more)."""

    code = "previous_response_not_found"


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response, and the conversation up to and with its answer, without instructions."""

    response: wire.Response
    messages: tuple[Message, ...]
    agent_id: AgentId | None
    num_bytes: int
    """What it takes, by estimate; texts that several responses share count in each."""


def estimated_bytes(messages: Iterable[Message], response_bytes: int) -> int:
    """Return about how much memory a conversation takes with a response that is so long as JSON."""
    size = 2 * response_bytes
    for message in messages:
        size += _MESSAGE_BYTES
        for part in message.parts:
            size += _PART_BYTES
            if isinstance(part, ToolCallPart):
                size += 2 * len(msgspec.json.encode(part.arguments))
            else:
                size += len(part.content if isinstance(part, ToolResultPart) else part.text)
    return size


class ResponseStore:
    """Stored responses by id."""

    def __init__(self, *, max_per_agent: int, max_bytes: int = LIMITS.stored_responses_bytes) -> None:
        """Keep at most `max_per_agent` responses of each agent, and `max_bytes` in all.

        Anonymous callers count as one agent. A response that alone has more than `max_bytes` is not kept.
        """
        self._max_per_agent = max_per_agent
        self._max_bytes = max_bytes
        self.num_bytes = 0
        """What is kept, by estimate."""
        self._by_id: dict[str, StoredResponse] = {}
        self._by_item: dict[str, str] = {}
        self._by_agent: OrderedDict[AgentId | None, OrderedDict[str, None]] = OrderedDict()

    def keep(self, stored: StoredResponse) -> None:
        """Keep a response."""
        if stored.num_bytes > self._max_bytes:
            return
        ids = self._by_agent.setdefault(stored.agent_id, OrderedDict())
        self._by_agent.move_to_end(stored.agent_id)
        ids[stored.response.id] = None
        self._by_id[stored.response.id] = stored
        self.num_bytes += stored.num_bytes
        self._by_item.update((item["id"], stored.response.id) for item in stored.response.output)
        while len(ids) > self._max_per_agent:
            oldest, _ = ids.popitem(last=False)
            self._drop(oldest)
        while len(self._by_agent) > MAX_AGENTS:
            _, gone = self._by_agent.popitem(last=False)
            for response_id in gone:
                self._drop(response_id)
        while self.num_bytes > self._max_bytes:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        """Drop the oldest response of the agent that kept one least recently."""
        agent_id, ids = next(iter(self._by_agent.items()))
        oldest, _ = ids.popitem(last=False)
        self._drop(oldest)
        if not ids:
            del self._by_agent[agent_id]

    def _drop(self, response_id: str) -> None:
        dropped = self._by_id.pop(response_id)
        self.num_bytes -= dropped.num_bytes
        for item in dropped.response.output:
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
        ids = self._by_agent[stored.agent_id]
        ids.pop(response_id, None)
        if not ids:
            del self._by_agent[stored.agent_id]
