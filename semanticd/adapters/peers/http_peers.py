"""`Peers` over HTTP: one thread with an event loop for all of them, so that a deadline ends any wait.

The system's resolver knows no deadline: names are looked up on threads of their own (the loop's default executor),
which hold up neither the questions to others nor the end.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Coroutine, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from semanticd.adapters.peers.peer import Decode, Peer
from semanticd.application.ports.peers import LOOK_UP_S, READ_S, PeerFacts, PeerQuestion
from semanticd.application.ports.telemetry import Log, Metrics
from semanticd.application.ports.warm_store import BlockRecord
from semanticd.domain.block import Block
from semanticd.domain.block_tree import OfferedBlock
from semanticd.domain.ids import BlockHash
from semanticd.domain.limits import LIMITS

_T = TypeVar("_T")

_MAX_KNOWN = 65_536
"""Maximum number of blocks whose holders are remembered."""
_VERIFYING_THREADS = 4
"""Threads that write questions, and read and verify answers and blocks."""
_NAME_THREADS = 6 * LIMITS.peers
"""Names that are looked up at a time. A peer whose name hangs rests between its tries, each time twice as long."""


class _Holding:
    """The peers that offered a block, and its maximum size."""

    __slots__ = ("max_bytes", "peers")

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.peers: list[Peer] = []


class HttpPeers:
    """The daemons at some addresses."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        key: str | None,
        decode: Decode,
        metrics: Metrics,
        log: Log,
        look_up_s: float = LOOK_UP_S,
        read_s: float = READ_S,
    ) -> None:
        """Ask these with this key; blocks are verified by `decode`. Starts a thread, connects to none."""
        self._log = log
        self._look_up_s = look_up_s
        self._read_s = read_s
        self._known: OrderedDict[BlockHash, _Holding] = OrderedDict()
        self._lock = threading.Lock()
        self._closed = False
        self._verifying = ThreadPoolExecutor(_VERIFYING_THREADS, thread_name_prefix="semanticd-peers")
        self._peers = tuple(
            Peer(url, key=key, decode=decode, threads=self._verifying, metrics=metrics, log=log)
            for url in urls
        )
        self._loop = asyncio.new_event_loop()
        self._names = ThreadPoolExecutor(_NAME_THREADS, thread_name_prefix="semanticd-peer-names")
        self._loop.set_default_executor(self._names)
        self._thread = threading.Thread(target=self._run, name="semanticd-peers", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    # From any thread.

    def look_up(self, question: PeerQuestion) -> Future[tuple[OfferedBlock, ...]]:
        """Ask all peers that are not resting; see the protocol."""
        return self._start(self._survive(self._look_up(question), ()), ())

    def read(self, block_hash: BlockHash) -> Future[BlockRecord | None]:
        """Read a block from the peers that offered it, one after the other; see the protocol."""
        return self._start(self._survive(self._read(block_hash), None), None)

    def holds(self, block_hash: BlockHash) -> bool:
        """Return whether a peer offered this block."""
        return block_hash in self._known

    def expected_s(self, blocks: Iterable[Block]) -> float:
        """Return how long reading these may take (seconds)."""
        seconds = 0.0
        with self._lock:
            for block in blocks:
                first = next(iter(self._quickest(block.block_hash)), None)
                rate = first.link.bytes_per_s if first is not None else None
                seconds += block.num_bytes / rate if rate else 0.0
        return seconds

    def _quickest(self, name: BlockHash) -> list[Peer]:
        """Return the peers that have a block, fastest first; unmeasured ones may be faster. Needs the lock."""
        holding = self._known.get(name)
        if holding is None:
            return []
        return sorted(holding.peers, key=lambda peer: -(peer.link.bytes_per_s or float("inf")))

    def forgive(self) -> None:
        """Reduce the weight of past measurements."""
        for peer in self._peers:
            peer.link.forgive()

    def facts(self) -> tuple[PeerFacts, ...]:
        """Return the peers in the order of the settings."""
        return tuple(peer.facts() for peer in self._peers)

    def close(self) -> None:
        """End all questions and reads, and the thread. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _start(self, work: Coroutine[Any, Any, _T], nothing: _T) -> Future[_T]:
        with self._lock:
            if not self._closed:
                return asyncio.run_coroutine_threadsafe(work, self._loop)
        work.close()
        future: Future[_T] = Future()
        future.set_result(nothing)
        return future

    # On the loop.

    async def _survive(self, work: Coroutine[Any, Any, _T], nothing: _T) -> _T:
        try:
            return await work
        except Exception as error:  # noqa: BLE001 (a defect here costs a recompute, not the request)
            self._log.error("asking_peers_failed", error=repr(error))
            return nothing

    async def _look_up(self, question: PeerQuestion) -> tuple[OfferedBlock, ...]:
        asked = [peer for peer in self._peers if not peer.is_resting]
        answers = await asyncio.gather(*(peer.look_up(question, self._look_up_s) for peer in asked))
        offers = dict.fromkeys(offer for found in answers for offer in found)
        with self._lock:
            for peer, found in zip(asked, answers, strict=True):
                for offer in found:
                    self._note(offer.name, peer, question.max_block_bytes)
        return tuple(offers)

    def _note(self, name: BlockHash, peer: Peer, max_bytes: int) -> None:
        holding = self._known.setdefault(name, _Holding(max_bytes))
        self._known.move_to_end(name)
        holding.max_bytes = max(holding.max_bytes, max_bytes)
        if peer not in holding.peers:
            holding.peers.append(peer)
        if len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)

    async def _read(self, name: BlockHash) -> BlockRecord | None:
        with self._lock:
            holding = self._known.get(name)
            peers = self._quickest(name)
            max_bytes = holding.max_bytes if holding else 0
        until = self._loop.time() + self._read_s
        for peer in peers:
            left_s = until - self._loop.time()
            if left_s <= 0:
                break
            if not peer.is_resting:
                record = await peer.read(name, max_bytes=max_bytes, timeout_s=left_s)
                if record is not None:
                    return record
            self._forget(name, peer)
        return None

    def _forget(self, name: BlockHash, peer: Peer) -> None:
        """Take back that a peer has a block: it did not bring it."""
        with self._lock:
            holding = self._known.get(name)
            if holding is not None and peer in holding.peers:
                holding.peers.remove(peer)
                if not holding.peers:
                    del self._known[name]

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for peer in self._peers:
            peer.close()
        self._verifying.shutdown(cancel_futures=True)
        self._names.shutdown(wait=False, cancel_futures=True)
