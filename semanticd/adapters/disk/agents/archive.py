"""Agents on disk: saved in order with the blocks they name, and readable at once though saving is queued."""

from __future__ import annotations

import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeVar

from semanticd.adapters.disk.agents.codec import DocumentError
from semanticd.adapters.disk.agents.tables import AgentTables, StoredSummary
from semanticd.adapters.disk.files.database import files_set_aside, is_damage, is_out_of_room, set_aside
from semanticd.adapters.disk.files.folder import CacheFolder
from semanticd.adapters.disk.files.rare_log import RareLog
from semanticd.adapters.disk.files.write_queue import WriteQueue
from semanticd.application.ports.telemetry import Log, Metrics, NullLog, NullMetrics
from semanticd.domain.agent import Agent
from semanticd.domain.agent_summary import (
    AgentQuery,
    AgentSummary,
    SummaryPage,
    page_of,
    sort_key,
    summary_of,
)
from semanticd.domain.deletion import Deletion
from semanticd.domain.errors import CacheError
from semanticd.domain.ids import AgentId, BlockHash

_T = TypeVar("_T")
_MAX_KNOWN = 256
_LONG_QUEUE = 256


@dataclass(slots=True)
class _Deleting:
    """Deletions of one agent that are queued, and its newest state if that is not on disk."""

    num_queued: int = 0
    before: Agent | None = None


class DiskAgentArchive:
    """`AgentArchive` in a cache folder; make it with `DiskAgentArchive.open`."""

    def __init__(
        self, tables: AgentTables, *, folder: CacheFolder, write_queue: WriteQueue, metrics: Metrics, log: Log
    ) -> None:
        """Take over open tables; all saving goes through `write_queue`."""
        self._tables = tables
        self._folder = folder
        self._queue = write_queue
        self._metrics = metrics
        self._log = log
        self._rare_log = RareLog(log)
        self._lock = threading.Lock()
        self._unsaved: dict[AgentId, Agent | None] = {}
        """Newest state of agents whose saving is queued or has failed; None: whose forgetting is queued."""
        self._known: OrderedDict[AgentId, Agent] = OrderedDict()
        """Stored state of the last saved agents: the next save finds the difference without reading."""
        self._noted: dict[BlockHash, set[AgentId]] = {}
        """Blocks that agents made, whose noting is queued or under way."""
        self._note_queued = False
        self._failed: set[AgentId] = set()
        """Agents to try again once a save succeeds."""
        self._deleting: dict[AgentId, _Deleting] = {}
        self._closed = False

    @classmethod
    def open(
        cls,
        folder: CacheFolder,
        *,
        write_queue: WriteQueue,
        metrics: Metrics | None = None,
        log: Log | None = None,
    ) -> DiskAgentArchive:
        """Open the agents of an owned folder, sharing the block store's write queue.

        A damaged database is set aside as `agents.sqlite.damaged` and an empty one begun.

        Raises:
            CacheError: The file cannot be opened, or a newer version wrote it.
        """
        log = log or NullLog()
        try:
            try:
                tables = folder.ballast.make_room_for(lambda: AgentTables(folder.agents))
            except sqlite3.DatabaseError as error:
                if not is_damage(error):
                    raise
                set_aside(folder.agents)
                log.error("agents_database_set_aside", error=str(error))
                tables = AgentTables(folder.agents)
        except (OSError, sqlite3.Error) as error:
            raise CacheError(
                f"cannot open the agents' database {folder.agents}: {error}; check the disk and its permissions"
            ) from error
        for old, new in tables.renamed.items():
            log.warning("agent_renamed", agent=new, was=old)
        return cls(tables, folder=folder, write_queue=write_queue, metrics=metrics or NullMetrics(), log=log)

    def save(self, agent: Agent) -> None:
        """Store the agent soon, after what was queued before; newest wins."""
        with self._lock:
            before = self._unsaved.get(agent.agent_id)
            self._unsaved[agent.agent_id] = agent
        if before is not None:
            # Its save may be left out, and what it named belongs to the agent's past all the same.
            for name in set(before.block_table) - set(agent.block_table):
                self.note_block(agent.agent_id, name)
        self._queue.put(lambda: self._save(agent))

    def is_saved(self, agent_id: AgentId) -> Future[bool]:
        """Return soon whether the agent's newest state is on disk; see the port."""
        return self._queue.ask(lambda: agent_id not in self._failed, otherwise=False)

    def is_unsaved(self, agent_id: AgentId) -> bool:
        """Return whether the disk refused the agent's newest state; the save is retried."""
        return agent_id in self._failed

    @property
    def num_unsaved(self) -> int:
        """Number of agents whose newest state the disk refused; the saves are retried."""
        return len(self._failed)

    def delete(self, agent_id: AgentId) -> Future[Deletion]:
        """Forget the agent, after what was queued before; see the port."""
        failed: Deletion = "failed"
        with self._lock:
            deleting = self._deleting.setdefault(agent_id, _Deleting())
            deleting.num_queued += 1
            deleting.before = self._unsaved.get(agent_id) or deleting.before
            self._unsaved[agent_id] = None
        return self._queue.ask(lambda: self._delete(agent_id), otherwise=failed)

    def load(self, agent_id: AgentId) -> Agent | None:
        """Return the agent, or None if it is not there or cannot be read (then it is logged)."""
        with self._lock:
            if agent_id in self._unsaved:
                return self._unsaved[agent_id]
        return self._ask(lambda: self._tables.load(agent_id), None, agent=agent_id)

    def load_recent(self, *, max_agents: int, max_bytes: int) -> list[Agent]:
        """Return the most recently used readable agents, newest first, until their texts reach a number of bytes."""
        found: list[Agent] = []
        num_bytes = 0
        query = AgentQuery(limit=max_agents)
        while True:
            page = self.page(query)
            for summary in page.summaries:
                agent = self.load(summary.agent_id)
                if agent is not None:
                    found.append(agent)
                    num_bytes += agent.transcript.num_bytes
                    if len(found) >= max_agents or num_bytes >= max_bytes:
                        return found
            if not page.has_more:
                return found
            query = replace(query, after=page.summaries[-1].agent_id)

    def _queued(self) -> dict[AgentId, Agent | None]:
        """Return the agents that are not saved yet; to be read before the stored ones.

        A save that ends between the two questions is in both answers then; the other way round it is in neither.
        """
        with self._lock:
            return dict(self._unsaved)

    def page(self, query: AgentQuery) -> SummaryPage:
        """Return the summaries of a page of agents, saved or still queued."""
        unsaved = self._queued()
        waiting = [summary_of(agent) for agent in unsaved.values() if agent is not None]
        nothing: tuple[list[StoredSummary], int, tuple[float, str] | None] = ([], 0, None)
        stored, number, after = self._ask(lambda: self._tables.page(query, without=unsaved), nothing)
        summaries = [self._summary(one) for one in stored]
        newest = next((one for one in waiting if one.agent_id == query.after), None)
        if newest is not None:
            after = sort_key(newest, query.order)
        page = page_of([*summaries, *waiting], query, after=after)
        num_waiting = sum(query.wants(one) for one in waiting)
        return replace(page, num_agents=number + num_waiting)

    def summary(self, agent_id: AgentId) -> AgentSummary | None:
        """Return an agent's summary, or None if it is not there or cannot be read."""
        with self._lock:
            if agent_id in self._unsaved:
                agent = self._unsaved[agent_id]
                return None if agent is None else summary_of(agent)
        stored = self._ask(lambda: self._tables.summary(agent_id), None, agent=agent_id)
        return None if stored is None else self._summary(stored)

    def _summary(self, stored: StoredSummary) -> AgentSummary:
        if stored.error:
            self._metrics.count("agent_load_errors_total")
            self._rare_log.warning(
                "agent_summary_not_read", agent=stored.summary.agent_id, error=stored.error
            )
        return stored.summary

    def block_tables(self, agents: Sequence[AgentId]) -> dict[AgentId, tuple[BlockHash, ...]]:
        nothing: dict[AgentId, tuple[BlockHash, ...]] = {}
        unsaved = self._queued()
        tables = self._ask(lambda: self._tables.block_tables(agents), nothing)
        for agent_id in agents:
            agent = unsaved.get(agent_id)
            if agent is not None:
                tables[agent_id] = agent.block_table
        return tables

    def first_blocks(self) -> dict[AgentId, BlockHash | None]:
        """Return each agent's first block."""
        nothing: dict[AgentId, BlockHash | None] = {}
        unsaved = self._queued()
        found = self._ask(self._tables.first_blocks, nothing)
        for agent_id, agent in unsaved.items():
            if agent is None:
                found.pop(agent_id, None)
            else:
                found[agent_id] = agent.block_table[0] if agent.block_table else None
        return found

    def expired(self, now: float, *, limit: int) -> list[AgentId]:
        """Return at most `limit` agents whose time to live has ended."""
        nothing: list[AgentId] = []
        unsaved = self._queued()
        found = self._ask(lambda: self._tables.expired(now, limit=limit), nothing)
        found = [agent_id for agent_id in found if agent_id not in unsaved]
        over = (a for a in unsaved.values() if a is not None and (a.expires_at() or now + 1) <= now)
        return [*found, *(agent.agent_id for agent in over)][:limit]

    def surplus_anonymous(self, *, used_before: float, max_agents: int, limit: int) -> list[AgentId]:
        """Return anonymous agents not used since a time, then the longest unused ones beyond a number."""
        nothing: list[AgentId] = []
        unsaved = self._queued()
        found = self._ask(
            lambda: self._tables.surplus_anonymous(
                used_before=used_before, max_agents=max_agents, limit=limit
            ),
            nothing,
        )
        return [agent_id for agent_id in found if agent_id not in unsaved]

    def pinned(self) -> list[Agent]:
        """Return the readable agents that are or were pinned, oldest use first."""
        nothing: list[AgentId] = []
        unsaved = self._queued()
        candidates = {*self._ask(self._tables.pinned, nothing), *unsaved}
        found = [agent for agent_id in candidates if (agent := self.load(agent_id)) is not None]
        found = [agent for agent in found if agent.pinned or agent.pinned_until is not None]
        return sorted(found, key=lambda agent: agent.last_used_at)

    def ids(self) -> list[AgentId]:
        """Return all ids, most recently used first."""
        nothing: dict[AgentId, float] = {}
        unsaved = self._queued()
        used = self._ask(self._tables.ids, nothing)
        for agent_id, agent in unsaved.items():
            if agent is None:
                used.pop(agent_id, None)
            else:
                used[agent_id] = agent.last_used_at
        return sorted(used, key=lambda agent_id: used[agent_id], reverse=True)

    def holders(self, block_hash: BlockHash) -> list[AgentId]:
        """Return the agents whose block table names this block, or named it before."""
        nothing: list[AgentId] = []
        return self._ask(lambda: self._holders(block_hash), nothing)

    def _holders(self, block_hash: BlockHash) -> list[AgentId]:
        # Queued first, as `_queued` says.
        with self._lock:
            unsaved = dict(self._unsaved)
            makers = set(self._noted.get(block_hash, ()))
        stored = self._tables.holders(block_hash)
        # A stored table is outdated where a newer, unsaved one does not name the block.
        found = dict.fromkeys(one for one in stored if one not in unsaved or unsaved[one] is not None)
        for agent_id, agent in unsaved.items():
            if agent is not None and block_hash in agent.block_table:
                found[agent_id] = None
        return [*found, *(makers - found.keys())]

    def note_block(self, agent_id: AgentId, block_hash: BlockHash) -> None:
        """Note, before what is queued after it, that an agent made a block."""
        with self._lock:
            is_queued, self._note_queued = self._note_queued, True
            self._noted.setdefault(block_hash, set()).add(agent_id)
        if not is_queued:
            self._queue.put(self._note)

    def own_blocks(self, agent_id: AgentId) -> list[BlockHash]:
        """Return the blocks that this agent names, or named or made before, and no other does."""
        nothing: list[BlockHash] = []
        others: set[BlockHash] = set()
        queued: list[BlockHash] = []
        # Queued first, as `_queued` says.
        with self._lock:
            for one, agent in self._unsaved.items():
                if agent is not None and one != agent_id:
                    others.update(agent.block_table)
                elif agent is not None:
                    queued += agent.block_table
            queued += [name for name, makers in self._noted.items() if agent_id in makers]
        stored = self._ask(lambda: self._tables.own_blocks(agent_id), nothing)
        found = dict.fromkeys([*stored, *queued])
        unsaved = [name for name in found if name not in others]
        return [name for name in unsaved if all(one == agent_id for one in self.holders(name))]

    def own_among(self, agent_id: AgentId, blocks: Sequence[BlockHash]) -> Future[list[BlockHash]]:
        """Return soon those of these blocks that no other agent names, or named or made before.

        The writing thread reads them. The future gets none where they cannot be read, or the queue is closed.
        """
        nothing: list[BlockHash] = []
        return self._queue.ask(
            lambda: self._ask(lambda: self._own_among(agent_id, blocks), nothing), otherwise=nothing
        )

    def _own_among(self, agent_id: AgentId, blocks: Sequence[BlockHash]) -> list[BlockHash]:
        return [name for name in blocks if all(one == agent_id for one in self._holders(name))]

    def forget_blocks(self, blocks: Sequence[BlockHash], *, agent_id: AgentId | None = None) -> None:
        """Forget soon which agent made these blocks, or that this one did: they are gone."""
        self._queue.put(
            lambda: self._try_quietly(lambda: self._tables.forget_blocks(blocks, agent_id=agent_id))
        )

    def forget_all_blocks(self) -> None:
        """Forget soon which agents made which blocks: all are gone."""
        self._queue.put(lambda: self._try_quietly(self._tables.forget_all_past_blocks))

    def scrub(self) -> None:
        """Make sure soon that deleted data cannot be read from any file."""
        self._queue.put(self._scrub)

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until everything saved so far is durable; False when the time ran out."""
        return self._queue.flush(timeout_s)

    def close(self) -> None:
        """Wait for the queue and close the database. Idempotent; before or after the store's own close."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._queue.flush()
        self._retry()
        if self._failed:
            self._log.error(
                "agents_not_saved", number=len(self._failed), error="the disk refused them; is it full?"
            )
        self._tables.close()

    def _note(self) -> None:
        with self._lock:
            self._note_queued = False
            noted = [(agent_id, name) for name, makers in self._noted.items() for agent_id in makers]
        self._try_quietly(lambda: self._tables.note_blocks(noted))
        with self._lock:
            for agent_id, name in noted:
                makers = self._noted.get(name, set())
                makers.discard(agent_id)
                if not makers:
                    self._noted.pop(name, None)

    def _scrub(self) -> None:
        self._try_quietly(self._tables.scrub)
        for damaged in files_set_aside(self._folder.agents):
            # A database that was set aside may hold the agent as well, and nothing reads it.
            with suppress(OSError):
                damaged.unlink()
                self._log.warning("damaged_agents_database_removed", path=str(damaged))

    def _try_quietly(self, action: Callable[[], None]) -> None:
        try:
            self._keep_in_place()
            action()
        except (sqlite3.Error, CacheError, OSError) as error:
            self._metrics.count("agent_save_errors_total")
            self._rare_log.warning("agents_database_not_changed", error=repr(error))

    def _save(self, agent: Agent) -> None:
        with self._lock:
            newest = self._unsaved.get(agent.agent_id)
        if newest is not agent and len(self._queue) > _LONG_QUEUE:
            return  # the newer save is queued too; when there is much to do, one of them is enough
        if self._settle(agent.agent_id, agent):
            self._retry()

    def _retry(self) -> None:
        """Try again what failed (the disk was full), now that a save has succeeded or we close."""
        for agent_id in tuple(self._failed):
            with self._lock:
                is_queued = agent_id in self._deleting
                agent = self._unsaved.get(agent_id)
            if agent is None and not is_queued:
                self._failed.discard(agent_id)
            elif agent is not None and not self._settle(agent_id, agent):
                return

    def _delete(self, agent_id: AgentId) -> Deletion:
        error = self._try(lambda: self._forget(agent_id))
        with self._lock:
            deleting = self._deleting[agent_id]
            deleting.num_queued -= 1
            if error is None:
                deleting.before = None
            if not deleting.num_queued:
                del self._deleting[agent_id]
                if agent_id in self._unsaved and self._unsaved[agent_id] is None:
                    # Gone, or what it was before; a newer state stays.
                    del self._unsaved[agent_id]
                    if deleting.before is not None:
                        self._unsaved[agent_id] = deleting.before
                        self._failed.add(agent_id)
        if error is not None:
            return "no room" if is_out_of_room(error, folder=self._folder.root) else "failed"
        if agent_id not in self._unsaved:
            self._failed.discard(agent_id)
        self._retry()
        return "done"

    def _settle(self, agent_id: AgentId, agent: Agent) -> bool:
        """Store an agent's state; returns whether it is durable now."""
        done = self._try(lambda: self._write(agent)) is None
        (self._failed.discard if done else self._failed.add)(agent_id)
        with self._lock:
            if done and agent_id in self._unsaved and self._unsaved[agent_id] is agent:
                del self._unsaved[agent_id]
        return done

    def _write(self, agent: Agent) -> None:
        known = self._known.pop(agent.agent_id, None)
        if known is None:
            try:
                known = self._tables.load(agent.agent_id)
            except DocumentError:
                known = None  # unreadable: written again as a whole
        self._tables.save(agent, known=known)
        self._known[agent.agent_id] = agent
        if len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)

    def _forget(self, agent_id: AgentId) -> None:
        self._known.pop(agent_id, None)
        tables = self._tables
        self._folder.ballast.make_room_for(lambda: tables.delete(agent_id), after=tables.scrub)

    def _try(self, action: Callable[[], None]) -> Exception | None:
        """Change the tables; returns why that failed."""
        try:
            self._keep_in_place()
            action()
        except (sqlite3.Error, CacheError, OSError, *DocumentError) as error:
            self._metrics.count("agent_save_errors_total")
            self._rare_log.warning("agent_not_saved", error=repr(error))
            if is_damage(error):
                self._begin_anew()
            return error
        return None

    def _keep_in_place(self) -> None:
        """Open the database again where its file was removed: agents are stored again as they are saved.

        Raises:
            CacheError: The folder cannot be made or locked.
            sqlite3.Error: The database cannot be opened.
            OSError: Its file cannot be made.
        """
        self._folder.keep_in_place(self._log)
        if not self._tables.place.is_held():
            self._log.error(
                "agents_database_opened_anew", path=str(self._folder.agents), reason="it was removed"
            )
            self._known.clear()
            self._tables.close()
            self._tables = AgentTables(self._folder.agents)

    def _begin_anew(self) -> None:
        """Set a database that was found damaged aside; agents are stored again as they are saved."""
        self._known.clear()
        try:
            self._tables.close()
            set_aside(self._folder.agents)
            self._tables = AgentTables(self._folder.agents)
        except (OSError, sqlite3.Error) as error:
            self._log.error("agents_database_not_created", error=str(error))

    def _ask(self, question: Callable[[], _T], nothing: _T, **fields: object) -> _T:
        try:
            return question()
        except (sqlite3.Error, *DocumentError) as error:
            self._metrics.count("agent_load_errors_total")
            self._log.warning("agents_not_read", error=repr(error), **fields)
            return nothing
