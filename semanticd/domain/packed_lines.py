"""PackedLines: the last of many small texts, in few blocks of memory.

Small objects that are replaced one by one lie wherever there was room when each came. Python returns its memory to the
system in pieces of 1 MiB of which nothing is in use, so a few that came while there was much to do keep all that was
in use then, until as many others have come. Rule: what is kept for long holds no object of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

_PER_BLOCK = 64


class PackedLines:
    """The last lines, oldest first; for one thread at a time."""

    def __init__(self, num_lines: int) -> None:
        """Keep as many lines."""
        self._num_lines = num_lines
        self._blocks: deque[bytes] = deque(maxlen=-(-num_lines // _PER_BLOCK))
        self._newest: list[bytes] = []

    def add(self, line: bytes) -> None:
        """Add a line, which has no line feed."""
        self._newest.append(line)
        if len(self._newest) == _PER_BLOCK:
            self._blocks.append(b"\n".join(self._newest))
            self._newest = []

    def __iter__(self) -> Iterator[bytes]:
        lines = [line for block in self._blocks for line in block.split(b"\n")]
        return iter([*lines, *self._newest][-self._num_lines :])

    def find(self, beginning: bytes) -> bytes | None:
        """Return the newest line that begins so; looks through the blocks, and makes no object of their lines."""
        for line in reversed(self._newest):
            if line.startswith(beginning):
                return line
        for block in reversed(self._blocks):
            at = block.rfind(b"\n" + beginning) + 1
            if at or block.startswith(beginning):
                return block[at:].partition(b"\n")[0]
        return None
