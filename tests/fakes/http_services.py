"""The application's services as the HTTP edge sees them: agents in a dictionary, one model, a cache."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from semanticd.adapters.http.core.services import HttpServices, Rows
from semanticd.domain.agent import AgentConfig
from semanticd.domain.errors import AgentNotFoundError, ConflictError, ModelNotFoundError
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
class FakeAgents:
    """Agents by id; a turn is a message."""

    by_id: dict[str, dict[str, Any]] = field(default_factory=dict)

    async def create(self, agent_id: str | None, config: AgentConfig, *, pin: bool = False) -> dict[str, Any]:
        """Make an agent."""
        name = agent_id or f"agent-{len(self.by_id) + 1}"
        if name in self.by_id:
            raise ConflictError(f"making agent {name!r}: it exists already", param="id")
        facts = {"id": name, "model": config.model or "", "system": config.system, "ttl_s": config.ttl_s}
        facts |= {"state": "cold", "pinned": pin, "num_tokens": 10, "num_turns": 1}
        self.by_id[name] = facts
        return facts

    async def list(self) -> Rows:
        """Return all."""
        return list(self.by_id.values())

    async def show(self, agent_id: str) -> dict[str, Any]:
        """Return one."""
        if agent_id not in self.by_id:
            raise AgentNotFoundError(f"no agent is called {agent_id!r}")
        return self.by_id[agent_id]

    async def why(self, agent_id: str) -> dict[str, Any]:
        """Return an empty report."""
        return {"id": (await self.show(agent_id))["id"], "requests": []}

    async def messages(self, agent_id: str) -> Rows:
        """Return one message."""
        await self.show(agent_id)
        return [{"role": "user", "content": "hello"}]

    async def pin(self, agent_id: str, ttl_s: float | None = None) -> dict[str, Any]:
        """Pin."""
        return self._change(await self.show(agent_id), pinned=True, pin_ttl_s=ttl_s)

    async def unpin(self, agent_id: str) -> dict[str, Any]:
        """Unpin."""
        return self._change(await self.show(agent_id), pinned=False)

    def _change(self, facts: dict[str, Any], **changes: object) -> dict[str, Any]:
        facts.update(changes)
        return facts

    async def fork(self, agent_id: str, new_id: str | None = None) -> dict[str, Any]:
        """Copy."""
        source = await self.show(agent_id)
        made = {**source, "id": new_id or f"{agent_id}-fork"}
        self.by_id[made["id"]] = made
        return made

    async def rewind(self, agent_id: str, turns: int) -> dict[str, Any]:
        """Subtract turns."""
        facts = await self.show(agent_id)
        return self._change(facts, num_turns=facts["num_turns"] - turns)

    async def evict(self, agent_id: str) -> dict[str, Any]:
        """Make it warm."""
        return self._change(await self.show(agent_id), state="warm")

    async def delete(self, agent_id: str) -> dict[str, Any]:
        """Forget it."""
        await self.show(agent_id)
        del self.by_id[agent_id]
        return {"id": agent_id, "deleted": True}

    async def export(self, agent_id: str, path: str) -> dict[str, Any]:
        """Write its name into the file."""
        await self.show(agent_id)
        await asyncio.to_thread(Path(path).write_bytes, b"agent:" + agent_id.encode())
        return {"id": agent_id, "path": path}

    async def import_(self, path: str, new_id: str | None = None) -> dict[str, Any]:
        """Read its name from the file."""
        content = await asyncio.to_thread(Path(path).read_bytes)
        name = content.removeprefix(b"agent:").decode()
        return await self.create(new_id or name, AgentConfig())


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
