"""RanksUpkeep: brings the machines of one model together, and together again after one was lost.

```
waiting ── all have joined ──> loading ──> serving ── one is lost ──> requests end, model is forgotten ──> waiting
                                  └── one is lost ──> waiting
```
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from semanticd.adapters.config import Settings
from semanticd.adapters.ranks.group import RankGroup
from semanticd.adapters.ranks.runner import RankedRunner
from semanticd.application.ports.telemetry import Log
from semanticd.domain.errors import ModelLoadError, OverloadedError, SemanticError
from semanticd.entrypoints.ranked_parts import own_process

if TYPE_CHECKING:  # its imports take seconds and need the BLAS loaded first
    from semanticd.application.ports.inference import LoadedModel
    from semanticd.entrypoints.bootstrap import Daemon

_POLL_S = 0.1
_RETRY_S = 2.0
_TOLD_EVERY_S = 30.0


class RanksUpkeep:
    """Looks after the ranks of one daemon; for one event loop."""

    def __init__(self, daemon: Daemon, group: RankGroup, settings: Settings, *, log: Log) -> None:
        self._daemon = daemon
        self._group = group
        self._settings = settings
        self._log = log
        self._told_at = float("-inf")

    def start(self) -> None:
        """Listen, and start rank 0.

        Raises:
            DaemonError: The address cannot be listened on.
        """
        self._group.start(own_process(self._group, self._settings, log=self._log))

    async def joined(self) -> None:
        """Wait until all ranks have joined, or are used."""
        while self._is_waiting():  # noqa: ASYNC110 (other processes' state)
            await asyncio.sleep(_POLL_S)

    def _is_waiting(self) -> bool:
        """Return whether a rank has to join yet; says so in the log now and then."""
        if not self._group.missing() or self._group.formation is not None:
            self._told_at = float("-inf")
            return False
        if time.monotonic() - self._told_at > _TOLD_EVERY_S:
            self._told_at = time.monotonic()
            self._log.info("waiting_for_ranks", missing=self._group.why_missing())
        return True

    async def load_when_joined(self, name: str) -> None:
        """Load a model as soon as all ranks have joined; again, where one of them was lost while it loaded.

        It ends too where its user has loaded another one meanwhile, or unloaded this one. Its files are fetched before
        any rank is waited for.

        Raises:
            SemanticError: As in `ModelsService.load`.
        """
        self._group.awaited = name
        try:
            await self._daemon.models.fetch(name)
            while not self._is_settled():
                if self._is_waiting():
                    await asyncio.sleep(_POLL_S)
                else:
                    await self._try_to_load(name)
        finally:
            self._group.awaited = None

    def _is_settled(self) -> bool:
        """Return whether a model is loaded, or its user wants none."""
        return bool(self._daemon.engine.models) or self._group.awaited is None

    async def _try_to_load(self, name: str) -> None:
        try:
            await self._daemon.models.load(name)
        except ModelLoadError as error:
            if self._daemon.engine.models:
                return
            if not _ranks_were_lost(error):
                raise
            self._log.warning("ranks_not_ready", reason=error.message)
            await asyncio.sleep(_RETRY_S)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, ranks that are lost are waited for, and the model is loaded again."""
        task = asyncio.create_task(self.run())
        try:
            yield
        finally:
            task.cancel()

    async def run(self) -> None:
        """Watch the ranks, and load the model again after they were lost."""
        while True:
            await asyncio.sleep(_POLL_S)
            try:
                await self._look()
            except SemanticError as error:
                self._group.trouble = error.message
                self._log.error("ranks_not_ready", reason=error.message)
                await asyncio.sleep(_RETRY_S)
            except Exception as error:  # noqa: BLE001 (it continues, whatever failed this time)
                self._log.error("ranks_not_ready", reason=repr(error))
                await asyncio.sleep(_RETRY_S)

    async def _look(self) -> None:
        self._group.check()
        for model in self._daemon.engine.models.values():
            if isinstance(model.runner, RankedRunner) and model.runner.ended is not None:
                self._group.awaited = str(model.model_id)
                await self._forget(model)
        awaited = self._group.awaited
        if awaited is None:
            return
        # Its user may have loaded one meanwhile.
        if not self._daemon.engine.models:
            if self._group.missing():
                return
            await self._daemon.models.load(awaited)
        self._log.info("ranks_serve_again", model=", ".join(self._daemon.engine.models))
        self._group.give_up()

    async def _forget(self, model: LoadedModel) -> None:
        """Let a model leave whose ranks are gone: its requests end with their next step, its hot blocks are lost."""
        engine = self._daemon.engine
        while any(one.model is model for one in engine.running()):  # noqa: ASYNC110 (a thread's state)
            await asyncio.sleep(_POLL_S)
        await asyncio.wrap_future(engine.call(self._daemon.store.clear))
        await self._daemon.models.lose(model)


def _ranks_were_lost(error: BaseException) -> bool:
    """Return whether loading failed because a rank was lost or is missing: see `RankedLoader.load`."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OverloadedError):
        cause = cause.__cause__
    return cause is not None
