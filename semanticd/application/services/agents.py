"""Operations on agents: create, read, pin, fork, rewind, evict, delete, export and import."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import TypeVar
from weakref import WeakValueDictionary

from semanticd.application.cache.agent_cache import AgentCache
from semanticd.application.cache.agent_registry import AgentRegistry
from semanticd.application.engine.loop import BlockPoolBatchEngine
from semanticd.application.ports.telemetry import Clock
from semanticd.application.services.agent_export import AgentExport, AgentExporter
from semanticd.application.services.agent_facts import (
    AgentDetails,
    AgentFacts,
    AgentList,
    AgentTotals,
    CacheHistory,
    CancelledAgent,
    DeletedAgent,
    EvictedAgent,
    ImportedAgent,
    SharedBlocks,
    ShownMessage,
    TurnReport,
    shown_message,
    turn_facts,
)
from semanticd.application.services.agent_rows import AgentRows
from semanticd.application.services.agent_watch import AgentWatch
from semanticd.application.services.observations import Observations
from semanticd.application.services.saving import SAVED_WITHIN_S, saved_within
from semanticd.application.services.stored_responses import StoredResponses
from semanticd.application.services.verdict import verdict
from semanticd.domain.agent import Agent, AgentConfig, Turn
from semanticd.domain.agent_name import checked_agent_id
from semanticd.domain.agent_summary import AgentQuery, summary_of
from semanticd.domain.block import Block
from semanticd.domain.chat import Message
from semanticd.domain.deletion import refused_deletion
from semanticd.domain.errors import (
    AgentBusyError,
    AgentNotFoundError,
    CacheError,
    ConflictError,
    DrainingError,
    InvalidRequestError,
)
from semanticd.domain.ids import AgentId, BlockHash, RequestId
from semanticd.domain.whole_text import whole_characters

_T = TypeVar("_T")

_EXPIRED_AT_ONCE = 200
"""Agents that one round of upkeep deletes, at most."""


class AgentsService:
    """The agents' use cases; asyncio thread."""

    def __init__(
        self,
        *,
        engine: BlockPoolBatchEngine,
        agents: AgentRegistry,
        cache: AgentCache,
        exporter: AgentExporter,
        observations: Observations,
        clock: Clock,
        responses: StoredResponses | None = None,
    ) -> None:
        """Work on these agents, whose blocks are in `cache` and whose requests run on `engine`."""
        self._engine = engine
        self._agents = agents
        self._store, self._tables = cache.store, cache.tables
        self._clock = clock
        self._exporter = exporter
        self._responses = responses
        self.cancelled_within_s = 10.0
        """Maximum time that a call waits for cancelled requests to leave the engine, in seconds."""
        self.saved_within_s = SAVED_WITHIN_S
        """Maximum time that the answer to a change of an agent waits for the disk, in seconds."""
        self._arrivals = observations.arrivals
        self._waits = observations.waits
        self._savings = observations.savings
        self._rows = AgentRows(
            engine=engine, agents=agents, cache=cache, observations=observations, clock=clock
        )
        self._naming = asyncio.Lock()
        """Held while an id is looked up and then taken."""
        self._deletions: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """Held while an agent is deleted: a concurrent deletion waits, and returns the outcome of the first one."""
        self.watch = AgentWatch(rows=self._rows, agents=agents)

    async def _on_engine(self, function: Callable[[], _T]) -> _T:
        return await asyncio.wrap_future(self._engine.call(function))

    # Looking.

    async def page(self, query: AgentQuery) -> AgentList:
        """Return a page of agents' facts.

        Raises:
            AgentNotFoundError: The cursor is unknown.
        """
        return await asyncio.to_thread(self._rows.page, query)

    async def totals(self) -> AgentTotals:
        """Return all agents in one sum."""
        return await asyncio.to_thread(self._rows.totals)

    async def _row(self, agent: Agent) -> AgentFacts:
        (row,) = await asyncio.to_thread(self._rows.of, [summary_of(agent)])
        return row

    async def _find_files(self, agent: Agent) -> None:
        """Let the disk's index know an agent's blocks, where it is just rebuilt."""
        if agent.model is None:
            return
        found = self._store.find_files(agent.block_table, agent.model)
        if found is not None:
            await asyncio.wrap_future(found)

    def _requests_of(self, agent_id: str) -> tuple[RequestId, ...]:
        running = (one.submission for one in self._engine.running())
        return tuple(one.request_id for one in running if one.agent_id == agent_id)

    def _is_active(self, agent_id: str) -> bool:
        return bool(self._requests_of(agent_id))

    async def agent(self, agent_id: str) -> Agent:
        """Return an agent as it is kept, without using it.

        Raises:
            AgentNotFoundError: There is no such agent.
        """
        return await asyncio.to_thread(self._agents.peek, AgentId(agent_id))

    async def require(self, agent_id: str) -> None:
        """Raise `AgentNotFoundError` unless the agent is known."""
        if not await asyncio.to_thread(self._agents.is_known, AgentId(agent_id)):
            raise AgentNotFoundError(
                f'no agent has the id {agent_id!r}; create it with POST /v1/agents and {{"id": "{agent_id}"}}, or look '
                "for its name in GET /v1/agents"
            )

    async def show(self, agent_id: str) -> AgentDetails:
        """Return one agent's facts, configuration and turns."""
        agent = await self.agent(agent_id)
        config = agent.config
        return AgentDetails(
            agent=await self._row(agent),
            system=config.system,
            tools=tuple(tool.name for tool in config.tools),
            metadata=config.metadata,
            turns=tuple(self._turn(turn) for turn in agent.turns),
            sharing=await asyncio.to_thread(self._sharing, agent),
            savings=self._savings.of_agent(agent.agent_id).facts(),
        )

    def _sharing(self, agent: Agent) -> tuple[SharedBlocks, ...]:
        """Return with whom hot blocks are shared and how many bytes; who shares most comes first."""
        sharing = self._tables.hot_use(agent.agent_id, agent.block_table).sharing
        return tuple(
            SharedBlocks(other, num_blocks, num_bytes)
            for other, (num_blocks, num_bytes) in sorted(
                sharing.items(), key=lambda item: (-item[1][0], item[0])
            )
        )

    async def why(self, agent_id: str) -> CacheHistory:
        """Return the reuse of its last requests, with causes."""
        agent = await self.agent(agent_id)
        turns = tuple(self._turn(turn) for turn in agent.turns[-20:])
        return CacheHistory(agent.agent_id, turns[-1] if turns else None, turns)

    def _turn(self, turn: Turn) -> TurnReport:
        facts, wait = turn_facts(turn), self._waits.longest(turn.request_id)
        reason = turn.wait_reason or (wait.reason if wait is not None else None)
        # Of requests of an earlier run only the reason is known.
        behind = wait.behind if wait is not None and wait.reason == reason else None
        return TurnReport(facts, reason, behind, verdict(facts, reason=reason, behind=behind))

    async def messages(self, agent_id: str) -> tuple[ShownMessage, ...]:
        """Return the conversation: the kept messages, or the transcript's text where clients send it themselves."""
        agent = await self.agent(agent_id)
        if agent.messages:
            return tuple(shown_message(message) for message in agent.messages)
        return tuple(
            ShownMessage("transcript", whole_characters(segment.text), segment.num_tokens)
            for segment in agent.transcript.segments
        )

    # Changing.

    async def create(self, agent_id: str | None, config: AgentConfig, *, pin: bool = False) -> AgentFacts:
        """Create an agent.

        Where the disk refuses it, it exists in memory only and its facts say so: `unsaved`. So do those of
        every change.

        Raises:
            ConflictError: The id is taken.
        """
        chosen = checked_agent_id(agent_id or f"agent-{secrets.token_hex(6)}", param="id")
        async with self._naming:
            await asyncio.to_thread(self._check_free, chosen)
            agent = self._agents.create(chosen, config, pinned=pin)
        await self._saved(chosen)
        return await self._row(agent)

    async def _saved(self, agent_id: AgentId) -> None:
        """Wait until the disk has an agent's change, or has refused it.

        A change that the disk refuses holds in memory, and is tried again. A disk that is slow, or hangs, is not waited
        for: the change's writing is queued.
        """
        await saved_within(self._agents.is_saved(agent_id), self.saved_within_s)

    def is_unsaved(self, agent_id: AgentId) -> bool:
        """Return whether the disk refused the agent's newest state, which is then in memory only."""
        return self._agents.is_unsaved(agent_id)

    def _check_free(self, agent_id: AgentId) -> None:
        if self._agents.is_known(agent_id):
            raise ConflictError(
                f"an agent with the id {agent_id!r} exists already; choose another or delete it"
            )

    async def pin(self, agent_id: str, ttl_s: float | None = None) -> AgentFacts:
        """Keep its blocks from eviction, for `ttl_s` seconds or permanently.

        Running answers lose nothing: the blocks stay as far as those need no room.

        Raises:
            ConflictError: Pins would keep more of the budget than they may.
        """
        refusal = self._tables.pin_refusal(AgentId(agent_id))
        if refusal is not None:
            raise ConflictError(
                f"agent {agent_id!r} cannot be pinned: {refusal}; unpin another agent, or raise "
                "SEMANTIC_MLX_CACHE_BUDGET_MB"
            )
        until = None if ttl_s is None else self._clock.wall() + ttl_s
        return await self._row(await self._set_pin(agent_id, pinned=ttl_s is None, until=until))

    async def unpin(self, agent_id: str) -> AgentFacts:
        """Let its blocks be evicted again."""
        return await self._row(await self._set_pin(agent_id, pinned=False, until=None))

    async def _set_pin(self, agent_id: str, *, pinned: bool, until: float | None) -> Agent:
        def change(agent: Agent) -> Agent:
            return replace(agent, pinned=pinned, pinned_until=until)

        agent = await asyncio.to_thread(self._agents.update, AgentId(agent_id), change)
        await self._saved(agent.agent_id)
        return agent

    async def fork(self, agent_id: str, new_id: str | None = None) -> AgentFacts:
        """Make an agent with the same conversation; all its blocks are shared."""
        source = await self.agent(agent_id)
        chosen = checked_agent_id(new_id or f"{agent_id[:110]}-fork-{secrets.token_hex(3)}", param="new_id")
        now = self._clock.wall()
        fork = replace(
            source,
            agent_id=chosen,
            created_at=now,
            last_used_at=now,
            pinned=False,
            pinned_until=None,
            kept_until=None,
            anonymous=False,
        )
        async with self._naming:
            await asyncio.to_thread(self._check_free, chosen)
            self._agents.save(fork)
        await self._saved(chosen)
        return await self._row(fork)

    async def rewind(self, agent_id: str, turns: int = 1) -> AgentFacts:
        """Forget its last `turns` turns; its remaining conversation stays cached."""
        if turns < 1:
            raise InvalidRequestError(f"turns must be at least 1, not {turns}", param="turns")
        await self._until_inactive(agent_id)
        await self._find_files(await self.agent(agent_id))
        before = await asyncio.to_thread(self._agents.own_blocks, AgentId(agent_id))
        agent = await asyncio.to_thread(self._rewind, AgentId(agent_id), turns)
        self._agents.forget_answers(agent.agent_id)
        kept = await asyncio.to_thread(self._within, before, agent)
        gone = [name for name in before if name not in kept]
        await self._on_engine(lambda: self._store.drop_blocks(gone))
        self._agents.forget_blocks(agent.agent_id, gone)
        self._agents.scrub()
        await self._saved(agent.agent_id)
        return await self._row(agent)

    def _rewind(self, agent_id: AgentId, turns: int) -> Agent:
        """Keep an agent without its last turns; what of its table is left is looked up before its lock is taken."""
        agent = self._agents.peek(agent_id)
        if turns > len(agent.turns):
            raise InvalidRequestError(
                f"agent {agent_id!r} has {len(agent.turns)} turns to go back, not {turns}", param="turns"
            )
        transcript = agent.transcript_before(turns)
        table = self._table_up_to(agent, transcript.num_tokens)

        def change(known: Agent) -> Agent:
            if known.num_turns != agent.num_turns:
                raise ConflictError(f"agent {agent_id!r} answered a request meanwhile; rewind it again")
            return replace(
                known,
                turns=agent.turns[:-turns],
                num_turns=agent.num_turns - turns,
                transcript=transcript,
                messages=_without_last_turns(agent.messages, turns),
                block_table=table,
                snapshots=tuple(one for one in agent.snapshots if one.position <= transcript.num_tokens),
            )

        return self._agents.update(agent_id, change)

    def _table_up_to(self, agent: Agent, num_tokens: int) -> tuple[BlockHash, ...]:
        """Return what of an agent's table lies within its first tokens. Asks the index about every block."""
        ends: dict[BlockHash, int] = {}
        kept: list[BlockHash] = []
        for at, block_hash in enumerate(agent.block_table):
            block = self._store.block(block_hash)
            if block is None:
                continue
            if at == 0:
                # The first one follows the root; snapshots and their tails follow it, or any block before them.
                ends[block.parent] = 0
            end = ends.get(block.parent, num_tokens + 1) + block.num_tokens
            if end <= num_tokens:
                ends[block_hash] = end
                kept.append(block_hash)
        return tuple(kept)

    def _within(self, names: Sequence[BlockHash], agent: Agent) -> set[BlockHash]:
        """Return the agent's table, and those of these blocks that hold nothing beyond its conversation."""
        kept = set(agent.block_table)
        blocks = {one: block for one in {*kept, *names} if (block := self._store.block(one)) is not None}
        following: dict[BlockHash, list[Block]] = {}
        for block in blocks.values():
            following.setdefault(block.parent, []).append(block)
        tokens = agent.transcript.token_ids
        to_follow = [(parent, 0) for parent in following if parent not in blocks]
        while to_follow:
            parent, start = to_follow.pop()
            for block in following.get(parent, ()):
                end = start + block.num_tokens
                if tokens[start:end] == block.token_ids:
                    kept.add(block.block_hash)
                    to_follow.append((block.block_hash, end))
        return kept

    async def evict(self, agent_id: str) -> EvictedAgent:
        """Demote its blocks to disk; the next turn restores them."""
        agent = await self.agent(agent_id)
        freed = await self._on_engine(lambda: self._tables.evict_agent(agent.agent_id))
        return EvictedAgent(await self._row(agent), freed)

    async def delete(self, agent_id: str) -> DeletedAgent:
        """Forget it and the blocks that only it holds, on disk too.

        Every listed agent can be deleted, even if its record cannot be read.

        Raises:
            CacheError: The disk refuses to delete it; it is there as it was, only without its cached blocks.
                `StorageFullError` (one of them): that is for want of room.
            AgentNotFoundError: There is none, or another call has deleted it just now.
        """
        async with self._deletions.setdefault(agent_id, asyncio.Lock()):
            return await self._delete(agent_id)

    async def _delete(self, agent_id: str) -> DeletedAgent:
        await self._until_inactive(agent_id)
        known = AgentId(agent_id)
        # One whose only answer was cancelled has no record.
        self._agents.forget_answers(known)
        await self.require(known)
        if self._responses is not None:
            # First: they could not be named any more without their agent.
            await self._responses.forget_agent(known)
        names = await asyncio.to_thread(self._agents.own_blocks, known)

        def forget() -> tuple[int, Future[int]]:
            self._not_active(agent_id)  # a request may have been taken while the disk was asked
            return self._tables.delete_agent(known, names)

        freed, warm = await self._on_engine(forget)
        deletion = self._agents.delete(known)
        self._savings.forget(known)
        self._agents.scrub()
        freed += await asyncio.wrap_future(warm)
        if (answer := await asyncio.wrap_future(deletion)) != "done":
            raise refused_deletion(
                answer,
                f"agent {agent_id!r}",
                gone="Its cached blocks and the responses stored for it are gone.",
            )
        return DeletedAgent(known, deleted=True, freed_bytes=freed)

    def _not_active(self, agent_id: str) -> None:
        requests = self._requests_of(agent_id)
        if requests:
            raise AgentBusyError(agent_id, requests[0])

    async def _until_inactive(self, agent_id: str) -> None:
        """Raise `AgentBusyError` while it answers a request that is not cancelled; one that is ends with its step."""
        if self._is_active(agent_id):
            await self._cancels_taken()
        self._not_active(agent_id)

    async def _cancels_taken(self) -> None:
        """Wait, for a bounded time, until the engine has ended all requests cancelled before this call."""
        # The engine takes commands in order, between two steps.
        with contextlib.suppress(DrainingError, asyncio.TimeoutError):
            await asyncio.wait_for(self._on_engine(lambda: None), self.cancelled_within_s)

    async def cancel(self, agent_id: str) -> CancelledAgent:
        """Cancel the requests that it answers, or that wait for it, and wait until they have ended (10 s at most).

        Raises:
            AgentNotFoundError: There is no such agent.
        """
        requests = self._cancel_arrivals(agent_id)
        requests += self._requests_of(agent_id)
        if not requests:
            await self.require(agent_id)
            await self._cancels_taken()  # one may have been sent that the engine has not taken in
            requests = self._requests_of(agent_id)
        for request_id in requests:
            self._engine.cancel(request_id)
        if requests:
            await self._cancels_taken()
        return CancelledAgent(AgentId(agent_id), requests)

    def _cancel_arrivals(self, agent_id: str) -> tuple[RequestId, ...]:
        """Cancel the agent's requests that the engine has not taken yet."""
        arrivals = self._arrivals.outside(self._engine.running())
        found = [one for one in arrivals if one.agent_id == agent_id]
        for one in found:
            one.cancel()
        return tuple(one.request_id for one in found)

    async def expire(self) -> int:
        """Delete expired agents, except while they answer, and end expired pins; returns the number deleted."""
        self._agents.renew_pins()
        return await self._delete_all(
            await asyncio.to_thread(partial(self._agents.expired, limit=_EXPIRED_AT_ONCE))
        )

    async def prune_anonymous(self, *, max_agents: int, max_age_s: float) -> int:
        """Delete agents without a name of their own that are long unused, or beyond a number; returns how many."""
        find = partial(
            self._agents.surplus_anonymous,
            max_agents=max_agents,
            used_before=self._clock.wall() - max_age_s,
            limit=_EXPIRED_AT_ONCE,
        )
        return await self._delete_all(await asyncio.to_thread(find))

    async def _delete_all(self, agents: Sequence[AgentId]) -> int:
        over = [agent_id for agent_id in agents if not self._is_active(agent_id)]
        for agent_id in over:
            # Deleted or asked meanwhile, or the disk refused: it is found again the next time.
            with contextlib.suppress(AgentNotFoundError, ConflictError, CacheError):
                await self.delete(agent_id)
        return len(over)

    # Exports.

    async def export(self, agent_id: str, path: str) -> AgentExport:
        """Write an agent export; the path is absolute."""
        agent = await self.agent(agent_id)
        await self._find_files(agent)
        return await self._exporter.export(agent, path)

    async def import_(self, path: str, new_id: str | None = None, *, trust: bool = False) -> ImportedAgent:
        """Read an agent export; `trust` lets others share its blocks.

        Raises:
            SemanticError: As in `AgentExporter.import_`.
        """
        imported = await self._exporter.import_(path, new_id=new_id, check_free=self._check_free, trust=trust)
        async with self._naming:
            # Another agent may have taken the id while blocks were written.
            await asyncio.to_thread(self._check_free, imported.agent.agent_id)
            self._agents.save(imported.agent)
        await self._saved(imported.agent.agent_id)
        return ImportedAgent(
            await self._row(imported.agent),
            num_imported_blocks=imported.num_kept,
            num_file_blocks=imported.num_blocks,
        )

    # Last, because it shadows the built-in name for all that follows in the class body.

    async def list(self) -> list[AgentFacts]:
        """Return the facts of all agents, most recently used first."""
        return [*(await self.page(AgentQuery())).agents]


def _without_last_turns(messages: tuple[Message, ...], turns: int) -> tuple[Message, ...]:
    """Cut behind the answer before the turns to forget; each turn ends with one, whatever it began with."""
    answers = [at for at, message in enumerate(messages) if message.role == "assistant"]
    return messages[: answers[-turns - 1] + 1] if len(answers) > turns else ()
