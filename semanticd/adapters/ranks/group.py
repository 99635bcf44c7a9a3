"""RankGroup: accepts ranks and forms them; it outlives each formation.

```
connection ─> handshake ─> lobby (two links of each rank) ─> formation ─> it ends ─> every rank starts again ─> lobby
```
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from semanticd.adapters.ranks.formation import RETRY_S, Formation, Member
from semanticd.adapters.ranks.handshake import (
    NONCE_BYTES,
    Expected,
    Introduction,
    LinkKind,
    is_proof,
    new_nonce,
    proof,
    refusal,
)
from semanticd.adapters.ranks.hosts import Hosts
from semanticd.adapters.ranks.link import Link, LinkLostError
from semanticd.adapters.ranks.process import RankProcess
from semanticd.application.ports.ranks import RankFacts, RankState
from semanticd.application.ports.telemetry import Log
from semanticd.domain.errors import DaemonError, OverloadedError
from semanticd.domain.limits import LIMITS

HANDSHAKE_S = 5.0
STARTING_AGAIN_S = 60.0
"""Seconds that ranks may take to restart after a formation: each starts a process that imports MLX."""


@dataclass(frozen=True, slots=True)
class GroupOptions:
    """Options of joining the group."""

    hosts: Hosts
    port: int
    key: str
    timeout_s: float
    expected: Expected


class RankGroup:
    """The ranks of one daemon. Any thread, except the formation's steps."""

    def __init__(self, options: GroupOptions, *, log: Log) -> None:
        """Nothing listens before `start`."""
        self.options = options
        self._log = log
        self._lock = threading.Lock()
        self._lobby: dict[int, dict[LinkKind, tuple[Introduction, Link]]] = {}
        self._refused: dict[int, str] = {}
        self._formation: Formation | None = None
        self._why = ""
        self._ended_at = float("-inf")
        self.num_failures = 0
        """Formations that ended while they were needed."""
        self.awaited: str | None = None
        """Name of the model that is loaded as soon as all ranks have joined."""
        self.trouble = ""
        """Reason why loading it failed although all ranks had joined."""
        self._told_taken: dict[int, str] = {}
        self._closing = False
        self._listener: socket.socket | None = None
        self._shaking = threading.BoundedSemaphore(LIMITS.rank_handshakes)
        self._own: RankProcess | None = None

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.options.hosts.world_size

    def start(self, own: RankProcess | None = None) -> None:
        """Listen for ranks, and start `own`, rank 0's process, here.

        Raises:
            DaemonError: The address cannot be listened on.
        """
        address = (self.options.hosts.first_ip, self.options.port)
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(LIMITS.rank_handshakes)
        except OSError as error:
            listener.close()
            raise DaemonError(
                f"cannot listen for ranks on {address[0]}:{address[1]}: {error.strerror or error}; the first machine "
                "of the hostfile must be this one; another port: SEMANTIC_DISTRIBUTED_PORT"
            ) from error
        self._listener = listener
        threading.Thread(target=self._accept, name="semanticd-ranks", daemon=True).start()
        self._own = own
        if own is not None:
            own.start()

    def close(self) -> None:
        """End every rank's process here and its links elsewhere. Idempotent."""
        self._closing = True
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        formation = self._formation
        if formation is not None:
            formation.end("the daemon stops", wanted=True)
        with self._lock:
            waiting = [link for links in self._lobby.values() for _, link in links.values()]
            self._lobby.clear()
        for link in waiting:
            link.close()
        if self._own is not None:
            self._own.close()

    # Joining.

    def _accept(self) -> None:
        listener = self._listener
        assert listener is not None
        while not self._closing:
            try:
                connected, address = listener.accept()
            except OSError:
                return
            if not self._shaking.acquire(blocking=False):
                connected.close()
                continue
            threading.Thread(
                target=self._shake,
                args=(connected, str(address[0])),
                name="semanticd-rank-joins",
                daemon=True,
            ).start()

    def _shake(self, connected: socket.socket, address: str) -> None:
        """Let a rank prove itself; one that cannot is sent the reason, as far as it is a rank, and disconnected."""
        try:
            link = Link(connected)
            link.limit(HANDSHAKE_S)
            who = self._introduced(link, address)
            if who is None:
                link.close()
            else:
                link.trust()
                self._joined(who, link)
        except OSError as error:
            self._log.warning("rank_not_joined", address=address, reason=str(error))
            connected.close()
        finally:
            self._shaking.release()

    def _introduced(self, link: Link, address: str) -> Introduction | None:
        options, nonce = self.options, new_nonce()
        link.send({"semanticd": "ranks", "nonce": nonce})
        try:
            answer = link.receive()
            who = msgspec.convert(answer["who"], Introduction)
            theirs = answer["nonce"]
        except (msgspec.ValidationError, KeyError, TypeError):
            self._log.warning(
                "rank_refused", address=address, reason="its first message is not an introduction"
            )
            link.send(
                {
                    "refused": f"semanticd {options.expected.version} does not understand this rank's introduction"
                }
            )
            return None
        nonces = (nonce, theirs if isinstance(theirs, bytes) else b"")
        knows = len(nonces[1]) == NONCE_BYTES and is_proof(
            answer.get("proof"), proof(options.key, side="rank", nonces=nonces, who=who)
        )
        why = (
            refusal(who, options.expected)
            if knows
            else "its key is not the daemon's (SEMANTIC_DISTRIBUTED_KEY)"
        )
        if why is not None:
            self._log.warning("rank_refused", rank=who.rank, address=address, reason=why)
            if knows:
                self._refused[who.rank] = why
            link.send({"refused": why})
            return None
        if (holder := self._holder(who)) is not None:
            taken = f"rank {who.rank} is taken by the worker at {holder}"
            if self._told_taken.get(who.rank) != who.process:
                self._told_taken[who.rank] = who.process
                self._log.warning("rank_taken", rank=who.rank, address=address, reason=taken)
            link.send({"taken": taken})
            return None
        link.send({"proof": proof(options.key, side="daemon", nonces=nonces, who=who)})
        if link.receive() != {"joined": True}:
            raise LinkLostError("it did not accept the daemon's proof")
        return who

    def _joined(self, who: Introduction, link: Link) -> None:
        """Keep a link in the lobby."""
        with self._lock:
            # Another process may have taken the rank since this one was let in: it joins again, and is told.
            if self._closing or self._held_by(who) is not None:
                link.close()
                return
            links = self._lobby.setdefault(who.rank, {})
            links[who.kind] = (who, link)
            whole = len(links) == 2
            self._refused.pop(who.rank, None)
        if whole:
            self._log.info("rank_joined", rank=who.rank, computed_by=who.computed_by)

    def _holder(self, who: Introduction) -> str | None:
        """Return the address of another process that has this rank."""
        with self._lock:
            return self._held_by(who)

    def _held_by(self, who: Introduction) -> str | None:
        """See `_holder`; under the lock.

        Two workers of one rank must not displace each other forever: the first one keeps it while its links live.
        Links of a machine that is off or was restarted end by themselves (`Link`).
        """
        self._forget_if_lost(who.rank)
        for other, link in self._lobby.get(who.rank, {}).values():
            if other.process != who.process:
                return link.peer
        formation = self.formation
        member = None if formation is None else formation.members[who.rank]
        return None if member is None else member.steps.peer

    def missing(self) -> list[int]:
        """Return the ranks that have not joined."""
        self._drop_lost()
        with self._lock:
            return [rank for rank in range(self.world_size) if len(self._lobby.get(rank, {})) < 2]

    def why_missing(self) -> str:
        """Return the missing ranks, in a sentence."""
        missing = self.missing()
        if not missing:
            return "all ranks have joined"
        told = [
            f"rank {rank} ({self.options.hosts.ip(rank)})"
            + (f" was refused: {self._refused[rank]}" if rank in self._refused else " has not joined")
            for rank in missing
        ]
        return "; ".join(told)

    def why_not_ready(self) -> str:
        """Return why nothing is computed now, in a sentence."""
        known = f"the machines lost their connection ({self._why})" if self._why else self.trouble
        return f"{known}; {self.why_missing()}" if known else self.why_missing()

    def why_away(self) -> str | None:
        """Return why the model that is awaited is not there yet; None: it is, none is awaited, or it just loads.

        While it loads, a rank may wait for another one: that is a reason, whether it was awaited or not.
        """
        formation = self.formation
        if formation is not None:
            return formation.waits_for or None
        return self.why_not_ready() if self.awaited is not None else None

    def why_taken(self, model_id: str) -> str | None:
        """Return why this model cannot be loaded now: the ranks compute another one; None: they do not."""
        formation = self.formation
        if formation is None or formation.model_id == model_id:
            return None
        return (
            f"cannot load {model_id}: the machines compute {formation.model_id}, and one model at a time; unload it "
            f"first (`semanticd models unload {formation.model_id}`)"
        )

    def give_up(self) -> None:
        """Load no model when all ranks have joined."""
        self.awaited, self.trouble = None, ""

    @property
    def is_starting_again(self) -> bool:
        """Whether a formation ended so recently that its ranks may still be starting again."""
        return self.formation is None and time.monotonic() - self._ended_at < STARTING_AGAIN_S

    def _drop_lost(self) -> None:
        with self._lock:
            for rank in range(self.world_size):
                self._forget_if_lost(rank)

    def _forget_if_lost(self, rank: int) -> None:
        """Forget a rank in the lobby whose process has ended: nothing is said there, so what can be read is an end."""
        links = self._lobby.get(rank, {})
        if any(link.has_ended() for _, link in links.values()):
            for _, link in links.values():
                link.close()
            del self._lobby[rank]

    # Forming.

    def form(self, model_id: str) -> Formation:
        """Make a formation of those in the lobby, for a model.

        Raises:
            OverloadedError: A rank has not joined, or there is a formation.
        """
        if (present := self.formation) is not None:
            raise OverloadedError(f"the machines compute {present.model_id}", retry_after_s=RETRY_S)
        if self.missing():
            raise OverloadedError(
                f"the model needs {self.world_size} machines, and {self.why_missing()}", retry_after_s=RETRY_S
            )
        with self._lock:
            if any(len(self._lobby.get(rank, {})) < 2 for rank in range(self.world_size)):
                raise OverloadedError("a machine has just left", retry_after_s=RETRY_S)
            members = [
                Member(
                    rank=rank,
                    address=self.options.hosts.ip(rank),
                    introduction=self._lobby[rank]["steps"][0],
                    steps=self._lobby[rank]["steps"][1],
                    blocks=self._lobby[rank]["blocks"][1],
                )
                for rank in range(self.world_size)
            ]
            self._lobby.clear()
            formation = Formation(
                members,
                model_id=model_id,
                timeout_s=self.options.timeout_s,
                log=self._log,
                on_end=self._ended,
            )
            self._formation = formation
        return formation

    def _ended(self, reason: str, wanted: bool) -> None:
        self._why = "" if wanted else reason
        self._ended_at = time.monotonic()
        if not wanted:
            self.num_failures += 1
            self._log.error("ranks_lost", reason=reason)
        if self._own is not None:
            self._own.renew()

    def check(self) -> None:
        """End the formation if one of its ranks is silent; called a few times a second."""
        formation = self.formation
        if formation is not None:
            formation.check()

    @property
    def formation(self) -> Formation | None:
        """The formation that works, if there is one."""
        formation = self._formation
        return formation if formation is not None and formation.ended is None else None

    def facts(self) -> tuple[RankFacts, ...]:
        """Return the ranks in their order."""
        formation, missing = self.formation, self.missing()
        members = {member.rank: member for member in formation.members} if formation is not None else {}
        return tuple(self._facts(rank, members.get(rank), missing) for rank in range(self.world_size))

    def _facts(self, rank: int, member: Member | None, missing: Sequence[int]) -> RankFacts:
        state: RankState = "ready" if member is not None else "missing" if rank in missing else "joined"
        facts = member.facts if member is not None else None
        last = self._formation
        lost = self._why if last is not None and last.lost_rank in (rank, None) else ""
        return RankFacts(
            rank=rank,
            address=self.options.hosts.ip(rank),
            state=state,
            memory_bytes=facts.memory_bytes if facts is not None else 0,
            step_ms=1000 * facts.seconds if facts is not None else 0.0,
            sent_bytes=member.steps.num_sent + member.blocks.num_sent if member is not None else 0,
            received_bytes=member.steps.num_received + member.blocks.num_received
            if member is not None
            else 0,
            last_failure=(self._refused.get(rank) or lost or None) if member is None else None,
        )
