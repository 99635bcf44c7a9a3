"""Every POST route reads compressed bodies, within the limit for plain ones."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
import zstandard

from semanticd.adapters.http.app import create_app
from semanticd.adapters.http.core.config import HttpConfig
from tests.fakes.agents_service import FakeAgents
from tests.fakes.asgi_client import AsgiClient
from tests.fakes.http_services import make_services

HELLO = [{"role": "user", "content": "hello"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/messages": {"model": "tiny", "max_tokens": 10, "messages": HELLO},
    "/v1/messages/count_tokens": {"model": "tiny", "messages": HELLO},
    "/v1/chat/completions": {"model": "tiny", "messages": HELLO},
    "/v1/completions": {"model": "tiny", "prompt": "a"},
    "/v1/responses": {"model": "tiny", "input": "hello"},
    "/v1/agents": {"id": "ann"},
    "/v1/agents/bob/generate": {"prompt": "hello"},
    "/v1/agents/bob/fork": {"id": "eve"},
    "/v1/agents/bob/rewind": {"turns": 1},
    "/v1/agents/bob/pin": {"ttl_s": 5},
    "/admin/models/load": {"model": "tiny"},
}
ENCODERS = {"gzip": gzip.compress, "zstd": zstandard.ZstdCompressor().compress}


def client(**config: Any) -> AsgiClient:
    agents = FakeAgents("bob")
    return AsgiClient(create_app(make_services(agents=agents), HttpConfig(**config)))


@pytest.mark.parametrize("coding", ENCODERS)
@pytest.mark.parametrize("url", BODIES)
async def test_a_compressed_body_means_what_the_plain_one_means(url: str, coding: str) -> None:
    body = ENCODERS[coding](json.dumps(BODIES[url]).encode())
    plain = await client().post(url, BODIES[url])
    compressed = await client().post(url, body, headers={"content-encoding": coding})
    assert plain.status in (200, 201), plain.content
    assert compressed.status == plain.status


@pytest.mark.parametrize("url", BODIES)
async def test_what_cannot_be_decoded_is_refused_in_the_dialects_shape(url: str) -> None:
    small = client(max_body_bytes=10_000)
    bomb = gzip.compress(b" " * 1_000_000)
    answers = [
        (await small.post(url, bomb, headers={"content-encoding": "gzip"}), 413),
        (await small.post(url, b"{}", headers={"content-encoding": "zstd"}), 400),
        (await small.post(url, b"{}", headers={"content-encoding": "br"}), 415),
    ]
    for answer, status in answers:
        assert answer.status == status, answer.content
        assert answer.json["error"]["message"]


async def test_an_uploaded_agent_must_not_be_compressed() -> None:
    headers = {"content-encoding": "gzip", "content-type": "application/octet-stream"}
    answer = await client().send("POST", "/v1/agents/import", gzip.compress(b"agent:x"), headers=headers)
    assert answer.status == 415
