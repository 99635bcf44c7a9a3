"""Upkeep: the daemon's tasks at its start and at regular intervals, whether or not there are requests."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Iterator
from typing import TYPE_CHECKING

from semanticd.adapters.awake import Awake
from semanticd.adapters.config import Settings
from semanticd.adapters.exclusions import leave_out
from semanticd.adapters.process import notify_supervisor, watchdog_interval_s
from semanticd.adapters.service import run_program
from semanticd.application.ports.telemetry import Log
from semanticd.domain.errors import SemanticError

if TYPE_CHECKING:  # its imports take seconds and need the BLAS loaded first
    from semanticd.entrypoints.bootstrap import Daemon

_EXPIRE_EVERY_S = 60.0
_TRIM_EVERY_S, _TRIM_IDLE_S = 0.25, 5.0
"""Interval of the search for gaps while requests run, and while none do.

Blocks leave gaps at the moment a running cache takes their room elsewhere: until they are returned to the system both
are there.
"""
_AWAKE_EVERY_S = 2.0


def heap_budget(settings: Settings) -> int:
    """Return the KV budget in bytes for what decides which freed memory is kept: the same from 4 GiB on."""
    from semanticd.entrypoints.model_fit import USUAL_BUDGET_BYTES, fixed_budget

    return fixed_budget(settings) or USUAL_BUDGET_BYTES


class Upkeep:
    """Looks after one daemon; for one event loop."""

    def __init__(self, daemon: Daemon, settings: Settings, *, log: Log) -> None:
        """Look after this daemon by these settings; nothing runs before `alive` and `serving`."""
        self._daemon = daemon
        self._settings = settings
        self._log = log

    @contextlib.contextmanager
    def alive(self) -> Iterator[None]:
        """Inside, figures are kept, the supervisor hears of the process, and requests keep the machine awake."""
        awake = Awake(log=self._log)
        tasks = [
            asyncio.create_task(self._daemon.history.run()),
            asyncio.create_task(self._daemon.figures.run()),
        ]
        if (interval_s := watchdog_interval_s()) is not None:
            tasks.append(asyncio.create_task(_ping(interval_s)))
        if awake.needed:
            tasks.append(asyncio.create_task(self._keep_awake(awake)))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            awake.close()

    def settle(self) -> None:
        """Do once, when the first model is loaded, what requests would wait for."""
        self._reserve_memory()
        # Objects loaded by now stay; every search for cycles among them takes 50 ms.
        gc.collect()
        gc.freeze()

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Run the maintenance jobs inside the context: free unused memory and disk, and load what is needed soon."""
        tasks = [
            asyncio.create_task(asyncio.to_thread(self._leave_out_of_backups)),
            # The cap may be lower than at the last start; where nothing is written, nothing else enforces it.
            asyncio.create_task(self._enforce_cap()),
            asyncio.create_task(self._daemon.preload.run()),
            asyncio.create_task(self._keep()),
            asyncio.create_task(asyncio.to_thread(_load_the_rest)),
            asyncio.create_task(self._trim_memory()),
        ]
        try:
            yield
        finally:
            for task in reversed(tasks):
                task.cancel()

    async def _enforce_cap(self) -> None:
        try:
            await self._daemon.cache.prune()
        except SemanticError as error:
            self._log.error("cap_not_enforced", reason=error.message)

    async def _keep_awake(self, awake: Awake) -> None:
        """Hold the assertion against sleep while requests live."""
        loop = asyncio.get_running_loop()
        while True:
            awake.note(self._daemon.engine.num_unanswered, now=loop.time())
            await asyncio.sleep(_AWAKE_EVERY_S)

    def _leave_out_of_backups(self) -> None:
        for folder in (self._daemon.warm.folder.blocks, self._settings.paths.models_dir):
            if (failure := leave_out(folder, run=run_program)) is not None:
                self._log.warning("folder_not_left_out", reason=failure)

    async def _keep(self) -> None:
        """Let agents, models and freed memory go, and retry refused writes."""
        tidied = self._work_done()
        while True:
            await asyncio.sleep(_EXPIRE_EVERY_S)
            try:
                kept = self._settings.agent
                await self._daemon.agents.expire()
                await self._daemon.agents.prune_anonymous(
                    max_agents=kept.anonymous_max, max_age_s=kept.anonymous_days * 86_400
                )
                await self._daemon.models.expire(self._settings.mlx.model_ttl_s)
                await asyncio.wrap_future(self._daemon.engine.call(self._daemon.store.retry_refused))
                done = self._work_done()
                if self._daemon.engine.num_unanswered == 0 and done != tidied:
                    tidied = done
                    await asyncio.to_thread(self._tidy_memory)
            except Exception as error:  # noqa: BLE001 (upkeep continues, whatever failed this time)
                self._log.warning("upkeep_failed", reason=repr(error))

    def _work_done(self) -> tuple[int, int, int]:
        """Return something that differs when memory may have been freed in between."""
        counters = self._daemon.store.counters
        return counters.computed_tokens, counters.restored_bytes, len(self._daemon.engine.models)

    async def _trim_memory(self) -> None:
        """Return the memory of gaps that blocks leave to the system, also while requests run."""
        from semanticd.adapters.mlx.platform.heap import Gaps

        gaps = Gaps(budget_bytes=heap_budget(self._settings))
        while True:
            is_idle = self._daemon.engine.num_unanswered == 0
            await asyncio.sleep(_TRIM_IDLE_S if is_idle else _TRIM_EVERY_S)
            await asyncio.to_thread(gaps.trim)

    def _tidy_memory(self) -> None:
        from semanticd.adapters.mlx.platform.heap import give_back

        give_back()
        self._reserve_memory()

    def _reserve_memory(self) -> None:
        from semanticd.adapters.mlx.platform.heap import reserve

        reserve(budget_bytes=heap_budget(self._settings))


async def _ping(every_s: float) -> None:
    """Report to the supervisor that the process is alive; waits for nothing but the time."""
    while True:
        await asyncio.sleep(every_s)
        notify_supervisor("WATCHDOG=1")


def _load_the_rest() -> None:
    """Load what the first request of a kind would load: by then an upgrade may have replaced the files."""
    from semanticd.adapters.http.core.content_encoding import load_decoders

    load_decoders()
