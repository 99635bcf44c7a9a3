"""Replays against a small server that remembers: what counts as reusable, restarts, evictions, other servers."""

from __future__ import annotations

from array import array
from dataclasses import replace
from typing import Any

import httpx
import pytest

from semanticd.bench.errors import BenchError
from semanticd.bench.prompt_tokens import SeenPrompts, token_source
from semanticd.bench.replay import Replay, ReplaySettings
from semanticd.bench.replay_answer import AnswerReader
from semanticd.bench.replay_report import markdown, result_of
from semanticd.bench.trace_file import Trace, TracedRequest
from tests.fakes.caching_server import CachingServer

URL = "http://test"
DIALECTS = {"anthropic": "/v1/messages", "chat": "/v1/chat/completions", "responses": "/v1/responses"}


def trace(name: str, dialect: str = "chat", *, num_turns: int = 4, who: str | None = "ann") -> Trace:
    field = "input" if dialect == "responses" else "messages"
    requests = []
    for turn in range(num_turns):
        turns = [{"role": "user", "content": f"{name} says number {index}"} for index in range(turn + 1)]
        body: dict[str, Any] = {"model": "recorded", field: turns, "max_tokens": 32_000, "user": who}
        requests.append(TracedRequest(float(turn), dialect, DIALECTS[dialect], body))
    return Trace(name, {"trace": 1}, tuple(requests))


async def play(
    server: CachingServer, *traces: Trace, restart: bool = True, **settings: Any
) -> dict[str, Any]:
    async def forget() -> None:
        server.forget()

    told: list[str] = []
    async with httpx.AsyncClient(transport=httpx.ASGITransport(server), timeout=60) as http:  # type: ignore[arg-type]
        chosen = ReplaySettings("letters", settings.pop("num_agents", len(traces)), **settings)
        tokens = await token_source(http, URL, folder=None, model="letters", tell=told.append)
        run = Replay(http, URL, traces, chosen, tokens, told.append, forget if restart else None)
        await run.run()
    return {**result_of(run, target="test"), "told": told}


async def test_agents_take_turns_and_everything_reusable_was_reused() -> None:
    server = CachingServer()
    result = await play(server, *(trace(dialect, dialect) for dialect in DIALECTS))
    assert [path for path, _, _ in server.asked[:4]] == [*DIALECTS.values(), DIALECTS["anthropic"]]
    assert [one["agent"] for one in result["agents"]] == ["anthropic-1", "chat-2", "responses-3"]
    total = result["total"]
    assert total["num_requests"] == 12
    assert total["reused_of_reusable"] == 1.0
    assert total["reused_tokens"] == total["reused_hot_tokens"] == total["reusable_tokens"]
    assert total["recomputed_tokens"] == 0
    assert 0.5 < total["reused_after_first"] < 1.0
    assert total["ttft_median_s"] is not None


async def test_what_was_computed_again_is_counted_with_the_servers_reason() -> None:
    result = await play(CachingServer(loses=5), trace("a"))
    total = result["total"]
    assert total["recomputed_by_cause"] == {"evicted": 15}, "five at each turn after the first"
    assert total["reused_of_reusable"] == 1 - 15 / total["reusable_tokens"]
    assert "15 tokens evicted" in markdown(result)


async def test_a_restart_and_an_eviction_come_before_the_named_requests() -> None:
    server = CachingServer()
    result = await play(server, trace("a"), trace("b"), restart_at=frozenset({5}), evict_at=frozenset({3}))
    assert [(one["what"], one["before"]) for one in result["events"]] == [("evict", 3), ("restart", 5)]
    assert len(server.evicted) == 2
    assert [one["warm"] > one["hot"] for one in result["requests"]] == [
        number in (5, 6) for number in range(1, 9)
    ]


async def test_a_server_that_tells_neither_tokens_nor_tiers_still_gets_a_report() -> None:
    server = CachingServer(says_tiers=False, tells_tokens=False)
    result = await play(server, *(trace(dialect, dialect) for dialect in DIALECTS))
    total = result["total"]
    assert total["reusable_tokens"] is total["reused_hot_tokens"] is None
    assert total["reused_tokens"] > 0
    assert any("--tokenizer" in line for line in result["told"])
    assert "reusable tokens are not known" in markdown(result)


async def test_everything_can_be_asked_as_a_chat() -> None:
    server = CachingServer()
    result = await play(server, *(trace(dialect, dialect) for dialect in DIALECTS), as_chat=True)
    assert {path for path, _, _ in server.asked} == {"/v1/chat/completions"}
    assert result["total"]["reused_of_reusable"] == 1.0


async def test_a_refusal_is_counted_and_the_replay_goes_on() -> None:
    result = await play(CachingServer(refuses="number 2"), trace("a"))
    assert result["total"]["num_refused"] == 2
    assert [one["status"] for one in result["requests"]] == [200, 200, 400, 400]


async def test_requests_ask_this_server_for_short_answers_in_the_agents_own_name() -> None:
    server = CachingServer()
    await play(server, trace("a"), num_agents=2, max_tokens=3)
    for _, headers, body in server.asked:
        assert (body["model"], body["max_tokens"], body["stream"]) == ("letters", 3, True)
        assert headers["x-session-id"].startswith("replay-a-")
    assert len({headers["x-session-id"] for _, headers, _ in server.asked}) == 2


async def test_an_agents_name_is_found_wherever_semanticd_finds_it() -> None:
    said = (
        {"x-session-id": "one", "x-session-affinity": "two"},
        {"x-session-affinity": "one"},
        {"x-session-affinity": "two"},
    )
    requests = tuple(
        replace(trace("a", who="ann").requests[0], at=float(at), headers=headers)
        for at, headers in enumerate(said)
    )
    server = CachingServer()
    await play(server, Trace("a", {"trace": 1}, requests), restart=False)
    first, second, third = (headers["x-session-id"] for _, headers, _ in server.asked)
    assert first == second != third


async def test_an_agent_without_a_name_stays_without_one() -> None:
    server = CachingServer()
    await play(server, trace("a", who=None))
    assert all("x-session-id" not in headers for _, headers, _ in server.asked)


async def test_agents_may_ask_at_the_same_time_and_are_interrupted_between_requests() -> None:
    server = CachingServer()
    result = await play(
        server, trace("a"), trace("b"), num_agents=4, concurrent=True, restart_at=frozenset({7}), speed=1000.0
    )
    assert sorted(one["number"] for one in result["requests"]) == list(range(1, 17))
    assert [one["what"] for one in result["events"]] == ["restart"]
    assert result["total"]["num_refused"] == 0


async def test_a_conversation_that_the_server_would_have_to_keep_is_left_out() -> None:
    kept = Trace("k", {}, (TracedRequest(0.0, "agents", "/v1/agents/a/generate", {"prompt": "x"}),))
    result = await play(CachingServer(), kept, trace("a"))
    assert [one["num_refused"] for one in result["agents"]] == [0, 1]


async def test_what_cannot_be_asked_as_a_chat_is_refused_and_the_replay_goes_on() -> None:
    raw = TracedRequest(0.0, "completions", "/v1/completions", {"prompt": "Once"})
    result = await play(CachingServer(), Trace("raw", {}, (raw,)), trace("a"), as_chat=True)
    assert [one["num_refused"] for one in result["agents"]] == [0, 1]
    assert "cannot be asked as a chat" in next(one for one in result["told"] if "refused" in one)
    assert result["total"]["num_requests"] == 5


async def test_tokens_of_a_connection_that_breaks_are_not_known_and_the_replay_goes_on() -> None:
    # The first question finds out whether the server has a tokenizer.
    result = await play(CachingServer(breaks="/v1/tokenize", breaks_from=3), trace("a"))
    assert [one["status"] for one in result["requests"]] == [200] * 4
    assert [one["reusable"] is None for one in result["requests"]] == [False, True, True, True]
    assert sum("its tokens are not known" in line for line in result["told"]) == 3


async def test_an_eviction_whose_connection_breaks_is_an_error_that_says_so() -> None:
    with pytest.raises(BenchError, match=r"/evict failed .*; see whether the server runs"):
        await play(CachingServer(breaks="/evict"), trace("a"), evict_at=frozenset({3}))


FAILURES: dict[str, tuple[list[dict[str, Any]], str]] = {
    "a response that failed": (
        [{"type": "response.failed", "response": {"status": "failed", "error": {"message": "no room"}}}],
        "no room",
    ),
    "an error of Responses": ([{"type": "error", "code": "server_error", "message": "no room"}], "no room"),
    "an error of Anthropic": ([{"type": "error", "error": {"message": "no room"}}], "no room"),
    "an error of a chat": ([{"error": {"message": "no room"}}], "no room"),
    "a response that was completed": (
        [
            {"type": "response.created", "response": {"error": None}},
            {"type": "response.completed", "response": {"error": None, "usage": {"input_tokens": 3}}},
        ],
        "",
    ),
}


@pytest.mark.parametrize("what", FAILURES)
def test_an_answer_that_failed_is_no_answer_in_any_dialect(what: str) -> None:
    events, said = FAILURES[what]
    reader = AnswerReader({})
    for event in events:
        reader.event(event, 0.0)
    assert (reader.error is not None) is bool(said)
    assert said in (reader.error or "")


@pytest.mark.parametrize(
    "event",
    [
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
        {"type": "response.completed", "response": {}},
        {"choices": [{"delta": {}, "finish_reason": "stop"}]},
    ],
)
def test_the_first_token_of_an_empty_answer_is_its_end(event: dict[str, Any]) -> None:
    reader = AnswerReader({})
    reader.event({"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}, 1.0)
    reader.event({"type": "message_start", "message": {}}, 2.0)
    assert reader.first_at is None
    reader.event(event, 3.0)
    assert reader.first_at == 3.0


async def test_a_server_that_is_not_there_is_an_error_that_says_so() -> None:
    async with httpx.AsyncClient(timeout=60) as http:
        run = Replay(http, "http://127.0.0.1:9", (trace("a"),), ReplaySettings("m", 1), None, print)
        with pytest.raises(BenchError, match="see whether the server runs"):
            await run.run()


def test_reusable_is_the_longest_beginning_seen_and_never_the_last_token() -> None:
    seen = SeenPrompts()
    assert seen.reusable([1, 2, 3]) == 0
    seen.add([1, 2, 3, 4])
    seen.add([1, 2, 9])
    assert seen.reusable([1, 2, 3, 7, 8]) == 3
    assert seen.reusable([1, 2, 9, 9]) == 3
    assert seen.reusable([1, 2, 3, 4]) == 3
    assert seen.reusable([2]) == 0
    assert seen.reusable([256 + 1, 2]) == 0, "by whole ids, not by their bytes"
    seen.add(array("q", range(100_000)))
    assert seen.reusable(range(99_999)) == 99_998
