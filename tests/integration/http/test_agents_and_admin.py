"""The Direct Agent API, admin, health and models, over HTTP."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path
from typing import Any

import pytest

from semanticd.adapters.disk.agents.export_file import DiskAgentExportFile
from semanticd.adapters.http.agents.wire import CreateAgent, parse_create
from semanticd.adapters.http.app import create_app
from semanticd.adapters.http.core.body import to_wire
from semanticd.adapters.http.core.config import HttpConfig
from semanticd.domain.chat import ChatPrompt, Message
from semanticd.domain.limits import LIMITS
from tests.fakes.agents_service import FakeAgents
from tests.fakes.asgi_client import Answer, AsgiClient
from tests.fakes.cache_service import FakeCache
from tests.fakes.generator import ScriptedGenerator, call_script
from tests.fakes.http_services import FakeHealth, make_services
from tests.fakes.models_service import FakeModels
from tests.fakes.service_rig import ServiceRig
from tests.fakes.warm_store import MemoryAgentArchive

EXPORT = Path(__file__).resolve().parents[2] / "data" / "disk" / "agent-v1.agent"
"""An export of a model that is not here."""


class Edge:
    """The whole HTTP edge over fakes that can be looked into."""

    def __init__(self, **config: Any) -> None:
        self.generator = ScriptedGenerator()
        self.agents = FakeAgents()
        self.models = FakeModels("tiny", aliases=("small",))
        self.cache = FakeCache()
        self.health = FakeHealth()
        services = make_services(
            self.generator, agents=self.agents, models=self.models, cache=self.cache, health=self.health
        )
        self.client = AsgiClient(create_app(services, HttpConfig(**config)))

    async def get(self, url: str, **options: Any) -> Answer:
        return await self.client.get(url, **options)

    async def post(self, url: str, body: object = b"", **options: Any) -> Answer:
        return await self.client.post(url, body, **options)

    async def delete(self, url: str) -> Answer:
        return await self.client.send("DELETE", url)


@pytest.fixture
def edge() -> Edge:
    return Edge()


async def test_an_agent_lives_from_create_to_delete(edge: Edge) -> None:
    made = await edge.post("/v1/agents", {"id": "ann", "system": "be brief", "ttl": 60, "pin": True})
    assert (made.status, made.headers["location"]) == (201, "/v1/agents/ann")
    assert made.json["ttl_s"] == 60
    assert (await edge.post("/v1/agents", {"id": "ann"})).status == 409
    listed = (await edge.get("/v1/agents")).json
    assert [(row["agent"], row["state"]) for row in listed["requests"]] == [("planner", "decoding")]
    assert (await edge.get("/v1/agents?after=ann")).json["requests"] == [], "what runs is no part of a walk"
    assert (await edge.get("/v1/agents/ann")).json["pinned"] is True
    assert (await edge.delete("/v1/agents/ann")).json == {"id": "ann", "deleted": True, "freed_bytes": 0}
    missing = await edge.get("/v1/agents/ann")
    assert (missing.status, missing.json["error"]["code"]) == (404, "agent_not_found")


async def test_a_tools_schema_has_the_name_that_either_vendor_gives_it(edge: Edge) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    for given in (
        {"parameters": schema},
        {"input_schema": schema},
        {"parameters": schema, "input_schema": schema},
    ):
        body = to_wire({"tools": [{"name": "look", **given}]}, CreateAgent)
        assert parse_create(body).tools[0].parameters == schema
    tool = {"name": "look", "parameters": {"type": "object"}, "input_schema": schema}
    refused = await edge.client.post("/v1/agents", {"tools": [tool]})
    assert refused.status == 400
    assert refused.json["error"]["param"] == "tools.0.parameters"


async def test_an_id_is_made_where_none_is_given(edge: Edge) -> None:
    assert (await edge.post("/v1/agents")).json["id"] == "agent-1"


@pytest.mark.parametrize("name", ["", "../x", "a b", "x" * 129, "-a", "stats"])
async def test_an_id_must_be_able_to_stand_in_a_url(edge: Edge, name: str) -> None:
    assert (await edge.post("/v1/agents", {"id": name})).status == 400
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
    expected = 400 if name else 200
    assert (await edge.post("/v1/chat/completions", body, headers={"x-session-id": name})).status == expected


async def test_agents_are_listed_page_by_page_and_summed_up(edge: Edge) -> None:
    for name in ("a", "b", "c"):
        await edge.post("/v1/agents", {"id": name})
    first = (await edge.get("/v1/agents?limit=2")).json
    assert ([agent["id"] for agent in first["data"]], first["has_more"], first["next"]) == (
        ["a", "b"],
        True,
        "b",
    )
    second = (await edge.get("/v1/agents?limit=2&after=b")).json
    assert ([agent["id"] for agent in second["data"]], second["has_more"], second["next"]) == (
        ["c"],
        False,
        None,
    )
    assert (await edge.get("/v1/agents/stats")).json["num_agents"] == 3
    for query in ("limit=0", "limit=x", "limit=1001", "after=zzz"):
        assert (await edge.get(f"/v1/agents?{query}")).status == 400


async def test_a_list_of_agents_takes_the_orders_that_it_names_and_no_other_parameters(edge: Edge) -> None:
    await edge.post("/v1/agents", {"id": "a"})
    for query, order in (
        ("", "used"),
        ("order=", "used"),
        ("order=name", "name"),
        ("order=tokens", "tokens"),
    ):
        assert (await edge.get(f"/v1/agents?{query}")).status == 200
        assert edge.agents.asked[-1].order == order
    wrong = await edge.get("/v1/agents?order=tokns")
    assert (wrong.status, wrong.json["error"]["param"]) == (400, "order")
    assert "used, created, tokens, turns, name" in wrong.json["error"]["message"]
    for query in ("ordr=name", "limits=1", "Limit=1"):
        unknown = await edge.get(f"/v1/agents?{query}")
        assert (unknown.status, unknown.json["error"]["param"]) == (400, query.partition("=")[0])
        assert "limit, after, order" in unknown.json["error"]["message"]


async def test_an_agent_is_made_for_a_model_that_there_is(edge: Edge) -> None:
    for name in ("tiny", "small", "TINY", "claude-opus-9", "openai/default"):
        assert (await edge.post("/v1/agents", {"model": name})).status == 201
    refused = await edge.post("/v1/agents", {"id": "ann", "model": "tinny"})
    assert (refused.status, refused.json["error"]["param"]) == (400, "model")
    assert "there are: small, tiny" in refused.json["error"]["message"]
    assert (await edge.get("/v1/agents/ann")).status == 404


async def test_every_action_of_an_agent(edge: Edge) -> None:
    await edge.post("/v1/agents", {"id": "ann"})
    for name in ("ttl", "ttl_s"):
        assert (await edge.post("/v1/agents/ann/pin", {name: 5})).json["pinned"] is True
        assert edge.agents.pinned_for[-1] == 5
        refused = await edge.post("/v1/agents/ann/pin", {name: 0.001})
        assert (refused.status, refused.json["error"]["param"]) == (400, name)
        assert ">= 1" in refused.json["error"]["message"]
        assert (await edge.post("/v1/agents", {name: 0.001})).status == 400
    assert (await edge.post("/v1/agents/ann/pin")).json["pinned"] is True
    assert (await edge.post("/v1/agents/ann/unpin")).json["pinned"] is False
    assert (await edge.post("/v1/agents/ann/evict")).json["state"] == "warm"
    assert (await edge.post("/v1/agents/ann/cancel")).json == {"id": "ann", "requests": []}
    forked = await edge.post("/v1/agents/ann/fork", {"id": "bob"})
    assert (forked.status, forked.json["id"]) == (201, "bob")
    assert (await edge.post("/v1/agents/ann/rewind", {"turns": 1})).json["num_turns"] == 0
    assert (await edge.post("/v1/agents/ann/rewind", {"turns": 0})).status == 400
    assert (await edge.get("/v1/agents/ann/messages")).json["data"][0]["role"] == "user"
    assert (await edge.get("/v1/agents/ann/cache")).json["id"] == "ann"
    for action in ("pin", "unpin", "evict", "fork", "rewind", "cancel"):
        assert (await edge.post(f"/v1/agents/nobody/{action}")).status == 404


@pytest.mark.parametrize("content", [b"no export at all", EXPORT.read_bytes(), EXPORT.read_bytes()[:-7]])
async def test_an_export_that_is_refused_is_named_as_the_client_knows_it(content: bytes) -> None:
    async with ServiceRig(export_file=DiskAgentExportFile()) as rig:
        client = AsgiClient(create_app(make_services(agents=rig.agents), HttpConfig()))
        refused = await client.send("POST", "/v1/agents/import", content)
    said = refused.json["error"]
    assert (refused.status, said["param"]) == (400, None)
    assert ("cannot import the file that was sent: it is" in said["message"]) == (
        content != EXPORT.read_bytes()
    )
    assert tempfile.gettempdir() not in said["message"]


async def test_an_agent_that_a_chat_client_made_goes_on_by_its_name() -> None:
    async with ServiceRig() as rig:
        services = make_services(rig.generate, agents=rig.agents, models=rig.models)
        client = AsgiClient(create_app(services, HttpConfig()))
        said = {"role": "user", "content": "the first thing that was said"}
        chat = {"model": "one", "messages": [said], "max_tokens": 4}
        made = await client.post("/v1/chat/completions", chat, headers={"x-session-id": "y"})
        assert made.status == 200
        answer = await client.post("/v1/agents/y/generate", {"prompt": "and the second", "max_tokens": 4})
        assert (answer.status, answer.json["usage"]["cache"]["miss"]) == (200, None)
        shown = "".join(one["content"] for one in (await client.get("/v1/agents/y/messages")).json["data"])
        assert 0 < shown.find("the first thing") < shown.find("and the second")
        assert answer.json["usage"]["cache"]["reused_hot_tokens"] >= made.json["usage"]["prompt_tokens"]
        nothing = await client.post("/v1/agents/y/generate", {})
        assert (nothing.status, nothing.json["error"]["param"]) == (400, "prompt")
        assert "send a prompt or messages" in nothing.json["error"]["message"]


async def test_what_a_full_disk_keeps_in_memory_only_is_made_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = MemoryAgentArchive()
    async with ServiceRig(archive=archive, export_file=DiskAgentExportFile()) as rig:
        services = make_services(rig.generate, agents=rig.agents, models=rig.models)
        client = AsgiClient(create_app(services, HttpConfig()))
        url = "/v1/agents/ann"
        assert "x-semantic-adjusted" not in (await client.post("/v1/agents", {"id": "ann"})).headers
        archive.refuses = True
        said = {"prompt": "hello", "max_tokens": 4}
        first = await client.post(f"{url}/generate", said)
        answers = [
            await client.post(f"{url}/generate", said),
            await client.post("/v1/agents", {"id": "made"}),
            await client.post(f"{url}/fork", {"id": "forked"}),
            await client.post(f"{url}/rewind", {"turns": 1}),
            await client.post(f"{url}/pin", {}),
            await client.post(f"{url}/unpin", {}),
        ]
        assert (first.status, [one.status for one in answers]) == (200, [200, 201, 201, 200, 200, 200])
        words = {one.headers.get("x-semantic-adjusted") for one in answers}
        assert words == {"stored_in_memory_only=1"}
        assert {one.json["unsaved"] for one in answers[1:]} == {True}
        assert (await client.post("/v1/agents", {"id": "made"})).status == 409

        def refuse(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(tempfile, "mkstemp", refuse)
        assert (await client.get(f"{url}/export")).status == 507
        refused = await client.post("/v1/agents/import", b"x")
        assert (refused.status, refused.json["error"]["code"]) == (507, "storage_full")


async def test_an_export_without_its_blocks_says_how_many_are_missing() -> None:
    async with ServiceRig(export_file=DiskAgentExportFile()) as rig:
        client = AsgiClient(create_app(make_services(rig.generate, agents=rig.agents), HttpConfig()))
        await client.post("/v1/agents", {"id": "ann"})
        await client.post("/v1/agents/ann/generate", {"prompt": "hello " * 20, "max_tokens": 4})
        whole = await client.get("/v1/agents/ann/export")
        assert (whole.status, whole.headers.get("x-semantic-adjusted")) == (200, None)
        num_blocks = len((await rig.agents.agent("ann")).block_table)
        await rig.cache.clear()
        bare = await client.get("/v1/agents/ann/export")
        assert num_blocks
        assert bare.headers["x-semantic-adjusted"] == f"blocks_missing={num_blocks}"


async def test_a_temporary_folder_that_takes_no_file_is_an_error_that_says_so(
    edge: Edge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await edge.post("/v1/agents", {"id": "ann"})
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    for answer in (await edge.get("/v1/agents/ann/export"), await edge.post("/v1/agents/import", b"agent:x")):
        assert (answer.status, answer.json["error"]["code"]) == (500, "cache_error")
        assert "in its temporary folder" in answer.json["error"]["message"]
        assert str(tmp_path) not in answer.json["error"]["message"]


async def test_an_agent_export_is_written_and_read(edge: Edge) -> None:
    await edge.post("/v1/agents", {"id": "ann"})
    exported = await edge.get("/v1/agents/ann/export")
    assert (exported.headers["content-type"], exported.content) == ("application/octet-stream", b"agent:ann")
    assert exported.headers["content-length"] == "9"
    imported = await edge.post("/v1/agents/import?id=bob", exported.content)
    assert (imported.status, imported.json["id"]) == (201, "bob")
    assert (await edge.post("/v1/agents/import", exported.content)).status == 409
    assert (await edge.post("/v1/agents/import", b"")).status == 400
    assert (await edge.get("/v1/agents/nobody/export")).status == 404
    slow = Edge(body_timeout_s=0.01)
    assert (await slow.client.send("POST", "/v1/agents/import", b"agent:", stall=True)).status == 408
    assert (await Edge(max_import_bytes=3).post("/v1/agents/import", b"agent:x")).status == 413


async def test_a_large_body_means_the_same(edge: Edge) -> None:
    words = "word " * 100_000
    await edge.post("/v1/agents", {"id": "ann"})
    assert (await edge.post("/v1/agents/ann/generate", {"prompt": words})).status == 200
    assert isinstance(edge.generator.requests[-1].prompt, ChatPrompt)
    assert edge.generator.requests[-1].prompt.messages == (Message.of("user", words),)
    assert (await edge.post("/v1/agents/ann/generate", {"prompt": words, "max_tokens": 0})).status == 400


async def test_generating_makes_no_agent_of_a_mistyped_name(edge: Edge) -> None:
    await edge.post("/v1/agents", {"id": "ann"})
    answer = await edge.post("/v1/agents/anm/generate", {"prompt": "hello"})
    assert (answer.status, answer.json["error"]["code"]) == (404, "agent_not_found")
    assert edge.generator.requests == []
    assert list(edge.agents.by_id) == ["ann"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages.0.content"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]},
            "messages.1.content",
        ),
    ],
)
async def test_a_turn_without_any_text_is_refused(edge: Edge, body: dict[str, Any], param: str) -> None:
    await edge.post("/v1/agents", {"id": "ann"})
    refused = await edge.post("/v1/agents/ann/generate", body)
    assert (refused.status, refused.json["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"type": "json_schema", "schema": {}}, "format.schema"),
        ({"type": "regex", "pattern": "a"}, "format.pattern"),
        ({"type": "json_object"}, "format"),
    ],
)
async def test_a_turns_form_names_its_field(edge: Edge, form: dict[str, Any], param: str) -> None:
    await edge.post("/v1/agents", {"id": "ann"})
    assert (await edge.post("/v1/agents/ann/generate", {"prompt": "a", "format": form})).status == 200
    constraint = edge.generator.requests[-1].constraint
    assert constraint is not None
    assert constraint.param == param


async def test_generating_hands_over_only_what_is_new(edge: Edge) -> None:
    edge.generator.script = ["Hi", *call_script("f", {"a": 1})]
    await edge.post("/v1/agents", {"id": "ann"})
    answer = await edge.post(
        "/v1/agents/ann/generate", {"prompt": "hello", "max_tokens": 5, "temperature": 0}
    )
    request = edge.generator.requests[-1]
    assert request.conversation
    assert (request.agent_id, request.model, request.sampling.max_tokens) == ("ann", "", 5)
    assert isinstance(request.prompt, ChatPrompt)
    assert request.prompt.messages == (Message.of("user", "hello"),)
    assert answer.json["text"] == "Hi"
    assert answer.json["tool_calls"] == [{"id": "call_1", "name": "f", "arguments": {"a": 1}}]
    assert answer.json["usage"]["cache"]["restored_warm_tokens"] == 4
    assert answer.headers["x-semantic-cache"] == "hot=8 warm=4 computed=30 tier=warm"


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "a", "messages": []},
        {"messages": []},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"messages": [{"role": "user", "tool_calls": [{"id": "1", "name": "f"}]}]},
        {"prompt": "a", "format": {"type": "json_schema"}},
        {"prompt": "a", "format": {"type": "regex"}},
    ],
)
async def test_generating_refuses_what_says_nothing(edge: Edge, body: dict[str, Any]) -> None:
    await edge.post("/v1/agents", {"id": "ann"})
    answer = await edge.post("/v1/agents/ann/generate", body)
    assert (answer.status, bool(answer.json["error"]["param"])) == (400, True)


@pytest.mark.parametrize(
    ("headers", "fields", "agent_id"),
    [
        ({"x-session-id": "ann"}, {"user": "u", "prompt_cache_key": "k"}, "ann"),
        ({}, {"user": "u", "prompt_cache_key": "k"}, "k"),
        ({}, {"user": "u"}, "u"),
        ({}, {}, None),
    ],
)
async def test_who_asks_is_the_header_else_the_bodys_word(
    edge: Edge, headers: dict[str, str], fields: dict[str, str], agent_id: str | None
) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], **fields}
    await edge.post("/v1/chat/completions", body, headers=headers)
    assert edge.generator.requests[-1].agent_id == agent_id


async def test_a_user_id_that_is_a_text_of_its_own_becomes_a_digest(edge: Edge) -> None:
    body: dict[str, Any] = {"model": "tiny", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}
    body["metadata"] = {"user_id": '{"device_id": "d", "session_id": "s"}'}
    for _ in range(2):
        await edge.post("/v1/messages", body)
    first, second = (str(request.agent_id) for request in edge.generator.requests)
    assert first == second
    assert first.startswith("user-")


@pytest.mark.parametrize(
    ("headers", "tier", "priority"),
    [
        ({}, None, "interactive"),
        ({}, "flex", "background"),
        ({"x-priority": "background"}, None, "background"),
        ({"x-priority": "Interactive"}, "flex", "interactive"),
    ],
)
async def test_urgency_is_the_headers_else_the_tiers(
    edge: Edge, headers: dict[str, str], tier: str | None, priority: str
) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "service_tier": tier}
    await edge.post("/v1/chat/completions", body, headers=headers)
    assert edge.generator.requests[-1].priority == priority
    assert (await edge.post("/v1/chat/completions", body, headers={"x-priority": "soon"})).status == 400


async def test_admin_manages_models_and_caches(edge: Edge) -> None:
    for path in ("/admin/models", "/admin/models/available"):
        assert (await edge.get(path)).json["data"][0]["id"] == "tiny"
    assert (await edge.post("/admin/models/unload", {"model": "tiny"})).status == 200
    assert (await edge.get("/admin/models/current")).json == {"model": None}
    assert (await edge.post("/admin/models/swap", {"model": "tiny"})).status == 200
    assert (await edge.post("/admin/models/load", {"model": "none"})).status == 404
    assert (await edge.post("/admin/models/load", {})).status == 400
    assert (await edge.delete("/admin/caches")).json["freed_hot_bytes"] == 12345
    assert edge.cache.told == [("clear", None)]


async def test_health_says_why_it_is_not_ready(edge: Edge) -> None:
    assert (await edge.get("/health/ready")).status == 200
    edge.health.is_ready = False
    answer = await edge.get("/health/ready")
    assert (answer.status, answer.json["reason"]) == (503, "draining")
    assert (await edge.get("/health/live")).status == 200


async def test_models_have_either_dialects_shape(edge: Edge) -> None:
    assert (await edge.get("/v1/models")).json["object"] == "list"
    page = (await edge.get("/v1/models?limit=1", headers={"anthropic-version": "2023-06-01"})).json
    assert (page["data"][0]["type"], page["has_more"], page["first_id"]) == ("model", False, "tiny")
    missing = await edge.get("/v1/models/none", headers={"anthropic-version": "2023-06-01"})
    assert (missing.status, missing.json["type"]) == (404, "error")
    assert "tiny" in missing.json["error"]["message"]
    assert (await edge.get("/v1/models/org/none")).status == 404


async def test_a_pattern_means_the_model_in_use_unless_one_is_called_so(edge: Edge) -> None:
    edge.generator.models = ("tiny", "gpt-real")
    body = {"messages": [{"role": "user", "content": "hi"}]}
    for name, asked in (("gpt-5", ["gpt-5", ""]), ("gpt-real", ["gpt-real"]), ("tiny", ["tiny"])):
        edge.generator.requests.clear()
        assert (await edge.post("/v1/chat/completions", {**body, "model": name})).status == 200
        assert [request.model for request in edge.generator.requests] == asked
    assert (await edge.post("/v1/chat/completions", {**body, "model": "other"})).status == 404


async def test_a_client_may_look_at_the_root_first(edge: Edge) -> None:
    assert (await edge.client.send("HEAD", "/")).status == 200
    assert (await edge.get("/")).json["name"] == "semanticd"
    assert b"semanticd_up 1" in (await edge.get("/metrics")).content


ODD_NAMES = [
    "%E2%98%83",
    "a%0Ab",
    "a%22;%20x=%22b",
    "~nosuchuser",
    "x" * 300,
    "a%00",
    "-a",
    "stats%20",
    "%C2%9bm",
]


@pytest.mark.parametrize("name", ODD_NAMES)
async def test_what_cannot_be_a_name_is_refused_on_every_route(edge: Edge, name: str) -> None:
    for route, methods in edge.client.app.router.routes.items():  # type: ignore[attr-defined]
        path = route.template.replace("{agent_id}", name).replace("{response_id}", name)
        if path == route.template:
            continue
        for method in methods:
            answer = await edge.client.send(method, path, b"{}", headers={"content-type": "application/json"})
            assert answer.status in (400, 404), (method, path)
    assert (await edge.get(f"/v1/models/{name}")).status in (400, 404)


@pytest.mark.parametrize("name", ["~nosuchuser/x", "x" * 300, "\0", "/etc", "../x", "☃", "hf:", "a\nb"])
async def test_no_name_of_a_model_makes_the_server_fail(edge: Edge, name: str) -> None:
    message = {"role": "user", "content": "hi"}
    bodies: dict[str, dict[str, object]] = {
        "/v1/messages": {"messages": [message], "max_tokens": 1},
        "/v1/messages/count_tokens": {"messages": [message]},
        "/v1/chat/completions": {"messages": [message]},
        "/v1/completions": {"prompt": "hi"},
        "/v1/responses": {"input": "hi"},
        "/v1/agents/ann/generate": {"prompt": "hi"},
        "/admin/models/load": {},
        "/admin/models/swap": {},
    }
    for url, body in bodies.items():
        answer = await edge.post(url, {"model": name, **body})
        assert answer.status in (400, 404), (url, answer.content)


@pytest.mark.parametrize("extra", [0, 1])
async def test_a_models_name_has_a_length(edge: Edge, extra: int) -> None:
    name = "x" * (LIMITS.name_characters + extra)
    for answer in (
        await edge.post("/v1/completions", {"model": name, "prompt": "hi"}),
        await edge.get(f"/v1/models/{name}"),
    ):
        assert answer.status == 404
        assert ("at most 256 characters" in answer.content.decode()) is bool(extra)


async def test_an_exported_file_is_named_as_rfc_6266_says(edge: Edge) -> None:
    await edge.post("/v1/agents", {"id": "ann@home=1"})
    answer = await edge.get("/v1/agents/ann@home=1/export")
    assert answer.headers["content-disposition"] == 'attachment; filename="ann@home=1.agent"'
