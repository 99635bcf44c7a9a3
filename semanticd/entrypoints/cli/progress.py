"""Progress of long operations, on stderr."""

from __future__ import annotations

import os
import sys

from semanticd.entrypoints.cli.output import in_bytes, narrate, overwrite_line


class Progress:
    """One line that is overwritten on a terminal; elsewhere one line per stage."""

    def __init__(self) -> None:
        """Begin with nothing shown."""
        self._last = ""
        self._terminal = sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb", "unknown")

    def show(self, stage: str, share: float, total_bytes: int = 0) -> None:
        """Show a stage and its share done, 0 to 1, of all bytes where they are known."""
        if stage == "idle":
            return
        size = f" of {in_bytes(total_bytes)}" if total_bytes else ""
        text = f"{stage} {100 * share:.0f} %{size}" if self._terminal else f"{stage}{size.replace(' of', '')}"
        if text == self._last:
            return
        self._last = text
        if self._terminal:
            overwrite_line(text)
        else:
            narrate(text)

    def line(self, text: str, kind: str) -> None:
        """Show a text on a terminal; elsewhere only when its `kind` is another than the last."""
        if self._terminal:
            self._last = text
            overwrite_line(text)
        elif kind != self._last:
            self._last = kind
            narrate(text)

    def running(self, text: str) -> None:
        """Show the running step, on a terminal only."""
        if self._terminal:
            self._last = text
            overwrite_line(text)

    def end(self) -> None:
        """Leave the line."""
        if self._terminal and self._last:
            overwrite_line("")
