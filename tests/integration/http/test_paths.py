"""Each path has one spelling: no other one reaches a resource, evades the limiter or changes the dialect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from semanticd.adapters.http.app import create_app
from semanticd.adapters.http.core.config import HttpConfig
from semanticd.adapters.http.core.errors import InvalidPathError
from semanticd.adapters.http.core.paths import canonical_path
from semanticd.adapters.http.core.routes import DeclaredRouter, Route, UndeclaredAccessError
from tests.fakes.asgi_client import Answer, AsgiClient
from tests.fakes.generator import ScriptedGenerator
from tests.fakes.http_services import make_services

PLACES = {"{agent_id}": "ann", "{response_id}": "resp_1", "{name:path}": "tiny"}

SPELLINGS: dict[str, Callable[[str], str]] = {
    "two slashes in front": lambda path: "/" + path,
    "three slashes in front": lambda path: "//" + path,
    "an encoded slash in front": lambda path: "/%2f" + path[1:],
    "encoded slashes for slashes": lambda path: "/" + path[1:].replace("/", "%2F") + "%2F",
    "two slashes between": lambda path: "/" + path[1:].replace("/", "//") + "//",
    "a dot segment in front": lambda path: "/." + path,
    "an encoded dot segment in front": lambda path: "/%2e" + path,
    "a way up in front": lambda path: "/v1/.." + path,
    "an encoded way up in front": lambda path: "/health/%2e%2E" + path,
    "a way up at the end": lambda path: path.rstrip("/") + "/x/..",
    "a backslash in front": lambda path: "/%5c" + path[1:],
    "a NUL at the end": lambda path: path + "%00",
    "half a character at the end": lambda path: path + "%c3",
    "the whole URL": lambda path: "http://localhost:8000" + path,
}


def make_client(**config: Any) -> AsgiClient:
    return AsgiClient(create_app(make_services(ScriptedGenerator()), HttpConfig(**config)))


def all_routes() -> list[tuple[Route, str, str]]:
    found: list[tuple[Route, str, str]] = []
    for route, methods in create_app(make_services(), HttpConfig()).router.routes.items():
        path = route.template
        for place, value in PLACES.items():
            path = path.replace(place, value)
        found += [(route, method, path) for method in methods]
    return found


async def send(client: AsgiClient, method: str, path: str, **options: Any) -> Answer:
    return await client.send(method, path, **options)


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_no_other_spelling_of_any_route_is_answered(spelling: str) -> None:
    # With the API key: what is refused here is refused for its spelling.
    client = make_client(api_keys=("k",), admin_key="a")
    for _, method, path in all_routes():
        spelled = SPELLINGS[spelling](path)
        answer = await send(client, method, spelled, headers={"x-api-key": "k"})
        assert answer.status == 400, (method, spelled, answer.content)
        if method != "HEAD":
            assert answer.json["error"]["code"] == "invalid_path"


async def test_every_route_asks_for_what_it_declares() -> None:
    client = make_client(api_keys=("k",), admin_key="a")
    keys: dict[str, dict[str, str]] = {"open": {}, "key": {"x-api-key": "k"}, "admin": {"x-admin-key": "a"}}
    for route, method, path in all_routes():
        for spelled in (path, path.replace("a", "%61"), path + "/" if path != "/" else path):
            for access, headers in keys.items():
                refused = (await send(client, method, spelled, headers=headers)).status in (401, 403)
                asked = "key" if route.access == "peer" else route.access
                assert refused == (asked not in ("open", access)), (method, spelled, headers)


async def test_what_leads_nowhere_needs_a_key_too() -> None:
    client = make_client(api_keys=("k",))
    assert (await send(client, "GET", "/nothing")).status == 401
    assert (await send(client, "GET", "/nothing", headers={"x-api-key": "k"})).status == 404


def test_a_resource_that_declares_no_access_cannot_be_added() -> None:
    class Undeclared:
        async def on_get(self, req: object, resp: object) -> None:
            """Answer anybody."""

    with pytest.raises(UndeclaredAccessError, match="Undeclared must declare `access`"):
        DeclaredRouter().add_route("/secret", Undeclared())


async def test_no_spelling_evades_the_rate_limit() -> None:
    client = make_client(rate_limit_global=1)
    spellings = ["/v1/agents", "/v1/agents/", "/v1/%61gents", "/v1/nothing", "/nothing"]
    statuses = [(await send(client, "GET", path)).status for path in spellings]
    assert statuses == [200, 429, 429, 429, 429]


async def test_a_models_name_may_hold_slashes_as_sdks_encode_them() -> None:
    client = make_client()
    for path in ("/v1/models/hf:org/name", "/v1/models/hf:org%2Fname"):
        answer = await send(client, "GET", path)
        assert (answer.status, answer.json["error"]["code"]) == (404, "model_not_found")
        assert "hf:org/name" in answer.json["error"]["message"]
    for path in ("/v1/models/..%2f..%2fadmin%2fmodels", "/v1/models/%2fa", "/v1/models/a%2f%2fb"):
        assert (await send(client, "GET", path)).status == 400


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"/", "/"),
        (b"/v1/models/", "/v1/models"),
        (b"/v1/agents/%C3%A9", "/v1/agents/\u00e9"),
        (b"/v1/agents/a%252fb", "/v1/agents/a%2fb"),
        (b"/..a/b..", "/..a/b.."),
    ],
)
def test_the_one_spelling_is_decoded_once(raw: bytes, path: str) -> None:
    assert canonical_path({"path": "ignored", "raw_path": raw}) == path
    assert canonical_path({"path": raw.decode(), "raw_path": None}) == path


@pytest.mark.parametrize("raw", [b"", b"*", b"admin/models", b"//", b"/\x7f", b"/%C2%9b", b"/" + b"a" * 9000])
def test_a_target_without_a_meaning_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidPathError):
        canonical_path({"path": raw.decode(), "raw_path": raw})


async def test_a_web_socket_is_closed_before_any_resource() -> None:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(dict(message))

    scope = {"type": "websocket", "path": "/admin/models", "headers": [], "asgi": {"version": "3.0"}}
    await create_app(make_services(), HttpConfig())(scope, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
async def test_a_page_of_another_site_gets_nothing_even_where_it_sends_no_origin(method: str) -> None:
    client = make_client(cors_origins=("https://app.example",))
    for route, known, path in all_routes():
        if known != method:
            continue
        answer = await send(client, method, path, headers={"sec-fetch-site": "cross-site"})
        assert (answer.status == 403) == (route.access != "open"), (method, path)
    asked = {"sec-fetch-site": "cross-site", "origin": "https://app.example"}
    assert (await send(client, "GET", "/v1/models", headers=asked)).status == 200
    for site in ("same-origin", "same-site", "none"):
        assert (await send(client, "GET", "/v1/models", headers={"sec-fetch-site": site})).status == 200
