"""Responses that clients continue from by id, as the application sees them: documents of a dialect, kept on disk."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from semanticd.domain.deletion import Deletion
from semanticd.domain.ids import AgentId


@dataclass(frozen=True, slots=True)
class StoredItem:
    """One item of a conversation, as the dialect's JSON."""

    item_id: str
    document: bytes
    is_referable: bool = True
    """Whether a request may name it without its response: the server made its id, so no client can choose it."""


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response, and the conversation up to and with its answer, without instructions."""

    response_id: str
    agent_id: AgentId | None
    created_at: float
    """Seconds since the epoch."""
    document: bytes
    """The response itself, as the dialect's JSON."""
    items: tuple[StoredItem, ...]
    num_output: int
    """Number of items at the end that are the answer."""
    held_by: AgentId | None = None
    """The agent whose cache holds the conversation, also where its client named none: `agent_id` is None then."""

    def is_of(self, agents: Collection[AgentId]) -> bool:
        """Return whether one of these agents requested or holds it: it is deleted with either."""
        return self.agent_id in agents or self.held_by in agents

    @property
    def input_items(self) -> tuple[StoredItem, ...]:
        """The conversation before the answer."""
        return self.items[: len(self.items) - self.num_output]


class ResponseArchive(Protocol):
    """Responses on disk, bounded in bytes and age; the oldest go first. Callable from any thread."""

    def save(self, response: StoredResponse) -> Future[bool]:
        """Store a response soon; one that the disk refuses stays readable and is tried again, within bounds.

        The future says whether the disk has it.
        """

    @property
    def num_refused(self) -> int:
        """Number of responses that the disk refused: waiting for a retry, or given up because there were too many."""

    @property
    def is_refusing(self) -> bool:
        """Whether the disk refused the last write."""

    def load(self, response_id: str) -> StoredResponse | None:
        """Return a response, or None if it is not there or cannot be read. May wait for the disk."""

    def item(self, item_id: str) -> bytes | None:
        """Return a referable item of any response that is there, or None. May wait for the disk."""

    def delete(self, response_id: str) -> Future[Deletion]:
        """Forget a response; it is not returned from now on. The future says whether the disk has forgotten it too.

        Where that refused, the response is there again by then.
        """

    def delete_agent(self, agent_id: AgentId) -> Future[Deletion]:
        """Forget all responses that an agent asked for or holds, as `delete` forgets one."""
