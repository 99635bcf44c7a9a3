"""The warm tier in memory: the same promises as on disk, kept without files.

Writes are durable when `write` returns unless `hold_writes` is set, which lets a test decide when the disk
catches up. `break_block`, `lose_block` and `refuse` play the disk's misfortunes.
"""

from __future__ import annotations

import itertools
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

from semanticd.adapters.disk.blocks.codec import encode
from semanticd.application.ports.warm_store import (
    BlockRecord,
    ModelSize,
    VerifyReport,
    WarmStats,
    WriteResult,
)
from semanticd.domain.agent import Agent
from semanticd.domain.agent_summary import (
    AgentQuery,
    AgentSummary,
    SummaryPage,
    page_of,
    sort_key,
    summary_of,
)
from semanticd.domain.block import Block, LostFile
from semanticd.domain.deletion import Deletion
from semanticd.domain.ids import AgentId, BlockHash, ModelFingerprint


@dataclass(slots=True)
class _Entry:
    record: BlockRecord
    last_used: int
    order: int
    broken: bool = False


@dataclass(slots=True)
class _Waiting:
    records: list[BlockRecord]
    result: Future[WriteResult]


class MemoryWarmStore:
    """`WarmStore` in a dictionary. Not for several threads at once."""

    def __init__(
        self,
        *,
        cap_bytes: int | None = None,
        write_policy: str = "always",
        hold_writes: bool = False,
        size_of: Callable[[BlockRecord], int] = lambda record: record.block.num_bytes,
    ) -> None:
        """Begin empty; the policy is `always`, `second_use` or `off`; `size_of` says what a block counts for."""
        self.cap_bytes = cap_bytes
        self.write_policy = write_policy
        self.hold_writes = hold_writes
        self.refuse = ""
        """When not empty, nothing new is written, for this reason (a full disk)."""
        self.writes: list[BlockHash] = []
        """Every block ever written, in order."""
        self._size_of = size_of
        self._entries: OrderedDict[BlockHash, _Entry] = OrderedDict()
        self._protected: dict[str, frozenset[BlockHash]] = {}
        self._seen: set[BlockHash] = set()
        self._waiting: list[_Waiting] = []
        self._lost: dict[BlockHash, LostFile] = {}
        self._was_cleared = False
        self._time = 0
        self._order = itertools.count()
        self._stats = WarmStats(cap_bytes=cap_bytes)
        self.closed = False

    # ---- misfortunes

    def break_block(self, block_hash: BlockHash) -> None:
        """Damage a stored block: reading it finds that out."""
        self._entries[block_hash].broken = True

    def lose_block(self, block_hash: BlockHash) -> None:
        """Make a stored block disappear, as reading it finds out."""
        del self._entries[block_hash]
        self._lost[block_hash] = "missing"

    def note_lost(self, names: Sequence[BlockHash], what: LostFile) -> None:
        """Take what happened to files elsewhere."""
        self._lost.update(dict.fromkeys(names, what))

    def restart(self) -> None:
        """Forget what a store keeps for one process only: pins, and the hashes it was asked about."""
        self._protected.clear()
        self._seen.clear()

    def stored(self) -> list[BlockHash]:
        """Return the blocks that are stored, in the order of their hashes."""
        return sorted(self._entries)

    def catch_up(self, *, most: int | None = None) -> None:
        """Let all writes held so far become durable, or the `most` oldest calls' worth."""
        waiting, self._waiting = self._waiting[:most], self._waiting[len(self._waiting[:most]) :]
        for write in waiting:
            write.result.set_result(self._store(write.records))

    # ---- BlockFiles

    def read_file(self, block_hash: BlockHash) -> bytes | None:
        """Return a block file as the disk has it; None when it is missing or broken."""
        record = self.read(block_hash).result()
        return None if record is None else b"".join(encode(record).pieces)

    # ---- WarmStore

    def get(self, block_hash: BlockHash) -> Block | None:
        """Return a block's facts if it is stored."""
        entry = self._entries.get(block_hash)
        return None if entry is None else entry.record.block

    def get_many(self, hashes: Sequence[BlockHash]) -> list[Block]:
        """Return the facts of the leading hashes that are stored."""
        found: list[Block] = []
        for block_hash in hashes:
            block = self.get(block_hash)
            if block is None:
                break
            found.append(block)
        return found

    knows_all_files = True

    def find_files(self, names: Iterable[BlockHash], fingerprint: ModelFingerprint) -> Future[int] | None:
        """Nothing lies anywhere else."""

    def block_bytes(self, hashes: Sequence[BlockHash]) -> dict[BlockHash, int]:
        """Return the tensor bytes of those of these blocks that are stored."""
        return {name: block.num_bytes for name in hashes if (block := self.get(name)) is not None}

    def children(self, parent: BlockHash) -> list[Block]:
        """Return the stored blocks that directly follow `parent`, most recently used first."""
        found = [entry for entry in self._entries.values() if entry.record.block.parent == parent]
        found.sort(key=lambda entry: (entry.last_used, entry.order), reverse=True)
        return [entry.record.block for entry in found]

    def read(self, block_hash: BlockHash) -> Future[BlockRecord | None]:
        """Return a block; None when it is missing or broken, and then it is gone."""
        result: Future[BlockRecord | None] = Future()
        entry = self._entries.get(block_hash)
        if entry is None:
            result.set_result(None)
        elif entry.broken:
            del self._entries[block_hash]
            self._lost[block_hash] = "damaged"
            self._count(num_quarantined=1)
            result.set_result(None)
        else:
            self._count(num_reads=1, bytes_read=entry.record.block.num_bytes)
            result.set_result(entry.record)
        return result

    def lost_file(self, names: Sequence[BlockHash]) -> LostFile | None:
        """Return what befell the first of these blocks that was lost."""
        otherwise: LostFile | None = "pruned" if self._was_cleared else None
        return next((self._lost[name] for name in names if name in self._lost), otherwise)

    def wants(self, block_hash: BlockHash) -> bool:
        """Whether the policy would take it."""
        return self._admits(block_hash)

    def write(self, records: Sequence[BlockRecord]) -> Future[WriteResult]:
        """Store records now, or when `catch_up` is called."""
        result: Future[WriteResult] = Future()
        result.set_running_or_notify_cancel()
        if self.hold_writes and not self.closed:
            self._waiting.append(_Waiting(list(records), result))
        else:
            result.set_result(self._store(records))
        return result

    def _store(self, records: Sequence[BlockRecord]) -> WriteResult:
        refused: list[BlockHash] = []
        reason = "the store is closed" if self.closed else ""
        num_written = num_present = num_bytes = 0
        admitted: list[BlockRecord] = []
        for record in records:
            if reason or not self._admits(record.block.block_hash):
                refused.append(record.block.block_hash)
            else:
                admitted.append(record)
        reason = reason or (f"write policy {self.write_policy}" if refused else "")
        fresh: list[BlockRecord] = []
        for record in _parents_first(admitted):
            if record.block.block_hash in self._entries:
                num_present += 1
            else:
                fresh.append(record)
        fitting = self._make_room(fresh)
        if self.refuse:
            refused += [record.block.block_hash for record in fresh]
            fitting, reason = [], self.refuse
        elif len(fitting) < len(fresh):
            refused += [record.block.block_hash for record in fresh[len(fitting) :]]
            reason = "the cap is reached"
        self._time += 1
        for record in fitting:
            self._entries[record.block.block_hash] = _Entry(record, self._time, next(self._order))
            self._lost.pop(record.block.block_hash, None)
            self.writes.append(record.block.block_hash)
            num_written += 1
            num_bytes += self._size_of(record)
        self._count(num_writes=num_written, bytes_written=num_bytes)
        return WriteResult(
            num_written=num_written,
            num_present=num_present,
            num_refused=len(refused),
            bytes_written=num_bytes,
            reason=reason,
            refused=tuple(refused),
        )

    def _admits(self, block_hash: BlockHash) -> bool:
        if self.write_policy == "second_use":
            known = block_hash in self._seen
            self._seen.add(block_hash)
            return known
        return self.write_policy == "always"

    def _make_room(self, fresh: Sequence[BlockRecord]) -> Sequence[BlockRecord]:
        """Return the leading blocks that fit after pruning."""
        if self.cap_bytes is None:
            return fresh
        fresh = self._leading(fresh, self.cap_bytes)
        spare = {record.block.parent for record in fresh}
        self._prune(self.cap_bytes - sum(map(self._size_of, fresh)), spare=spare)
        return self._leading(fresh, self.cap_bytes - self._bytes())

    def _leading(self, records: Sequence[BlockRecord], room: int) -> Sequence[BlockRecord]:
        for at, record in enumerate(records):
            room -= self._size_of(record)
            if room < 0:
                return records[:at]
        return records

    def _bytes(self) -> int:
        return sum(self._size_of(entry.record) for entry in self._entries.values())

    def _prune(self, target_bytes: int, *, spare: set[BlockHash]) -> int:
        kept = spare.union(*self._protected.values())
        before = self._bytes()
        while self._bytes() > target_bytes:
            parents = {entry.record.block.parent for entry in self._entries.values()}
            leaves = [name for name in self._entries if name not in parents and name not in kept]
            if not leaves:
                break
            oldest = min(leaves, key=lambda name: (self._entries[name].last_used, self._entries[name].order))
            del self._entries[oldest]
            self._count(num_pruned=1)
        return before - self._bytes()

    def touch(self, hashes: Sequence[BlockHash]) -> None:
        """Mark blocks as just used."""
        self._time += 1
        for block_hash in hashes:
            if self.write_policy == "second_use":
                self._seen.add(block_hash)
            if block_hash in self._entries:
                self._entries[block_hash].last_used = self._time

    def delete(self, hashes: Sequence[BlockHash], *, scrub: bool = True) -> Future[int]:
        """Remove these blocks and no others, also those whose write is held."""
        freed: Future[int] = Future()
        freed.set_result(self._delete(hashes))
        return freed

    def _delete(self, hashes: Sequence[BlockHash]) -> int:
        for write in self._waiting:
            write.records = [record for record in write.records if record.block.block_hash not in set(hashes)]
        before = self._bytes()
        for block_hash in hashes:
            self._entries.pop(block_hash, None)
        return before - self._bytes()

    def protect(self, hashes: Sequence[BlockHash], *, owner: str) -> None:
        """Replace the set of blocks that `owner` pins."""
        self._protected[owner] = frozenset(hashes)

    def verify(self, *, fix: bool) -> VerifyReport:
        """Count broken blocks; with `fix`, remove them."""
        broken = [name for name, entry in self._entries.items() if entry.broken]
        report = VerifyReport(
            num_checked=len(self._entries), num_broken=len(broken), num_missing=0, num_orphaned=0
        )
        if fix:
            self._delete(broken)
            self._count(num_quarantined=len(broken))
        return report

    def prune(self, *, target_bytes: int | None = None, dry_run: bool = False) -> int:
        """Remove least recently used unpinned blocks down to `target_bytes` (default: the cap), or say how much."""
        target = self.cap_bytes if target_bytes is None else target_bytes
        if target is None:
            return 0
        entries, stats = self._entries.copy(), self._stats
        freed = self._prune(target, spare=set())
        if dry_run:
            self._entries, self._stats = entries, stats
        else:
            self._lost.update(dict.fromkeys(entries.keys() - self._entries.keys(), "pruned"))
        return freed

    def sizes(self) -> tuple[ModelSize, ...]:
        """Return what each model's blocks take, largest first."""
        blocks: Counter[tuple[ModelFingerprint, str]] = Counter()
        num_bytes: Counter[tuple[ModelFingerprint, str]] = Counter()
        for entry in self._entries.values():
            key = (entry.record.fingerprint, entry.record.layout)
            blocks[key] += 1
            num_bytes[key] += self._size_of(entry.record)
        return tuple(ModelSize(*key, blocks[key], size) for key, size in num_bytes.most_common())

    def clear(self, fingerprint: ModelFingerprint | None = None) -> int:
        """Remove all blocks (of one model), also those whose write is held."""
        for write in self._waiting:
            write.records = [r for r in write.records if fingerprint not in (None, r.fingerprint)]
        self._was_cleared = True
        return self._delete(
            [name for name, entry in self._entries.items() if fingerprint in (None, entry.record.fingerprint)]
        )

    def stats(self) -> WarmStats:
        """Return the store's numbers."""
        waiting = sum(len(write.records) for write in self._waiting)
        stored = self._bytes()
        return replace(
            self._stats, num_blocks=len(self._entries), bytes_stored=stored, pending_writes=waiting
        )

    def flush(self, timeout_s: float | None = None) -> bool:
        """Let held writes become durable."""
        self.catch_up()
        return True

    def close(self) -> None:
        """Flush and take no more writes. Idempotent; what is stored can still be looked at."""
        self.flush()
        self.closed = True

    def _count(self, **added: int) -> None:
        self._stats = replace(
            self._stats, **{name: getattr(self._stats, name) + value for name, value in added.items()}
        )


class MemoryAgentArchive:
    """`AgentArchive` in a dictionary; `break_agent` makes one unreadable."""

    def __init__(self, *, hold_answers: bool = False) -> None:
        """Begin empty; with `hold_answers` questions of `own_among` wait for `answer`."""
        self.hold_answers = hold_answers
        self.refuses = False
        """Whether nothing can be stored or deleted for good (a full disk)."""
        self._unsaved: set[AgentId] = set()
        self._questions: list[tuple[AgentId, Sequence[BlockHash], Future[list[BlockHash]]]] = []
        self._agents: dict[AgentId, Agent] = {}
        self._broken: set[AgentId] = set()
        self._past: dict[AgentId, set[BlockHash]] = {}

    def break_agent(self, agent_id: AgentId) -> None:
        """Make a stored agent unreadable until it is saved again."""
        self._broken.add(agent_id)

    def save(self, agent: Agent) -> None:
        """Store the agent; newest wins."""
        before = self._agents.get(agent.agent_id)
        for name in set(before.block_table if before else ()) - set(agent.block_table):
            self.note_block(agent.agent_id, name)
        self._agents[agent.agent_id] = agent
        self._broken.discard(agent.agent_id)
        (self._unsaved.add if self.refuses else self._unsaved.discard)(agent.agent_id)

    def is_saved(self, agent_id: AgentId) -> Future[bool]:
        """Return whether the disk had room for the agent when it was saved last."""
        is_saved: Future[bool] = Future()
        is_saved.set_result(agent_id not in self._unsaved)
        return is_saved

    def is_unsaved(self, agent_id: AgentId) -> bool:
        """Whether it had no room for the agent when it was saved last."""
        return agent_id in self._unsaved

    @property
    def num_unsaved(self) -> int:
        """How many agents it had no room for."""
        return len(self._unsaved)

    def load(self, agent_id: AgentId) -> Agent | None:
        """Return the agent, or None if it is not there or unreadable."""
        return None if agent_id in self._broken else self._agents.get(agent_id)

    def load_recent(self, *, max_agents: int, max_bytes: int) -> list[Agent]:
        """Return the most recently used readable agents, newest first."""
        found: list[Agent] = []
        for agent_id in self.ids():
            agent = self.load(agent_id)
            if agent is not None:
                found.append(agent)
            if len(found) >= max_agents or sum(one.transcript.num_bytes for one in found) >= max_bytes:
                break
        return found

    def page(self, query: AgentQuery) -> SummaryPage:
        """Return the summaries of a page of agents."""
        cursor = None if query.after is None else self.summary(query.after)
        after = None if cursor is None else sort_key(cursor, query.order)
        return page_of(map(summary_of, self._agents.values()), query, after=after)

    def summary(self, agent_id: AgentId) -> AgentSummary | None:
        """Return an agent's summary, or None if it is not there."""
        agent = self._agents.get(agent_id)
        return None if agent is None else summary_of(agent)

    def block_tables(self, agents: Sequence[AgentId]) -> dict[AgentId, tuple[BlockHash, ...]]:
        """Return the block tables of these agents."""
        return {name: self._agents[name].block_table for name in agents if name in self._agents}

    def first_blocks(self) -> dict[AgentId, BlockHash | None]:
        """Return each agent's first block."""
        return {name: next(iter(agent.block_table), None) for name, agent in self._agents.items()}

    def expired(self, now: float, *, limit: int) -> list[AgentId]:
        """Return agents whose time to live is over, at most `limit`."""
        ends = {name: agent.expires_at() for name, agent in self._agents.items()}
        return [name for name, end in ends.items() if end is not None and end <= now][:limit]

    def surplus_anonymous(self, *, used_before: float, max_agents: int, limit: int) -> list[AgentId]:
        """Return anonymous agents not used since a time, then the longest unused ones beyond a number."""
        anonymous = [agent_id for agent_id in self.ids() if self._agents[agent_id].anonymous]
        unused = [name for name in anonymous if self._agents[name].last_used_at <= used_before]
        return list(dict.fromkeys([*reversed(unused), *reversed(anonymous[max_agents:])]))[:limit]

    def pinned(self) -> list[Agent]:
        """Return the readable agents that are or were pinned, oldest use first."""
        readable = [agent for agent_id in self.ids() if (agent := self.load(agent_id)) is not None]
        return [agent for agent in reversed(readable) if agent.pinned or agent.pinned_until is not None]

    def ids(self) -> list[AgentId]:
        """Return all ids, most recently used first."""
        return sorted(self._agents, key=lambda agent_id: self._agents[agent_id].last_used_at, reverse=True)

    def delete(self, agent_id: AgentId) -> Future[Deletion]:
        """Forget the agent at once, or not at all."""
        deletion: Future[Deletion] = Future()
        if self.refuses:
            deletion.set_result("no room")
            return deletion
        deletion.set_result("done")
        self._agents.pop(agent_id, None)
        self._past.pop(agent_id, None)
        self._broken.discard(agent_id)
        return deletion

    def holders(self, block_hash: BlockHash) -> list[AgentId]:
        """Return the agents that name a block, or named or made it before."""
        now = {agent_id for agent_id, agent in self._agents.items() if block_hash in agent.block_table}
        return sorted(now | {agent_id for agent_id, past in self._past.items() if block_hash in past})

    def note_block(self, agent_id: AgentId, block_hash: BlockHash) -> None:
        """Note that an agent made a block."""
        self._past.setdefault(agent_id, set()).add(block_hash)

    def own_blocks(self, agent_id: AgentId) -> list[BlockHash]:
        """Return the blocks that this agent names, or named or made before, and no other does."""
        agent = self._agents.get(agent_id)
        mine = {*self._past.get(agent_id, ()), *(agent.block_table if agent else ())}
        return sorted(name for name in mine if self.holders(name) == [agent_id])

    def own_among(self, agent_id: AgentId, blocks: Sequence[BlockHash]) -> Future[list[BlockHash]]:
        """Return those of these blocks that no other agent names, or named or made before."""
        own: Future[list[BlockHash]] = Future()
        self._questions.append((agent_id, blocks, own))
        if not self.hold_answers:
            self.answer()
        return own

    def answer(self) -> None:
        """Answer the questions that were held."""
        questions, self._questions = self._questions, []
        for agent_id, blocks, own in questions:
            own.set_result([name for name in blocks if set(self.holders(name)) <= {agent_id}])

    def forget_blocks(self, blocks: Sequence[BlockHash], *, agent_id: AgentId | None = None) -> None:
        """Forget which agent made these blocks."""
        for one, past in self._past.items():
            if agent_id in (None, one):
                past.difference_update(blocks)

    def forget_all_blocks(self) -> None:
        """Forget which agents made which blocks."""
        self._past.clear()

    def scrub(self) -> None:
        """There are no files."""


def _parents_first(records: Sequence[BlockRecord]) -> list[BlockRecord]:
    by_hash = {record.block.block_hash: record for record in records}
    ordered: dict[BlockHash, BlockRecord] = {}

    def place(record: BlockRecord) -> None:
        parent = by_hash.get(record.block.parent)
        if parent is not None and parent.block.block_hash not in ordered:
            place(parent)
        ordered[record.block.block_hash] = record

    for record in by_hash.values():
        if record.block.block_hash not in ordered:
            place(record)
    return list(ordered.values())
