"""What the HTTP edge records of generations, in every dialect, and what it never records."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from semanticd.adapters.http.app import create_app
from semanticd.adapters.http.core.config import HttpConfig
from semanticd.adapters.http.core.recording import DIALECTS
from semanticd.application.ports.request_traces import RecordedRequest
from semanticd.domain.errors import OverloadedError
from tests.fakes.asgi_client import AsgiClient
from tests.fakes.generator import USAGE, ScriptedGenerator
from tests.fakes.http_services import make_services

HELLO = [{"role": "user", "content": "hello"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/messages": {"model": "tiny", "max_tokens": 10, "messages": HELLO},
    "/v1/chat/completions": {"model": "tiny", "messages": HELLO},
    "/v1/completions": {"model": "tiny", "prompt": "a"},
    "/v1/responses": {"model": "tiny", "input": "hello"},
    "/v1/agents/{agent_id}/generate": {"prompt": "hello"},
}


class Kept:
    """A `RequestTraces` that keeps them."""

    def __init__(self) -> None:
        self.requests: list[RecordedRequest] = []

    def record(self, request: RecordedRequest) -> None:
        self.requests.append(request)


def client(kept: Kept, **more: Any) -> AsgiClient:
    config = more.pop("config", HttpConfig())
    generator = more.pop("generator", None) or ScriptedGenerator()
    return AsgiClient(create_app(make_services(generator, traces=kept, **more), config))


def test_every_route_that_generates_has_a_body_here() -> None:
    assert set(BODIES) == set(DIALECTS)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("template", list(BODIES))
async def test_a_generation_is_recorded_with_body_agent_times_and_cost(template: str, stream: bool) -> None:
    kept = Kept()
    path = template.replace("{agent_id}", "ada")
    body = {**BODIES[template], "stream": stream}
    asking = client(kept)
    assert (await asking.post("/v1/agents", {"id": "ada"})).status == 201
    answer = await asking.post(
        f"{path}?beta=true",
        body,
        headers={"x-session-id": "ada", "authorization": "Bearer hush", "cookie": "hush"},
    )
    assert answer.status == 200, answer.content
    (one,) = kept.requests
    assert (one.dialect, one.path, one.query, one.status) == (DIALECTS[template], path, "beta=true", 200)
    assert json.loads(one.body) == body
    assert one.agent_id == "ada"
    assert [usage.prompt_tokens for usage in one.usages] == [USAGE.prompt_tokens]
    assert (one.first_s is not None) == stream
    assert "hush" not in repr(one), "no key is recorded"
    assert one.headers["x-session-id"] == "ada"


async def test_every_header_that_names_who_asks_is_recorded() -> None:
    kept = Kept()
    headers = {
        "x-session-affinity": "ses_1",
        "x-codex-parent-thread-id": "thread_1",
        "x-parent-session-id": "ses_2",
        "x-claude-code-agent-id": "a1",
    }
    body = BODIES["/v1/chat/completions"]
    assert (await client(kept).post("/v1/chat/completions", body, headers=headers)).status == 200
    assert headers.items() <= kept.requests[0].headers.items()


async def test_a_packed_body_is_recorded_unpacked() -> None:
    kept = Kept()
    raw = json.dumps(BODIES["/v1/chat/completions"]).encode()
    await client(kept).send(
        "POST",
        "/v1/chat/completions",
        gzip.compress(raw),
        headers={"content-type": "application/json", "content-encoding": "gzip"},
    )
    assert kept.requests[0].body == raw


async def test_a_refusal_is_recorded_with_its_status_and_without_a_cost() -> None:
    kept = Kept()
    generator = ScriptedGenerator()
    generator.refusal = OverloadedError("full")
    await client(kept, generator=generator).post("/v1/chat/completions", BODIES["/v1/chat/completions"])
    await client(kept).post("/v1/chat/completions", {"messages": 7})
    assert [(one.status, one.usages) for one in kept.requests] == [(503, ()), (400, ())]


async def test_what_generates_nothing_and_who_may_not_ask_are_not_recorded() -> None:
    kept = Kept()
    asking = client(kept, config=HttpConfig(api_keys=("key",)))
    await asking.post("/v1/chat/completions", BODIES["/v1/chat/completions"])
    open_to_all = client(kept)
    await open_to_all.post("/v1/messages/count_tokens", {"model": "tiny", "messages": HELLO})
    await open_to_all.get("/v1/models")
    assert kept.requests == []
