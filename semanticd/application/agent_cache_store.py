"""AgentCacheStore: every agent's KV blocks, hot in RAM and warm on disk, as one store.

The pool knows what is hot; tensors lie beside it under the same hashes; the warm store keeps what was written.
A block enters dirty (`publish`), becomes clean when its bytes are durable, and leaves RAM only when clean, unless it
can never be written (the store refused it), which is counted as lost.

Changes happen on the engine thread only. Readers on other threads take `lock`, which is held for book-keeping, never
while tensors are computed or files are read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from semanticd.application.ports.cache_store import BlockRecord, WarmStore, WriteResult
from semanticd.application.ports.inference import BlockPayload, ModelRunner, PrefixPart
from semanticd.application.ports.telemetry import Log, Metrics
from semanticd.application.write_watch import WriteWatch
from semanticd.domain.block import Block, hash_block
from semanticd.domain.block_pool import BlockPool, PoolLedger
from semanticd.domain.errors import CacheError
from semanticd.domain.ids import AgentId, BlockHash, ModelFingerprint, SequenceId
from semanticd.domain.model_cache_spec import ModelCacheSpec
from semanticd.domain.prefix_index import PrefixMatch, match_prefix

MAX_IN_FLIGHT_BYTES = 512 * 1024 * 1024
"""Write-behind pauses while this many bytes wait for the disk."""


@dataclass(slots=True)
class CacheCounters:
    """Totals since the start."""

    hot_hit_tokens: int = 0
    warm_hit_tokens: int = 0
    computed_tokens: int = 0
    evictions: dict[str, int] = field(default_factory=dict)
    lost_blocks: int = 0
    restored_bytes: int = 0
    restore_s: float = 0.0


class AgentCacheStore:
    """The hot and the warm tier behind one door."""

    def __init__(
        self,
        *,
        budget_bytes: int,
        max_agents_in_memory: int,
        warm: WarmStore | None,
        post: Callable[[Callable[[], None]], None],
        metrics: Metrics,
        log: Log,
    ) -> None:
        """Begin empty; `post` runs a function on the engine thread soon."""
        self.pool = BlockPool(budget_bytes=budget_bytes)
        self.lock = threading.RLock()
        self.counters = CacheCounters()
        self._max_agents = max_agents_in_memory
        self._warm = warm
        self._post = post
        self._metrics = metrics
        self._log = log
        self._payloads: dict[BlockHash, BlockPayload] = {}
        self._runners: dict[ModelFingerprint, ModelRunner] = {}
        self._owner: dict[BlockHash, ModelFingerprint] = {}
        self._writing: dict[BlockHash, int] = {}
        self._leaving: dict[BlockHash, str] = {}
        self._unsaveable: set[BlockHash] = set()
        self._watch = WriteWatch()
        self._unwritten: set[BlockHash] = set()
        """Blocks whose writing was called off because their agent was deleted; some other may still use them."""
        self.on_room: Callable[[], None] = lambda: None
        """Called on the engine thread when writes are done, so that what waits for room is tried again."""

    # Models.

    def register_model(self, runner: ModelRunner) -> None:
        """Let blocks of this model be restored and written."""
        self._runners[runner.spec.fingerprint] = runner

    def forget_model(self, fingerprint: ModelFingerprint) -> None:
        """Drop the model's hot blocks (persisted before by `persist`); its warm blocks stay."""
        with self.lock:
            for block in [b for b in self.pool if self._owner.get(b.block_hash) == fingerprint]:
                self._remove(block, "model_unloaded")
            self._runners.pop(fingerprint, None)

    # Finding.

    def match(self, spec: ModelCacheSpec, token_ids: tuple[int, ...], *, limit: int) -> PrefixMatch:
        """Return the longest prefix of at most `limit` tokens that is hot or warm."""
        with self.lock:
            return match_prefix(token_ids, spec=spec, limit=limit, get=self._get, children=self._children)

    def _get(self, block_hash: BlockHash) -> Block | None:
        hot = self.pool.get(block_hash)
        if hot is not None or self._warm is None:
            return hot
        return self._warm.get(block_hash)

    def _children(self, parent: BlockHash) -> list[Block]:
        found = {block.block_hash: block for block in self.pool.children(parent)}
        if self._warm is not None:
            for block in self._warm.children(parent):
                found.setdefault(block.block_hash, block)
        return list(found.values())

    def block(self, block_hash: BlockHash) -> Block | None:
        """Return a block's facts, hot or warm."""
        with self.lock:
            return self._get(block_hash)

    def is_hot(self, block_hash: BlockHash) -> bool:
        """Whether the block's tensors are in RAM."""
        return block_hash in self._payloads

    # Restoring.

    def read(self, block_hash: BlockHash) -> Future[BlockRecord | None]:
        """Begin to read a warm block."""
        if self._warm is None:
            future: Future[BlockRecord | None] = Future()
            future.set_result(None)
            return future
        return self._warm.read(block_hash)

    def promote(self, record: BlockRecord) -> bool:
        """Make a block that was read hot; False when it does not fit its model or the budget."""
        if record.block.block_hash in self.pool:
            return True
        payload = self.load(record)
        if payload is None:
            return False
        self._insert(record.block, payload, record.fingerprint, dirty=False)
        return True

    def load(self, record: BlockRecord) -> BlockPayload | None:
        """Return the tensors of a block that was read; None when it does not fit its model or the budget."""
        runner = self._runners.get(record.fingerprint)
        if runner is None or not self.make_room(record.block.num_bytes):
            return None
        try:
            return runner.restore(record.tensors)
        except CacheError as error:
            self._log.warning("block_not_restored", block=record.block.block_hash.hex(), reason=error.message)
            return None

    def prefix_parts(self, match: PrefixMatch) -> list[PrefixPart]:
        """Return the tensors of a match whose blocks are all hot."""
        return [PrefixPart(self._payloads[m.block.block_hash], m.num_tokens) for m in match.blocks]

    def payload(self, block_hash: BlockHash) -> BlockPayload:
        """Return a hot block's tensors."""
        return self._payloads[block_hash]

    # Moving between machines.

    def names_to_move(self, table: Sequence[BlockHash]) -> list[BlockHash]:
        """Return a table's blocks and the snapshots behind them, parents first."""
        found: dict[BlockHash, None] = {}
        with self.lock:
            for name in table:
                states = [child.block_hash for child in self._children(name) if child.kind == "state"]
                found |= dict.fromkeys([name, *states])
        return list(found)

    def record(self, block_hash: BlockHash) -> Future[BlockRecord | None]:
        """Return a block with its bytes, hot or warm; None when it is gone. Engine thread."""
        block = self.pool.get(block_hash)
        if block is None:
            return self.read(block_hash)
        fingerprint = self._owner[block_hash]
        runner = self._runners[fingerprint]
        future: Future[BlockRecord | None] = Future()
        tensors = runner.dump(self._payloads[block_hash])
        future.set_result(BlockRecord(block, fingerprint, runner.spec.layout, tensors))
        return future

    def adopt(self, records: Sequence[BlockRecord]) -> Future[WriteResult]:
        """Hand blocks from elsewhere to the warm store; what it refuses may be promoted. Any thread."""
        if self._warm is not None:
            return self._warm.write(records)
        names = tuple(record.block.block_hash for record in records)
        future: Future[WriteResult] = Future()
        future.set_result(WriteResult(0, 0, len(names), 0, "there is no warm store", names))
        return future

    # Publishing.

    def publish(
        self,
        runner: ModelRunner,
        sequence_id: SequenceId,
        *,
        parent: BlockHash,
        token_ids: tuple[int, ...],
        start: int,
    ) -> BlockHash:
        """Keep the KV of `token_ids`, which lie at positions `start`… of the running sequence; returns its name."""
        spec = runner.spec
        name = hash_block(
            fingerprint=spec.fingerprint, layout=spec.layout, parent=parent, token_ids=token_ids
        )
        if name not in self.pool:
            payload = runner.copy_block(sequence_id, start, start + len(token_ids))
            # What others left behind makes room. If there is nothing to evict the block is kept all the same: the
            # budget is overdrawn by at most what the running sequence computed, and the next admission waits.
            self.make_room(payload.num_bytes)
            durable = self._warm is not None and self._warm.get(name) is not None
            block = Block(name, parent, token_ids, payload.num_bytes)
            self._insert(block, payload, spec.fingerprint, dirty=not durable)
        return name

    def publish_state(
        self, runner: ModelRunner, sequence_id: SequenceId, *, parent: BlockHash
    ) -> BlockHash | None:
        """Keep a snapshot of the layers that cannot be cut, taken right after block `parent`; returns its name."""
        spec = runner.spec
        if spec.cuts_anywhere:
            return None
        name = hash_block(
            fingerprint=spec.fingerprint, layout=spec.layout, parent=parent, token_ids=(), kind="state"
        )
        if self._get(name) is not None:
            return name
        payload = runner.copy_state(sequence_id)
        if payload is None:
            return None
        self.make_room(payload.num_bytes)
        block = Block(name, parent, (), payload.num_bytes, kind="state")
        self._insert(block, payload, spec.fingerprint, dirty=True)
        return name

    def _insert(self, block: Block, payload: BlockPayload, owner: ModelFingerprint, *, dirty: bool) -> None:
        with self.lock:
            self.pool.insert(block, dirty=dirty and self._warm is not None)
            self._payloads[block.block_hash] = payload
            self._owner[block.block_hash] = owner

    def _remove(self, block: Block, reason: str) -> None:
        if self.pool.is_dirty(block.block_hash):
            self.counters.lost_blocks += 1
            self._metrics.count("cache_lost_blocks_total")
        self.pool.remove(block.block_hash)
        del self._payloads[block.block_hash]
        del self._owner[block.block_hash]
        self._unsaveable.discard(block.block_hash)
        self._leaving.pop(block.block_hash, None)
        self.counters.evictions[reason] = self.counters.evictions.get(reason, 0) + 1
        self._metrics.count("cache_evictions_total", reason=reason)

    # Writing behind.

    def persist(self, *, limit_bytes: int | None = None) -> int:
        """Hand dirty blocks to the warm store, parents first; returns how many bytes were handed over."""
        if self._warm is None:
            return 0
        handed = 0
        records: list[BlockRecord] = []
        with self.lock:
            for block in self.pool.dirty_blocks():
                if block.block_hash in self._writing or block.block_hash in self._unsaveable:
                    continue
                if self.pool.in_flight_bytes + handed + block.num_bytes > MAX_IN_FLIGHT_BYTES and records:
                    break
                if handed + block.num_bytes > self.pool.free_bytes and (records or self._writing):
                    # Bytes on their way to the disk count as well: write piece by piece rather than overdraw.
                    break
                if limit_bytes is not None and handed >= limit_bytes:
                    break
                if not self._warm.wants(block.block_hash):
                    # Asked before its tensors are turned into bytes: a policy may refuse a block at every turn.
                    self._unsaveable.add(block.block_hash)
                    continue
                fingerprint = self._owner[block.block_hash]
                runner = self._runners[fingerprint]
                tensors = runner.dump(self._payloads[block.block_hash])
                records.append(BlockRecord(block, fingerprint, runner.spec.layout, tensors))
                self._writing[block.block_hash] = block.num_bytes
                handed += block.num_bytes
            self.pool.lock([record.block.block_hash for record in records])
            self.pool.in_flight_bytes += handed
        if records:
            names = [record.block.block_hash for record in records]
            future = self._warm.write(records)
            future.add_done_callback(lambda done: self._post(lambda: self._written(names, done.result())))
        return handed

    def _written(self, names: Sequence[BlockHash], result: WriteResult) -> None:
        with self.lock:
            for name in names:
                num_bytes = self._writing.pop(name)
                self.pool.in_flight_bytes -= num_bytes
                self.pool.unlock([name])
                reason = self._leaving.pop(name, None)
                called_off = name in self._unwritten
                self._unwritten.discard(name)
                if reason == "deleted" or (self._warm is not None and self._warm.get(name) is not None):
                    self.pool.mark_clean(name)
                elif not called_off:
                    self._unsaveable.add(name)
                block = self.pool.get(name)
                if reason and block and self.pool.can_leave(name):
                    self._let_go(block, reason)
        self._watch.ended(names)
        if result.num_refused:
            self._log.warning("blocks_not_written", num_blocks=result.num_refused, reason=result.reason)
        if self._leaving:
            self.persist()
        self.on_room()

    def spare(self, block_hash: BlockHash) -> bool:
        """Call off the writing of a block that has not begun; it stays in RAM until room is needed."""
        with self.lock:
            if block_hash in self._writing or not self.pool.is_dirty(block_hash):
                return False
            self.pool.mark_clean(block_hash)
            return True

    def retry_refused(self) -> None:
        """Offer blocks to the warm store again that it refused: a disk has room again, a new day a new budget."""
        with self.lock:
            self._unsaveable.clear()
        self.persist()

    @property
    def num_writing(self) -> int:
        """Blocks handed to the warm store and not yet durable."""
        return len(self._writing)

    def when_durable(self, names: Sequence[BlockHash], done: Callable[[], None]) -> None:
        """Call `done` on the engine thread when what was handed over of these blocks is durable, or was refused."""
        self._watch.add((name for name in names if name in self._writing), done)

    # Room.

    def make_room(self, num_bytes: int) -> bool:
        """Evict until `num_bytes` fit; False when that needs writes to finish first or can not be done."""
        with self.lock:
            missing = num_bytes - self.pool.free_bytes
            if missing <= 0:
                return True
            self._evict(self.pool.victims(missing), "budget")
            return self.pool.free_bytes >= num_bytes

    def could_free(self) -> int:
        """Bytes that eviction could make free, now or once writes are done."""
        return self.pool.free_bytes + self.pool.evictable_bytes() + sum(self._writing.values())

    def _evict(self, blocks: Sequence[Block], reason: str) -> int:
        freed = 0
        waiting = False
        for block in blocks:
            if self._let_go(block, reason):
                freed += block.num_bytes
            else:
                waiting = True
        if waiting:
            self.persist()
            for block in blocks:
                # What has just turned out never to be written need not wait for a write to end.
                refused = block.block_hash in self._unsaveable and self.pool.can_leave(block.block_hash)
                if refused and self._let_go(block, reason):
                    freed += block.num_bytes
        return freed

    def _let_go(self, block: Block, reason: str) -> bool:
        """Take a block out of RAM if it is on disk; if not, once it is. Only need of room justifies a loss."""
        name = block.block_hash
        if self.pool.is_dirty(name):
            if name not in self._unsaveable:
                self._leaving[name] = reason
                return False
            if reason != "budget":
                return False
        self._remove(block, reason)
        return True

    def evict_agent(self, agent_id: AgentId, *, reason: str = "command") -> int:
        """Demote the agent's blocks that no other agent holds; returns the bytes that left at once."""
        with self.lock:
            blocks = []
            for block in self.pool.exclusive_blocks(agent_id):
                if block.block_hash in self._writing:
                    self._leaving[block.block_hash] = reason
                elif self.pool.can_leave(block.block_hash):
                    blocks.append(block)
            return self._evict(blocks, reason)

    def limit_agents(self, *, sparing: frozenset[AgentId] = frozenset()) -> None:
        """Demote the least recently used agents until at most the configured number is hot."""
        with self.lock:
            hot = self.pool.hot_agents()
            excess = len(hot) - self._max_agents
            for agent_id in hot:
                if excess <= 0:
                    return
                if agent_id in sparing or any(self.pool.is_pinned(h) for h in self.pool.table(agent_id)):
                    continue
                self.evict_agent(agent_id, reason="max_agents")
                excess -= 1

    def delete_agent(self, agent_id: AgentId, *, shared_with_others: Callable[[BlockHash], bool]) -> int:
        """Drop the agent's table and the blocks that nobody else holds, on disk too; returns bytes freed."""
        with self.lock:
            table = self.pool.table(agent_id)
            own = [h for h in table if self.pool.holders(h) <= {agent_id} and not shared_with_others(h)]
            # Snapshots of earlier turns are in nobody's table any more: they go with the block they follow.
            own += [
                c.block_hash
                for h in own
                for c in self._children(h)
                if c.kind == "state" and c.block_hash not in own
            ]
            self.set_pinned(agent_id, False)
            self.pool.drop_agent(agent_id)
            freed = 0
            for name in own:
                block = self.pool.get(name)
                if block is None:
                    continue
                if name in self._writing:
                    self._leaving[name] = "deleted"
                    self._unwritten.add(name)
                    continue
                self.pool.mark_clean(name)
                # One that is being copied for somebody at this moment leaves when room is needed.
                if self.pool.can_leave(name):
                    self._remove(block, "deleted")
                    freed += block.num_bytes
            if self._warm is not None:
                freed += self._warm.delete(own)
            return freed

    def clear(self) -> int:
        """Drop every hot block that is not in use, without writing it; returns the bytes freed."""
        freed = 0
        with self.lock:
            for block in list(self.pool):
                if block.block_hash not in self._writing and not self.pool.is_locked(block.block_hash):
                    self.pool.mark_clean(block.block_hash)
                    self._remove(block, "cleared")
                    freed += block.num_bytes
        return freed

    # Agents' tables.

    def set_table(self, agent_id: AgentId, table: Sequence[BlockHash], *, pinned: bool) -> None:
        """Note which blocks an agent holds."""
        with self.lock:
            self.pool.set_table(agent_id, table)
            self.set_pinned(agent_id, pinned)

    def touch_hot(self, table: Sequence[BlockHash]) -> None:
        """Stamp a chain of blocks as just used in RAM only."""
        with self.lock:
            self.pool.touch(table)

    def touch(self, table: Sequence[BlockHash]) -> None:
        """Stamp a chain of blocks (first to last) as just used, in both tiers."""
        with self.lock:
            self.pool.touch(table)
            for name in table:
                self._leaving.pop(name, None)
                # It is in use again: the disk may want it by now.
                self._unsaveable.discard(name)
            if self._warm is not None:
                self._warm.touch(table)

    def set_pinned(self, agent_id: AgentId, pinned: bool) -> None:
        """Pin or unpin an agent's blocks in both tiers."""
        with self.lock:
            was_pinned = self.pool.is_pinned_agent(agent_id)
            (self.pool.pin if pinned else self.pool.unpin)(agent_id)
            if self._warm is not None and (pinned or was_pinned):
                self._warm.protect(self.pool.table(agent_id) if pinned else (), owner=agent_id)

    def ledger(self) -> PoolLedger:
        """Return the byte ledger; callable from any thread."""
        with self.lock:
            return self.pool.ledger()

    def warm_bytes(self, table: Sequence[BlockHash]) -> int:
        """Return the tensor bytes of a table's blocks that are on disk."""
        return 0 if self._warm is None else sum(block.num_bytes for block in self._warm.get_many(table))

    def check_integrity(self) -> None:
        """Raise `AssertionError` when pool, tensors and writes disagree."""
        with self.lock:
            self.pool.check_integrity()
            assert set(self._payloads) == {block.block_hash for block in self.pool}, "tensors and pool differ"
            assert set(self._owner) == set(self._payloads), "owners and tensors differ"
            in_flight = sum(self._writing.values())
            assert self.pool.in_flight_bytes == in_flight, (
                f"in flight {self.pool.in_flight_bytes} != {in_flight}"
            )
            for name, payload in self._payloads.items():
                block = self.pool.get(name)
                size = block.num_bytes if block else None
                assert size == payload.num_bytes, "a block's size changed"
