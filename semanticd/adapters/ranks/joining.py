"""A rank's way to the daemon: it connects, proves that it knows the key, and asks for the same proof."""

from __future__ import annotations

import socket
from typing import Any

from semanticd.adapters.ranks.handshake import NONCE_BYTES, Introduction, is_proof, new_nonce, proof
from semanticd.adapters.ranks.link import Link, LinkLostError
from semanticd.domain.errors import DaemonError

_CONNECT_S = 5.0
_GREETING_S = 10.0


class RefusedError(DaemonError):
    """The daemon refuses this rank, or does not have the key; a retry does not help."""


class TakenError(LinkLostError):
    """Another worker has this rank; it may leave."""


def join(address: tuple[str, int], *, key: str, who: Introduction) -> Link:
    """Return a link on which the daemon will ask.

    Raises:
        RefusedError: as it says.
        TakenError: likewise.
        OSError, LinkLostError: the daemon is not there, or not yet.
    """
    link = Link(socket.create_connection(address, timeout=_CONNECT_S))
    try:
        link.limit(_GREETING_S)
        challenge = _challenge(link)
        if not isinstance(challenge, dict) or challenge.get("semanticd") != "ranks":
            raise RefusedError(
                f"what listens on {address[0]}:{address[1]} is not a daemon that accepts ranks"
            )
        nonces = (bytes(challenge["nonce"]), new_nonce())
        if len(nonces[0]) != NONCE_BYTES:
            raise RefusedError("the daemon's challenge is too short")
        link.send({"who": who, "nonce": nonces[1], "proof": proof(key, side="rank", nonces=nonces, who=who)})
        answer = link.receive()
        if "refused" in answer:
            raise RefusedError(f"the daemon refuses this rank: {answer['refused']}")
        if "taken" in answer:
            raise TakenError(str(answer["taken"]))
        if not is_proof(answer.get("proof"), proof(key, side="daemon", nonces=nonces, who=who)):
            raise RefusedError(f"what listens on {address[0]}:{address[1]} does not know the key")
        link.send({"joined": True})
        link.trust()
    except (KeyError, TypeError, AttributeError) as error:
        link.close()
        raise LinkLostError(f"unexpected message from the daemon: {error!r}") from error
    except BaseException:
        link.close()
        raise
    return link


def _challenge(link: Link) -> Any:
    try:
        return link.receive()
    except LinkLostError as error:
        raise LinkLostError(
            f"no daemon that accepts ranks answers there ({error}); ranks join on SEMANTIC_DISTRIBUTED_PORT, not on "
            "the port of HTTP"
        ) from error
