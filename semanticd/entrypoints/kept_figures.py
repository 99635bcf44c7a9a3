"""KeptFigures: savings and history on disk, so that a restart begins neither again.

Both are saved once a minute and at the end; a process that is killed loses a minute at most. An agent's deletion is
saved at once, for the totals name agents. Rule: the event loop takes the figures, which is quick, and a worker thread
writes them; the engine's thread is not asked.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial

from semanticd.adapters.disk.files.atomic import FileSystem
from semanticd.adapters.disk.files.figures_file import FiguresFile
from semanticd.adapters.disk.files.folder import CacheFolder
from semanticd.application.ports.telemetry import Log
from semanticd.application.services.history import History, KeptHistory
from semanticd.application.services.savings import Savings
from semanticd.domain.errors import CacheError

SAVE_EVERY_S = 60.0
_AFTER_A_DELETION_S = 1.0
"""Within which further deletions are saved with the first."""
_VERSION = 1


class KeptFigures:
    """The figures of one cache folder."""

    def __init__(
        self, folder: CacheFolder, *, savings: Savings, history: History, fs: FileSystem, log: Log
    ) -> None:
        """Keep these figures in the folder; nothing is read before `restore`."""
        self._folder = folder
        self._savings = savings
        self._history = history
        self._savings_file = FiguresFile(folder.savings, version=_VERSION, fs=fs, log=log)
        self._history_file = FiguresFile(folder.history, version=_VERSION, fs=fs, log=log)
        self._num_saved = savings.num_changes
        self._log = log

    def restore(self, *, is_known: Callable[[str], bool]) -> None:
        """Load the figures of the last daemon, for known agents; before anything is counted."""
        self._savings_file.read(partial(self._savings.restore, is_known=is_known))
        history = self._history_file.read(KeptHistory.read)
        if history is not None:
            self._history.restore(history)

    async def run(self) -> None:
        """Save regularly until cancelled."""
        forgotten = self._savings.forgotten
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(forgotten.wait(), SAVE_EVERY_S)
                await asyncio.sleep(_AFTER_A_DELETION_S)
            forgotten.clear()
            try:
                await asyncio.to_thread(self._taken())
            except Exception as error:  # noqa: BLE001 (figures for people must not end the daemon)
                self._log.warning("figures_not_saved", reason=repr(error))

    def save(self) -> None:
        """Save now; takes as long as the disk."""
        self._taken()()

    def _taken(self) -> Callable[[], None]:
        """Return what saves the figures as they are now."""
        num_changes, history = self._savings.num_changes, self._history.kept()
        savings = self._savings.kept() if num_changes != self._num_saved else None

        def write() -> None:
            try:
                self._folder.keep_in_place(self._log)
            except CacheError:
                return  # another volume must not get them; the store logs the reason
            if savings is not None and self._savings_file.write(savings):
                self._num_saved = num_changes
            self._history_file.write(history.plain())

        return write
