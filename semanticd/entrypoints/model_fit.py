"""The memory plan of this machine, put together: its device, the user's limits, and the models that are known."""

from __future__ import annotations

from dataclasses import dataclass

from semanticd.adapters.config import Settings, load_settings
from semanticd.adapters.mlx.platform.blas import load_fast_blas
from semanticd.adapters.mlx.platform.device import ram_bytes, read_device
from semanticd.adapters.models.registry import ModelRegistry
from semanticd.application.ports.models import ModelSource
from semanticd.domain.errors import ModelTooLargeError
from semanticd.domain.memory_plan import (
    BudgetPlan,
    DeviceKind,
    DeviceMemory,
    ModelFootprint,
    default_model,
    device_memory,
    fit,
    refusal,
)
from semanticd.domain.model_cache_spec import StoragePrecision
from semanticd.entrypoints.offline_models import convert_gguf

MIB = 1024 * 1024
USUAL_BUDGET_BYTES = 4096 * MIB
"""For what is sized by the budget before that is known."""


def machine(settings: Settings) -> DeviceMemory:
    """Return this machine's memory within the user's limit; imports MLX, after the BLAS that it needs."""
    load_fast_blas()
    return read_device(limit_bytes=_limit(settings))


def machine_without_mlx(settings: Settings) -> DeviceMemory:
    """Return this machine's memory; where MLX does not work, as if it computed on the CPU."""
    try:
        return machine(settings)
    except Exception:  # noqa: BLE001 (whatever a broken back-end raises; the doctor says so in another place)
        return device_memory("cpu", ram_bytes(), limit_bytes=_limit(settings))


def _limit(settings: Settings) -> int | None:
    return None if settings.mlx.memory_mb == "auto" else settings.mlx.memory_mb * MIB


def fixed_budget(settings: Settings) -> int | None:
    """Return the KV budget that the user set, in bytes; None: it follows from the machine."""
    return None if settings.mlx.cache_budget_mb == "auto" else settings.mlx.cache_budget_mb * MIB


def budget_plan(settings: Settings, device: DeviceMemory) -> BudgetPlan:
    """Return where the KV budget comes from."""
    return BudgetPlan(device, fixed_budget(settings))


def footprints(source: ModelSource) -> list[ModelFootprint]:
    """Return what models take: of those that are here by their files, of others by the registry."""
    found = {one.name: one for entry in source.entries() if (one := entry.footprint()) is not None}
    found.update({model.model_id: model.footprint() for model in source.installed()})
    return sorted(found.values(), key=lambda one: (one.weights_bytes, one.name))


def default_model_name(source: ModelSource, device: DeviceMemory) -> str:
    """Return the name of the model that this machine starts with."""
    entries = [one for entry in source.entries() if (one := entry.footprint()) is not None]
    return default_model(device, entries)


@dataclass(frozen=True, slots=True)
class FitRow:
    """One model on a machine: the bytes left for KV, and their tokens (None: a token's bytes are not known)."""

    id: str
    fits: bool
    default: bool
    """Whether the machine starts with it."""
    installed: bool
    weights_bytes: int
    kv_bytes: int
    tokens: dict[StoragePrecision, int | None]


@dataclass(frozen=True, slots=True)
class FitTable:
    """The models that fit on a machine."""

    device: DeviceKind
    memory_bytes: int
    working_set_bytes: int
    reserve_bytes: int
    budget_bytes: int | None
    """The KV budget that the user set; None: what weights leave."""
    models: tuple[FitRow, ...]


def fit_table(memory_bytes: int | None = None, settings: Settings | None = None) -> FitTable:
    """Return what fits on this machine, or on one of the same kind with this much memory."""
    settings = settings or load_settings().settings
    device = machine(settings)
    if memory_bytes is not None:
        device = device_memory(device.kind, memory_bytes, limit_bytes=_limit(settings))
    source = open_registry(settings)
    chosen = settings.mlx.model_id or default_model_name(source, device)
    installed = {model.model_id for model in source.installed()}
    budget = fixed_budget(settings)
    rows = []
    for model in footprints(source):
        found = fit(device, model, budget_bytes=budget)
        rows.append(
            FitRow(
                model.name,
                found.fits,
                model.name == chosen,
                model.name in installed,
                model.weights_bytes,
                found.kv_bytes,
                found.tokens,
            )
        )
    reserve = device.working_set_bytes - device.room_bytes
    return FitTable(device.kind, device.total_bytes, device.working_set_bytes, reserve, budget, tuple(rows))


def refuse_what_never_fits(settings: Settings, name: str) -> None:
    """Raise `ModelTooLargeError` for a model that does not fit on this machine."""
    source = open_registry(settings)
    found, entry = source.find(name), source.resolve(name)
    model = found.footprint() if found is not None else entry.footprint()
    if model is None:
        return
    if (reason := refusal(machine(settings), model, footprints(source))) is not None:
        raise ModelTooLargeError(reason)


def open_registry(settings: Settings) -> ModelRegistry:
    """Return the models' registry with the user's own entries."""
    return ModelRegistry(
        settings.paths.models_dir,
        convert_gguf=convert_gguf,
        user_models=settings.models,
        user_profiles=settings.profiles,
        gguf_bits=settings.mlx.gguf_bits,
    )
