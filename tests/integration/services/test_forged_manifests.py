"""No value in an imported file's manifest breaks what is shown of its agent or of others: it is refused and named."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest

from semanticd.adapters.control.commands import COMMANDS, CommandContext, run_command
from semanticd.adapters.control.services import Services
from semanticd.adapters.disk.agents.export_file import DiskAgentExportFile
from semanticd.adapters.disk.agents.tables import AgentTables
from semanticd.adapters.http.app import create_app
from semanticd.adapters.http.core.config import HttpConfig
from semanticd.domain.agent import AgentConfig
from semanticd.domain.chat import Message, TextPart, ThinkingPart, ToolCallPart, ToolSpec
from semanticd.domain.ids import AgentId
from semanticd.entrypoints.cli.output import print_facts
from tests.fakes.agent_file import forge
from tests.fakes.asgi_client import Answer, AsgiClient
from tests.fakes.http_services import make_services
from tests.fakes.service_rig import ServiceRig
from tests.fakes.tokenizer import CharTokenizer

HALF = "\ud83d"
HOSTILE = (2**65, -(10**30), 10**400, 1e308, float("nan"), HALF, True, -1)
SPOKEN = [
    Message.of("user", "hi"),
    Message("assistant", (ThinkingPart("hm"), TextPart("so"), ToolCallPart("c", "search", {"n": [1]}))),
]

Path_ = tuple[str | int, ...]


class Place:
    """The services of a rig as clients reach them, with an agent `kept` and a file of it."""

    def __init__(self, rig: ServiceRig, folder: Path) -> None:
        self.rig = rig
        self.path = folder / "kept.agent"
        self.tables = AgentTables(folder / "agents.sqlite")
        http = make_services(agents=rig.agents, models=rig.models, cache=rig.cache)
        self.client = AsgiClient(create_app(http, HttpConfig()))
        self._context = CommandContext(
            Services(
                status=rig.status,
                agents=rig.agents,
                models=rig.models,
                cache=rig.cache,
                requests=rig.requests,
                history=rig.history,
            )
        )

    async def exported(self) -> bytes:
        config = AgentConfig(
            system="Be kind.", ttl_s=3600.0, metadata={"team": "x"},
            tools=(ToolSpec("search", "Finds.", {"type": "object", "maxProperties": 3}),),
        )  # fmt: skip
        await self.rig.agents.create("kept", config)
        await self.rig.say(SPOKEN, agent="kept", conversation=True)
        await self.rig.say("once more", agent="kept", conversation=True)
        await self.rig.agents.export("kept", str(self.path))
        return await asyncio.to_thread(self.path.read_bytes)

    async def post(self, content: bytes) -> Answer:
        return await self.client.send("POST", "/v1/agents/import?id=forged", content)

    async def control(self, command: str, **args: Any) -> Any:
        spec = COMMANDS[command]
        given = {one.name: None if one.required else one.default for one in spec.arguments} | args
        return msgpack.unpackb(msgpack.packb(await run_command(spec, self._context, given)))

    async def look(self, *agents: str) -> None:
        """Ask for all that is shown of all agents, and of these; fails where it cannot be encoded or printed."""
        for path in (
            "",
            "/stats",
            *(f"/{one}{end}" for one in agents for end in ("", "/cache", "/messages")),
        ):
            answer = await self.client.send("GET", f"/v1/agents{path}")
            assert answer.status == 200, (path, answer.content)
        answers = [await self.control("agents.list"), await self.control("cache.stats")]
        for one in agents:
            answers += [
                await self.control(f"agents.{what}", agent=one) for what in ("show", "why", "messages")
            ]
        for answer in answers:
            print_facts(answer if isinstance(answer, dict) else {"answer": answer})

    def store(self, agent_id: str) -> None:
        """Store it in the agents' database, after one more turn, and read it."""
        agent = self.rig.engine_rig.agents.get(AgentId(agent_id))
        agent = replace(agent, num_turns=agent.num_turns + 1)
        self.tables.save(agent, known=None)
        assert self.tables.load(agent.agent_id) == agent


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with ServiceRig(tokenizer=CharTokenizer(), export_file=DiskAgentExportFile()) as rig:
        place = Place(rig, tmp_path)
        yield place
        place.tables.close()


def leaves(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """Yield where a document has a number, a text or nothing; of a list the first item and the last."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list):
        for at in sorted({0, len(value) - 1} if value else ()):
            yield from leaves(value[at], (*path, at))
    else:
        yield path


def put(document: Any, path: Path_, value: object) -> None:
    for key in path[:-1]:
        document = document[key]
    document[path[-1]] = value


def forged(place: Place, content: bytes, path: Path_, value: object) -> bytes:
    place.path.write_bytes(content)
    forge(place.path, lambda manifest: put(manifest, path, value))
    return place.path.read_bytes()


async def test_a_hostile_value_anywhere_is_refused_or_breaks_nothing(place: Place) -> None:
    content = await place.exported()
    manifests: list[dict[str, Any]] = []
    forge(place.path, manifests.append)
    where = list(leaves(manifests[0]))
    assert len(where) > 50
    num_refused = 0
    for path in where:
        for value in HOSTILE:
            answer = await place.post(await asyncio.to_thread(forged, place, content, path, value))
            what = (path, str(value)[:40], answer.content[:300])
            if answer.status == 201:
                await place.look("forged")
                await asyncio.to_thread(place.store, "forged")
                await place.rig.agents.delete("forged")
                continue
            num_refused += 1
            assert (answer.status, answer.json["error"]["code"]) == (400, "agent_file_refused"), what
            assert [one.id for one in await place.rig.agents.list()] == ["kept"], what
    assert num_refused > len(where)
    await place.look("kept")


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("agent", "num_turns"), 2**65, r"agent\.num_turns is 36893488147419103232"),
        (("agent", "num_turns"), 2**64 - 1, r"agent\.num_turns is 18446744073709551615"),
        (("agent", "num_turns"), 1, r"agent\.num_turns is 1, fewer"),
        (("agent", "model_id"), HALF, r"agent\.model_id holds half"),
        (("agent", "created_at"), 1e308, r"agent\.created_at is 1e\+308"),
        (("agent", "created_at"), float("nan"), r"agent\.created_at is nan"),
        (("agent", "config", "system"), HALF, r"agent\.config\.system holds half"),
        (("agent", "config", "ttl_s"), -5, r"agent\.config\.ttl_s is -5"),
        (("agent", "config", "ttl_s"), float("nan"), r"agent\.config\.ttl_s is nan"),
        (("agent", "config", "metadata", "k"), "x" * 16_384, r"agent\.config\.metadata has 16"),
        (("agent", "config", "system"), "x" * (1 << 20), r"agent\.config has 10"),
        (("agent", "config", "tools", 0, "name"), "", r"agent\.config\.tools has an empty"),
        (("turns", 0, "finished_at"), 1e300, r"turns\[0\]\.finished_at is 1e\+300"),
        (("turns", 0, "prompt_tokens"), 2**70, r"turns\[0\]\.prompt_tokens is 11805"),
        (("turns", 0, "prompt_tokens"), -(10**30), r"turns\[0\]\.prompt_tokens is -1000"),
        (("turns", 1, "timings", "decode_ms"), 5e-324, r"turns\[-1\]\.last_tokens_per_s is inf"),
    ],
    ids=lambda one: None if isinstance(one, tuple) else str(one)[:20].encode("ascii", "replace").decode(),
)
async def test_a_value_out_of_bounds_is_named(place: Place, path: Path_, value: object, named: str) -> None:
    content = await place.exported()
    answer = await place.post(await asyncio.to_thread(forged, place, content, path, value))
    assert (answer.status, answer.json["error"]["code"]) == (400, "agent_file_refused")
    assert re.search(named, answer.json["error"]["message"]), answer.json
    assert [one.id for one in await place.rig.agents.list()] == ["kept"]


async def test_bytes_that_belong_to_no_part_are_refused(place: Place) -> None:
    body = (await place.exported())[:-32] + bytes(50)
    answer = await place.post(body + hashlib.sha256(body).digest())
    assert (answer.status, answer.json["error"]["code"]) == (400, "agent_file_refused")
    assert "50 unexpected bytes after its last block" in answer.json["error"]["message"]


async def test_an_honest_file_passes_with_half_a_character_replaced(
    place: Place,
) -> None:
    content = await place.exported()
    path: Path_ = ("messages", 0, "parts", 0, "text")
    answer = await place.post(await asyncio.to_thread(forged, place, content, path, f"hi {HALF}"))
    assert answer.status == 201
    await place.look("kept", "forged")
    shown = await place.client.send("GET", "/v1/agents/forged/messages")
    assert "hi \N{REPLACEMENT CHARACTER}" in json.dumps(shown.json, ensure_ascii=False)
