"""RankedWarmStore: the port `WarmStore` for a model over several machines.

Rank 0's shard of a block, and all that the index says, is in the daemon's own warm store; the workers' disks follow it:

- *write*: the workers first, then here, what all of them took. So what the index here knows was durable everywhere.
- *read*: all at the same time. A block that a worker lacks is a miss, and leaves here too, so that it is written again;
  what happened to the worker's file is what happened to the block.
- *delete*: here and there. Where a worker is not there, it is deleted when that joins again (`follow_up`).
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from semanticd.adapters.ranks.formation import Formation, Member
from semanticd.adapters.ranks.runner import COPIED, READ, mark, marked
from semanticd.adapters.ranks.wire import block_out
from semanticd.application.ports.telemetry import Log
from semanticd.application.ports.warm_store import (
    BlockRecord,
    ModelSize,
    VerifyReport,
    WarmStats,
    WarmStore,
    WriteResult,
)
from semanticd.domain.block import Block, LostFile
from semanticd.domain.ids import BlockHash, ModelFingerprint
from semanticd.domain.model_cache_spec import ModelCacheSpec


class NamedWarmStore(WarmStore, Protocol):
    """A warm store that can list its blocks, and record files that were lost elsewhere."""

    def names(self, fingerprint: ModelFingerprint, layout: str) -> list[BlockHash]:
        """Return the names of a model's blocks in one layout."""

    def note_lost(self, names: Sequence[BlockHash], what: LostFile) -> None:
        """Record what happened to files of these blocks; see `lost_file`."""


class RareWarnings(Protocol):
    """A log of one worker's frequent warnings: most are only counted."""

    def warning(self, event: str, *, number: int = 1, **fields: object) -> None:
        """Log the event now, or count it for a later line."""


class _Sum:
    """Waits for several futures; calls once with all of them."""

    def __init__(self, futures: Sequence[Future[Any]], done: Callable[[], None]) -> None:
        self._left = itertools.count(len(futures) - 1, -1)
        self._done = done
        for future in futures:
            future.add_done_callback(self._one)
        if not futures:
            done()

    def _one(self, _: Future[Any]) -> None:
        # `next` of a count is one step of the interpreter, whatever threads call.
        if next(self._left) == 0:
            self._done()


class RankedWarmStore:
    """The daemon's warm store, with the workers' disks behind it. Any thread."""

    def __init__(
        self,
        own: NamedWarmStore,
        *,
        formation: Callable[[], Formation | None],
        log: Log,
        rare_logs: Mapping[int, RareWarnings],
    ) -> None:
        """Keep rank 0's shards in `own`; `formation` returns the ranks that work now, None: there are none.

        `rare_logs` are the workers', by rank: a restore may ask one for thousands of blocks that it lacks.
        """
        self._own = own
        self._formation = formation
        self._log = log
        self._reads = itertools.count(1)
        self._refusals: dict[int, str] = {}
        """By rank: why it did not write the last blocks it was sent."""
        self._rare_logs = rare_logs

    # Queries that the index answers.

    def get(self, block_hash: BlockHash) -> Block | None:
        """See `WarmStore`."""
        return self._own.get(block_hash)

    def get_many(self, hashes: Sequence[BlockHash]) -> list[Block]:
        """See `WarmStore`."""
        return self._own.get_many(hashes)

    def block_bytes(self, hashes: Sequence[BlockHash]) -> dict[BlockHash, int]:
        """See `WarmStore`; bytes are those of rank 0's shards."""
        return self._own.block_bytes(hashes)

    def children(self, parent: BlockHash) -> list[Block]:
        """See `WarmStore`."""
        return self._own.children(parent)

    @property
    def knows_all_files(self) -> bool:
        """See `WarmStore`."""
        return self._own.knows_all_files

    def find_files(self, names: Iterable[BlockHash], fingerprint: ModelFingerprint) -> Future[int] | None:
        """See `WarmStore`; workers look for theirs when they are asked."""
        return self._own.find_files(names, fingerprint)

    def lost_file(self, names: Sequence[BlockHash]) -> LostFile | None:
        """See `WarmStore`."""
        return self._own.lost_file(names)

    def wants(self, block_hash: BlockHash) -> bool:
        """See `WarmStore`."""
        return self._own.wants(block_hash)

    # Bytes.

    def read(self, block_hash: BlockHash) -> Future[BlockRecord | None]:
        """Read a block here and at all workers; None unless all have it whole."""
        formation, result = self._formation(), Future[BlockRecord | None]()
        result.set_running_or_notify_cancel()
        found = self._own.get(block_hash)
        if formation is None or found is None:
            # Without a row it may yet be in a file that is found: the next question finds the row.
            result.set_result(None)
            return result
        number = next(self._reads)
        own = self._own.read(block_hash)
        asked = [
            formation.ask(member, "read", number, bytes(block_hash), formation.fingerprint)
            for member in formation.members[1:]
        ]
        _Sum([own, *asked], partial(self._join, formation, block_hash, number, own, asked, result))
        return result

    def _join(
        self,
        formation: Formation,
        block_hash: BlockHash,
        number: int,
        own: Future[BlockRecord | None],
        asked: Sequence[Future[Any]],
        result: Future[BlockRecord | None],
    ) -> None:
        record = own.result()
        has_ended = any(future.exception() is not None for future in asked)
        if record is not None and not has_ended and all(future.result()[0] for future in asked):
            tag = mark(READ, number)
            # A record that is never restored takes what the workers have read with it.
            weakref.finalize(tag.data, self._forget, formation, number).atexit = False
            result.set_result(replace(record, tensors=(*record.tensors, tag)))
            return
        self._forget(formation, number)
        if record is not None and not has_ended:
            for member, future in zip(formation.members[1:], asked, strict=True):
                was_read, lost = future.result()
                if not was_read:
                    self._report_lack(member, block_hash, lost=lost)
            self._own.delete([block_hash], scrub=False)
        result.set_result(None)

    def _report_lack(self, member: Member, block_hash: BlockHash, *, lost: LostFile | None) -> None:
        """Note why a worker lacks a block, and log it once a minute for each worker, with the number since then."""
        if lost is not None:
            self._own.note_lost([block_hash], lost)
        self._rare_logs[member.rank].warning(
            "rank_lacks_block",
            rank=member.rank,
            address=member.address,
            block=block_hash.hex(),
            file=lost or "not known",
            consequence="all machines compute the block again",
        )

    @staticmethod
    def _forget(formation: Formation, number: int) -> None:
        if formation.ended is None:
            formation.tell_workers("forget", [number])

    def write(self, records: Sequence[BlockRecord]) -> Future[WriteResult]:
        """Store the workers' shards, then rank 0's of those blocks that all workers took."""
        result: Future[WriteResult] = Future()
        result.set_running_or_notify_cancel()
        formation = self._formation()
        handles: dict[BlockHash, int] = {}
        stripped: list[BlockRecord] = []
        for record in records:
            handle, tensors = marked(record.tensors, COPIED)
            if handle is not None:
                handles[record.block.block_hash] = handle
                stripped.append(replace(record, tensors=tensors))
        if formation is None or len(stripped) < len(records):
            names = tuple(record.block.block_hash for record in records)
            result.set_result(WriteResult(0, 0, len(names), 0, "the machines lost their connection", names))
            return result
        sent = [block_out(record, handles[record.block.block_hash]) for record in stripped]
        workers = formation.members[1:]
        asked = [formation.ask(member, "write", sent) for member in workers]
        answers = tuple(zip(workers, asked, strict=True))
        _Sum(asked, partial(self._write_own, stripped, answers, result))
        return result

    def _write_own(
        self,
        records: Sequence[BlockRecord],
        answers: Sequence[tuple[Member, Future[Any]]],
        result: Future[WriteResult],
    ) -> None:
        refused: set[BlockHash] = set()
        reason = ""
        for member, future in answers:
            if future.exception() is not None:
                refused.update(record.block.block_hash for record in records)
                reason = "the machines lost their connection"
            else:
                names, why = future.result()
                refused.update(BlockHash(name) for name in names)
                reason = reason or why
                self._report_refusal(member, num_blocks=len(names), reason=why)
        taken = [record for record in records if record.block.block_hash not in refused]
        own = self._own.write(taken)

        def done(written: Future[WriteResult]) -> None:
            here = written.result()
            result.set_result(
                replace(
                    here,
                    num_refused=here.num_refused + len(refused),
                    reason=here.reason or reason,
                    refused=(*here.refused, *refused),
                )
            )

        own.add_done_callback(done)

    def _report_refusal(self, member: Member, *, num_blocks: int, reason: str) -> None:
        """Log that a worker did not write blocks, once for each reason; again after it has written some."""
        known = self._refusals.get(member.rank, "")
        self._refusals[member.rank] = reason if num_blocks else ""
        if num_blocks and reason != known:
            self._log.warning(
                "rank_did_not_write",
                rank=member.rank,
                address=member.address,
                number=num_blocks,
                reason=reason,
                remedy="no machine keeps blocks that one of them did not write: make room on its disk or raise "
                "SEMANTIC_AGENT_CACHE_MAX_GB there",
            )

    def touch(self, hashes: Sequence[BlockHash]) -> None:
        """See `WarmStore`."""
        self._own.touch(hashes)
        self._tell("touch", [bytes(name) for name in hashes])

    def delete(self, hashes: Sequence[BlockHash], *, scrub: bool = True) -> Future[int]:
        """See `WarmStore`; the bytes are those that leave this machine."""
        self._tell("delete", [bytes(name) for name in hashes], scrub)
        return self._own.delete(hashes, scrub=scrub)

    def removed(self, hashes: Sequence[BlockHash]) -> None:
        """Let blocks that were removed here to make room leave the workers too."""
        self._tell("delete", [bytes(name) for name in hashes], False)

    def clear(self, fingerprint: ModelFingerprint | None = None) -> int:
        """See `WarmStore`."""
        self._tell("clear", fingerprint)
        return self._own.clear(fingerprint)

    def _tell(self, name: str, *arguments: Any) -> None:
        formation = self._formation()
        if formation is not None:
            formation.tell_workers(name, *arguments)

    def follow_up(self, formation: Formation, spec: ModelCacheSpec) -> Sequence[Future[Any]]:
        """Let every worker delete the shards of blocks that are not here (any more); returns what to wait for."""
        if not self._own.knows_all_files:
            return ()
        known = {bytes(name) for name in self._own.names(spec.fingerprint, spec.layout)}
        futures = []
        for member in formation.members[1:]:
            future = formation.ask(member, "names", spec.fingerprint, spec.layout)
            future.add_done_callback(partial(self._drop_unknown, formation, member.rank, known))
            futures.append(future)
        return futures

    def _drop_unknown(self, formation: Formation, rank: int, known: set[bytes], done: Future[Any]) -> None:
        if done.exception() is not None:
            return
        unknown = [name for name in done.result() if name not in known]
        if unknown:
            self._log.info("rank_follows_deletions", rank=rank, num_blocks=len(unknown))
            formation.ask(formation.members[rank], "delete", unknown, True)

    # This machine's own.

    def protect(self, hashes: Sequence[BlockHash], *, owner: str) -> None:
        """See `WarmStore`."""
        self._own.protect(hashes, owner=owner)

    def verify(self, *, fix: bool) -> VerifyReport:
        """See `WarmStore`: of this machine's files."""
        return self._own.verify(fix=fix)

    def prune(self, *, target_bytes: int | None = None, dry_run: bool = False) -> int:
        """See `WarmStore`: on this machine."""
        return self._own.prune(target_bytes=target_bytes, dry_run=dry_run)

    def stats(self) -> WarmStats:
        """See `WarmStore`: of this machine."""
        return self._own.stats()

    def sizes(self) -> tuple[ModelSize, ...]:
        """See `WarmStore`: on this machine."""
        return self._own.sizes()

    def flush(self, timeout_s: float | None = None) -> bool:
        """See `WarmStore`."""
        return self._own.flush(timeout_s)

    def close(self) -> None:
        """See `WarmStore`."""
        self._own.close()
