"""The composition root: the only place where rooms are put together. Values go in, nothing reads settings later."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from semanticd import __version__
from semanticd.adapters.config import Settings
from semanticd.adapters.disk.agents.archive import DiskAgentArchive
from semanticd.adapters.disk.agents.export_file import DiskAgentExportFile
from semanticd.adapters.disk.blocks.codec import decode_foreign
from semanticd.adapters.disk.blocks.warm_store import DiskWarmStore, WarmOptions
from semanticd.adapters.disk.blocks.write_policy import WritePolicy
from semanticd.adapters.disk.files.atomic import FileSystem
from semanticd.adapters.disk.responses.archive import DiskResponseArchive
from semanticd.adapters.peers.http_peers import HttpPeers
from semanticd.adapters.request_traces.writer import TraceWriter
from semanticd.adapters.telemetry import PrometheusMetrics, SystemClock
from semanticd.adapters.tracing import OtelTracer
from semanticd.application.cache.agent_cache import AgentCache
from semanticd.application.cache.agent_cache_store import AgentCacheStore
from semanticd.application.cache.agent_registry import AgentRegistry
from semanticd.application.cache.agent_tables import AgentTables
from semanticd.application.engine.loop import BlockPoolBatchEngine
from semanticd.application.engine.memory_guard import EngineMemory
from semanticd.application.engine.queue import EngineQueue
from semanticd.application.generation.coverage import CoverageService
from semanticd.application.generation.embedding import EmbeddingService
from semanticd.application.generation.places import ReadingPlaces
from semanticd.application.generation.recorder import TurnRecorder
from semanticd.application.generation.say import Chat
from semanticd.application.generation.service import GenerateService
from semanticd.application.generation.text_tokens import TextTokensService
from semanticd.application.ports.inference import ModelLoader
from semanticd.application.ports.models import ModelSource
from semanticd.application.ports.telemetry import EventBus, Log, Metrics, Telemetry
from semanticd.application.services.agent_export import AgentExporter
from semanticd.application.services.agents import AgentsService
from semanticd.application.services.arrivals import Arrivals
from semanticd.application.services.cache import CacheService
from semanticd.application.services.changed_files import ChangedFiles
from semanticd.application.services.gauges import Gauges
from semanticd.application.services.history import History
from semanticd.application.services.model_memory import ModelMemory
from semanticd.application.services.model_names import ModelNames
from semanticd.application.services.model_progress import ModelProgress
from semanticd.application.services.model_routing import ModelRouting
from semanticd.application.services.model_use import ModelUse
from semanticd.application.services.models import ModelsService
from semanticd.application.services.observations import Observations
from semanticd.application.services.outcomes import Outcomes
from semanticd.application.services.preload import Preload
from semanticd.application.services.savings import Savings
from semanticd.application.services.shared_blocks import SharedBlocks, shared_trees
from semanticd.application.services.status import DaemonIdentity, RequestsService, StatusService
from semanticd.application.services.stored_responses import StoredResponses
from semanticd.application.services.waits import Waits
from semanticd.domain.ids import AgentId
from semanticd.domain.memory_plan import DeviceMemory
from semanticd.domain.model_cache_spec import StoragePrecision
from semanticd.domain.scheduler import Scheduler, SchedulerLimits
from semanticd.entrypoints.kept_figures import KeptFigures

if TYPE_CHECKING:  # loaded where a hostfile is set, and nowhere else
    from semanticd.adapters.ranks.group import RankGroup
    from semanticd.entrypoints.ranked_parts import RankedParts

_MIB = 1024 * 1024
_GIB = 1024**3
_CLOCK_IS_BEHIND_S = 60.0
"""Seconds that the machine's date may be behind the newest stored one without a warning in the log."""
_PRECISIONS: dict[int | None, StoragePrecision] = {None: "exact", 8: "q8", 6: "q6", 4: "q4"}


@dataclass(frozen=True, slots=True)
class Daemon:
    """Everything that was put together, for the daemon to start and stop."""

    engine: BlockPoolBatchEngine
    store: AgentCacheStore
    warm: DiskWarmStore
    archive: DiskAgentArchive
    response_archive: DiskResponseArchive
    responses: StoredResponses
    generate: GenerateService
    tokens: TextTokensService
    coverage: CoverageService
    shared: SharedBlocks
    preload: Preload
    peers: HttpPeers | None
    embedding: EmbeddingService
    chat: Chat
    agents: AgentsService
    models: ModelsService
    model_progress: ModelProgress
    requests: RequestsService
    status: StatusService
    cache: CacheService
    outcomes: Outcomes
    history: History
    figures: KeptFigures
    metrics: PrometheusMetrics
    clock: SystemClock
    tracer: OtelTracer | None
    traces: TraceWriter | None
    device: DeviceMemory
    ranks: RankGroup | None
    """Group that the other machines of the model join; None: this one computes alone."""


def build(
    settings: Settings,
    *,
    source: ModelSource,
    loader: ModelLoader,
    memory: EngineMemory,
    device: DeviceMemory,
    bus: EventBus,
    log: Log,
    state: Callable[[], str],
    facts: Mapping[str, Any],
    tracer: OtelTracer | None = None,
    files: FileSystem | None = None,
    ranks: RankedParts | None = None,
) -> Daemon:
    """Put the engine and its use cases together; nothing is started, but the cache folder is opened and locked.

    `memory` is that of the models' `device`, with what of it is for KV. The warm tier works through `files`
    (None: the operating system's own). `ranks` are the machines that compute with this one (None: it computes alone).
    """
    clock = SystemClock()
    metrics = PrometheusMetrics()
    telemetry = Telemetry(clock, metrics, log, bus, tracer)
    cap_gb, reserve_gb = settings.agent.cache_max_gb, settings.agent.disk_reserve_gb
    budget_gb = settings.agent.write_budget_gb_per_day
    warm = DiskWarmStore.open(
        Path(settings.agent.cache_dir).expanduser(),
        options=WarmOptions(
            cap_bytes="by volume" if cap_gb is None else int(cap_gb * _GIB) or None,
            reserve_bytes="by volume" if reserve_gb is None else int(reserve_gb * _GIB),
            write_policy=cast("WritePolicy", settings.agent.write_policy),
            write_budget_bytes=int(budget_gb * _GIB) if budget_gb else None,
        ),
        fs=files,
        metrics=metrics,
        log=log,
        now=clock.wall,
    )
    archive = DiskAgentArchive.open(warm.folder, write_queue=warm.write_queue, metrics=metrics, log=log)
    response_archive = DiskResponseArchive.open(
        warm.folder.responses, clock=clock, log=log, folder=warm.folder
    )
    responses = StoredResponses(archive=response_archive)
    kept = warm if ranks is None else ranks.keep_in(warm)
    warm.when_pruned(archive.forget_blocks if ranks is None else ranks.also_removed(archive.forget_blocks))
    peers = open_peers(settings, metrics=metrics, log=log)
    queue = EngineQueue(
        max_queue=settings.mlx.max_queue, max_queue_per_agent=settings.mlx.max_queue_per_agent
    )
    store = AgentCacheStore(
        budget_bytes=memory.plan.budget_bytes(0),
        warm=kept,
        post=queue.post,
        metrics=metrics,
        log=log,
        peers=peers,
    )
    tables = AgentTables(
        store=store, warm=kept, max_agents_in_memory=settings.agent.max_agents_in_memory, log=log
    )
    cache = AgentCache(store, tables)
    registry = AgentRegistry(cache=cache, archive=archive, clock=clock, post=queue.post)
    behind_s = sum(clock.not_before(agent.last_used_at) for agent in registry.recent())
    if behind_s > _CLOCK_IS_BEHIND_S:
        log.warning("clock_is_behind_newest_use", behind_s=round(behind_s))
    limits = SchedulerLimits(
        max_batch_size=settings.mlx.max_batch_size,
        prefill_chunk=settings.mlx.prefill_chunk,
        decode_share=settings.mlx.decode_share,
        max_stall_s=settings.mlx.max_stall_ms / 1000,
    )
    scheduler = Scheduler(limits=limits, block_tokens=settings.mlx.block_tokens)
    engine = BlockPoolBatchEngine(
        queue=queue,
        cache=cache,
        agents=registry,
        scheduler=scheduler,
        telemetry=telemetry,
        snapshot_tokens=settings.mlx.snapshot_tokens,
        memory=memory,
    )
    use, progress = ModelUse(clock), ModelProgress(telemetry)
    names = ModelNames(
        engine=engine, source=source, use=use, changed=ChangedFiles(source=source, clock=clock)
    )
    models = ModelsService(
        engine=engine,
        source=source,
        loader=loader,
        use=use,
        names=names,
        memory=ModelMemory(
            engine=engine,
            source=source,
            free_bytes=memory.machine.free_bytes
            if ranks is None
            else ranks.free_bytes(memory.machine.free_bytes),
            device=device if ranks is None else ranks.all_memory(device),
        ),
        progress=progress,
    )
    routing = ModelRouting(
        engine=engine,
        models=models,
        source=source,
        names=names,
        use=use,
        progress=progress,
        load_on_demand=settings.mlx.load_on_demand,
    )
    if ranks is not None:
        routing.why_away = ranks.group.why_away
        models.ranks = ranks.group
        names.awaited = lambda: ranks.group.awaited
    arrivals = Arrivals(clock=clock, progress=progress)
    gauges = Gauges(
        engine=engine,
        arrivals=arrivals,
        store=store,
        warm=warm,
        metrics=metrics,
        version=__version__,
        ranks=None if ranks is None else ranks.group,
    )
    metrics.before_text = gauges.refresh
    outcomes, savings = Outcomes(clock=clock), Savings(clock=clock, metrics=metrics)
    waits = Waits(scheduler, arrivals)
    observations = Observations(arrivals, waits, outcomes, savings, progress, names.warnings)
    requests = RequestsService(engine=engine, clock=clock, observations=observations)
    status = StatusService(
        engine=engine,
        store=store,
        use=use,
        warm=warm,
        observations=observations,
        clock=clock,
        daemon=DaemonIdentity(
            {"version": __version__, "pid": os.getpid(), **facts},
            state,
            num_unsaved=lambda: (registry.num_unsaved, responses.num_refused),
            free_memory_bytes=memory.machine.free_bytes,
            ranks=None if ranks is None else ranks.group,
        ),
    )
    history = History(
        status=status, requests=requests, outcomes=outcomes, savings=savings, clock=clock, log=log
    )
    figures = KeptFigures(warm.folder, savings=savings, history=history, fs=files or FileSystem(), log=log)
    figures.restore(is_known=lambda agent: registry.is_known(AgentId(agent)))
    if ranks is None:
        exporter = AgentExporter(engine=engine, store=store, clock=clock, export_file=DiskAgentExportFile())
    else:
        exporter = AgentExporter(engine=engine, store=store, clock=clock, why_none=ranks.why_no_export)
    recorder = TurnRecorder(
        engine=engine, agents=registry, metrics=metrics, log=log, savings=savings, history=history
    )
    places = ReadingPlaces(queue)
    generate = GenerateService(
        engine=engine,
        agents=registry,
        routing=routing,
        places=places,
        recorder=recorder,
        arrivals=arrivals,
        move_volatile=settings.mlx.move_volatile,
    )
    agents = AgentsService(
        engine=engine,
        agents=registry,
        cache=cache,
        exporter=exporter,
        observations=observations,
        clock=clock,
        responses=responses,
    )
    return Daemon(
        engine=engine,
        store=store,
        warm=warm,
        archive=archive,
        response_archive=response_archive,
        responses=responses,
        generate=generate,
        tokens=TextTokensService(routing=routing, places=places, move_volatile=settings.mlx.move_volatile),
        coverage=CoverageService(routing=routing, store=store),
        shared=SharedBlocks(
            warm, trees=lambda: shared_trees(engine.models.values()) if ranks is None else ()
        ),
        preload=Preload(
            engine=engine,
            store=store,
            agents=registry,
            warm=kept,
            share=settings.agent.preload_share,
            log=log,
        ),
        peers=peers,
        embedding=EmbeddingService(
            engine=engine, routing=routing, places=places, clock=clock, metrics=metrics
        ),
        chat=Chat(generate=generate, agents=agents),
        agents=agents,
        models=models,
        model_progress=progress,
        requests=requests,
        status=status,
        cache=CacheService(engine=engine, store=store, agents=registry, warm=kept, status=status),
        outcomes=outcomes,
        history=history,
        figures=figures,
        metrics=metrics,
        clock=clock,
        tracer=tracer,
        traces=trace_writer(settings, metrics=metrics, log=log),
        device=device,
        ranks=None if ranks is None else ranks.group,
    )


def open_peers(settings: Settings, *, metrics: Metrics, log: Log) -> HttpPeers | None:
    """Return what asks other machines for blocks; None unless the settings name some."""
    urls = settings.agent.peers
    if not urls:
        return None
    return HttpPeers(
        urls, key=settings.security.key_for_peers, decode=decode_foreign, metrics=metrics, log=log
    )


def trace_writer(settings: Settings, *, metrics: Metrics, log: Log) -> TraceWriter | None:
    """Return what records requests; None unless the settings name a folder."""
    trace = settings.trace
    if trace.dir is None:
        return None
    log.info("requests_are_recorded", folder=str(trace.dir), content=trace.content)
    return TraceWriter(
        trace.dir,
        max_bytes=trace.max_mb * _MIB,
        redacted=trace.content == "hashed",
        server=f"semanticd {__version__}",
        metrics=metrics,
        log=log,
    )


def precision_of(settings: Settings) -> StoragePrecision:
    """Return the storage precision that `SEMANTIC_MLX_KV_BITS` asks for."""
    return _PRECISIONS[settings.mlx.kv_bits]


def close(daemon: Daemon) -> None:
    """Stop in reverse order; each step runs even when the one before it failed."""
    with contextlib.ExitStack() as stack:
        if daemon.tracer is not None:
            stack.callback(daemon.tracer.close)
        # The store's queue, which it empties as it closes, is the archive's too: the archive is last.
        stack.callback(daemon.archive.close)
        stack.callback(daemon.warm.close)
        # While the folder is still ours.
        stack.callback(daemon.figures.save)
        stack.callback(daemon.response_archive.close)
        if daemon.traces is not None:
            stack.callback(daemon.traces.close)
        if daemon.peers is not None:
            stack.callback(daemon.peers.close)
        if daemon.ranks is not None:
            stack.callback(daemon.ranks.close)
        stack.callback(daemon.engine.stop)
