"""What clients read of the services: every key, its place and its type, over the control socket and over HTTP.

The shapes lie in `tests/data/wire/shapes.jsonl`, a line for each answer: scalars by type, lists by the shapes of
their items. Clients of older versions depend on them: a key is added there, and never taken away.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgpack

from semanticd.adapters.control.commands import COMMANDS, CommandContext, run_command
from semanticd.adapters.control.services import Services
from semanticd.adapters.disk.agents.export_file import DiskAgentExportFile
from semanticd.adapters.http.app import create_app
from semanticd.adapters.http.core.config import HttpConfig
from semanticd.domain.chat import Message, TextPart, ThinkingPart, ToolCallPart, ToolResultPart
from tests.fakes.asgi_client import AsgiClient
from tests.fakes.http_services import make_services
from tests.fakes.service_rig import ServiceRig

SHAPES = Path(__file__).parents[2] / "data" / "wire" / "shapes.jsonl"
SYSTEM = Message.of("system", "A system text that takes up a few blocks of sixteen tokens each. " * 2)
CALL = ToolCallPart("call-1", "search", {"q": "x"})
CREATED = {
    "id": "kept",
    "system": "Be kind.",
    "ttl": 3600,
    "metadata": {"team": "x"},
    "tools": [{"name": "search", "description": "Finds.", "parameters": {"type": "object"}}],
}


def shape(value: Any) -> Any:
    """Return a value with its scalars replaced by their types, and lists by the different shapes of their items."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        shapes = [shape(item) for item in value]
        return [one for at, one in enumerate(shapes) if one not in shapes[:at]]
    return "null" if value is None else type(value).__name__


class Edges:
    """Both edges over the services of a rig; keeps the shape of each answer by what was asked."""

    def __init__(self, rig: ServiceRig) -> None:
        services = Services(
            status=rig.status,
            agents=rig.agents,
            models=rig.models,
            cache=rig.cache,
            requests=rig.requests,
            history=rig.history,
        )
        self._context = CommandContext(services)
        http = make_services(agents=rig.agents, models=rig.models, cache=rig.cache)
        self._client = AsgiClient(create_app(http, HttpConfig()))
        self.shapes: dict[str, Any] = {}

    async def control(self, command: str, label: str = "", **args: Any) -> Any:
        spec = COMMANDS[command]
        given = {one.name: None if one.required else one.default for one in spec.arguments} | args
        result = await run_command(spec, self._context, given)
        # As a client unpacks it: tuples have become lists, and what msgpack does not know has failed.
        self.shapes[label or command] = shape(msgpack.unpackb(msgpack.packb(result)))
        return result

    async def http(self, method: str, url: str, body: Any = None, label: str = "") -> None:
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        headers = {} if isinstance(body, bytes) else {"content-type": "application/json"}
        answer = await self._client.send(method, url, content, headers=headers)
        assert answer.status < 300, answer.content
        self.shapes[label or f"{method} {url}"] = shape(answer.json)


async def ask_everything(rig: ServiceRig, folder: Path) -> dict[str, Any]:
    """Return the shape of every answer that the services give."""
    edges = Edges(rig)
    tools = Message("tool", (ToolResultPart("call-1", "found"),))
    spoken = [
        SYSTEM,
        Message.of("user", "hi"),
        Message("assistant", (ThinkingPart("hm"), TextPart("so"), CALL)),
        tools,
    ]
    await edges.http("POST", "/v1/agents", CREATED)
    await rig.say(spoken, agent="kept", conversation=True)
    await rig.say("once more", agent="kept", conversation=True)
    for _ in range(2):
        await rig.say([SYSTEM, Message.of("user", "hi")], agent="a")
    await rig.say([SYSTEM, Message.of("user", "something else, and more of it than a block")], agent="a")
    await asyncio.to_thread(rig.engine_rig.idle)
    await _looks(edges, rig)
    await _changes(edges, folder)
    return edges.shapes


async def _looks(edges: Edges, rig: ServiceRig) -> None:
    await edges.control("agents.fork", agent="a", new_id="b")
    rig.outcomes.not_answered("queue_full", "full", kind="refused", request_id="r", agent_id="a", status=429)
    rig.history.sample()
    for command in (
        "status",
        "agents.list",
        "models.list",
        "cache.stats",
        "cache.sizes",
        "cache.verify",
        "requests.list",
    ):
        await edges.control(command)
    for command in ("requests.failures", "history"):
        await edges.control(command)
    for command in ("agents.show", "agents.why", "agents.messages"):
        await edges.control(command, agent="a")
        await edges.control(command, f"{command} of a kept conversation", agent="kept")
    for name, state in (("one", "loaded"), ("two", "installed")):
        await edges.control("models.info", f"models.info when {state}", model=name)
    paths = ("", "/stats", "/a", "/kept", "/a/messages", "/kept/messages", "/a/cache")
    for url in [f"/v1/agents{path}" for path in paths]:
        await edges.http("GET", url)
    for url in ("/v1/models", "/v1/models/one", "/admin/models", "/admin/models/current"):
        await edges.http("GET", url)
    stream = await rig.begin("hello", agent="running")
    (row,) = (await edges.control("requests.list", "requests.list while one runs"))["requests"]
    await edges.control("requests.prompt", request=row["id"])
    await edges.control("requests.cancel", request=row["id"])
    await stream.aclose()


async def _changes(edges: Edges, folder: Path) -> None:
    for command in ("agents.pin", "agents.unpin", "agents.evict"):
        await edges.control(command, agent="a")
    await edges.control("agents.rewind", agent="kept", turns=1)
    path = str(folder / "kept.agent")
    await edges.control("agents.export", agent="kept", path=path)
    await edges.control("agents.import", path=path, new_id="moved", trust=True)
    await edges.control("agents.delete", agent="moved")
    for action in ("fork", "rewind", "pin", "unpin", "evict"):
        await edges.http("POST", f"/v1/agents/kept/{action}", {})
    content = await asyncio.to_thread(Path(path).read_bytes)
    await edges.http("POST", "/v1/agents/import?id=again", content)
    await edges.http("DELETE", "/v1/agents/again")
    await edges.control("models.pull", model="four")
    await edges.control("models.rm", model="four")
    for action in ("load", "swap", "unload"):
        await edges.control(f"models.{action}", model="two")
    for action in ("load", "swap", "unload"):
        await edges.http("POST", f"/admin/models/{action}", {"model": "one"})
    await edges.control("cache.prune")
    await edges.control("cache.clear")
    await edges.http("DELETE", "/admin/caches")


async def test_clients_find_every_key_in_its_place(tmp_path: Path) -> None:
    async with ServiceRig(export_file=DiskAgentExportFile()) as rig:
        found = await ask_everything(rig, tmp_path)
    assert [json.dumps({asked: made}) for asked, made in found.items()] == SHAPES.read_text().splitlines()
