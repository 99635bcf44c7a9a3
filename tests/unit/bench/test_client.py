"""The benchmark's client: what it measures, and that every failure says what to do."""

from __future__ import annotations

from typing import Any

import pytest

from semanticd.bench.client import Answer, ChatClient
from semanticd.bench.errors import BenchError
from tests.fakes.chat_server import ChatServer
from tests.fakes.http_server import serving

HELLO = [{"role": "user", "content": "one two three"}]


async def ask(server: ChatServer, *, suffix: str = "", **options: Any) -> Answer:
    with serving(server) as url:
        async with ChatClient(url + suffix, model="words", timeout_s=60, **options) as client:
            return await client.ask(HELLO, max_tokens=5, agent="a")


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
async def test_the_base_url_may_end_in_v1_or_not(suffix: str) -> None:
    assert (await ask(ChatServer(), suffix=suffix)).text == "word word word word word "


async def test_an_answer_has_the_servers_counts_and_a_time_per_piece() -> None:
    server = ChatServer()
    answer = await ask(server)
    assert (answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens) == (3, 5, 0)
    assert len(answer.piece_times) == 5
    assert len(answer.gaps_s) == 4
    assert 0 < answer.ttft_s <= answer.total_s
    assert server.agents == ["a"]
    assert server.bodies[0]["user"] == "a"
    assert server.bodies[0]["stream_options"] == {"include_usage": True}
    assert "logit_bias" not in server.bodies[0]


def test_the_decode_rate_counts_tokens_after_the_first() -> None:
    assert Answer("", 0.0, (1.0, 2.0, 3.0), 1, 5, 0).tokens_per_s == 2.0
    assert Answer("", 0.0, (1.0,), 1, 1, 0).tokens_per_s == 0.0


@pytest.mark.parametrize(
    ("server", "advice"),
    [
        (ChatServer(status=401), "--api-key"),
        (ChatServer(status=404), "--model"),
        (ChatServer(status=429), "limit"),
        (ChatServer(status=500), "server's log"),
        (ChatServer(answers=False), "--stop-token-id"),
        (ChatServer(sends_usage=False), "use a server that reports it"),
    ],
)
async def test_a_refusal_says_what_to_do(server: ChatServer, advice: str) -> None:
    with pytest.raises(BenchError, match=advice):
        await ask(server)


async def test_no_server_is_told_apart_from_a_bad_one() -> None:
    async with ChatClient("http://127.0.0.1:9", model="words") as client:
        with pytest.raises(BenchError, match=r"nothing answers at http://127\.0\.0\.1:9 .*--base-url"):
            await client.models()
        with pytest.raises(BenchError, match=r"nothing answers at http://127\.0\.0\.1:9 .*--base-url"):
            await client.ask(HELLO, max_tokens=1, agent="a")


async def test_a_silent_server_is_given_up_on_at_the_timeout() -> None:
    with serving(ChatServer(prefill_s=10)) as url:
        async with ChatClient(url, model="words", timeout_s=0.1) as client:
            with pytest.raises(BenchError, match="--timeout"):
                await client.ask(HELLO, max_tokens=5, agent="a")


async def test_what_was_measured_leaves_no_agents() -> None:
    server = ChatServer()
    with serving(server) as url:
        async with ChatClient(url, model="words", timeout_s=60) as client:
            await client.ask(HELLO, max_tokens=2, agent="bench/a")
            await client.ask(HELLO, max_tokens=2, agent="bench/b")
            await client.forget_agents()
            await client.forget_agents()
    assert server.deleted == ["/v1/agents/bench-a", "/v1/agents/bench-b"]


async def test_a_server_that_asks_for_a_key_is_not_taken_for_one_without_models() -> None:
    with serving(ChatServer(status=401)) as url:
        async with ChatClient(url, model="", timeout_s=60) as client:
            with pytest.raises(BenchError, match=r"answered 401.*--api-key"):
                await client.models()
