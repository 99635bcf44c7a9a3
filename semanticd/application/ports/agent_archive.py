"""The agents' records as the application sees them: transcripts, turns and block tables by agent id, on disk."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol

from semanticd.domain.agent import Agent
from semanticd.domain.agent_summary import AgentQuery, AgentSummary, SummaryPage
from semanticd.domain.deletion import Deletion
from semanticd.domain.ids import AgentId, BlockHash


class AgentArchive(Protocol):
    """Agents and their transcripts on disk."""

    def save(self, agent: Agent) -> None:
        """Store the agent's record soon (queued, ordered after blocks queued before it); newest wins."""

    def is_saved(self, agent_id: AgentId) -> Future[bool]:
        """Return soon whether the disk has stored the changes of an agent that were saved before this call."""

    def is_unsaved(self, agent_id: AgentId) -> bool:
        """Return whether the disk refused the agent's newest state (counted by `num_unsaved`); does not block."""

    @property
    def num_unsaved(self) -> int:
        """Number of agents whose newest state the disk refused; it stays in memory until a later save succeeds."""

    def load(self, agent_id: AgentId) -> Agent | None:
        """Return the agent, or None if it is not there or cannot be read."""

    def load_recent(self, *, max_agents: int, max_bytes: int) -> list[Agent]:
        """Return the most recently used agents, newest first, until their texts use this number of bytes."""

    def page(self, query: AgentQuery) -> SummaryPage:
        """Return the summaries of a page of agents; a cursor whose agent is gone begins at the first."""

    def summary(self, agent_id: AgentId) -> AgentSummary | None:
        """Return an agent's summary, or None if it is not there or cannot be read."""

    def block_tables(self, agents: Sequence[AgentId]) -> dict[AgentId, tuple[BlockHash, ...]]:
        """Return the block tables of these agents."""

    def first_blocks(self) -> dict[AgentId, BlockHash | None]:
        """Return each agent's first block."""

    def expired(self, now: float, *, limit: int) -> list[AgentId]:
        """Return at most `limit` agents whose time to live has ended."""

    def surplus_anonymous(self, *, used_before: float, max_agents: int, limit: int) -> list[AgentId]:
        """Return anonymous agents not used since a time, then the longest unused ones beyond a number."""

    def pinned(self) -> list[Agent]:
        """Return the agents that are pinned, permanently or until some time (past or not), oldest use first."""

    def ids(self) -> list[AgentId]:
        """Return all ids, most recently used first."""

    def delete(self, agent_id: AgentId) -> Future[Deletion]:
        """Forget the agent; its blocks are the caller's to delete. It is not returned from now on.

        The future says whether the disk has forgotten it. Where that refused, the agent is there again by then, as it
        was, unless it was saved meanwhile.
        """

    def note_block(self, agent_id: AgentId, block_hash: BlockHash) -> None:
        """Note, before blocks that are written later, that an agent made a block."""

    def own_blocks(self, agent_id: AgentId) -> list[BlockHash]:
        """Return the blocks that this agent names, or named or made before, and no other does."""

    def own_among(self, agent_id: AgentId, blocks: Sequence[BlockHash]) -> Future[list[BlockHash]]:
        """Return soon, without reading the disk in this call, those of these blocks that no other agent names.

        Nor named or made before. The future gets none where that cannot be read, never an exception.
        """

    def forget_blocks(self, blocks: Sequence[BlockHash], *, agent_id: AgentId | None = None) -> None:
        """Forget soon which agent made these blocks, or that this one did: they are gone."""

    def forget_all_blocks(self) -> None:
        """Forget soon which agents made which blocks: all are gone."""

    def scrub(self) -> None:
        """Make sure soon that deleted data cannot be read from any file."""

    def holders(self, block_hash: BlockHash) -> list[AgentId]:
        """Return the agents that name a block, or named or made it before."""
