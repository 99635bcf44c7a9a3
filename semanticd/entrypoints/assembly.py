"""The parts of the composition that import MLX and the HTTP stack: kept apart so that they load when they must."""

from __future__ import annotations

import contextlib
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import psutil
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
from semanticd.adapters.mlx.model.gguf.convert import convert
from semanticd.adapters.mlx.model.loader import MlxModelLoader
from semanticd.adapters.mlx.platform.heap import limit_buffer_cache
from semanticd.adapters.models.registry import ModelRegistry, default_model
from semanticd.adapters.tracing import OtelTracer, open_tracer
from semanticd.application.ports.telemetry import EventBus, Log
from semanticd.domain.errors import NO_MODEL_LOADED
from semanticd.domain.limits import LIMITS
from semanticd.entrypoints.bootstrap import MIB, Daemon, available_bytes, build, precision_of

_HTTP_GRACE_S = 2


def registry(settings: Settings) -> ModelRegistry:
    """Return the models' registry with the user's own entries."""
    return ModelRegistry(
        settings.paths.models_dir,
        convert_gguf=convert,
        user_models=settings.models,
        gguf_bits=settings.mlx.gguf_bits,
    )


def default_model_name() -> str:
    """Return the name of the model this machine starts with."""
    memory = psutil.virtual_memory().total
    return default_model(platform=sys.platform, machine=platform.machine(), memory_bytes=memory)


def assemble(
    settings: Settings,
    *,
    bus: EventBus,
    log: Log,
    state: Callable[[], str],
    facts: Mapping[str, Any],
    tracer: OtelTracer | None = None,
    files: FileSystem | None = None,
) -> Daemon:
    """Put the daemon together with real models; traces go to `tracer`, else where the settings say.

    The warm tier works through `files`; see `build`.
    """
    tracer = tracer or open_tracer(settings.server.otlp_endpoint, version=__version__)
    limit_buffer_cache(budget_bytes=settings.mlx.cache_budget_mb * MIB)
    loader = MlxModelLoader(
        block_tokens=settings.mlx.block_tokens,
        precision=precision_of(settings),
        available_bytes=available_bytes,
        canonicalize=settings.mlx.canonicalize,
        literal_content=settings.mlx.literal_content,
        cpu_math=settings.mlx.cpu_math,
    )
    return build(
        settings,
        source=registry(settings),
        loader=loader,
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
        if self._state() != "ready":
            return HealthAnswer(ok=False, reason=f"the daemon is {self._state()}")
        if not self._daemon.engine.models:
            return HealthAnswer(ok=False, reason=NO_MODEL_LOADED)
        return HealthAnswer(ok=True)

    def startup(self) -> HealthAnswer:
        """Starting is over once the first model is loaded."""
        if self._state() == "starting":
            return HealthAnswer(
                ok=False, reason=f"{self._daemon.models.stage}: {self._daemon.models.progress:.0%}"
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
        agents=daemon.agents,
        models=daemon.models,
        cache=daemon.cache,
        health=_Health(daemon, state),
        metrics_text=daemon.metrics.text,
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
