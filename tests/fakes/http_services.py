"""The application's services as the HTTP edge sees them: agents in a dictionary, one model, a cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from semanticd.adapters.http.core.services import HttpServices
from tests.fakes.agents_service import FakeAgents
from tests.fakes.generator import ScriptedGenerator
from tests.fakes.models_service import FakeModels


class FakeCache:
    """Counts how often it was cleared."""

    num_cleared = 0

    async def clear(self) -> dict[str, Any]:
        """Count."""
        self.num_cleared += 1
        return {"num_blocks": 3, "num_bytes": 300}


@dataclass(slots=True)
class FakeHealth:
    """As healthy as it is told."""

    is_ready: bool = True

    def live(self) -> dict[str, Any]:
        """Answer yes."""
        return {"ok": True}

    def ready(self) -> dict[str, Any]:
        """Answer as told."""
        return {"ok": True} if self.is_ready else {"ok": False, "reason": "draining"}

    def startup(self) -> dict[str, Any]:
        """Answer yes."""
        return {"ok": True}


def make_services(generator: ScriptedGenerator | None = None, **changes: Any) -> HttpServices:
    """Return services around a scripted generator."""
    given: dict[str, Any] = {
        "generator": generator or ScriptedGenerator(),
        "agents": FakeAgents(),
        "models": FakeModels("tiny", aliases=("small",)),
        "cache": FakeCache(),
        "health": FakeHealth(),
        "metrics_text": lambda: b"# HELP semanticd_up 1 while up\nsemanticd_up 1\n",
    }
    return HttpServices(**{**given, **changes})
