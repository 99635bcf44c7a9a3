"""MlxShardLoader: the parts of a rank's process that import MLX: the model's files, the ring, the shard, the disk."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import mlx.core as mx
from mlx_lm.utils import load_config

from semanticd.adapters.config import Settings
from semanticd.adapters.disk.blocks.warm_store import DiskWarmStore, WarmOptions
from semanticd.adapters.mlx.model.compute_revision import compute_revision
from semanticd.adapters.mlx.model.loader import ComputeOptions, MlxModelLoader
from semanticd.adapters.mlx.model.ring_ports import RingPorts
from semanticd.adapters.mlx.model.sharding import Ring, device_kind, spread_of
from semanticd.adapters.mlx.platform.device import MlxMemory
from semanticd.adapters.mlx.platform.heap import limit_buffer_cache
from semanticd.adapters.ranks.executor import LoadedShard, LoadOrder
from semanticd.adapters.ranks.formation import RETRY_S
from semanticd.application.ports.inference import finish_loading
from semanticd.application.ports.models import InstalledModel
from semanticd.application.ports.telemetry import NullLog
from semanticd.domain.errors import ModelLoadError, ModelNotFoundError, OverloadedError
from semanticd.domain.memory_plan import WeightRoom, buffer_cache_bytes
from semanticd.domain.model_cache_spec import StoragePrecision
from semanticd.entrypoints.model_fit import budget_plan, machine, open_registry

_GIB = 1024**3


class MlxShardLoader:
    """Loads one rank's shard, and identifies the local hardware and software."""

    def __init__(self, settings: Settings, *, rank: int) -> None:
        self._settings = settings
        self._rank = rank
        self._ports: RingPorts | None = None

    def identity(self) -> tuple[str, str]:
        """Return the device's kind and the compute revision."""
        return device_kind(), compute_revision()

    def open_store(self) -> DiskWarmStore:
        """Open this worker's blocks.

        Raises:
            CacheError: The folder cannot be used, for example because another worker owns it.
        """
        agent = self._settings.agent
        cap_gb, reserve_gb = agent.cache_max_gb, agent.disk_reserve_gb
        folder = Path(agent.cache_dir).expanduser() / f"rank-{self._rank}"
        return DiskWarmStore.open(
            folder,
            options=WarmOptions(
                cap_bytes="by volume" if cap_gb is None else int(cap_gb * _GIB) or None,
                reserve_bytes="by volume" if reserve_gb is None else int(reserve_gb * _GIB),
            ),
        )

    def waits_for(self) -> str:
        """Return which neighbour's port the loading waits for, in a sentence; empty: for none. Any thread."""
        return self._ports.waits_for if self._ports is not None else ""

    def memory_bytes(self) -> int:
        """Return what tensors take in this process."""
        return int(mx.get_active_memory())

    def load(self, order: LoadOrder) -> LoadedShard:
        """Form the ring and load.

        Raises:
            OverloadedError: The ring cannot be formed.
            ModelLoadError: The model cannot be loaded.
        """
        installed = self.find(order)
        world_size = len(order.ring)
        mode = spread_of(load_config(Path(installed.path)), name=installed.model_id, world_size=world_size)
        device = machine(self._settings)
        plan = budget_plan(self._settings, device)
        limit_buffer_cache(buffer_cache_bytes(device, budget_bytes=plan.budget_bytes(0)))
        memory = MlxMemory(device, log=NullLog(), wired=None)
        self._ports = RingPorts(rank=self._rank, ring=order.ring, limit_s=order.limit_s)
        try:
            ring = Ring.form(
                rank=self._rank, ring=order.ring, limit_s=order.limit_s, mode=mode, ports=self._ports
            )
        except ModelLoadError as error:
            # Nothing is wrong with the model: a neighbour was lost, and may come back.
            raise OverloadedError(error.message, retry_after_s=RETRY_S) from error
        loader = MlxModelLoader(
            block_tokens=order.block_tokens,
            precision=cast("StoragePrecision", order.precision),
            room=WeightRoom(device, memory.free_bytes),
            compute=ComputeOptions(order.cpu_math, 0, ring=ring),
        )
        model = finish_loading(loader.load(installed, on_progress=lambda share: None))
        return LoadedShard(model, mode, plan.budget_bytes(model.weights_bytes))

    def find(self, order: LoadOrder) -> InstalledModel:
        """Return this machine's copy of the model.

        Raises:
            ModelLoadError: The machine has no copy, or another model under this name.
        """
        registry = open_registry(self._settings)
        own = self._settings.mlx.model_id
        # A copy that the worker's user names is meant, whatever else is here.
        names = [own] if own and self._rank else order.names
        others: list[str] = []
        for name in names:
            try:
                found = registry.find(name)
            except ModelNotFoundError:
                continue
            if found is None:
                continue
            if str(found.fingerprint) == order.fingerprint:
                return found
            others.append(found.path)
        if others:
            raise ModelLoadError(
                f"rank {self._rank} has another model under this name in {others[0]} (its fingerprint differs from the "
                "daemon's); copy the same files to both machines"
            )
        raise ModelLoadError(
            f"rank {self._rank} does not have the model {names[0]}; run `semanticd models pull` there, or name its "
            "folder with `semanticd worker --model`"
        )
