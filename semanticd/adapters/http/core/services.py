"""The services that the HTTP edge gets: those of the application, and small protocols for the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Protocol

from semanticd.adapters.http.core.model_names import among, means_current
from semanticd.application.ports.request_traces import RequestTraces
from semanticd.application.ports.telemetry import Log, Metrics, NullLog, NullMetrics, Tracer
from semanticd.application.services.plain import IF_KNOWN
from semanticd.application.services.stored_responses import StoredResponses
from semanticd.domain.errors import ModelNotFoundError
from semanticd.domain.model_name import did_you_mean

if TYPE_CHECKING:
    from semanticd.application.generation.coverage import Coverage
    from semanticd.application.generation.embedding import Embedder
    from semanticd.application.generation.service import Generator
    from semanticd.application.generation.text_tokens import TextTokens
    from semanticd.application.services.agents import AgentsService
    from semanticd.application.services.cache import CacheService
    from semanticd.application.services.model_facts import ModelFacts
    from semanticd.application.services.models import ModelsService
    from semanticd.application.services.shared_blocks import SharedBlocks
    from semanticd.application.services.status import RequestsService


@dataclass(frozen=True, slots=True)
class HealthAnswer:
    """Result of a health check: healthy or not, and the reason."""

    ok: bool
    reason: str | None = field(default=None, metadata=IF_KNOWN)


class HealthService(Protocol):
    """The three questions of a supervisor."""

    def live(self) -> HealthAnswer:
        """Return the liveness of the process."""

    def ready(self) -> HealthAnswer:
        """Return whether the daemon accepts requests now."""

    def startup(self) -> HealthAnswer:
        """Return whether startup has finished."""


class Outcomes(Protocol):
    """Port that records how generations ended."""

    def answered(self) -> None:
        """Count a complete answer."""

    def not_answered(
        self,
        error_code: str,
        message: str,
        *,
        kind: Literal["failed", "refused"],
        request_id: str,
        agent_id: str | None,
        status: int,
    ) -> None:
        """Count a failure or a refusal; the status is the HTTP answer's."""


class NullOutcomes:
    """Ends that are not noted."""

    def answered(self) -> None:
        """Discard it."""

    def not_answered(
        self,
        error_code: str,
        message: str,
        *,
        kind: Literal["failed", "refused"],
        request_id: str,
        agent_id: str | None,
        status: int,
    ) -> None:
        """Discard it."""


def no_log_context(**fields: object) -> AbstractContextManager[object]:
    """Return a context in which log lines stay as they are."""
    return nullcontext(fields)


@dataclass(frozen=True, slots=True)
class HttpServices:
    """Everything `create_app` is given besides its configuration."""

    generator: Generator
    tokens: TextTokens
    embedder: Embedder
    agents: AgentsService
    models: ModelsService
    requests: RequestsService
    cache: CacheService
    health: HealthService
    metrics_text: Callable[[], bytes]
    """Returns the metrics in Prometheus' text form."""
    shared: SharedBlocks
    """Blocks that peers may read."""
    coverage: Coverage
    responses: StoredResponses = field(default_factory=StoredResponses)
    log: Log = field(default_factory=NullLog)
    log_context: Callable[..., AbstractContextManager[object]] = no_log_context
    """Makes every log line written below it carry the fields it is given."""
    metrics: Metrics = field(default_factory=NullMetrics)
    outcomes: Outcomes = field(default_factory=NullOutcomes)
    tracer: Tracer | None = None
    traces: RequestTraces | None = None
    """Recorder of generation requests; None: they are not recorded."""
    wall: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic


def model_names(models: Iterable[ModelFacts]) -> dict[str, ModelFacts]:
    """Return the models by every name they go by."""
    by_name: dict[str, ModelFacts] = {}
    for model in models:
        for name in (model.id, *model.aliases, *model.profiles):
            by_name.setdefault(name, model)
    return by_name


def by_their_names(models: Iterable[ModelFacts]) -> list[ModelFacts]:
    """Return the models as clients choose among them: each profile of one is a model of its own."""
    return [replace(model, id=name) for model in models for name in (model.id, *model.profiles)]


async def named_model(models: ModelsService, name: str, *, patterns: Iterable[str]) -> ModelFacts:
    """Return the model that a client means by a name, as for a generation.

    Raises:
        ModelNotFoundError: there is none, and the name matches no pattern that stands for the current one.
    """
    by_name = model_names(await models.list())
    meant = among(name, by_name)
    found = by_name.get(name) or (by_name[meant] if meant else None)
    if found is None and means_current(name, patterns):
        found = await models.current()
    if found is None:
        known = ", ".join(sorted(by_name)) or "none"
        raise ModelNotFoundError(
            f"there is no model {name[:80]!r}{did_you_mean(name, by_name)}; there are: {known}",
            param="model",
        )
    asked = name if name in found.profiles else meant
    return replace(found, id=asked) if asked in found.profiles else found
