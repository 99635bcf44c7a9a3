"""The application's services as the HTTP edge sees them: agents in a dictionary, one model, a cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from semanticd.adapters.http.core.services import HealthAnswer, HttpServices
from semanticd.application.services.shared_blocks import SharedBlocks
from tests.fakes.agents_service import FakeAgents
from tests.fakes.cache_service import FakeCache
from tests.fakes.control_services import FakeRequests
from tests.fakes.generator import ScriptedGenerator
from tests.fakes.models_service import FakeModels
from tests.fakes.warm_store import MemoryWarmStore


@dataclass(slots=True)
class FakeHealth:
    """As healthy as it is set to be."""

    is_ready: bool = True

    def live(self) -> HealthAnswer:
        """Answer yes."""
        return HealthAnswer(ok=True)

    def ready(self) -> HealthAnswer:
        """Return the configured answer."""
        return HealthAnswer(ok=True) if self.is_ready else HealthAnswer(ok=False, reason="draining")

    def startup(self) -> HealthAnswer:
        """Answer yes."""
        return HealthAnswer(ok=True)


def make_services(generator: ScriptedGenerator | None = None, **changes: Any) -> HttpServices:
    """Return services around a scripted generator."""
    generator = generator or ScriptedGenerator()
    given: dict[str, Any] = {
        "generator": generator,
        "tokens": generator,
        "embedder": generator,
        "agents": FakeAgents("ann"),
        "models": FakeModels("tiny", aliases=("small",)),
        "requests": FakeRequests(),
        "cache": FakeCache(),
        "health": FakeHealth(),
        "shared": SharedBlocks(MemoryWarmStore()),
        "coverage": generator,
        "metrics_text": lambda: b"# HELP semanticd_up 1 while up\nsemanticd_up 1\n",
    }
    return HttpServices(**{**given, **changes})
