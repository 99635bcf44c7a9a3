"""The agents' service over rows in memory, for both edges: real code, no engine."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from semanticd.application.services.agent_export import AgentExport
from semanticd.application.services.agent_facts import (
    AgentDetails,
    AgentFacts,
    AgentList,
    AgentTotals,
    AgentUpdate,
    CacheHistory,
    CancelledAgent,
    DeletedAgent,
    EvictedAgent,
    ImportedAgent,
    ShownMessage,
    TurnReport,
    WatchedAgents,
    turn_facts,
)
from semanticd.application.services.savings import SavedFacts
from semanticd.domain.agent import AgentConfig
from semanticd.domain.agent_summary import AgentQuery
from semanticd.domain.errors import AgentNotFoundError, ConflictError
from semanticd.domain.ids import AgentId
from tests.fakes.agents import make_turn


def agent_facts(agent_id: str, **changes: Any) -> AgentFacts:
    """Return the facts of an agent with nothing in RAM or on disk."""
    facts = AgentFacts(
        id=AgentId(agent_id),
        anonymous=False,
        model="tiny",
        num_tokens=10,
        num_turns=1,
        created_at=1.0,
        last_used_at=2.0,
        priority="interactive",
        ttl_s=None,
        last_reuse_ratio=None,
        last_ttft_ms=None,
        last_tokens_per_s=None,
        state="cold",
        tier="cold",
        num_blocks=0,
        num_hot_blocks=0,
        hot_bytes=0,
        own_hot_bytes=0,
        shared_hot_bytes=0,
        warm_bytes=0,
        pinned=False,
        kept=False,
        shared_with=(),
        num_shared_with=0,
        num_errors=0,
        saved_s=0.0,
    )
    return replace(facts, **changes)


class FakeAgents:
    """Agents by id; a file holds no more than a name."""

    def __init__(self, *ids: str) -> None:
        """Begin with these agents, each with three turns in RAM."""
        self.by_id = {AgentId(one): agent_facts(one, state="hot", tier="hot", num_turns=3) for one in ids}
        self.pinned_for: list[float | None] = []
        self.asked: list[AgentQuery] = []
        """What lists were asked for."""
        self._watch = FakeWatch(self.by_id)

    def _row(self, agent_id: str) -> AgentFacts:
        try:
            return self.by_id[AgentId(agent_id)]
        except KeyError:
            raise AgentNotFoundError(f"no agent has the id {agent_id!r}") from None

    def is_unsaved(self, agent_id: str) -> bool:
        """Whether its row says so."""
        return self._row(agent_id).unsaved

    async def require(self, agent_id: str) -> None:
        """Raise unless there is one."""
        self._row(agent_id)

    def _change(self, agent_id: str, **changes: Any) -> AgentFacts:
        changed = replace(self._row(agent_id), **changes)
        self.by_id[AgentId(agent_id)] = changed
        return changed

    async def create(self, agent_id: str | None, config: AgentConfig, *, pin: bool = False) -> AgentFacts:
        """Make an agent; raises `ConflictError` if the id is taken."""
        made = agent_facts(
            agent_id or f"agent-{len(self.by_id) + 1}",
            model=config.model or "",
            ttl_s=config.ttl_s,
            pinned=pin,
        )
        return self._add(made)

    def _add(self, made: AgentFacts) -> AgentFacts:
        if made.id in self.by_id:
            raise ConflictError(f"an agent with the id {made.id!r} exists already", param="id")
        self.by_id[made.id] = made
        return made

    async def show(self, agent_id: str) -> AgentDetails:
        """Return the row without turns."""
        row = self._row(agent_id)
        saved = SavedFacts(0, 0.0, 0, 0.0)
        return AgentDetails(row, system=None, tools=(), metadata={}, turns=(), sharing=(), savings=saved)

    async def messages(self, agent_id: str) -> tuple[ShownMessage, ...]:
        """Return one message."""
        self._row(agent_id)
        return (ShownMessage("user", "hello"),)

    async def why(self, agent_id: str) -> CacheHistory:
        """Return one turn."""
        turn = TurnReport(turn_facts(make_turn(1)), None, None, "Quick.")
        return CacheHistory(self._row(agent_id).id, turn, (turn,))

    async def pin(self, agent_id: str, ttl_s: float | None = None) -> AgentFacts:
        """Set the flag and remember for how long."""
        self.pinned_for.append(ttl_s)
        return self._change(agent_id, pinned=True)

    async def unpin(self, agent_id: str) -> AgentFacts:
        """Clear the flag."""
        return self._change(agent_id, pinned=False)

    async def fork(self, agent_id: str, new_id: str | None = None) -> AgentFacts:
        """Copy the row; raises `ConflictError` if the id is taken."""
        return self._add(replace(self._row(agent_id), id=AgentId(new_id or f"{agent_id}-fork")))

    async def rewind(self, agent_id: str, turns: int = 1) -> AgentFacts:
        """Count down."""
        return self._change(agent_id, num_turns=self._row(agent_id).num_turns - turns)

    async def evict(self, agent_id: str) -> EvictedAgent:
        """Make it warm."""
        return EvictedAgent(self._change(agent_id, state="warm", tier="warm"), freed_bytes=100)

    async def cancel(self, agent_id: str) -> CancelledAgent:
        """There are no requests."""
        return CancelledAgent(self._row(agent_id).id, ())

    async def delete(self, agent_id: str) -> DeletedAgent:
        """Forget the row."""
        row = self._row(agent_id)
        del self.by_id[AgentId(agent_id)]
        return DeletedAgent(row.id, deleted=True, freed_bytes=0)

    async def export(self, agent_id: str, path: str) -> AgentExport:
        """Write its name into the file, if there is a folder for it."""
        row, content = self._row(agent_id), b"agent:" + agent_id.encode()
        await asyncio.to_thread(Path(path).write_bytes, content)
        return AgentExport(row.id, path, len(content), num_blocks=0, num_missing_blocks=0)

    async def import_(self, path: str, new_id: str | None = None, *, trust: bool = False) -> ImportedAgent:
        """Read its name from the file."""
        content = await asyncio.to_thread(Path(path).read_bytes)
        name = new_id or content.removeprefix(b"agent:").decode()
        made = self._add(agent_facts(name, state="warm", tier="warm"))
        return ImportedAgent(made, num_imported_blocks=0, num_file_blocks=0)

    async def page(self, query: AgentQuery) -> AgentList:
        """Return the rows that the query wants, in the order in which they came."""
        self.asked.append(query)
        rows = [
            row
            for row in self.by_id.values()
            if (query.name or "") in row.id
            and all(word.lower() in f"{row.id} {row.model}".lower() for word in query.words)
        ]
        ids: list[str] = [row.id for row in rows]
        if query.after is not None and query.after not in ids:
            raise AgentNotFoundError(f"no agent has the id {query.after!r}")
        rest = rows[ids.index(query.after) + 1 :] if query.after is not None else rows
        page = rest[: query.limit]
        return AgentList(tuple(page), len(rows), page[-1].id if len(rest) > len(page) else None)

    async def totals(self) -> AgentTotals:
        """Return the sum of the rows."""
        rows = self.by_id.values()
        return AgentTotals(
            num_agents=len(rows),
            by_state=dict(Counter(row.state for row in rows)),
            num_pinned=sum(row.pinned for row in rows),
            num_tokens=sum(row.num_tokens for row in rows),
            num_turns=sum(row.num_turns for row in rows),
        )

    @property
    def watch(self) -> FakeWatch:
        """What watchers are sent."""
        return self._watch

    async def list(self) -> list[AgentFacts]:
        """Return all rows."""
        return list(self.by_id.values())


class FakeWatch:
    """Compares rows with those of the last look."""

    def __init__(self, by_id: dict[AgentId, AgentFacts]) -> None:
        """Watch these rows."""
        self._by_id = by_id
        self._known: dict[AgentId, AgentFacts] = {}

    async def whole(self) -> WatchedAgents:
        """Return all rows."""
        return WatchedAgents(tuple(self._by_id.values()), len(self._by_id))

    async def look(self) -> AgentUpdate | None:
        """Return what differs from the last look."""
        before, self._known = self._known, dict(self._by_id)
        news = tuple(row for one, row in self._known.items() if before.get(one) != row)
        removed = tuple(one for one in before if one not in self._known)
        return AgentUpdate(news, removed, len(self._known)) if news or removed else None

    def stop(self) -> None:
        """Forget what was seen."""
        self._known = {}
