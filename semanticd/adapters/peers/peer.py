"""One peer: its connections, its link's rate, its counters, and the pause after a failure.

```
ready ──failure──> resting 1 s, 2 s, 4 s … 60 s ──time is over──> ready, with the next failure's rest twice as long
      <──success── (the next rest is 1 s again)
```
Used on the event loop of `HttpPeers` only; `facts` may be asked by any thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from semanticd.adapters.peers.connection import Address, Headers, PeerConnection, PeerFailedError, Reply
from semanticd.adapters.peers.link import LinkRate
from semanticd.adapters.peers.wire import (
    BLOCK_PATH,
    LOOK_UP_PATH,
    MAX_ANSWER_BYTES,
    question_body,
    read_answer,
)
from semanticd.application.ports.peers import PeerFacts, PeerQuestion
from semanticd.application.ports.telemetry import Log, Metrics
from semanticd.application.ports.warm_store import BlockRecord
from semanticd.domain.block_tree import OfferedBlock
from semanticd.domain.ids import BlockHash

_T = TypeVar("_T")

FIRST_REST_S = 1.0
LONGEST_REST_S = 60.0
CONNECTIONS = 4
"""Blocks that one peer is asked for at the same time."""
_HEADER_BYTES = 1024 * 1024
"""Maximum bytes of a block file besides its tensors."""
_MESSAGE_CHARACTERS = 200
_HARMLESS = ("busy", "gone")
"""Failures that say nothing against the next question."""

Decode = Callable[[bytes, BlockHash], BlockRecord | None]
"""Reads a block file; None: it is not whole, or not the block of this name."""


class Peer:
    """Queries to one machine, and their outcomes."""

    def __init__(
        self,
        url: str,
        *,
        key: str | None,
        decode: Decode,
        threads: Executor,
        metrics: Metrics,
        log: Log,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Ask the daemon at `url` with this API key; nothing is connected yet. `threads` do what takes long."""
        self.url = url
        self.link = LinkRate()
        self._address = Address.of(url)
        self._headers: Headers = [("Authorization", f"Bearer {key}")] if key else []
        self._decode = decode
        self._threads = threads
        self._metrics = metrics
        self._log = log
        self._monotonic = monotonic
        self._idle: list[PeerConnection] = []
        self._places = asyncio.Semaphore(CONNECTIONS)
        self._rest_s = 0.0
        self._rests_until = 0.0
        self._failed_to_bring = False
        """Whether it answers queries but delivers no blocks: an answer then does not prove that it works."""
        self._num_asked = self._num_found = self._num_blocks = self._num_bytes = self._num_failures = 0
        self._last_failure: str | None = None

    @property
    def is_resting(self) -> bool:
        """Whether the peer is not queried for now."""
        return self._monotonic() < self._rests_until

    def facts(self) -> PeerFacts:
        """Return its counters."""
        return PeerFacts(
            address=self.url,
            state="resting" if self.is_resting else "ready",
            num_asked=self._num_asked,
            num_found=self._num_found,
            num_blocks=self._num_blocks,
            num_bytes=self._num_bytes,
            num_failures=self._num_failures,
            bytes_per_s=self.link.bytes_per_s,
            last_failure=self._last_failure,
        )

    async def look_up(self, question: PeerQuestion, timeout_s: float) -> tuple[OfferedBlock, ...]:
        """Return its blocks of a prompt; none where it fails, which is counted."""
        self._num_asked += 1
        self._metrics.count("peer_lookups_total", peer=self.url)
        try:
            body = await self._on_thread(lambda: question_body(question))
            headers = [*self._headers, ("Content-Type", "application/json")]
            reply = await self._within(timeout_s, "POST", LOOK_UP_PATH, headers, body, MAX_ANSWER_BYTES)
            found = await self._on_thread(lambda: read_answer(reply.body))
        except PeerFailedError as error:
            self._failed(error)
            return ()
        if not self._failed_to_bring:
            self._rest_s = 0.0
        self._num_found += len(found)
        self._metrics.count("peer_found_blocks_total", len(found), peer=self.url)
        return found

    async def read(self, name: BlockHash, *, max_bytes: int, timeout_s: float) -> BlockRecord | None:
        """Return a verified block of at most this number of tensor bytes; None after a failure, which is counted.

        It has so long from when its turn has come. Those before it have no longer; if they fail it is not asked for.
        """
        async with self._places:
            if self.is_resting:
                return None
            try:
                record, num_bytes = await self._bring(name, max_bytes=max_bytes, timeout_s=timeout_s)
            except PeerFailedError as error:
                self._failed_to_bring = self._failed_to_bring or error.failure not in _HARMLESS
                self._failed(error)
                return None
        self._failed_to_bring = False
        self._rest_s = 0.0
        self._num_blocks += 1
        self._num_bytes += num_bytes
        self._metrics.count("peer_read_blocks_total", peer=self.url)
        self._metrics.count("peer_read_bytes_total", num_bytes, peer=self.url)
        return record

    async def _bring(self, name: BlockHash, *, max_bytes: int, timeout_s: float) -> tuple[BlockRecord, int]:
        limit, path = max_bytes + _HEADER_BYTES, BLOCK_PATH + name.hex()
        reply = await self._within(timeout_s, "GET", path, self._headers, b"", limit)
        record = await self._on_thread(lambda: self._decode(reply.body, name))
        if record is None:
            raise PeerFailedError("damaged", f"its answer is not block {name.hex()[:16]}…", for_long=True)
        return record, len(reply.body)

    async def _on_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _within(
        self, timeout_s: float, method: str, path: str, headers: Headers, body: bytes, max_bytes: int
    ) -> Reply:
        try:
            return await asyncio.wait_for(self._ask(method, path, headers, body, max_bytes), timeout_s)
        except asyncio.TimeoutError as error:
            # The request that waited for a block waited long: not again soon.
            raise PeerFailedError(
                "timed_out", f"no complete answer within {timeout_s:.1f} s", for_long=method == "GET"
            ) from error

    async def _ask(self, method: str, path: str, headers: Headers, body: bytes, max_bytes: int) -> Reply:
        connection = self._idle_connection() or await PeerConnection.open(self._address)
        is_block = method == "GET"
        if is_block:
            self.link.begin(self._monotonic())
        try:
            reply = await connection.ask(method, path, headers=headers, body=body, max_bytes=max_bytes)
        except BaseException:
            connection.close()
            raise
        finally:
            if is_block:
                self.link.end(self._monotonic(), connection.bytes_read)
        if connection.reusable:
            self._idle.append(connection)
        else:
            connection.close()
        _check(reply, is_block=is_block)
        return reply

    def _idle_connection(self) -> PeerConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                return connection
            connection.close()
        return None

    def _failed(self, error: PeerFailedError) -> None:
        self._num_failures += 1
        self._last_failure = str(error)[:_MESSAGE_CHARACTERS]
        self._metrics.count("peer_failures_total", peer=self.url, reason=error.failure)
        if error.failure not in _HARMLESS and not self.is_resting:
            longer = min(max(2 * self._rest_s, FIRST_REST_S), LONGEST_REST_S)
            self._rest_s = LONGEST_REST_S if error.for_long else longer
            self._rests_until = self._monotonic() + self._rest_s
            self._log.warning("peer_failed", peer=self.url, reason=self._last_failure, rest_s=self._rest_s)

    def close(self) -> None:
        """Close the open connections."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()


def _check(reply: Reply, *, is_block: bool) -> None:
    if reply.status == 200:
        return
    if reply.status in (429, 503):
        raise PeerFailedError("busy", f"it answered {reply.status}: too busy")
    if reply.status == 404 and is_block:
        raise PeerFailedError("gone", "it no longer has the block")
    hint = {401: "; is SEMANTIC_PEER_KEY one of its keys?", 403: "; does it allow this host?"}
    raise PeerFailedError(
        "refused",
        f"it answered {reply.status}{hint.get(reply.status, '')}",
        for_long=reply.status < 500,
    )
