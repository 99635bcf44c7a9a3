"""RingPorts: whether neighbours reach each other's ring ports, found out before MLX forms the ring.

MLX does not say which port it waits for, and cannot be interrupted while it waits. So the same connections are made
here first, from each rank to every address of the next one, with a greeting that no other program sends:

```
rank r ── greeting, r ──────> rank r + 1
       <── greeting, r + 1 ──
       ── turn ─────────────>              twice around the ring, from rank 0: all are connected; all ports are free
```
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from semanticd.domain.errors import ModelLoadError
from semanticd.domain.reason_text import reason_of

_WORDS = b"semanticd ring\0"
_GREETING = struct.Struct(f"!{len(_WORDS)}sB")
_TURN = b"\1"
_RETRY_S = 0.1
_ATTEMPT_S = 5.0
_PATIENCE_S = 5.0
"""Seconds until a missing neighbour is reported; ranks begin at different times."""
_LATER_S = 2.0
"""Seconds that accepting outlasts connecting: the rank that cannot connect knows the reason, and reports first."""


class RingPorts:
    """One rank's ports, and those of its neighbours."""

    def __init__(
        self, *, rank: int, ring: Sequence[Sequence[str]], limit_s: float, patience_s: float = _PATIENCE_S
    ) -> None:
        """Check `ring`, the addresses (`ip:port`) of all ranks, as `rank`; connecting may take `limit_s`.

        After `patience_s` seconds, `waits_for` says what is waited for.
        """
        self.waits_for = ""
        """Port that this rank cannot connect to yet, and why, in a sentence; any thread may read it."""
        self._rank = rank
        self._ring = ring
        self._next = (rank + 1) % len(ring)
        self._before = (rank - 1) % len(ring)
        self._patient_until = time.monotonic() + patience_s
        self._deadline = time.monotonic() + limit_s
        self._open = contextlib.ExitStack()

    def check(self) -> None:
        """Return once all ranks are connected, with all ports closed again.

        Raises:
            ModelLoadError: An address cannot be listened on or reached; the message names it.
        """
        own = self._ring[self._rank]
        with self._open:
            listeners = [self._listening(address) for address in own]
            with ThreadPoolExecutor(len(own), thread_name_prefix="semanticd-ring") as beside:
                accepting = [beside.submit(self._accepted, *one) for one in zip(listeners, own, strict=True)]
                to_next = [self._connected(address) for address in self._ring[self._next]]
                from_before = [one.result() for one in accepting]
            self._take_turns(to_next[0], from_before[0], listeners)

    def _listening(self, address: str) -> socket.socket:
        listener = self._open.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(_split(address))
            listener.listen()
        except OSError as error:
            raise ModelLoadError(
                f"rank {self._rank} cannot listen on its ring port {address}: {reason_of(error)}; the hostfile must "
                f"have an address of that machine at position {self._rank}, counted from 0, and the port must be free "
                "(SEMANTIC_DISTRIBUTED_RING_PORT)"
            ) from error
        return listener

    def _connected(self, address: str) -> socket.socket:
        port = f"the ring port of rank {self._next} at {address}"
        while True:
            try:
                connected = self._greeted(address)
            except OSError as error:
                reason = reason_of(error)
            else:
                self.waits_for = ""
                return connected
            now = time.monotonic()
            if now > self._deadline:
                raise ModelLoadError(
                    f"rank {self._rank} cannot connect to {port}: {reason}; "
                    f"open that port in the firewalls between them ({self._all()})"
                )
            if now > self._patient_until:
                self.waits_for = f"rank {self._rank} waits for {port}: {reason}"
            time.sleep(_RETRY_S)

    def _greeted(self, address: str) -> socket.socket:
        connected = socket.create_connection(_split(address), timeout=_ATTEMPT_S)
        try:
            connected.sendall(_GREETING.pack(_WORDS, self._rank))
            if _greeting(connected) != self._next:
                raise ConnectionError("something else answers there")
        except OSError:
            connected.close()
            raise
        return self._open.enter_context(connected)

    def _accepted(self, listener: socket.socket, address: str) -> socket.socket:
        while (left_s := self._deadline + _LATER_S - time.monotonic()) > 0:
            listener.settimeout(left_s)
            with contextlib.suppress(OSError), contextlib.ExitStack() as until_greeted:
                connected = until_greeted.enter_context(listener.accept()[0])
                connected.settimeout(_ATTEMPT_S)
                if _greeting(connected) == self._before:
                    connected.sendall(_GREETING.pack(_WORDS, self._rank))
                    self._open.push(until_greeted.pop_all())
                    return connected
        raise ModelLoadError(
            f"rank {self._before} has not connected to the ring port of rank {self._rank} at {address}; open that port "
            f"in the firewalls between them ({self._all()})"
        )

    def _take_turns(
        self, to_next: socket.socket, from_before: socket.socket, listeners: Sequence[socket.socket]
    ) -> None:
        for connected in (to_next, from_before):
            connected.settimeout(max(self._deadline - time.monotonic(), 0.0) + 2 * _LATER_S)
        try:
            for is_last in (False, True):
                if self._rank:
                    _receive(from_before, len(_TURN))
                if is_last:
                    for listener in listeners:
                        listener.close()
                to_next.sendall(_TURN)
                if not self._rank:
                    _receive(from_before, len(_TURN))
        except OSError as error:
            raise ModelLoadError(
                f"rank {self._rank} lost a neighbour in the ring: {reason_of(error)} ({self._all()})"
            ) from error

    def _all(self) -> str:
        return ring_text(self._ring)


def ring_text(ring: Sequence[Sequence[str]]) -> str:
    """Return the ring ports of all ranks, for a message."""
    return "ring ports: " + ", ".join(f"rank {rank} {' '.join(own)}" for rank, own in enumerate(ring))


def _greeting(connected: socket.socket) -> int | None:
    """Return the rank at the other end; None: it is another program."""
    words, rank = _GREETING.unpack(_receive(connected, _GREETING.size))
    return int(rank) if words == _WORDS else None


def _receive(connected: socket.socket, num_bytes: int) -> bytes:
    data = b""
    while len(data) < num_bytes:
        more = connected.recv(num_bytes - len(data))
        if not more:
            raise ConnectionError("the connection was closed")
        data += more
    return data


def _split(address: str) -> tuple[str, int]:
    ip, _, port = address.rpartition(":")
    return ip, int(port)
