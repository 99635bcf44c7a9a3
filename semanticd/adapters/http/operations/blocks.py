"""Blocks for peers: which of a prompt's blocks are stored here, and their files.

An answer names only blocks whose tokens were sent; a file's name is a hash over its tokens and all before it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import struct
from collections.abc import AsyncIterator
from typing import Annotated, ClassVar

import msgspec
from falcon.asgi import Request, Response
from msgspec import Meta

from semanticd import __version__
from semanticd.adapters.http.core.body import read_object
from semanticd.adapters.http.core.config import HttpConfig
from semanticd.adapters.http.core.request_context import request_context_of
from semanticd.adapters.http.core.routes import Access
from semanticd.application.services.shared_blocks import SharedBlocks
from semanticd.domain.block import unpack_token_ids
from semanticd.domain.block_tree import NamedTree
from semanticd.domain.errors import InvalidRequestError
from semanticd.domain.ids import BlockHash, ModelFingerprint
from semanticd.domain.limits import LIMITS

_NAME = re.compile(r"[0-9a-f]{64}")
_CHUNK_BYTES = 256 * 1024


class BlockLookup(msgspec.Struct):
    """Body of `POST /v1/blocks/lookup`: a prompt as token ids, and the tree to look for it in."""

    fingerprint: Annotated[str, Meta(min_length=1, max_length=256)]
    layout: Annotated[str, Meta(min_length=1, max_length=256)]
    block_tokens: Annotated[int, Meta(ge=1, le=8192)]
    cuts_anywhere: bool
    tokens: str
    """Base64 of little-endian int32."""


class StoredBlock(msgspec.Struct):
    """A block that is stored here; `tokens` counts, and is 0 for a snapshot (`state`)."""

    name: str
    parent: str
    tokens: int
    kind: str


class StoredBlocks(msgspec.Struct):
    """Answer of `POST /v1/blocks/lookup`: the blocks that cover the prompt's beginning, parents first."""

    blocks: list[StoredBlock]


class LoadedTree(msgspec.Struct):
    """A model that is loaded; machines share its blocks where fingerprint and layout are equal."""

    model: str
    fingerprint: str
    layout: str


class PeerIdentity(msgspec.Struct):
    """Answer of `GET /v1/blocks`: the version, and the models that are loaded now."""

    version: str
    trees: list[LoadedTree]


class SharedBlockFiles:
    """`/v1/blocks`, `/v1/blocks/lookup` and `/v1/blocks/{block_hash}`."""

    access: ClassVar[Access] = "peer"

    def __init__(self, shared: SharedBlocks, config: HttpConfig) -> None:
        self._shared = shared
        self._config = config

    async def on_get_identity(self, req: Request, resp: Response) -> None:
        """Answer who this is, for a peer's doctor."""
        trees = [LoadedTree(one.model, one.fingerprint, one.layout) for one in self._shared.trees()]
        resp.data = msgspec.json.encode(PeerIdentity(__version__, trees))

    async def on_post_lookup(self, req: Request, resp: Response) -> None:
        """Answer which blocks of a prompt are stored here."""
        body = await read_object(req, BlockLookup, self._config)
        tree = NamedTree(
            ModelFingerprint(body.fingerprint), body.layout, body.block_tokens, body.cuts_anywhere
        )
        token_ids = await asyncio.to_thread(read_token_ids, body.tokens)
        found = await self._shared.look_up(tree, token_ids)
        resp.data = msgspec.json.encode(
            StoredBlocks([StoredBlock(b.name.hex(), b.parent.hex(), b.num_tokens, b.kind) for b in found])
        )

    async def on_get(self, req: Request, resp: Response, block_hash: str) -> None:
        """Answer with a block file."""
        if not _NAME.fullmatch(block_hash):
            raise InvalidRequestError("a block's name is 64 hexadecimal digits", param="block_hash")
        # Its bytes are in memory until they are sent, so the place is held as long.
        request_context_of(req).at_end.callback(await self._shared.take_place())
        data = await self._shared.file(BlockHash(bytes.fromhex(block_hash)))
        resp.content_type = "application/octet-stream"
        resp.set_header("Cache-Control", "no-store")
        resp.content_length = len(data)
        resp.stream = _pieces(memoryview(data))


async def _pieces(data: memoryview) -> AsyncIterator[bytes]:
    for start in range(0, len(data), _CHUNK_BYTES):
        yield bytes(data[start : start + _CHUNK_BYTES])


def read_token_ids(text: str) -> tuple[int, ...]:
    """Return the ids of a look-up.

    Raises:
        InvalidRequestError: The ids have another form, or there are too many.
    """
    try:
        token_ids = unpack_token_ids(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError, struct.error) as error:
        raise InvalidRequestError("expected base64 of little-endian int32", param="tokens") from error
    if len(token_ids) > LIMITS.peer_tokens:
        raise InvalidRequestError(f"expected at most {LIMITS.peer_tokens} tokens", param="tokens")
    return token_ids
