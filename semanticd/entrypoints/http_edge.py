"""The part of the composition that imports the HTTP stack: kept apart so that it loads while a model does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import uvicorn

from semanticd import __version__
from semanticd.adapters.config import Settings
from semanticd.adapters.config.resolve import is_loopback
from semanticd.adapters.http.app import create_app
from semanticd.adapters.http.core.config import LOOPBACK_HOSTS, HttpConfig
from semanticd.adapters.http.core.services import HealthAnswer, HttpServices
from semanticd.adapters.http.server import server_config, within_descriptors
from semanticd.adapters.logs import log_context
from semanticd.application.ports.telemetry import Log
from semanticd.domain.limits import LIMITS
from semanticd.entrypoints.bootstrap import Daemon

_HTTP_GRACE_S = 2


class _Health:
    """The supervisor's questions, answered from the daemon's state."""

    def __init__(self, daemon: Daemon, state: Callable[[], str]) -> None:
        self._daemon = daemon
        self._state = state

    def live(self) -> HealthAnswer:
        """The process works if it answers at all."""
        return HealthAnswer(ok=True)

    def ready(self) -> HealthAnswer:
        """Requests are taken while at least one model serves and no stop was requested."""
        if self._daemon.engine.failure is not None:
            return HealthAnswer(ok=False, reason=f"the engine is failing: {self._daemon.engine.failure}")
        state = self._daemon.status.state()
        ranks = self._daemon.ranks
        if ranks is not None and ranks.formation is None and state != "no_model":
            return HealthAnswer(ok=False, reason=ranks.why_not_ready())
        if state == "no_model":
            return HealthAnswer(ok=False, reason=self._daemon.status.why_no_model())
        if state != "ready":
            return HealthAnswer(ok=False, reason=f"the daemon is {state}")
        return HealthAnswer(ok=True)

    def startup(self) -> HealthAnswer:
        """Startup ends once the first model is loaded."""
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
