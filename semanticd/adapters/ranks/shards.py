"""Shards: one rank's part of the blocks, between its running model and its disk, with the daemon's queries about them.

Tensors get the rank and the number of ranks in front of their names, so that no rank ever takes another's for its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from semanticd.adapters.ranks.wire import block_in, error_out
from semanticd.application.ports.warm_store import BlockRecord, TensorBytes, WarmStore, WriteResult
from semanticd.domain.errors import CacheError
from semanticd.domain.ids import BlockHash, ModelFingerprint

Answer = Callable[[Any, Any], None]
"""Takes a result and an error, as they are sent; called once, on any thread."""


class NamedBlocks(WarmStore, Protocol):
    """A warm store that can list its blocks."""

    def names(self, fingerprint: ModelFingerprint, layout: str) -> list[BlockHash]:
        """Return the names of a model's blocks in one layout."""


class Shards:
    """The shards that lie between model and disk, under the daemon's numbers. Any thread."""

    def __init__(self, store: NamedBlocks | None, *, waits_for: Callable[[], str] = lambda: "") -> None:
        """`store` is this machine's; rank 0 has none, for the daemon keeps its shards.

        `waits_for` returns what the other thread waits for at the moment, which the daemon hears with each ping.
        """
        self._store = store
        self._waits_for = waits_for
        self._lock = threading.Lock()
        self._copied: dict[int, tuple[TensorBytes, ...]] = {}
        """By handle: copied out of the model, and not written yet."""
        self._read: dict[int, tuple[TensorBytes, ...]] = {}
        """By number of the read: read from disk, and not restored yet."""

    def keep_copied(self, handle: int, tensors: tuple[TensorBytes, ...]) -> None:
        """Keep tensors until they are written or dropped."""
        with self._lock:
            self._copied[handle] = tensors

    def drop(self, handles: Sequence[int]) -> None:
        """Drop the copies of these payloads."""
        with self._lock:
            for handle in handles:
                self._copied.pop(handle, None)

    def take_read(self, number: int) -> tuple[TensorBytes, ...]:
        """Return the block that was read under this number, once.

        Raises:
            CacheError: No block was read under this number.
        """
        with self._lock:
            found = self._read.pop(number, None)
        if found is None:
            raise CacheError("this rank has not read that block")
        return found

    def handle(self, name: str, arguments: Sequence[Any], answer: Answer) -> None:
        """Run the daemon's command; `answer` is called now or when the disk is done."""
        store = self._store
        if name == "ping":
            answer(self._waits_for(), None)
        elif name == "forget":
            with self._lock:
                for number in arguments[0]:
                    self._read.pop(number, None)
            answer(None, None)
        elif store is None:
            answer(None, error_out(CacheError("this rank keeps no blocks")))
        elif name == "read":
            self._begin_read(store, *arguments, answer=answer)
        elif name == "write":
            self._write(store, arguments[0], answer)
        elif name == "names":
            found = store.names(ModelFingerprint(arguments[0]), arguments[1])
            answer([bytes(one) for one in found], None)
        elif name == "delete":
            store.delete([BlockHash(one) for one in arguments[0]], scrub=bool(arguments[1]))
            answer(None, None)
        elif name == "clear":
            fingerprint = arguments[0]
            answer(store.clear(None if fingerprint is None else ModelFingerprint(fingerprint)), None)
        elif name == "touch":
            store.touch([BlockHash(one) for one in arguments[0]])
            answer(None, None)
        else:
            answer(None, error_out(CacheError(f"this rank does not know {name!r}")))

    def _begin_read(
        self, store: NamedBlocks, number: int, block_hash: bytes, fingerprint: str, *, answer: Answer
    ) -> None:
        name = BlockHash(block_hash)
        # After an unclean end the index may not know a file that is there.
        search = None if store.get(name) else store.find_files([name], ModelFingerprint(fingerprint))
        if search is None:
            self._read_now(store, number, name, answer)
        else:
            search.add_done_callback(lambda _: self._read_now(store, number, name, answer))

    def _read_now(self, store: NamedBlocks, number: int, name: BlockHash, answer: Answer) -> None:
        store.read(name).add_done_callback(partial(self._was_read, store, number, name, answer))

    def _was_read(
        self,
        store: NamedBlocks,
        number: int,
        name: BlockHash,
        answer: Answer,
        done: Future[BlockRecord | None],
    ) -> None:
        """Answer whether the shard was read, and if not, what happened to its file, as far as that is known."""
        record = None if done.cancelled() else done.result()
        if record is None:
            answer([False, store.lost_file([name])], None)
            return
        with self._lock:
            self._read[number] = record.tensors
        answer([True, None], None)

    def _write(self, store: NamedBlocks, blocks: Sequence[Sequence[Any]], answer: Answer) -> None:
        records: list[BlockRecord] = []
        lost: list[bytes] = []
        for sent in blocks:
            with self._lock:
                tensors = self._copied.pop(sent[0], None)
            if tensors is None:
                lost.append(sent[1])
            else:
                records.append(block_in(sent, tensors))

        def written(done: Future[WriteResult]) -> None:
            result = done.result()
            answer([[*lost, *(bytes(one) for one in result.refused)], result.reason], None)

        store.write(records).add_done_callback(written)


def named(tensors: Sequence[TensorBytes], *, rank: int, world_size: int) -> tuple[TensorBytes, ...]:
    """Return tensors under names that say whose they are."""
    return tuple(replace(one, name=f"{_owner(rank, world_size)}{one.name}") for one in tensors)


def unnamed(tensors: Sequence[TensorBytes], *, rank: int, world_size: int) -> tuple[TensorBytes, ...]:
    """Undo `named`.

    Raises:
        CacheError: The names are those of another rank.
    """
    owner = _owner(rank, world_size)
    if not all(one.name.startswith(owner) for one in tensors):
        raise CacheError(f"the block's tensors are not those of rank {rank} of {world_size}")
    return tuple(replace(one, name=one.name.removeprefix(owner)) for one in tensors)


def _owner(rank: int, world_size: int) -> str:
    return f"rank{rank}of{world_size}:"
