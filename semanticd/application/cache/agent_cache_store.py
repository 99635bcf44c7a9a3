"""AgentCacheStore: every agent's KV blocks, hot in RAM and warm on disk, as one store.

The pool knows what is hot; tensors lie beside it under the same hashes; the warm store keeps what was written.
A block enters dirty (`publish`), becomes clean when its bytes are durable, and leaves RAM only when clean, unless it
can never be written (the store refused it), which is counted as lost.

Changes happen on the engine thread only. Readers on other threads take `lock`, which is held for book-keeping alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from semanticd.application.cache.cache_counters import CacheCounters
from semanticd.application.cache.write_behind import WriteBehind
from semanticd.application.ports.inference import BlockPayload, ModelRunner, PrefixPart
from semanticd.application.ports.telemetry import Log, Metrics
from semanticd.application.ports.warm_store import BlockRecord, WarmStore
from semanticd.domain.block import Block, hash_block
from semanticd.domain.block_pool import BlockPool, PoolLedger
from semanticd.domain.errors import CacheError
from semanticd.domain.ids import AgentId, BlockHash, ModelFingerprint, SequenceId
from semanticd.domain.model_cache_spec import ModelCacheSpec
from semanticd.domain.prefix_index import PrefixMatch, match_prefix


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
        self._metrics = metrics
        self._log = log
        self._payloads: dict[BlockHash, BlockPayload] = {}
        self._runners: dict[ModelFingerprint, ModelRunner] = {}
        self._owner: dict[BlockHash, ModelFingerprint] = {}
        self.on_room: Callable[[], None] = lambda: None
        """Called on the engine thread when writes are done, so that what waits for room is tried again."""
        self.writes = WriteBehind(
            pool=self.pool,
            lock=self.lock,
            warm=warm,
            post=post,
            log=log,
            record_of=self._record_of,
            let_go=self._let_go,
            on_room=lambda: self.on_room(),
        )

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

    def match(
        self, spec: ModelCacheSpec, token_ids: tuple[int, ...], *, limit: int, root: BlockHash | None = None
    ) -> PrefixMatch:
        """Return the longest prefix of at most `limit` tokens that is hot or warm, below `root` (None: the shared)."""
        with self.lock:
            return match_prefix(
                token_ids, spec=spec, limit=limit, get=self._get, children=self.children, root=root
            )

    def _get(self, block_hash: BlockHash) -> Block | None:
        hot = self.pool.get(block_hash)
        if hot is not None or self._warm is None:
            return hot
        return self._warm.get(block_hash)

    def children(self, parent: BlockHash) -> list[Block]:
        """Return the known blocks that directly follow `parent`, hot or warm; to be called under `lock`."""
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

    def record(self, block_hash: BlockHash) -> Future[BlockRecord | None]:
        """Return a block with its bytes, hot or warm; None when it is gone. Engine thread."""
        block = self.pool.get(block_hash)
        if block is None:
            return self.read(block_hash)
        future: Future[BlockRecord | None] = Future()
        future.set_result(self._record_of(block))
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
        self.writes.used_again(block.block_hash)
        self.counters.evictions[reason] = self.counters.evictions.get(reason, 0) + 1
        self._metrics.count("cache_evictions_total", reason=reason)

    # Writing behind.

    def persist(self, *, limit_bytes: int | None = None) -> int:
        """Hand dirty blocks to the warm store, parents first; returns how many bytes were handed over."""
        return self.writes.persist(limit_bytes=limit_bytes)

    @property
    def num_writing(self) -> int:
        """Blocks handed to the warm store and not yet durable."""
        return len(self.writes.writing)

    def _record_of(self, block: Block) -> BlockRecord:
        fingerprint = self._owner[block.block_hash]
        runner = self._runners[fingerprint]
        tensors = runner.dump(self._payloads[block.block_hash])
        return BlockRecord(block, fingerprint, runner.spec.layout, tensors)

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
        return self.pool.free_bytes + self.pool.evictable_bytes() + self.writes.in_flight_bytes

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
                refused = block.block_hash in self.writes.refused and self.pool.can_leave(block.block_hash)
                if refused and self._let_go(block, reason):
                    freed += block.num_bytes
        return freed

    def _let_go(self, block: Block, reason: str) -> bool:
        """Take a block out of RAM if it is on disk; if not, once it is. Only need of room justifies a loss."""
        name = block.block_hash
        if self.pool.is_dirty(name):
            if name not in self.writes.refused:
                self.writes.leaving[name] = reason
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
                if block.block_hash in self.writes.writing:
                    self.writes.leaving[block.block_hash] = reason
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
                for c in self.children(h)
                if c.kind == "state" and c.block_hash not in own
            ]
            self.set_pinned(agent_id, False)
            self.pool.drop_agent(agent_id)
            freed = 0
            for name in own:
                block = self.pool.get(name)
                if block is None:
                    continue
                if name in self.writes.writing:
                    self.writes.leaving[name] = "deleted"
                    self.writes.called_off.add(name)
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
                if block.block_hash not in self.writes.writing and not self.pool.is_locked(block.block_hash):
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
                self.writes.used_again(name)
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
            in_flight = self.writes.in_flight_bytes
            assert self.pool.in_flight_bytes == in_flight, (
                f"in flight {self.pool.in_flight_bytes} != {in_flight}"
            )
            for name, payload in self._payloads.items():
                block = self.pool.get(name)
                size = block.num_bytes if block else None
                assert size == payload.num_bytes, "a block's size changed"
