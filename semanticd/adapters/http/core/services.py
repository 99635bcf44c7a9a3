"""What the HTTP edge needs from the application, as small protocols; plain dictionaries come back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from semanticd.application.ports.telemetry import Log, Metrics, NullLog, NullMetrics, Tracer
from semanticd.domain.agent import AgentConfig

if TYPE_CHECKING:
    from semanticd.application.generation.service import Generator

Rows = list[dict[str, Any]]
"""Facts of several things."""


class AgentsService(Protocol):
    """Agents by id; every method raises `AgentNotFoundError` for an unknown one."""

    async def create(self, agent_id: str | None, config: AgentConfig, *, pin: bool = False) -> dict[str, Any]:
        """Make an agent (with a made-up id if None); raises `ConflictError` if the id is taken."""

    async def list(self) -> Rows:
        """Return the facts of all agents, most recently used first."""

    async def show(self, agent_id: str) -> dict[str, Any]:
        """Return one agent's facts and statistics."""

    async def why(self, agent_id: str) -> dict[str, Any]:
        """Return the miss report of its last requests."""

    async def messages(self, agent_id: str) -> Rows:
        """Return the conversation the server keeps for it."""

    async def pin(self, agent_id: str, ttl_s: float | None = None) -> dict[str, Any]:
        """Keep its blocks from eviction, for a time or for good."""

    async def unpin(self, agent_id: str) -> dict[str, Any]:
        """Let its blocks be evicted again."""

    async def fork(self, agent_id: str, new_id: str | None = None) -> dict[str, Any]:
        """Make an agent with the same conversation, sharing its blocks."""

    async def rewind(self, agent_id: str, turns: int) -> dict[str, Any]:
        """Forget its last turns."""

    async def evict(self, agent_id: str) -> dict[str, Any]:
        """Demote its blocks to disk."""

    async def delete(self, agent_id: str) -> dict[str, Any]:
        """Forget it and what only it uses."""

    async def export(self, agent_id: str, path: str) -> dict[str, Any]:
        """Write it and its blocks into one file."""

    async def import_(self, path: str, new_id: str | None = None) -> dict[str, Any]:
        """Read an exported agent from a file."""


class ModelsService(Protocol):
    """Models that are known, and which is in use."""

    async def list(self) -> Rows:
        """Return models as `{id, created, owned_by, loaded, context_length, ...}`."""

    async def current(self) -> dict[str, Any] | None:
        """Return the model that answers requests for the default, or None."""

    async def load(self, model: str) -> dict[str, Any]:
        """Load a model beside the present one."""

    async def unload(self, model: str) -> dict[str, Any]:
        """Free a model's memory."""

    async def swap(self, model: str) -> dict[str, Any]:
        """Make a model the current one, freeing the other if both do not fit."""


class CacheService(Protocol):
    """The KV cache as a whole."""

    async def clear(self) -> dict[str, Any]:
        """Drop all blocks, hot and warm, that no running request uses."""


class HealthService(Protocol):
    """The three questions of a supervisor; each answer has `ok` and, if not, `reason`."""

    def live(self) -> dict[str, Any]:
        """Whether the process works at all."""

    def ready(self) -> dict[str, Any]:
        """Whether requests are taken now."""

    def startup(self) -> dict[str, Any]:
        """Whether starting has finished."""


class Outcomes(Protocol):
    """Where it is noted how generations ended."""

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
    agents: AgentsService
    models: ModelsService
    cache: CacheService
    health: HealthService
    metrics_text: Callable[[], bytes]
    """Returns the metrics in Prometheus' text form."""
    log: Log = field(default_factory=NullLog)
    log_context: Callable[..., AbstractContextManager[object]] = no_log_context
    """Makes every log line written below it carry the fields it is given."""
    metrics: Metrics = field(default_factory=NullMetrics)
    outcomes: Outcomes = field(default_factory=NullOutcomes)
    tracer: Tracer | None = None
    wall: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic


def model_names(models: list[dict[str, Any]]) -> Mapping[str, dict[str, Any]]:
    """Return the models by every name they go by."""
    by_name: dict[str, dict[str, Any]] = {}
    for model in models:
        by_name.setdefault(str(model["id"]), model)
        for alias in model.get("aliases") or ():
            by_name.setdefault(str(alias), model)
    return by_name
