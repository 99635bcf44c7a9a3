"""A probe: whether a peer responds as one, accepts the key, and computes the same values. For the doctor.

Rule: whatever a machine answers, or not, is a result; nothing is read but who it is.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Literal

import msgspec

from semanticd.adapters.peers.connection import Address, PeerConnection, PeerFailedError, Reply

IDENTITY_PATH = "/v1/blocks"
PROBE_S = 3.0
_MAX_BYTES = 256 * 1024
_MESSAGE_CHARACTERS = 200

ProbeOutcome = Literal["ready", "unreachable", "key_refused", "not_allowed", "busy", "no_peer"]


class PeerTree(msgspec.Struct, frozen=True):
    """A model that a peer has loaded; blocks are shared where fingerprint and layout are equal."""

    model: str
    fingerprint: str
    layout: str


class _Identity(msgspec.Struct):
    version: str
    trees: list[PeerTree]


class _Error(msgspec.Struct):
    message: str


class _Refusal(msgspec.Struct):
    error: _Error


@dataclass(frozen=True, slots=True)
class Probe:
    """The result of a probe; `message` is the peer's refusal, or the reason why it could not be reached."""

    url: str
    outcome: ProbeOutcome
    message: str = ""
    version: str = ""
    trees: tuple[PeerTree, ...] = ()


async def probe(url: str, *, key: str | None, timeout_s: float = PROBE_S) -> Probe:
    """Probe the machine at `url`, within a number of seconds."""
    try:
        reply = await asyncio.wait_for(_ask(url, key), timeout_s)
    except asyncio.TimeoutError:
        return Probe(url, "unreachable", f"no answer within {timeout_s:g} s")
    except PeerFailedError as error:
        outcome: ProbeOutcome = "unreachable" if error.failure == "unreachable" else "no_peer"
        return Probe(url, outcome, str(error)[:_MESSAGE_CHARACTERS])
    return read_identity(url, reply)


def read_identity(url: str, reply: Reply) -> Probe:
    """Return the result of an answer; it never raises."""
    if reply.status == 200:
        try:
            found = msgspec.json.decode(reply.body, type=_Identity)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return Probe(url, "no_peer", "its answer is not one of semanticd")
        return Probe(url, "ready", version=found.version, trees=tuple(found.trees))
    outcomes: dict[int, ProbeOutcome] = {401: "key_refused", 403: "not_allowed", 429: "busy", 503: "busy"}
    return Probe(url, outcomes.get(reply.status, "no_peer"), f"HTTP {reply.status}{_said(reply.body)}")


def _said(body: bytes) -> str:
    try:
        message = msgspec.json.decode(body, type=_Refusal).error.message
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    return f": {message[:_MESSAGE_CHARACTERS]}"


async def _ask(url: str, key: str | None) -> Reply:
    connection = await PeerConnection.open(Address.of(url))
    try:
        headers = [("Authorization", f"Bearer {key}")] if key else []
        return await connection.ask("GET", IDENTITY_PATH, headers=headers, max_bytes=_MAX_BYTES)
    finally:
        connection.close()
