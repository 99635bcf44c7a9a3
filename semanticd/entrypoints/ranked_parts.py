"""RankedParts: the parts of the composition that differ where several machines compute one model."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from semanticd import __version__
from semanticd.adapters.config import Settings
from semanticd.adapters.disk.blocks.warm_store import DiskWarmStore
from semanticd.adapters.disk.files.rare_log import RareLog
from semanticd.adapters.ranks.formation import Formation
from semanticd.adapters.ranks.group import GroupOptions, RankGroup
from semanticd.adapters.ranks.handshake import Expected
from semanticd.adapters.ranks.hosts import read_hosts
from semanticd.adapters.ranks.loader import ComputedAs, ModelText, RankedLoader
from semanticd.adapters.ranks.process import RankProcess
from semanticd.adapters.ranks.warm_store import RankedWarmStore
from semanticd.application.ports.telemetry import Log
from semanticd.control.python_command import python_module
from semanticd.domain.ids import BlockHash
from semanticd.domain.memory_plan import DeviceMemory
from semanticd.domain.model_cache_spec import ModelCacheSpec
from semanticd.entrypoints.rank_process import RankOrder

_PRECISIONS = {None: "exact", 8: "q8", 6: "q6", 4: "q4"}


@dataclass(slots=True)
class RankedParts:
    """The group that ranks join, and the parts that use it."""

    group: RankGroup
    log: Log
    warm: RankedWarmStore | None = field(default=None)
    why_no_export: str = (
        "agents of a model that is spread over several machines can be neither exported nor imported"
    )

    @classmethod
    def of(cls, settings: Settings, *, device: str, computed_by: str, log: Log) -> RankedParts:
        """Make the group of the hostfile.

        Raises:
            ConfigurationError: The hostfile cannot be used.
        """
        distributed = settings.distributed
        assert distributed.hosts is not None, "the caller has looked"
        hosts = read_hosts(distributed.hosts, ring_port=distributed.ring_port, join_port=distributed.port)
        options = GroupOptions(
            hosts=hosts,
            port=distributed.port,
            key=distributed.key or "",
            timeout_s=distributed.timeout_s,
            expected=Expected(__version__, device, computed_by, hosts.world_size),
        )
        return cls(RankGroup(options, log=log), log)

    def loader(self, text: ModelText, settings: Settings) -> RankedLoader:
        """Return what loads models over all ranks."""
        computed = ComputedAs(
            block_tokens=settings.mlx.block_tokens,
            precision=_PRECISIONS[settings.mlx.kv_bits],
            cpu_math=settings.mlx.cpu_math,
        )
        return RankedLoader(self.group, text, computed=computed, follow_up=self._follow_up)

    def keep_in(self, warm: DiskWarmStore) -> RankedWarmStore:
        """Return the warm store of all ranks, rank 0's part of which is in `warm`."""
        self.warm = RankedWarmStore(
            warm,
            formation=lambda: self.group.formation,
            log=self.log,
            rare_logs={rank: RareLog(self.log) for rank in range(1, self.group.world_size)},
        )
        return self.warm

    def also_removed(
        self, hear: Callable[[Sequence[BlockHash]], None]
    ) -> Callable[[Sequence[BlockHash]], None]:
        """Return the listeners for blocks that were removed to make room: `hear`, and the workers."""

        def removed(names: Sequence[BlockHash]) -> None:
            hear(names)
            if self.warm is not None:
                self.warm.removed(names)

        return removed

    def free_bytes(self, here: Callable[[], int]) -> Callable[[], int]:
        """Return what says how much is free on all machines, as if each were like this one."""
        return lambda: here() * self.group.world_size

    def all_memory(self, device: DeviceMemory) -> DeviceMemory:
        """Return the memory of all machines, likewise."""
        return device.times(self.group.world_size)

    def _follow_up(self, formation: Formation, spec: ModelCacheSpec) -> Sequence[Future[Any]]:
        return self.warm.follow_up(formation, spec) if self.warm is not None else ()


def own_process(group: RankGroup, settings: Settings, *, log: Log) -> RankProcess:
    """Return rank 0's process, which is not started yet."""
    options = group.options
    order = RankOrder(settings, 0, (options.hosts.first_ip, options.port), options.key)
    return RankProcess(
        python_module("semanticd.entrypoints.rank_process"),
        order,
        monotonic=time.monotonic,
        on_refused=lambda: log.error("own_rank_refused"),
    )
