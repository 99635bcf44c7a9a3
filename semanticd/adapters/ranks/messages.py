"""RankMessages: what a rank's process reports to the people at its machine while it joins and once it was lost.

A reason why it cannot join is reported once, and again when it changes: it tries every second, for days if necessary.
"""

from __future__ import annotations

from collections.abc import Callable

from semanticd.adapters.ranks.link import LinkLostError
from semanticd.domain.reason_text import reason_of


class RankMessages:
    """The messages of one rank, each once."""

    def __init__(
        self, rank: int, address: tuple[str, int], *, retry_s: float, tell: Callable[[str], None]
    ) -> None:
        """`address` is where the daemon accepts ranks; `retry_s` are the seconds between two attempts."""
        self._rank = rank
        host, port = address
        self._daemon = f"the daemon at [{host}]:{port}" if ":" in host else f"the daemon at {host}:{port}"
        self._retry_s = retry_s
        self._tell = tell
        self._reported = ""
        self._waits_for = ""

    def cannot_join(self, error: OSError) -> None:
        """Report why the daemon does not have this rank yet."""
        verb = "join" if isinstance(error, LinkLostError) else "reach"
        self._waits(f"cannot {verb} {self._daemon}: {reason_of(error)}")

    def cannot_keep_blocks(self, reason: str) -> None:
        """Report why the folder of this rank's blocks cannot be used."""
        self._waits(reason)

    def _waits(self, text: str) -> None:
        if text != self._reported:
            self._reported = text
            self.say(f"{text}; trying again every {self._retry_s:g} s")

    def waits_in_ring(self, text: str) -> None:
        """Report once which neighbour's port this rank waits for; an empty text: for none."""
        if text and text != self._waits_for:
            self.say(text)
        self._waits_for = text

    def joined(self) -> None:
        """Report that both links are open."""
        self._reported = ""
        self.say(f"has joined {self._daemon}")

    def lost(self, reason: str) -> None:
        """Report that a link has ended; rank 0's daemon has reported it already."""
        if self._rank:
            self.say(f"lost its connection to {self._daemon}: {reason}; it joins again")

    def say(self, text: str) -> None:
        """Report anything else."""
        self._tell(f"semanticd: rank {self._rank}: {text.removeprefix(f'rank {self._rank} ')}")
