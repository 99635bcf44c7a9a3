"""Calls back once blocks that are on their way to the disk have arrived, or were refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from semanticd.domain.ids import BlockHash


class WriteWatch:
    """Who waits for which writes; engine thread only."""

    def __init__(self) -> None:
        """Nobody waits."""
        self._waiting: list[tuple[set[BlockHash], Callable[[], None]]] = []

    def add(self, names: Iterable[BlockHash], done: Callable[[], None]) -> None:
        """Call `done` when all these writes have ended; at once if there are none."""
        missing = set(names)
        if missing:
            self._waiting.append((missing, done))
        else:
            done()

    def ended(self, names: Iterable[BlockHash]) -> None:
        """These writes have ended, one way or another."""
        if not self._waiting:
            return
        over = set(names)
        still: list[tuple[set[BlockHash], Callable[[], None]]] = []
        for missing, done in self._waiting:
            missing -= over
            if missing:
                still.append((missing, done))
            else:
                done()
        self._waiting = still
