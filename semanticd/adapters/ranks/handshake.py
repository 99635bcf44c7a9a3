"""The handshake of a rank with the daemon: each proves that it knows the shared key, and never sends it. No I/O.

```
daemon                                              rank
  challenge: nonce A                  ──────────>
                                      <──────────     introduction: who I am, nonce B, proof(key, "rank", A, B, who)
  acceptance: proof(key, "daemon", …) ──────────>     or a refusal: why, or that another worker has this rank
```
Proofs are HMAC-SHA256 over both nonces and the introduction, each side's with its own word in front, so that no proof
can be sent back. The messages after the handshake are neither encrypted nor signed.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass
from typing import Literal

import msgspec

PROTOCOL = 2
"""Counts changes of what the daemon and its ranks say to one another."""
NONCE_BYTES = 32
MIN_KEY_CHARACTERS = 16

LinkKind = Literal["steps", "blocks"]


class Introduction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Identity of a connecting link: a rank has two links of one process, named randomly by `process`."""

    protocol: int
    version: str
    rank: int
    kind: LinkKind
    process: str
    device: str
    """`cpu` or `gpu`."""
    computed_by: str
    """See `compute_revision`."""


def new_nonce() -> bytes:
    """Return bytes that were never used before."""
    return secrets.token_bytes(NONCE_BYTES)


def proof(
    key: str, *, side: Literal["rank", "daemon"], nonces: tuple[bytes, bytes], who: Introduction
) -> bytes:
    """Return the proof of knowing the key (32 bytes); `nonces` are the daemon's and the rank's."""
    text = b"\0".join([b"semanticd.ranks", side.encode(), *nonces, msgspec.msgpack.encode(who)])
    return hmac.digest(key.encode(), text, "sha256")


def is_proof(given: object, expected: bytes) -> bool:
    """Return whether a proof is valid; takes constant time."""
    return isinstance(given, bytes) and hmac.compare_digest(given, expected)


@dataclass(frozen=True, slots=True)
class Expected:
    """The conditions for a rank to join: the daemon's version and computing software, and the number of ranks."""

    version: str
    device: str
    computed_by: str
    world_size: int


def refusal(who: Introduction, expected: Expected) -> str | None:
    """Return why a rank that knows the key cannot join, None: it can."""
    if not 0 <= who.rank < expected.world_size:
        if expected.world_size == 1:
            return (
                f"the daemon's hostfile names its own machine only, and this is rank {who.rank}; add this machine to "
                "it and restart the daemon"
            )
        return (
            f"the hostfile has {expected.world_size} machines, ranks 0 to {expected.world_size - 1}; "
            f"this is rank {who.rank}"
        )
    if (who.version, who.protocol) != (expected.version, PROTOCOL):
        return (
            f"rank {who.rank} runs semanticd {who.version} and the daemon {expected.version}; "
            "install the same version on both"
        )
    if who.device != expected.device:
        return f"rank {who.rank} computes on a {who.device} and the daemon on a {expected.device}; both must be equal"
    if software(who.computed_by) != software(expected.computed_by):
        return (
            f"rank {who.rank} computes with {software(who.computed_by)} and the daemon with "
            f"{software(expected.computed_by)}; install the same versions of mlx and mlx-lm on both"
        )
    return None


def software(computed_by: str) -> str:
    """Return a compute revision without its last part, the chip."""
    return computed_by.rpartition("-")[0]
