"""The application's services as the HTTP edge sees them: agents in a dictionary, one model, a cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from semanticd.adapters.http.core.services import HttpServices, Rows
from semanticd.domain.errors import ModelNotFoundError
from tests.fakes.agents_service import FakeAgents
from tests.fakes.generator import ScriptedGenerator

MODEL = {
    "id": "tiny",
    "aliases": ["small"],
    "created": 1_750_000_000,
    "owned_by": "semanticd",
    "loaded": True,
    "context_length": 8192,
}


@dataclass(slots=True)
class FakeModels:
    """One model that can be swapped by name."""

    name: str | None = "tiny"

    async def list(self) -> Rows:
        """Return it."""
        return [dict(MODEL)]

    async def current(self) -> dict[str, Any] | None:
        """Return it while loaded."""
        return dict(MODEL) if self.name else None

    async def load(self, model: str) -> dict[str, Any]:
        """Load it."""
        if model != MODEL["id"]:
            raise ModelNotFoundError(f"no model is called {model!r}", param="model")
        self.name = model
        return {"model": model}

    async def unload(self, model: str) -> dict[str, Any]:
        """Unload it."""
        self.name = None
        return {"model": model}

    async def swap(self, model: str) -> dict[str, Any]:
        """Load it."""
        return await self.load(model)


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
        "models": FakeModels(),
        "cache": FakeCache(),
        "health": FakeHealth(),
        "metrics_text": lambda: b"# HELP semanticd_up 1 while up\nsemanticd_up 1\n",
    }
    return HttpServices(**{**given, **changes})
