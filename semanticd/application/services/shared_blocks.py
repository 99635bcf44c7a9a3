"""SharedBlocks: the blocks of this machine's warm tier that peers may read: those below the root shared by all agents.

An answer names no block whose tokens the asker did not send, so that a client cannot learn of a conversation by
asking about its beginning. Blocks below a private root are never found: their root is a secret of their agent. Blocks
that are being deleted are not found. Hot blocks that are not on disk yet are not offered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from semanticd.application.ports.inference import LoadedModel
from semanticd.application.ports.peers import BlockFiles
from semanticd.domain.block_tree import NamedTree, OfferedBlock
from semanticd.domain.errors import NotFoundError, OverloadedError
from semanticd.domain.ids import BlockHash, ModelFingerprint, ModelId
from semanticd.domain.limits import LIMITS
from semanticd.domain.prefix_index import match_prefix

_WAIT_S = 4.0
"""Seconds that a peer's request waits for a free slot: less than the peer waits for a block."""
_RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class SharedTree:
    """A model that is loaded: machines share its blocks where fingerprint and layout are equal."""

    model: ModelId
    fingerprint: ModelFingerprint
    layout: str


def shared_trees(models: Iterable[LoadedModel]) -> tuple[SharedTree, ...]:
    """Return what these models' blocks lie below."""
    return tuple(
        SharedTree(one.model_id, one.runner.spec.fingerprint, one.runner.spec.layout) for one in models
    )


class SharedBlocks:
    """The warm tier as peers see it; a few are answered at a time, in worker threads."""

    def __init__(
        self,
        files: BlockFiles,
        *,
        max_at_once: int = LIMITS.peer_reads,
        wait_s: float = _WAIT_S,
        trees: Callable[[], Sequence[SharedTree]] = tuple,
    ) -> None:
        """Limit the concurrent readers of these files, because the daemon's own agents come first; others wait.

        `trees` returns the models that are loaded.
        """
        self._files = files
        self.trees = trees
        self._wait_s = wait_s
        self._places = asyncio.Semaphore(max_at_once)
        # Questions are short, and must not wait for files that go over a slow link.
        self._questions = asyncio.Semaphore(max_at_once)
        # Of its own: work continues in a thread after its asker has hung up, and must not block that of others.
        self._workers = ThreadPoolExecutor(2 * max_at_once, thread_name_prefix="semanticd-shared-blocks")

    async def take_place(self) -> Callable[[], None]:
        """Wait for a file's place; returns what gives it back, to be called once, when the file was sent.

        Raises:
            OverloadedError: others are being answered.
        """
        return await self._take(self._places)

    async def _take(self, places: asyncio.Semaphore) -> Callable[[], None]:
        try:
            await asyncio.wait_for(places.acquire(), self._wait_s)
        except asyncio.TimeoutError as error:
            raise OverloadedError("other peers are being answered", retry_after_s=_RETRY_S) from error
        return places.release

    async def look_up(self, tree: NamedTree, token_ids: tuple[int, ...]) -> list[OfferedBlock]:
        """Return the stored blocks that cover the beginning of these tokens, parents first, the snapshot last.

        Raises:
            OverloadedError: others are being answered.
        """
        loop = asyncio.get_running_loop()
        release = await self._take(self._questions)
        try:
            return await loop.run_in_executor(self._workers, self._match, tree, token_ids)
        finally:
            release()

    async def file(self, name: BlockHash) -> bytes:
        """Return a block file that was verified.

        Raises:
            NotFoundError: it is not stored, or was broken.
        """
        loop = asyncio.get_running_loop()
        data = await loop.run_in_executor(self._workers, self._files.read_file, name)
        if data is None:
            raise NotFoundError("no block of this name is stored here")
        return data

    def _match(self, tree: NamedTree, token_ids: tuple[int, ...]) -> list[OfferedBlock]:
        files = self._files
        match = match_prefix(
            token_ids, spec=tree, limit=len(token_ids), get=files.get, children=files.children
        )
        found = [one.block for one in match.blocks if one.whole]
        if match.state is not None:
            found.append(match.state)
        return [OfferedBlock(b.block_hash, b.parent, b.num_tokens, b.kind) for b in found]
