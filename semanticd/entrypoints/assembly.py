"""The parts of the composition that import MLX and the HTTP stack: kept apart so that they load when they must."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import uvicorn

from semanticd import __version__
from semanticd.adapters.config import Settings
from semanticd.adapters.config.resolve import is_loopback
from semanticd.adapters.disk.files.atomic import FileSystem
from semanticd.adapters.http.app import create_app
from semanticd.adapters.http.core.config import LOOPBACK_HOSTS, HttpConfig
from semanticd.adapters.http.core.services import HealthAnswer, HttpServices
from semanticd.adapters.http.server import server_config, within_descriptors
from semanticd.adapters.logs import log_context
from semanticd.adapters.mlx.model.loader import ComputeOptions, MlxModelLoader
from semanticd.adapters.mlx.platform.device import MlxMemory
from semanticd.adapters.mlx.platform.heap import limit_buffer_cache
from semanticd.adapters.tracing import OtelTracer, open_tracer
from semanticd.application.engine.memory_guard import EngineMemory
from semanticd.application.ports.inference import ModelLoader
from semanticd.application.ports.telemetry import EventBus, Log
from semanticd.domain.limits import LIMITS
from semanticd.domain.lookup import AUTO_DRAFTS
from semanticd.domain.memory_plan import WeightRoom, buffer_cache_bytes
from semanticd.entrypoints.bootstrap import Daemon, build, precision_of
from semanticd.entrypoints.measured_chunks import MeasuringLoader
from semanticd.entrypoints.model_fit import budget_plan, default_model_name, machine, open_registry

_HTTP_GRACE_S = 2


def max_drafts(speculation: int | str) -> int:
    """Return how many draft tokens a step may verify, as the setting says."""
    return AUTO_DRAFTS if speculation == "auto" else 0 if speculation == "off" else int(speculation)


def first_model(settings: Settings) -> str:
    """Return the name of the model that the daemon starts with: the user's choice, else what goes by the machine."""
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
    loader: ModelLoader = MlxModelLoader(
        block_tokens=settings.mlx.block_tokens,
        precision=precision_of(settings),
        room=WeightRoom(device, memory.free_bytes),
        canonicalize=settings.mlx.canonicalize,
        literal_content=settings.mlx.literal_content,
        compute=ComputeOptions(settings.mlx.cpu_math, max_drafts(settings.mlx.speculation)),
        log=log,
    )
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
    )


class _Health:
    """The supervisor's questions, answered from the daemon's state."""

    def __init__(self, daemon: Daemon, state: Callable[[], str]) -> None:
        self._daemon = daemon
        self._state = state

    def live(self) -> HealthAnswer:
        """The process works if it answers at all."""
        return HealthAnswer(ok=True)

    def ready(self) -> HealthAnswer:
        """Requests are taken while at least one model serves and nobody asked us to stop."""
        if self._daemon.engine.failure is not None:
            return HealthAnswer(ok=False, reason=f"the engine fails: {self._daemon.engine.failure}")
        state = self._daemon.status.state()
        if state == "no_model":
            return HealthAnswer(ok=False, reason=self._daemon.status.why_no_model())
        if state != "ready":
            return HealthAnswer(ok=False, reason=f"the daemon is {state}")
        return HealthAnswer(ok=True)

    def startup(self) -> HealthAnswer:
        """Starting is over once the first model is loaded."""
        if self._state() == "starting":
            return HealthAnswer(
                ok=False,
                reason=f"{self._daemon.model_progress.stage}: {self._daemon.model_progress.share:.0%}",
            )
        return HealthAnswer(ok=True)


class _Server(uvicorn.Server):
    """uvicorn, with signals left to the daemon."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture nothing."""
        yield


def http_server(daemon: Daemon, settings: Settings, *, log: Log, state: Callable[[], str]) -> uvicorn.Server:
    """Return the HTTP server, ready to serve on a bound socket."""
    server, security = settings.server, settings.security
    host = server.host.strip("[]")
    services = HttpServices(
        generator=daemon.generate,
        tokens=daemon.tokens,
        embedder=daemon.embedding,
        agents=daemon.agents,
        models=daemon.models,
        requests=daemon.requests,
        cache=daemon.cache,
        health=_Health(daemon, state),
        metrics_text=daemon.metrics.text,
        shared=daemon.shared,
        coverage=daemon.coverage,
        responses=daemon.responses,
        log=log,
        log_context=log_context,
        metrics=daemon.metrics,
        outcomes=daemon.outcomes,
        tracer=daemon.tracer,
        traces=daemon.traces,
        wall=daemon.clock.wall,
        monotonic=daemon.clock.monotonic,
    )
    config = HttpConfig(
        api_keys=security.api_key,
        admin_key=security.admin_key,
        is_loopback=is_loopback(server.host),
        allowed_hosts=(*LOOPBACK_HOSTS, *server.allowed_hosts, f"[{host}]" if ":" in host else host),
        literal_hosts=not is_loopback(server.host),
        cors_origins=server.cors_origins,
        rate_limit_global=server.rate_limit_global,
        rate_limit_per_agent=server.rate_limit_per_agent,
        model_patterns=server.model_patterns,
        strict=server.strict,
        version=__version__,
    )
    return _Server(
        server_config(
            create_app(services, config),
            log=log,
            metrics=daemon.metrics,
            limits=within_descriptors(LIMITS),
            timeout_graceful_shutdown=_HTTP_GRACE_S,
        )
    )
