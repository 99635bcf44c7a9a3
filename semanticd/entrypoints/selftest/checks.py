"""All checks in their order: the machine first, then the model, and last those that may harm the process."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from semanticd.adapters.config import Settings
from semanticd.adapters.machine_record import MachineRecord
from semanticd.entrypoints.doctor import check_blas, check_disk, check_memory, check_mlx, check_platform
from semanticd.entrypoints.model_fit import machine_without_mlx
from semanticd.entrypoints.selftest.machine_checks import (
    check_backups,
    check_device,
    check_disk_sync,
    check_panics,
    check_peer,
    check_socket_path,
    place_beside,
)
from semanticd.entrypoints.selftest.model_checks import check_load, check_model, check_tokenizer
from semanticd.entrypoints.selftest.outcome import Outcome, of_finding
from semanticd.entrypoints.selftest.speed_checks import (
    CHUNKS,
    QUICK_CHUNKS,
    check_batches,
    check_decode,
    check_prefill,
    check_rest,
    check_schema,
    check_thinking,
)
from semanticd.entrypoints.selftest.storage_checks import Shortage, check_blocks, check_shortage, check_turns
from semanticd.entrypoints.temporary_daemon import (
    Progress,
    Replacements,
    TemporaryDaemon,
    remove_leftovers,
)


@dataclass(frozen=True, slots=True)
class Check:
    """A check under its name in reports."""

    name: str
    run: Callable[[], Awaitable[Outcome]]
    needs_model: bool = False
    in_quick: bool = True


class SelfTest:
    """The checks of one machine and model."""

    def __init__(
        self,
        settings: Settings,
        model: str,
        *,
        quick: bool,
        record: MachineRecord,
        replacements: Replacements | None = None,
        progress: Progress = lambda stage, share: None,
    ) -> None:
        """Check `model` by these settings; `replacements` stand in the place of real parts."""
        given = replacements or Replacements()
        beside = place_beside(settings.agent.cache_dir)
        if beside is not None:
            remove_leftovers(beside, now=time.time())
        self._settings = settings
        self._quick = quick
        self._record = record
        self._shortage = Shortage()
        self._progress = progress
        self.daemon = TemporaryDaemon(
            settings,
            model,
            beside=beside,
            replacements=Replacements(
                files=given.files, loader=lambda loader: self._shortage.around(given.loader(loader))
            ),
            progress=progress,
        )

    def checks(self) -> list[Check]:
        """Return the checks in the order in which they run."""
        settings, daemon, record = self._settings, self.daemon, self._record
        caches = settings.agent.cache_dir
        chunks = QUICK_CHUNKS if self._quick else CHUNKS

        def at_once(check: Callable[[], Outcome]) -> Callable[[], Awaitable[Outcome]]:
            async def run() -> Outcome:
                return check()

            return run

        found = [
            Check("panics", at_once(lambda: check_panics(record))),
            Check("platform", at_once(lambda: of_finding(check_platform()))),
            Check("mlx", at_once(lambda: of_finding(check_mlx(touch=True)))),
            Check("device", at_once(lambda: check_device(settings))),
            Check("blas", at_once(lambda: of_finding(check_blas(machine_without_mlx(settings).kind)))),
            Check(
                "memory",
                at_once(lambda: of_finding(check_memory(settings, machine_without_mlx(settings)))),
            ),
            Check(
                "disk",
                at_once(lambda: of_finding(check_disk(caches, reserve_gb=settings.agent.disk_reserve_gb))),
            ),
            Check("disk_sync", at_once(lambda: check_disk_sync(caches))),
            Check("socket", at_once(lambda: check_socket_path(settings))),
            Check("peer", at_once(check_peer)),
            Check("backups", at_once(lambda: check_backups(settings))),
            Check("model", lambda: check_model(settings, daemon.model, progress=self._progress)),
            Check("load", lambda: check_load(daemon)),
        ]
        of_model = [
            Check("tokenizer", at_once(lambda: check_tokenizer(daemon.loaded.tokenizer))),
            Check("prefill", lambda: check_prefill(daemon, chunks, record=None if self._quick else record)),
            Check("decode", lambda: check_decode(daemon)),
            Check("schema", lambda: check_schema(daemon)),
            Check("thinking", lambda: check_thinking(daemon)),
            Check("batches", lambda: check_batches(daemon)),
            Check("blocks", lambda: check_blocks(daemon)),
            Check("rest", lambda: check_rest(daemon), in_quick=False),
            Check("turns", lambda: check_turns(daemon)),
            Check("shortage", lambda: check_shortage(daemon, self._shortage)),
        ]
        return [*found, *(Check(one.name, one.run, True, one.in_quick) for one in of_model)]
