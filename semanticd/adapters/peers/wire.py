"""The messages between peers: JSON for queries, unchanged block files for blocks.

Rule: whatever bytes a peer sends, reading them gives offers or raises `PeerFailedError`.
"""

from __future__ import annotations

import base64
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from semanticd.adapters.peers.connection import PeerFailedError
from semanticd.application.ports.peers import PeerQuestion
from semanticd.domain.block import pack_token_ids
from semanticd.domain.block_tree import OfferedBlock
from semanticd.domain.ids import BlockHash

LOOK_UP_PATH = "/v1/blocks/lookup"
BLOCK_PATH = "/v1/blocks/"
MAX_ANSWER_BYTES = 16 * 1024 * 1024
"""Maximum size of a reply to a query: about 80,000 blocks."""

_Hash = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class _Offer(msgspec.Struct):
    name: _Hash
    parent: _Hash
    tokens: Annotated[int, Meta(ge=0, le=1_048_576)]
    kind: Literal["kv", "state"] = "kv"


class _Answer(msgspec.Struct):
    blocks: list[_Offer]


def question_body(question: PeerQuestion) -> bytes:
    """Return the body of a look-up: token ids as base64 of little-endian int32."""
    tree = question.tree
    return msgspec.json.encode(
        {
            "fingerprint": tree.fingerprint,
            "layout": tree.layout,
            "block_tokens": tree.block_tokens,
            "cuts_anywhere": tree.cuts_anywhere,
            "tokens": base64.b64encode(pack_token_ids(question.token_ids)).decode(),
        }
    )


def read_answer(body: bytes) -> tuple[OfferedBlock, ...]:
    """Return the offers of an answer.

    Raises:
        PeerFailedError: The answer has another form.
    """
    try:
        answer = msgspec.json.decode(body, type=_Answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PeerFailedError("malformed", f"its answer cannot be read: {error}") from error
    return tuple(
        OfferedBlock(
            BlockHash(bytes.fromhex(one.name)), BlockHash(bytes.fromhex(one.parent)), one.tokens, one.kind
        )
        for one in answer.blocks
    )
