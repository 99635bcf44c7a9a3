"""The services that the control edge needs: those of the application, and small protocols for the others.

A service that is None answers its commands with `not_available`. Methods raise domain errors; the server translates
them once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from semanticd.application.generation.say import Chat
    from semanticd.application.services.agents import AgentsService
    from semanticd.application.services.cache import CacheService
    from semanticd.application.services.history import History
    from semanticd.application.services.models import ModelsService
    from semanticd.application.services.status import RequestsService, StatusService

Facts = dict[str, Any]
"""The facts about one object."""
Rows = list[dict[str, Any]]
"""Facts of several things."""
Published = object
"""A frozen dataclass; a command's result is its fields, by `plain`."""


class ConfigService(Protocol):
    """The settings that the daemon runs with."""

    async def show(self) -> Published:
        """Return `control.results.ConfigResult`, secrets masked."""


class DoctorService(Protocol):
    """Examines the installation from inside."""

    async def run(self, generate: bool = True) -> Published:
        """Return `control.results.DoctorResult`; the engine is used with `generate` only."""


class LifecycleService(Protocol):
    """Begins the end; both return at once, the daemon's state says how far it is."""

    async def drain(self, timeout_s: float | None = None) -> Published:
        """Take no new requests; running ones finish. `timeout_s` None: the daemon's own limit."""

    async def shutdown(self, timeout_s: float | None = None, now: bool = False) -> Published:
        """Drain (not if `now`), persist and exit."""


class LogService(Protocol):
    """The daemon's log."""

    async def set_level(self, level: str) -> Published:
        """Log from this level on: debug, info, warning or error."""

    def recent(self) -> Rows:
        """Return the last lines, oldest first, as the topic `log` carries them."""


class Subscription(Protocol):
    """A bounded queue of what happened on some topics; the oldest are lost when it is full."""

    async def next(self) -> tuple[str, Facts, int]:
        """Wait for the next event: its topic, its data, and how many were lost before it."""

    def close(self) -> None:
        """Stop listening."""


class EventsHub(Protocol):
    """Source of the events that clients subscribe to."""

    def subscribe(self, topics: Iterable[str], *, agent: str | None = None) -> Subscription:
        """Listen to topics; with `agent`, only to events about this one."""

    def publish(self, topic: str, data: Facts) -> None:
        """Hand an event to the topic's subscribers."""

    def wanted(self, topic: str) -> bool:
        """Return whether a topic has a subscriber."""


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that commands may use."""

    status: StatusService | None = None
    agents: AgentsService | None = None
    chat: Chat | None = None
    models: ModelsService | None = None
    cache: CacheService | None = None
    requests: RequestsService | None = None
    history: History | None = None
    config: ConfigService | None = None
    doctor: DoctorService | None = None
    lifecycle: LifecycleService | None = None
    log: LogService | None = None
    events: EventsHub | None = None
