"""The part of the composition that imports MLX, which takes seconds: kept apart so that it loads when it must."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from semanticd import __version__
from semanticd.adapters.config import Settings
from semanticd.adapters.disk.files.atomic import FileSystem
from semanticd.adapters.mlx.model.loader import ComputeOptions, MlxModelLoader
from semanticd.adapters.mlx.platform.device import MlxMemory
from semanticd.adapters.mlx.platform.heap import limit_buffer_cache
from semanticd.adapters.tracing import OtelTracer, open_tracer
from semanticd.application.engine.memory_guard import EngineMemory
from semanticd.application.ports.inference import ModelLoader
from semanticd.application.ports.telemetry import EventBus, Log
from semanticd.domain.lookup import AUTO_DRAFTS
from semanticd.domain.memory_plan import WeightRoom, buffer_cache_bytes
from semanticd.entrypoints.bootstrap import Daemon, build, precision_of
from semanticd.entrypoints.measured_chunks import MeasuringLoader
from semanticd.entrypoints.model_fit import budget_plan, default_model_name, machine, open_registry

if TYPE_CHECKING:  # loaded where a hostfile is set, and nowhere else
    from semanticd.entrypoints.ranked_parts import RankedParts


def max_drafts(speculation: int | str) -> int:
    """Return how many draft tokens a step may verify, as the setting says."""
    return AUTO_DRAFTS if speculation == "auto" else 0 if speculation == "off" else int(speculation)


def first_model(settings: Settings) -> str:
    """Return the name of the model that the daemon starts with: the user's choice, else the machine's default."""
    return settings.mlx.model_id or default_model_name(open_registry(settings), machine(settings))


def assemble(
    settings: Settings,
    *,
    bus: EventBus,
    log: Log,
    state: Callable[[], str],
    facts: Mapping[str, Any],
    tracer: OtelTracer | None = None,
    files: FileSystem | None = None,
    around_loader: Callable[[ModelLoader], ModelLoader] = lambda loader: loader,
) -> Daemon:
    """Put the daemon together with real models; traces go to `tracer`, else where the settings say.

    The warm tier works through `files`; see `build`. `around_loader` returns what loads models, given the real loader.
    """
    tracer = tracer or open_tracer(settings.server.otlp_endpoint, version=__version__)
    device = machine(settings)
    plan = budget_plan(settings, device)
    wired = None if settings.mlx.wired_weights == "auto" else settings.mlx.wired_weights
    memory = MlxMemory(device, log=log, wired=wired)
    limit_buffer_cache(buffer_cache_bytes(device, budget_bytes=plan.budget_bytes(0)))
    local = MlxModelLoader(
        block_tokens=settings.mlx.block_tokens,
        precision=precision_of(settings),
        room=WeightRoom(device, memory.free_bytes),
        canonicalize=settings.mlx.canonicalize,
        literal_content=settings.mlx.literal_content,
        compute=ComputeOptions(settings.mlx.cpu_math, max_drafts(settings.mlx.speculation)),
        log=log,
    )
    ranks = open_ranks(settings, log=log)
    loader: ModelLoader = local if ranks is None else ranks.loader(local, settings)
    return build(
        settings,
        source=open_registry(settings),
        loader=around_loader(MeasuringLoader(loader, log=log)),
        memory=EngineMemory(memory, plan),
        device=device,
        bus=bus,
        log=log,
        state=state,
        facts=facts,
        tracer=tracer,
        files=files,
        ranks=ranks,
    )


def open_ranks(settings: Settings, *, log: Log) -> RankedParts | None:
    """Return what spreads a model over the machines of the hostfile; None unless one is set."""
    if settings.distributed.hosts is None:
        return None
    from semanticd.adapters.mlx.model.compute_revision import compute_revision
    from semanticd.adapters.mlx.model.sharding import device_kind
    from semanticd.entrypoints.ranked_parts import RankedParts

    return RankedParts.of(settings, device=device_kind(), computed_by=compute_revision(), log=log)
