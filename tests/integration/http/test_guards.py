"""Which clients are admitted, and how the others are refused."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from semanticd.adapters.http.app import create_app
from semanticd.adapters.http.core.config import HttpConfig
from semanticd.adapters.http.openai.chat import wire as chat_wire
from semanticd.adapters.http.openai.chat.parse import read_tools
from semanticd.adapters.telemetry import PrometheusMetrics
from semanticd.domain.errors import InvalidRequestError
from tests.fakes.asgi_client import Answer, AsgiClient, until
from tests.fakes.generator import ScriptedGenerator
from tests.fakes.http_services import make_services

MESSAGE = {"model": "tiny", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def client_for(*, monotonic: Clock | None = None, **config: Any) -> AsgiClient:
    services = make_services(ScriptedGenerator(), **({"monotonic": monotonic} if monotonic else {}))
    return AsgiClient(create_app(services, HttpConfig(**config)))


async def send(client: AsgiClient, method: str, url: str, body: bytes = b"", **options: Any) -> Answer:
    return await client.send(method, url, body, **options)


async def post(
    client: AsgiClient, url: str = "/v1/messages", body: object = MESSAGE, **options: Any
) -> Answer:
    return await client.post(url, body, **options)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": "Basic first"}, 401),
        ({"x-api-key": "wrong"}, 401),
        ({"x-api-key": "first"}, 200),
        ({"authorization": "Bearer second"}, 200),
        ({"authorization": "bearer first"}, 200),
        ({"authorization": "Bearer wrong", "x-api-key": "second"}, 200),
    ],
)
async def test_any_of_several_keys_opens_in_either_header(headers: dict[str, str], status: int) -> None:
    answer = await post(client_for(api_keys=("first", "second")), headers=headers)
    assert answer.status == status
    if status == 401:
        assert answer.json["error"]["type"] == "authentication_error"
        assert "wrong" not in answer.content.decode().replace("wrong one", "")


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("authorization", "Bearer first", "Bearer wrong"),
        ("x-api-key", "first", "wrong"),
        ("x-admin-key", "first", "wrong"),
        ("origin", "http://localhost:8000", "http://elsewhere"),
        ("sec-fetch-site", "same-origin", "cross-site"),
        ("x-session-id", "ann", "ben"),
        ("content-type", "application/json", "text/plain"),
        ("content-encoding", "identity", "gzip"),
    ],
)
async def test_what_decides_about_a_request_stands_in_it_once(name: str, one: str, other: str) -> None:
    client = client_for(api_keys=("first",))
    key = {} if name in ("authorization", "x-api-key") else {"x-api-key": "first"}
    for first, second in ((one, other), (other, one)):
        # The client writes names in lower case, so that both are sent.
        answer = await post(client, headers={**key, name: first, name.title(): second})
        assert answer.status == 400
        assert answer.json["error"]["message"] == f"{name}: expected one value, got two different ones"


@pytest.mark.parametrize("name", ["x-api-key", "X-Api-Key"])
async def test_the_same_said_twice_has_one_meaning(name: str) -> None:
    client = client_for(api_keys=("first",))
    assert (await post(client, headers={"x-api-key": "first", name: "first"})).status == 200


@pytest.mark.parametrize("path", ["/", "/health/live", "/health/ready", "/health/startup"])
async def test_supervisors_need_no_key(path: str) -> None:
    assert (await send(client_for(api_keys=("k",)), "GET", path)).status == 200


@pytest.mark.parametrize("path", ["/metrics", "/v1/models", "/v1/agents"])
async def test_everything_else_needs_one(path: str) -> None:
    assert (await send(client_for(api_keys=("k",)), "GET", path)).status == 401


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("127.0.0.1", 200),
        ("[::1]:8000", 200),
        ("LOCALHOST", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example:8000", 403),
        ("localhost:", 200),
        ("localhost:65535", 200),
        ("localhost:65536", 403),
        ("localhost:99999", 403),
        ("localhost:8941@evil", 403),
        ("localhost:8000/", 403),
        ("localhost:+80", 403),
        ("localhost:8\xb2", 403),
        ("localhost:" + "0" * 9, 403),
        ("[::1]:8941@evil", 403),
        ("[::1]8941", 403),
        ("", 400),
    ],
)
async def test_only_hosts_on_the_list_are_answered_for(host: str, status: int) -> None:
    assert (await post(client_for(), headers={"host": host})).status == status


async def test_browsers_of_other_sites_are_refused_unless_configured() -> None:
    origin = {"origin": "https://app.example"}
    asked = {**origin, "access-control-request-method": "POST", "access-control-request-headers": "x-api-key"}
    closed = client_for()
    assert (await post(closed, headers=origin)).status == 403
    assert (
        "access-control-allow-origin"
        not in (await send(closed, "OPTIONS", "/v1/messages", headers=asked)).headers
    )
    assert (await post(closed, headers={"origin": "http://localhost:8000"})).status == 200

    opened = client_for(cors_origins=("https://app.example",), api_keys=("k",))
    preflight = await send(opened, "OPTIONS", "/v1/messages", headers=asked)
    assert preflight.status == 204
    assert preflight.headers["access-control-allow-origin"] == "https://app.example"
    assert preflight.headers["access-control-allow-headers"] == "x-api-key"
    answer = await post(opened, headers={**origin, "x-api-key": "k"})
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, "https://app.example")
    assert (await post(opened, headers={"origin": "https://evil.example", "x-api-key": "k"})).status == 403


@pytest.mark.parametrize(
    ("config", "headers", "peer", "status"),
    [
        ({}, {}, ("127.0.0.1", 1), 200),
        ({}, {}, ("::1", 1), 200),
        ({}, {}, None, 200),
        ({}, {}, ("192.168.1.5", 1), 403),
        ({"is_loopback": False}, {}, ("127.0.0.1", 1), 403),
        ({"api_keys": ("k",)}, {"x-api-key": "k"}, ("127.0.0.1", 1), 403),
        ({"admin_key": "a"}, {}, ("127.0.0.1", 1), 401),
        ({"admin_key": "a"}, {"x-admin-key": "b"}, ("127.0.0.1", 1), 401),
        ({"admin_key": "a"}, {"x-admin-key": "a"}, ("192.168.1.5", 1), 200),
    ],
)
async def test_admin_needs_its_key_or_loopback(
    config: dict[str, Any], headers: dict[str, str], peer: tuple[str, int] | None, status: int
) -> None:
    client = client_for(**config)
    client.client = peer
    assert (await send(client, "GET", "/admin/models", headers=headers)).status == status
    assert (await send(client, "DELETE", "/admin/caches", headers=headers)).status == status


async def test_too_many_requests_of_one_key_are_told_when_to_come_back() -> None:
    clock = Clock()
    client = client_for(api_keys=("a", "b"), rate_limit_global=2, monotonic=clock)
    statuses = [(await post(client, headers={"x-api-key": key})).status for key in ("a", "a", "b")]
    assert statuses == [200, 200, 200]
    refused = await post(client, headers={"x-api-key": "a"})
    assert (refused.status, refused.json["error"]["type"]) == (429, "rate_limit_error")
    assert refused.headers["retry-after"] == "30"
    clock.now += 30
    assert (await post(client, headers={"x-api-key": "a"})).status == 200


async def test_too_many_requests_of_one_agent_do_not_stop_another() -> None:
    client = client_for(rate_limit_per_agent=1, monotonic=Clock())
    assert (await post(client, headers={"x-session-id": "ann"})).status == 200
    assert (await post(client, headers={"x-session-id": "ann"})).status == 429
    assert (await post(client, headers={"x-session-id": "bob"})).status == 200
    assert (await post(client)).status == 200


CURLS_TYPE = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "multipart/form-data; boundary=x"},
        {"content-type": CURLS_TYPE, "origin": "http://localhost:8000"},
        {"content-type": CURLS_TYPE, "sec-fetch-site": "same-site"},
        {"content-type": CURLS_TYPE, "referer": "http://evil.example/"},
        {"content-type": "", "origin": "http://localhost:8000"},
    ],
)
async def test_a_body_must_be_declared_as_json(headers: dict[str, str]) -> None:
    answer = await post(client_for(), headers={"host": "localhost:8000", **headers})
    assert answer.status == 415
    assert answer.json["type"] == "error"
    assert "-H 'Content-Type: application/json'" in answer.json["error"]["message"]


@pytest.mark.parametrize("content_type", ["", CURLS_TYPE])
async def test_what_curl_sends_from_this_machine_is_read_as_json(content_type: str) -> None:
    client = client_for()
    assert (await post(client, headers={"content-type": content_type})).status == 200
    client.client = ("192.168.1.7", 50_000)
    assert (await post(client, headers={"content-type": content_type})).status == 415


@pytest.mark.parametrize(
    ("host", "literal", "status"),
    [
        ("192.168.1.5:8000", True, 200),
        ("[fd00::5]:8000", True, 200),
        ("192.168.1.5:8000", False, 403),
        ("rebound.example:8000", True, 403),
        ("192.168.1.5.rebound.example", True, 403),
        ("192.168.1.5:8000@rebound.example", True, 403),
        ("[fd00::5]:99999", True, 403),
    ],
)
async def test_addresses_are_hosts_where_other_machines_may_come_in(
    host: str, literal: bool, status: int
) -> None:
    answer = await post(client_for(literal_hosts=literal), headers={"host": host})
    assert answer.status == status
    if status == 403:
        assert "SEMANTIC_SERVER_ALLOWED_HOSTS" in answer.json["error"]["message"]


async def test_a_body_beyond_the_limit_is_refused_whether_it_says_so_or_not() -> None:
    client = client_for(max_body_bytes=100)
    declared = await send(
        client, "POST", "/v1/messages", headers={"content-type": "application/json", "content-length": "101"}
    )
    assert declared.status == 413
    assert declared.json["error"]["type"] == "request_too_large"
    assert (await post(client, body=b'{"a": "' + b"x" * 200 + b'"}')).status == 413


async def test_a_body_that_does_not_arrive_is_refused_in_time() -> None:
    client = client_for(body_timeout_s=0.01)
    answer = await send(
        client, "POST", "/v1/messages", b"{", headers={"content-type": "application/json"}, stall=True
    )
    assert answer.status == 408
    assert answer.headers["x-should-retry"] == "false"


async def test_headers_have_a_limit() -> None:
    assert (await post(client_for(max_header_bytes=300), headers={"x-big": "x" * 400})).status == 431


async def test_messages_have_a_limit_in_every_dialect() -> None:
    client = client_for(max_messages=1)
    two = [{"role": "user", "content": "a"}] * 2
    bodies: dict[str, dict[str, object]] = {
        "/v1/messages": {"model": "tiny", "max_tokens": 1, "messages": two},
        "/v1/messages/count_tokens": {"model": "tiny", "messages": two},
        "/v1/chat/completions": {"model": "tiny", "messages": two},
        "/v1/completions": {"model": "tiny", "prompt": ["a", "b"]},
        "/v1/responses": {"model": "tiny", "input": two},
        "/v1/agents/a/generate": {"messages": two},
    }
    for url, body in bodies.items():
        answer = await post(client, url, body)
        assert (answer.status, "at most 1" in answer.content.decode()) == (400, True), url


@pytest.mark.parametrize(
    ("path", "field"),
    [("/v1/messages", "messages"), ("/v1/chat/completions", "messages"), ("/v1/responses", "input")],
)
async def test_a_prompt_that_is_only_tokenized_has_as_many_messages_at_most(path: str, field: str) -> None:
    client = client_for(max_messages=2)
    message = {"role": "user", "content": "hi"}
    for number, status in ((2, 200), (3, 400)):
        body = {"model": "tiny", "max_tokens": 5, field: [message] * number}
        assert (await client.post(f"/v1/tokenize?path={path}", body)).status == status


async def test_request_ids_are_echoed_or_made_and_never_used_twice_at_a_time() -> None:
    generator = ScriptedGenerator([asyncio.Event()])
    client = AsgiClient(create_app(make_services(generator), HttpConfig()))
    headers = {"x-request-id": "mine-1"}
    first = asyncio.ensure_future(client.post("/v1/messages", MESSAGE, headers=headers))
    second = asyncio.ensure_future(client.post("/v1/messages", MESSAGE, headers=headers))
    await until(lambda: len(generator.streams) == 2)
    assert len({request.request_id for request in generator.requests}) == 2
    for stream in generator.streams:
        assert isinstance(stream.script[0], asyncio.Event)
        stream.script[0].set()
    for answer in await asyncio.gather(first, second):
        assert answer.headers["x-request-id"] == answer.headers["request-id"] == "mine-1"
    made = (await post(client_for(), headers={"x-request-id": "bad id\u00e9"})).headers["x-request-id"]
    assert made.startswith("req_")


async def test_no_prompt_and_no_key_is_ever_logged() -> None:
    lines: list[str] = []

    class Log:
        def note(self, event: str, **fields: object) -> None:
            lines.append(f"{event} {fields}")

        info = warning = error = note

    services = make_services(ScriptedGenerator(["a", RuntimeError("boom")]), log=Log())
    client = AsgiClient(create_app(services, HttpConfig(api_keys=("s3cret",))))
    for stream in (True, False):
        body = {**MESSAGE, "messages": [{"role": "user", "content": "private words"}], "stream": stream}
        await post(client, body=body, headers={"x-api-key": "s3cret"})
    logged = "\n".join(lines)
    assert "boom" in logged
    assert "private" not in logged
    assert "s3cret" not in logged


@pytest.mark.parametrize(
    ("method", "url", "status"),
    [
        ("GET", "/v1/messages", 405),
        ("POST", "/v1/nothing", 404),
        ("PUT", "/v1/agents", 405),
        ("GET", "/x", 404),
    ],
)
async def test_wrong_paths_and_methods_are_told_in_the_dialects_shape(
    method: str, url: str, status: int
) -> None:
    answer = await send(client_for(), method, url)
    assert answer.status == status
    assert ("type" in answer.json) == url.startswith("/v1/messages")
    assert answer.json["error"]["message"]


async def test_every_exchange_is_counted_by_its_route_and_not_by_its_path() -> None:
    metrics = PrometheusMetrics()
    services = make_services(ScriptedGenerator(), metrics=metrics, metrics_text=metrics.text)
    client = AsgiClient(create_app(services, HttpConfig(rate_limit_per_agent=1)))
    await send(client, "GET", "/v1/agents/nobody")
    await send(client, "BREW", "/v1/coffee")
    for _ in range(2):
        await post(client, headers={"x-session-id": "ann"})
    text = (await send(client, "GET", "/metrics")).content.decode()
    for line in (
        'http_requests_total{method="GET",route="/v1/agents/{agent_id}",status="404"} 1.0',
        'http_requests_total{method="other",route="other",status="404"} 1.0',
        'http_requests_total{method="POST",route="/v1/messages",status="429"} 1.0',
        'rate_limited_total{scope="agent"} 1.0',
    ):
        assert f"semanticd_{line}" in text
    assert "nobody" not in text
    assert "coffee" not in text


TOOL = {"name": "t", "parameters": {"type": "object"}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (
            {"tools": [{"type": "function", "function": {**TOOL, "name": f"t{n}"}} for n in range(2049)]},
            "tools",
        ),
        ({"stop": ["x" * 4097]}, "stop"),
        ({"logit_bias": {str(n): 1 for n in range(1025)}}, "logit_bias"),
    ],
)
async def test_what_a_request_may_name_is_counted(fields: dict[str, Any], param: str) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], **fields}
    answer = await client_for().post("/v1/chat/completions", body)
    assert (answer.status, answer.json["error"]["param"]) == (400, param)
    assert "expected at most" in answer.json["error"]["message"]


async def test_stop_sequences_are_counted_in_the_other_dialects_too() -> None:
    answer = await client_for().post(
        "/v1/messages", {**MESSAGE, "stop_sequences": [f"s{n}" for n in range(65)]}
    )
    assert (answer.status, "at most 64" in answer.json["error"]["message"]) == (400, True)


async def test_chat_completions_take_as_many_stop_strings_as_the_page_says() -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    stops = [f"s{n}" for n in range(65)]
    assert (await client_for().post("/v1/chat/completions", {**body, "stop": stops[:64]})).status == 200
    answer = await client_for().post("/v1/chat/completions", {**body, "stop": stops})
    assert (answer.status, "at most 64" in answer.json["error"]["message"]) == (400, True)


async def test_metadata_and_agents_have_a_size() -> None:
    client = client_for()
    many = {"a": "x" * 20_000}
    for url, body in (
        ("/v1/responses", {"model": "tiny", "input": "hi", "metadata": many}),
        ("/v1/agents", {"metadata": many}),
    ):
        answer = await client.post(url, body)
        assert (answer.status, answer.json["error"]["param"]) == (400, "metadata")
    assert (await client.post("/v1/agents", {"system": "x" * 2_000_000})).status == 413


class CountedName(str):
    """A name that counts how often it is compared."""

    num_compared = 0

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        CountedName.num_compared += 1
        return str.__eq__(self, other)


def test_equal_names_of_tools_are_found_without_comparing_each_with_each() -> None:
    tools = [chat_wire.Tool("function", chat_wire.Function(CountedName(f"t{n}"))) for n in range(500)]
    assert len(read_tools(tools)) == 500
    assert CountedName.num_compared < 5_000
    with pytest.raises(InvalidRequestError, match="unique"):
        read_tools([*tools, tools[0]])
