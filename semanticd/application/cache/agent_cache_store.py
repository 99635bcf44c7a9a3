"""AgentCacheStore: every agent's KV blocks, hot in RAM and warm on disk, as one store.

The pool knows what is hot; tensors lie next to it under the same hashes; the warm store keeps what was written.
A block enters dirty (`publish`), becomes clean when its bytes are durable, and leaves RAM only when clean, unless it
can never be written (the store refused it), which is counted as lost.

Changes happen on the engine thread only, and none of them waits for the disk. Readers on other threads take `lock`,
which is held for book-keeping alone, never while tensors are copied.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

from semanticd.application.cache.chain_lookup import ChainLookup, joined
from semanticd.application.cache.reservation import Reservation
from semanticd.application.cache.write_behind import LEAVES_UNWRITTEN, WriteBehind
from semanticd.application.ports.inference import BlockPayload, ModelRunner, PrefixPart
from semanticd.application.ports.peers import Peers
from semanticd.application.ports.telemetry import Log, Metrics
from semanticd.application.ports.warm_store import BlockRecord, WarmStore, WriteResult
from semanticd.domain.block import Block, LostFile, hash_block
from semanticd.domain.block_chain import BlockChain
from semanticd.domain.block_pool import MAX_PINNED_SHARE, BlockPool, HotBlock, PoolLedger
from semanticd.domain.block_tree import OfferedBlocks
from semanticd.domain.errors import CacheError
from semanticd.domain.ids import AgentId, BlockHash, ModelFingerprint, SequenceId
from semanticd.domain.model_cache_spec import ModelCacheSpec
from semanticd.domain.prefix_index import PrefixMatch, match_prefix
from semanticd.domain.snapshots import SHARE_OF_BUDGET, SHARE_OF_CONVERSATION, state_name

PERSIST_STEP_BYTES = 32 * 1024 * 1024
"""Tensor bytes that are handed to the disk between two steps of the engine, at most (and one block at least)."""


@dataclass(slots=True)
class CacheCounters:
    """Savings and losses of the cache; totals since the start."""

    hot_hit_tokens: int = 0
    warm_hit_tokens: int = 0
    computed_tokens: int = 0
    evictions: dict[str, int] = field(default_factory=dict)
    lost_blocks: int = 0
    skipped_blocks: int = 0
    """Blocks that were computed and not kept because dirty blocks filled the budget."""
    restored_bytes: int = 0
    restore_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _NewBlock:
    """A block that is to be kept, and the position of its first token in the running sequence."""

    name: BlockHash
    parent: BlockHash
    token_ids: tuple[int, ...]
    start: int

    @property
    def span(self) -> tuple[int, int]:
        """Its positions."""
        return self.start, self.start + len(self.token_ids)


class AgentCacheStore:
    """The hot and the warm tier behind one interface."""

    def __init__(
        self,
        *,
        budget_bytes: int,
        warm: WarmStore | None,
        post: Callable[[Callable[[], None]], object],
        metrics: Metrics,
        log: Log,
        peers: Peers | None = None,
    ) -> None:
        """Begin empty; `post` runs a function on the engine thread soon. `peers` bring what is not here."""
        self.pool = BlockPool(budget_bytes=budget_bytes, has_disk=warm is not None)
        self.planned_bytes = budget_bytes
        """The budget while memory is not short."""
        self.lock = threading.RLock()
        self.counters = CacheCounters()
        self._warm = warm
        self.peers = peers
        """Machines that may have missing blocks."""
        self._post = post
        self._metrics = metrics
        self._log = log
        self._payloads: dict[BlockHash, BlockPayload] = {}
        self._runners: dict[ModelFingerprint, list[ModelRunner]] = {}
        """Loaded runners by fingerprint: two models with equal weights share their blocks."""
        self._owner: dict[BlockHash, ModelFingerprint] = {}
        self._writes = WriteBehind(pool=self.pool, warm=warm) if warm is not None else None
        self._writes_ended = False
        self._displaced: dict[BlockHash, Block] = {}
        """Blocks that are not hot while a running cache has their bytes; none that was deleted or cleared."""
        self._unwritten: set[BlockHash] = set()
        """Of these, those that left RAM before the disk had taken them."""
        self._to_check: list[BlockHash] = []
        """Blocks that the present round of checks has still to look at."""
        self.disk_stalled = False
        """Whether writes have not ended for so long that blocks may leave RAM unwritten (set by the engine)."""
        self.text_bytes = 0
        """Bytes of the conversations of the agents in memory, outside the budget (set by the agent registry)."""
        self._growth_bytes = 0
        self._set_aside_bytes = 0

    # Models.

    def register_model(self, runner: ModelRunner) -> None:
        """Let blocks of this model be restored and written."""
        self._runners.setdefault(runner.spec.fingerprint, []).append(runner)

    def forget_model(self, runner: ModelRunner) -> None:
        """Drop a model's hot blocks (write them before by `persist`); its warm blocks stay. Never raises.

        Blocks that another loaded model with equal weights uses stay hot; what is locked leaves when it is unlocked or
        room is needed.
        """
        fingerprint = runner.spec.fingerprint
        others = [other for other in self._runners.get(fingerprint, ()) if other is not runner]
        if others:
            self._runners[fingerprint] = others
            return
        self._runners.pop(fingerprint, None)
        with self.lock:
            for block in [b for b in self.pool if self._owner.get(b.block_hash) == fingerprint]:
                if self._writes is not None and self._writes.is_writing(block.block_hash):
                    self._writes.leave_once_written(block.block_hash, "model_unloaded")
                elif not self.pool.is_locked(block.block_hash):
                    self._remove(block, "model_unloaded")

    def write_first(self, fingerprint: ModelFingerprint) -> list[BlockHash]:
        """Hand a model's dirty blocks to the disk before all others from now on; returns those not written yet."""
        with self.lock:
            names = [
                name
                for name in self.pool.dirty_names()
                if self._owner[name] == fingerprint and not self._is_refused(name)
            ]
            self.pool.write_first(names)
        return names

    def is_unwritten(self, block_hash: BlockHash) -> bool:
        """Return whether a hot block is being written or can still be handed to the writer."""
        with self.lock:
            return self.pool.is_dirty(block_hash) and not self._is_refused(block_hash)

    # Finding.

    def match(
        self,
        spec: ModelCacheSpec,
        token_ids: tuple[int, ...],
        *,
        limit: int,
        root: BlockHash | None = None,
        chain: BlockChain | None = None,
        hot_only: bool = False,
        offered: OfferedBlocks | None = None,
    ) -> PrefixMatch:
        """Return the longest prefix of at most `limit` tokens that is hot or warm, below `root` (None: the shared).

        `chain` names the full blocks that `token_ids` begin with; `offered` are blocks of them that peers have.
        """
        warm = None if hot_only else self._warm
        lookup = ChainLookup(
            pool=self.pool,
            warm=warm,
            token_ids=token_ids,
            chain=chain,
            offered=offered,
            displaced={} if hot_only else self._displaced,
        )
        with self.lock:
            return match_prefix(
                token_ids,
                spec=spec,
                limit=limit,
                get=lookup.get,
                children=lookup.children,
                root=root,
                chain=chain,
            )

    def _get(self, block_hash: BlockHash) -> Block | None:
        here = self.pool.get(block_hash) or self._displaced.get(block_hash)
        if here is not None or self._warm is None:
            return here
        return self._warm.get(block_hash)

    def children(self, parent: BlockHash) -> list[Block]:
        """Return the known blocks that directly follow `parent`, hot or warm."""
        with self.lock:
            found = self.pool.children(parent)
        return found if self._warm is None else joined(found, self._warm.children(parent))

    def block(self, block_hash: BlockHash) -> Block | None:
        """Return a block's facts, hot or warm."""
        with self.lock:
            return self._get(block_hash)

    def is_hot(self, block_hash: BlockHash) -> bool:
        """Return whether the block's tensors are in RAM."""
        return block_hash in self._payloads

    def reserve(self) -> Reservation:
        """Return an empty reservation for a sequence."""
        return Reservation(self.pool, self.lock)

    # Restoring.

    @property
    def knows_all_files(self) -> bool:
        """Whether the disk index lists every stored block; see `WarmStore.find_files`."""
        return self._warm is None or self._warm.knows_all_files

    def find_files(self, names: Iterable[BlockHash], fingerprint: ModelFingerprint) -> Future[int] | None:
        """Look for these blocks' files while the disk's index may lack them; None: it knows all that is stored."""
        return None if self._warm is None else self._warm.find_files(names, fingerprint)

    def read(self, block_hash: BlockHash) -> Future[BlockRecord | None]:
        """Begin to read a block that is warm, or that a peer has."""
        if self.peers is not None and self.peers.holds(block_hash) and not self._is_warm(block_hash):
            return self.peers.read(block_hash)
        return self._read_warm(block_hash)

    def _is_warm(self, block_hash: BlockHash) -> bool:
        return self._warm is not None and self._warm.get(block_hash) is not None

    def _read_warm(self, block_hash: BlockHash) -> Future[BlockRecord | None]:
        if self._warm is None:
            future: Future[BlockRecord | None] = Future()
            future.set_result(None)
            return future
        return self._warm.read(block_hash)

    def lost_file(self, names: Sequence[BlockHash]) -> LostFile | None:
        """Return what happened to the first of these blocks whose file was lost since the start, or None."""
        return None if self._warm is None else self._warm.lost_file(names)

    def verify_soon(self, names: Iterable[BlockHash]) -> None:
        """Read blocks in the background, so that damaged ones are found and written again when they are computed."""
        for name in names:
            self._read_warm(name).add_done_callback(partial(self._verified, name))

    def _verified(self, block_hash: BlockHash, done: Future[BlockRecord | None]) -> None:
        # On the reader's thread.
        if not done.cancelled() and done.result() is None:
            self._post(partial(self._on_broken, block_hash))

    def _on_broken(self, block_hash: BlockHash) -> None:
        if self._warm is not None and self._warm.get(block_hash) is None:
            with self.lock:
                self.pool.mark_dirty(block_hash)

    def promote(self, record: BlockRecord) -> bool:
        """Make a block that was read hot; False when it does not fit its model or the budget."""
        if record.block.block_hash in self.pool:
            return True
        payload = self.load(record)
        if payload is None:
            return False
        # A block from a peer, or one deleted while it was read, is written as if it had been computed here.
        dirty = not self._is_warm(record.block.block_hash)
        self._insert(record.block, payload, record.fingerprint, dirty=dirty)
        return True

    def promote_from(
        self, runner: ModelRunner, sequence_id: SequenceId, blocks: Sequence[tuple[Block, int]]
    ) -> None:
        """Make displaced blocks hot from a running cache, which holds them at these positions.

        The caller has checked that there is room. Blocks whose size has changed are left out. Blocks that are not, or
        no longer, on disk are written.
        """
        spans = [(start, start + block.num_tokens) for block, start in blocks]
        payloads = runner.copy_blocks(sequence_id, spans)
        for (block, _), payload in zip(blocks, payloads, strict=True):
            if block.block_hash not in self.pool and payload.num_bytes == block.num_bytes:
                dirty = not self._is_warm(block.block_hash)
                self._insert(block, payload, runner.spec.fingerprint, dirty=dirty)

    def load(self, record: BlockRecord) -> BlockPayload | None:
        """Return the tensors of a block that was read; None when it does not fit its model or the budget."""
        runner = self._runner_of(record.fingerprint)
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
        record = self._record_of(block) if block is not None else None
        if record is None:
            return self._read_warm(block_hash)
        future: Future[BlockRecord | None] = Future()
        future.set_result(record)
        return future

    # Publishing.

    def publish(
        self,
        runner: ModelRunner,
        sequence_id: SequenceId,
        *,
        parent: BlockHash,
        blocks: Sequence[tuple[int, ...]],
        start: int,
    ) -> list[BlockHash]:
        """Keep the KV of the tokens of `blocks`, which lie at positions `start`… of the running sequence.

        Returns the names, of the first ones only where there is no room for all of them before the disk has caught up:
        none means that there is none for the next. Blocks that others left are evicted. The budget is overdrawn by one
        block at most, so that a sequence which fills it alone can be kept piece by piece. Missing blocks are copied
        at once.
        """
        spec = runner.spec
        found: list[_NewBlock] = []
        for token_ids in blocks:
            name = hash_block(
                fingerprint=spec.fingerprint, layout=spec.layout, parent=parent, token_ids=token_ids
            )
            found.append(_NewBlock(name, parent, token_ids, start))
            parent, start = name, start + len(token_ids)
        missing = [new for new in found if new.name not in self.pool]
        for new in found:
            if new.name in self.pool:
                self._write_again(new.name)
        if missing and missing[0].start and not self._is_known(missing[0].parent):
            # It could not be used: its parent is lost.
            return [new.name for new in found[: found.index(missing[0])]]
        sizes = [spec.stored_bytes(len(new.token_ids), begins=not new.start) for new in missing]
        kept = missing[: self._num_fitting(sizes, below=[new.parent for new in missing])]
        if len(kept) < len(missing):
            found = found[: found.index(missing[len(kept)])]
        payloads = runner.copy_blocks(sequence_id, [new.span for new in kept]) if kept else []
        for new, payload in zip(kept, payloads, strict=True):
            # Dirty even where the disk has it: computed all the same, it may be lost there without having been read.
            # The writer looks at its file, and writes what is missing.
            block = Block(new.name, new.parent, new.token_ids, payload.num_bytes)
            self._insert(block, payload, spec.fingerprint, dirty=True)
        return [new.name for new in found]

    def _is_known(self, block_hash: BlockHash) -> bool:
        is_at_a_peer = self.peers is not None and self.peers.holds(block_hash)
        # Not one that lies in a running cache only: whether that comes back is not known yet.
        return block_hash in self.pool or is_at_a_peer or self._is_warm(block_hash)

    def _num_fitting(self, sizes: Sequence[int], *, below: Sequence[BlockHash]) -> int:
        """Count the blocks of these sizes (bytes) that there is room for `below` others: all, or the first, or none."""
        total = sum(sizes)
        if len(sizes) > 1 and self.can_keep(total) and self.make_room_beside(below, total):
            return len(sizes)
        return 1 if sizes and self._has_room(sizes[0], below=below[:1]) else 0

    def make_room_beside(self, names: Iterable[BlockHash], num_bytes: int) -> bool:
        """Make room as `make_room` does, but not by letting any of these blocks go."""
        with self.lock:
            hot = [name for name in names if name in self.pool]
            self.pool.lock(hot)
            try:
                return self.make_room(num_bytes)
            finally:
                self.pool.unlock(hot)

    def publish_state(
        self, runner: ModelRunner, sequence_id: SequenceId, *, parent: BlockHash
    ) -> BlockHash | None:
        """Keep a snapshot of the layers that cannot be cut, taken right after block `parent`; returns its name.

        None: the model needs none, or there is no room; see `publish`.
        """
        spec = runner.spec
        if spec.cuts_anywhere:
            return None
        name = state_name(spec, parent)
        if name in self.pool:
            self._write_again(name)
            return name
        self._make_room_for_snapshot(spec.state_bytes)
        if not self._has_room(spec.state_bytes, below=[parent]) or not self._is_known(parent):
            return None
        payload = runner.copy_state(sequence_id)
        if payload is None:
            return None
        block = Block(name, parent, (), payload.num_bytes, kind="state")
        self._insert(block, payload, spec.fingerprint, dirty=True)
        return name

    def _write_again(self, name: BlockHash) -> None:
        """Let a hot block stay that was to leave as deleted, and be written once more where the disk has lost it."""
        if self._writes is None:
            return
        with self.lock:
            self._writes.undelete(name)
        if not self.pool.is_dirty(name) and not self._is_warm(name):
            with self.lock:
                self.pool.mark_dirty(name)

    def _make_room_for_snapshot(self, num_bytes: int) -> None:
        """Let the snapshots that were not used for longest go, where all together take more than their share."""
        with self.lock:
            excess = self.pool.state_bytes + num_bytes - int(self.pool.budget_bytes * SHARE_OF_BUDGET)
            waiting = self._evict(self.pool.state_victims(excess), "budget") if excess > 0 else []
        if waiting:
            self.persist()

    @property
    def conversation_share(self) -> int:
        """Bytes that the snapshots of one conversation may take, in RAM and on disk alike."""
        return int(self.pool.budget_bytes * SHARE_OF_CONVERSATION)

    def can_keep(self, num_bytes: int) -> bool:
        """Return whether blocks of this size in bytes can be kept without waiting for the disk."""
        return self.ready_bytes - num_bytes >= self._set_aside_bytes

    def _has_room(self, num_bytes: int, *, below: Sequence[BlockHash]) -> bool:
        return self.can_keep(num_bytes) and (
            self.make_room_beside(below, num_bytes) or self.pool.free_bytes >= 0
        )

    def note_skipped(self, num_blocks: int) -> None:
        """Count blocks that were computed and could not be kept."""
        self.counters.skipped_blocks += num_blocks
        self._metrics.count("cache_skipped_blocks_total", num_blocks)

    def _insert(self, block: Block, payload: BlockPayload, owner: ModelFingerprint, *, dirty: bool) -> None:
        with self.lock:
            self.pool.insert(block, dirty=dirty and self._warm is not None)
            self._forget_displaced(block.block_hash)
            self._payloads[block.block_hash] = payload
            self._owner[block.block_hash] = owner

    def _remove(self, block: Block, reason: str) -> None:
        name = block.block_hash
        if reason not in ("deleted", "cleared") and not self._is_deleted(name):
            if self.pool.has_running_copy(name):
                self._displaced[name] = block
                if self.pool.is_dirty(name):
                    self._unwritten.add(name)
            elif self.pool.is_dirty(name):
                self._note_lost(1)
        self.pool.remove(name)
        del self._payloads[name]
        del self._owner[name]
        if self._writes is not None:
            self._writes.forget(name)
        self.counters.evictions[reason] = self.counters.evictions.get(reason, 0) + 1
        self._metrics.count("cache_evictions_total", reason=reason)

    def _note_lost(self, num_blocks: int) -> None:
        self.counters.lost_blocks += num_blocks
        self._metrics.count("cache_lost_blocks_total", num_blocks)

    def _is_deleted(self, block_hash: BlockHash) -> bool:
        """Return whether a hot block was deleted while it was in use."""
        return self._writes is not None and self._writes.is_deleted(block_hash)

    # Blocks that running caches hold too.

    def note_running_copy(self, blocks: Iterable[Block]) -> None:
        """Note that a running sequence has the bytes of these blocks in its running cache: they leave RAM first."""
        with self.lock:
            for block in blocks:
                self.pool.note_running_copy(block.block_hash)
                if block.block_hash not in self.pool:
                    # It was read straight into the running cache.
                    self._displaced[block.block_hash] = block

    def forget_running_copy(self, names: Iterable[BlockHash]) -> None:
        """Undo `note_running_copy`; displaced blocks stay displaced until `give_up_displaced`."""
        with self.lock:
            for name in names:
                self.pool.forget_running_copy(name)

    @property
    def has_displaced(self) -> bool:
        """Whether any block is in a running cache and not in the pool."""
        return bool(self._displaced)

    def is_displaced(self, block_hash: BlockHash) -> bool:
        """Return whether a block is in a running cache, not in the pool, and not deleted."""
        return block_hash in self._displaced

    def left_unwritten(self, block_hash: BlockHash) -> bool:
        """Return whether a displaced block left RAM before it was written."""
        return block_hash in self._unwritten

    def give_up_displaced(self, names: Iterable[BlockHash]) -> None:
        """Forget those of these blocks that lie in no running cache now; those that no disk has are lost."""
        num_lost = 0
        with self.lock:
            for name in names:
                if name in self._displaced and not self.pool.has_running_copy(name):
                    num_lost += name in self._unwritten
                    self._forget_displaced(name)
        if num_lost:
            self._note_lost(num_lost)

    def _forget_displaced(self, block_hash: BlockHash) -> None:
        self._displaced.pop(block_hash, None)
        self._unwritten.discard(block_hash)

    # Writing behind.

    def persist(self, *, limit_bytes: int | None = PERSIST_STEP_BYTES) -> int:
        """Hand dirty blocks to the warm store, parents first; returns how many bytes were handed over."""
        if self._writes is None or self._warm is None:
            return 0
        if self.disk_stalled:
            return 0
        with self.lock:
            blocks = self._writes.next_batch(limit_bytes=limit_bytes)
        records, failed = [], []
        for block in blocks:
            record = self._record_of(block)
            if record is None:
                failed.append(block.block_hash)
            else:
                records.append(record)
        if failed:
            with self.lock:
                self._writes.ended(failed)
        if records:
            names = [record.block.block_hash for record in records]
            written = self._warm.write(records)
            written.add_done_callback(
                lambda done: self._post(partial(self._on_written, names, done.result()))
            )
        return sum(record.block.num_bytes for record in records)

    def _on_written(self, names: Sequence[BlockHash], result: WriteResult) -> None:
        assert self._writes is not None, "something was written, so there is a warm store"
        with self.lock:
            # Last to first: of what the disk did not take, that which others follow stays.
            for block, reason in reversed(self._writes.ended(names)):
                is_lost = self.pool.is_dirty(block.block_hash) and reason == "budget"
                if not is_lost or not self.pool.has_children(block.block_hash):
                    self._remove(block, reason)
            more = self._writes.has_leaving
            for name in names:
                for agent_id in self.pool.holders(name):
                    self.pool.changes.note(agent_id)
        self._writes_ended = True
        if more:
            self.persist()

    def take_writes_ended(self) -> bool:
        """Return whether writes have ended since the last call, which may have made room."""
        ended, self._writes_ended = self._writes_ended, False
        return ended

    @property
    def num_writing(self) -> int:
        """Blocks handed to the warm store and not yet durable."""
        return self._writes.num_writing if self._writes is not None else 0

    def is_writing(self, block_hash: BlockHash) -> bool:
        """Return whether the block was handed to the warm store and is not yet durable."""
        return self._writes is not None and self._writes.is_writing(block_hash)

    def retry_refused(self) -> None:
        """Offer blocks that the warm store refused again: a disk has room again, a new day a new budget."""
        if self._writes is not None:
            with self.lock:
                self._writes.retry_refused()
            self.persist()

    def adopt(self, records: Sequence[BlockRecord]) -> Future[WriteResult]:
        """Pass blocks from elsewhere to the warm store; refused ones may be promoted. Any thread."""
        if self._warm is not None:
            return self._warm.write(records)
        names = tuple(record.block.block_hash for record in records)
        future: Future[WriteResult] = Future()
        future.set_result(WriteResult(0, 0, len(names), 0, "there is no warm store", names))
        return future

    def keep_read(self, record: BlockRecord) -> None:
        """Hand a block that was read, and does not become hot, to the disk where it came from a peer."""
        if self.peers is not None and not self._is_warm(record.block.block_hash):
            self.adopt([record])

    def _runner_of(self, fingerprint: ModelFingerprint) -> ModelRunner | None:
        runners = self._runners.get(fingerprint)
        return runners[0] if runners else None

    def _record_of(self, block: Block) -> BlockRecord | None:
        """Return a hot block with its bytes; None when its tensors cannot be read."""
        fingerprint = self._owner[block.block_hash]
        runner = self._runner_of(fingerprint)
        if runner is None:
            return None
        try:
            tensors = runner.dump(self._payloads[block.block_hash])
        except Exception as error:  # noqa: BLE001 (one block that cannot be copied must not stop the engine)
            self._log.error("block_not_copied", block=block.block_hash.hex(), error=repr(error))
            return None
        return BlockRecord(block, fingerprint, runner.spec.layout, tensors)

    # Room.

    def set_budget(self, num_bytes: int, *, planned_bytes: int) -> None:
        """Change the budget; blocks above a lower one are evicted as room is made."""
        with self.lock:
            self.pool.budget_bytes = num_bytes
            self.planned_bytes = planned_bytes

    def make_room(self, num_bytes: int, *, unwritten: bool = False, over_pins: bool = False) -> bool:
        """Evict until `num_bytes` fit; False when that needs writes to finish first or can not be done.

        With `unwritten`, blocks that wait for the disk leave too, if that is enough: they are computed again. With
        `over_pins`, so do pinned ones where all others are not enough: they are read again when they are wanted.
        """
        with self.lock:
            missing = num_bytes - self.pool.free_bytes
            if missing <= 0:
                return True
            # Blocks that wait for a disk that does not respond may never leave, nor may their ancestors.
            at_once = self.disk_stalled
            pinned_bytes = self.pool.pins_in_the_way(num_bytes, at_once=at_once) if over_pins else 0
            blocks = self.pool.victims(missing, at_any_cost=at_once, pinned_bytes=pinned_bytes)
            waiting = self._evict(blocks, "budget")
        if waiting:
            self.persist()
            with self.lock:
                # Blocks whose writes were just refused need not wait for a write to end.
                for name in waiting:
                    block = self.pool.get(name)
                    may_leave = self.pool.can_leave(name) or (over_pins and not self.pool.is_locked(name))
                    if block is not None and self._is_refused(name) and may_leave:
                        self._let_go(block, "budget")
        if unwritten:
            self._drop_unwritten(num_bytes, over_pins=over_pins)
        return self.pool.free_bytes >= num_bytes

    def _drop_unwritten(self, num_bytes: int, *, over_pins: bool) -> None:
        with self.lock:
            missing = num_bytes - self.pool.free_bytes
            pinned_bytes = self.pool.pins_in_the_way(num_bytes, at_once=True) if over_pins else 0
            if 0 < missing <= self.pool.evictable_bytes() + pinned_bytes:
                for block in self.pool.victims(missing, at_any_cost=True, pinned_bytes=pinned_bytes):
                    self._remove(block, "budget")

    def could_free(self, *, over_pins: bool = False) -> int:
        """Return the bytes that eviction could free, now or after writes; `over_pins` includes pinned blocks."""
        if over_pins:
            return self.pool.room_over_pins
        return self.pool.free_bytes + self.pool.evictable_bytes() + self.pool.in_flight_bytes

    def _is_refused(self, block_hash: BlockHash) -> bool:
        return self._writes is None or self._writes.is_refused(block_hash)

    def _evict(self, blocks: Iterable[Block], reason: str) -> list[BlockHash]:
        """Let blocks go; returns those that must be written before."""
        return [block.block_hash for block in blocks if not self._let_go(block, reason)]

    def _let_go(self, block: Block, reason: str) -> bool:
        """Take a block out of RAM if it is on disk; if not, once it is. Only need of room justifies a loss."""
        name = block.block_hash
        if self.pool.is_dirty(name) and reason not in LEAVES_UNWRITTEN:
            given_up = self.disk_stalled and not self.is_writing(name)
            if not given_up and not self._is_refused(name):
                self._leave_once_written(name, reason)
                return False
            if reason != "budget" or (self.pool.has_children(name) and not self.disk_stalled):
                # Its descendants would be useless without it, and leave before it.
                return False
        self._remove(block, reason)
        return True

    def _leave_once_written(self, block_hash: BlockHash, reason: str) -> None:
        if self._writes is not None:
            self._writes.leave_once_written(block_hash, reason)

    def demote(self, blocks: Iterable[Block], reason: str) -> int:
        """Let blocks go from RAM now, or once they are written; returns the bytes that left at once."""
        freed = 0
        waiting = False
        with self.lock:
            for block in blocks:
                if self._writes is not None and self._writes.is_writing(block.block_hash):
                    self._writes.leave_once_written(block.block_hash, reason)
                elif self.pool.can_leave(block.block_hash):
                    gone = self._let_go(block, reason)
                    freed += block.num_bytes if gone else 0
                    waiting = waiting or not gone
        if waiting:
            self.persist()
        return freed

    def drop_blocks(self, names: Sequence[BlockHash]) -> tuple[int, Future[int]]:
        """Drop blocks in RAM and on disk, as far as no agent holds them by now.

        Returns the bytes that left RAM, and the bytes that leave the disk once they have.
        """
        with self.lock:
            return self._delete([name for name in names if not self.pool.num_holders(name)])

    def discard(self, names: Sequence[BlockHash]) -> None:
        """Drop useless blocks that no agent holds from both tiers.

        Their tokens are still their agent's: nothing is scrubbed for them before something is deleted.
        """
        with self.lock:
            own = [name for name in names if not self.pool.num_holders(name)]
            if own:
                self._delete(own, scrub=False)

    def _delete(self, own: Sequence[BlockHash], *, scrub: bool = True) -> tuple[int, Future[int]]:
        freed = 0
        with self.lock:
            for name in own:
                self._forget_displaced(name)
                block = self.pool.get(name)
                if block is None:
                    continue
                if self._writes is not None and self._writes.is_writing(name):
                    self._writes.call_off(name)
                    continue
                if self.pool.can_leave(name):
                    self._remove(block, "deleted")
                    freed += block.num_bytes
                elif self._writes is not None:
                    # One that is being copied for a sequence at this moment leaves when room is needed.
                    self._writes.note_deleted(name)
        if self._warm is not None:
            return freed, self._warm.delete(own, scrub=scrub)
        nothing: Future[int] = Future()
        nothing.set_result(0)
        return freed, nothing

    def clear(self, limit: int | None = None) -> int:
        """Drop hot blocks that are not in use (`limit` of them, or all), unwritten; returns the bytes freed."""
        freed = 0
        with self.lock:
            idle = (
                block
                for block in list(self.pool)
                if not self.is_writing(block.block_hash) and not self.pool.is_locked(block.block_hash)
            )
            for block in itertools.islice(idle, limit):
                self.pool.mark_clean(block.block_hash)
                self._remove(block, "cleared")
                freed += block.num_bytes
            self._displaced.clear()
            self._unwritten.clear()
        return freed

    # Use and sums.

    def touch_hot(self, table: Sequence[BlockHash]) -> None:
        """Stamp a chain of blocks as just used in RAM only."""
        with self.lock:
            self.pool.touch(table)

    def touch(self, table: Sequence[BlockHash]) -> None:
        """Stamp a chain of blocks (first to last) as just used, in both tiers."""
        with self.lock:
            self.pool.touch(table)
            if self._writes is not None:
                self._writes.used_again(table)
        if self._warm is not None:
            self._warm.touch(table)

    def is_pinned_block(self, block_hash: BlockHash, *, but_by: AgentId | None = None) -> bool:
        """Return whether a block is hot and held by a pinned agent other than `but_by`."""
        with self.lock:
            return block_hash in self.pool and self.pool.is_pinned(block_hash, but_by=but_by)

    @property
    def has_pins(self) -> bool:
        """Whether any pin keeps blocks hot."""
        return self.pool.pinned_bytes > 0

    def pinned_bytes_of(self, agent_id: AgentId) -> int:
        """Return the bytes that an agent's pin keeps hot, and no other pin; 0 where it has none."""
        with self.lock:
            return self.pool.pin_frees(agent_id)

    def bytes_beside_pins(self, budget_bytes: int, agent_id: AgentId | None = None) -> int:
        """Return what pins leave of a budget (bytes) to a request of this agent, if any: its own pin does not count.

        Pinned blocks beyond the share of pins, which became hot since, are evicted for any request.
        """
        with self.lock:
            own = 0 if agent_id is None else self.pool.pin_frees(agent_id)
            others = self.pool.pinned_bytes - own
            return budget_bytes - min(others, int(budget_bytes * MAX_PINNED_SHARE))

    def hot_blocks(self, limit: int) -> list[HotBlock]:
        """Return hot blocks, at most `limit`; callable from any thread."""
        with self.lock:
            return self.pool.hot_blocks(limit)

    def count_hot_blocks(self) -> tuple[int, int]:
        """Return how many blocks are hot, and how many of them several agents hold; callable from any thread."""
        with self.lock:
            return len(self.pool), self.pool.num_shared()

    def note_running(self, num_bytes: int, *, growth_bytes: int, set_aside_bytes: int) -> None:
        """Set the bytes of running caches, their next growth, and where only blocks that are on disk are published."""
        self.pool.running_bytes = num_bytes
        self._growth_bytes = growth_bytes
        self._set_aside_bytes = set_aside_bytes

    @property
    def ready_bytes(self) -> int:
        """Bytes that are free or can be without waiting for the disk; negative when the budget is overdrawn."""
        with self.lock:
            waiting = self._unwritten_bytes() - self.pool.in_flight_bytes
            return self.pool.free_bytes + self.pool.evictable_bytes() - max(waiting, 0)

    @property
    def unwritten_bytes(self) -> int:
        """Bytes of hot blocks that are on their way to the disk or could be handed over: not those that it refused."""
        with self.lock:
            return self._unwritten_bytes()

    def _unwritten_bytes(self) -> int:
        return self.pool.dirty_bytes - (self._writes.refused_bytes if self._writes is not None else 0)

    @property
    def idle_bytes(self) -> int:
        """Bytes that are free, and that no running cache grows by next; negative when there are none."""
        return self.pool.free_bytes - self._growth_bytes

    @property
    def free_bytes(self) -> int:
        """Bytes left in the budget; negative when it is overdrawn."""
        return self.pool.free_bytes

    def ledger(self) -> PoolLedger:
        """Return the byte ledger; callable from any thread."""
        with self.lock:
            return self.pool.ledger()

    def stored(self, names: Iterable[BlockHash]) -> dict[BlockHash, int]:
        """Return those of these blocks that are on disk, with their tensor bytes. Asks the index."""
        return {} if self._warm is None else self._warm.block_bytes(list(dict.fromkeys(names)))

    def check_blocks(self, number: int) -> None:
        """Check the next `number` hot blocks, all of them in turn.

        Raises:
            AssertionError: Something disagrees.
        """
        with self.lock:
            if not self._to_check:
                self._to_check = list(self._payloads)
            part = self._to_check[-number:]
            del self._to_check[-number:]
            for name in part:
                payload, block = self._payloads.get(name), self.pool.get(name)
                assert (payload is None) == (block is None), "tensors and pool differ"
                if block is not None and payload is not None:
                    self.pool.check_block(name)
                    assert name in self._owner, "a block has no owner"
                    assert block.num_bytes == payload.num_bytes, "a block's size changed"

    def check_integrity(self) -> None:
        """Raise `AssertionError` when pool, tensors and writes disagree; looks at everything, for tests."""
        with self.lock:
            self.pool.check_integrity()
            assert set(self._payloads) == {block.block_hash for block in self.pool}, "tensors and pool differ"
            assert set(self._owner) == set(self._payloads), "owners and tensors differ"
            for name in self._displaced:
                assert self.pool.has_running_copy(name), "a displaced block lies nowhere"
                assert name not in self.pool, "a hot block is displaced"
            assert self._unwritten <= self._displaced.keys(), "a block that left unwritten is not displaced"
            in_flight = self._writes.in_flight_bytes if self._writes is not None else 0
            assert self.pool.in_flight_bytes == in_flight, (
                f"in flight {self.pool.in_flight_bytes} != {in_flight}"
            )
            if self._writes is not None:
                self._writes.check_integrity()
            for name, payload in self._payloads.items():
                block = self.pool.get(name)
                size = block.num_bytes if block else None
                assert size == payload.num_bytes, "a block's size changed"
