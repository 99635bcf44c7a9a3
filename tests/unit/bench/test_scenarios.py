"""Every scenario against a small real server; what is asserted are counts and shapes, never times."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from semanticd.bench.client import Answer, ChatClient
from semanticd.bench.errors import BenchError
from semanticd.bench.result import Figure
from semanticd.bench.runner import first_model, new_result, run_scenarios
from semanticd.bench.scenarios import SCENARIOS, Skipped, scenario
from semanticd.bench.scenarios.concurrent_decode import aggregate_rate
from semanticd.bench.session import BenchSession, BenchSettings
from semanticd.bench.text import TextSource
from tests.fakes.chat_server import ChatServer
from tests.fakes.http_server import serving

SMALL = BenchSettings(
    lengths=(20, 40),
    repeats=2,
    num_agents=3,
    num_turns=2,
    system_tokens=10,
    document_tokens=10,
    answer_tokens=3,
    streams=(1, 3),
    decode_tokens=8,
    prefill_tokens=30,
    dropped_tokens=30,
)


@asynccontextmanager
async def session_with(
    server: ChatServer, *, messages: list[str] | None = None, **more: Any
) -> AsyncIterator[BenchSession]:
    """Serve, and open a session that adds what it says to `messages`."""
    tell = [].append if messages is None else messages.append
    with serving(server) as url:
        async with ChatClient(url, model="words", stop_token_ids=(2,), timeout_s=60) as client:
            yield BenchSession(client=client, settings=SMALL, text=TextSource(1), tell=tell, **more)


async def run_one(name: str, server: ChatServer, **more: Any) -> dict[tuple[str, str], Figure]:
    async with session_with(server, **more) as session:
        figures = await scenario(name)(session)
    assert {figure.scenario for figure in figures} == {name}
    return {(figure.case, figure.metric): figure for figure in figures}


async def test_a_cold_prompt_is_asked_for_once_per_length() -> None:
    server = ChatServer()
    figures = await run_one("cold_ttft", server)
    assert [len(body["messages"][-1]["content"].split()) for body in server.bodies] == [20, 40]
    assert figures["20", "ttft"].note == "20 tokens, 0 cached"
    assert figures["40", "prefill_rate"].value > 0
    assert not figures["40", "prefill_rate"].lower_is_better


async def test_warm_turns_continue_the_same_agents_conversation() -> None:
    server = ChatServer()
    figures = await run_one("warm_ttft", server)
    assert len(figures["20", "ttft"].samples) == SMALL.repeats
    first, second = server.bodies[0]["messages"], server.bodies[1]["messages"]
    assert second[: len(first)] == first
    assert [message["role"] for message in second] == ["user", "assistant", "user"]
    assert len({agent for agent in server.agents if agent.endswith("-20")}) == 1
    assert figures["20", "ttft"].note.startswith("20 of ")


async def test_conversations_are_handed_on_so_that_a_long_prompt_is_computed_once() -> None:
    server = ChatServer()
    async with session_with(server) as session:
        await scenario("cold_ttft")(session)
        await scenario("warm_ttft")(session)
    assert sum(len(body["messages"]) == 1 for body in server.bodies) == len(SMALL.lengths)


async def test_a_cold_prompt_that_the_server_knew_is_warned_about() -> None:
    server, messages = ChatServer(), list[str]()
    await run_one("cold_ttft", server)
    await run_one("cold_ttft", server, messages=messages)
    assert any("another --seed" in line for line in messages)


async def test_a_restart_that_keeps_caches_is_measured_twice_and_one_that_loses_them_once() -> None:
    keeping, losing = ChatServer(), ChatServer()
    restarts = {"keeping": 0, "losing": 0}

    async def keep() -> None:
        restarts["keeping"] += 1

    async def lose() -> None:
        restarts["losing"] += 1
        losing.forget()

    assert len((await run_one("restart_ttft", keeping, restart=keep))["40", "ttft"].samples) == 2
    figures = await run_one("restart_ttft", losing, restart=lose)
    assert len(figures["40", "ttft"].samples) == 1
    assert figures["40", "ttft"].note == "0 tokens cached"
    assert restarts == {"keeping": 2, "losing": 1}


@pytest.mark.parametrize(
    ("name", "option"), [("restart_ttft", "--restart-command"), ("swap", "--swap-command")]
)
async def test_what_cannot_be_measured_says_which_option_it_needs(name: str, option: str) -> None:
    with pytest.raises(Skipped, match=option):
        await run_one(name, ChatServer())


async def test_agents_take_turns_and_share_the_system_prompt() -> None:
    server = ChatServer()
    figures = await run_one("agents", server)
    assert len({body["messages"][0]["content"] for body in server.bodies}) == 1
    assert server.agents == [f"bench-1-agent-{number}" for _ in range(2) for number in range(3)]
    assert (
        len(figures["3x2", "first_turn_ttft"].samples) == len(figures["3x2", "later_turn_ttft"].samples) == 3
    )


async def test_concurrent_decode_runs_so_many_streams_and_forbids_the_end_token() -> None:
    server = ChatServer(token_s=0.002)
    figures = await run_one("concurrent_decode", server)
    assert len(server.bodies) == 4
    assert all(body["logit_bias"] == {"2": -100} for body in server.bodies)
    assert figures["3", "rate"].value > 0
    assert figures["3", "itl_p95"].value >= figures["3", "itl_p50"].value


def test_the_aggregate_rate_counts_only_the_time_in_which_all_decode() -> None:
    def answer(*times: float) -> Answer:
        return Answer("", 0.0, times, 1, len(times), 0)

    assert aggregate_rate([answer(0, 1, 2, 3, 4), answer(2, 3, 4, 5)]) == 2.0
    # A server that takes one at a time: the whole time counts.
    assert aggregate_rate([answer(0, 1), answer(3, 4)]) == 0.75
    # A piece that carries several tokens counts as them.
    assert aggregate_rate([Answer("", 0.0, (0.0, 1.0), 1, 8, 0)]) == 4.0


async def test_interference_drops_the_decoder_once_the_long_prompt_has_its_first_token() -> None:
    server = ChatServer(token_s=0.002, prefill_s=0.002)
    figures = await run_one("interference", server)
    assert figures["30", "kept_share"].value > 0
    assert figures["30", "longest_gap"].value > 0
    assert figures["30", "prefill_ttft"].note == "30 tokens"


async def test_a_decoder_that_ends_early_names_the_option_against_it() -> None:
    with pytest.raises(BenchError, match="--stop-token-id"):
        await run_one("interference", ChatServer(max_answer=3))


async def test_cancel_hangs_up_on_a_long_prompt_before_it_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    # Time for the request to arrive on a busy machine; its prompt is computed until the client disconnects.
    monkeypatch.setattr("semanticd.bench.scenarios.cancel.DROPPED_AFTER_S", 1.0)
    server = ChatServer(held="bench-cancel-long")
    figures = await run_one("cancel", server)
    assert server.num_dropped == 2
    assert len(figures["30", "idle_ttft"].samples) == 2
    assert figures["30", "dropped_to_idle"].unit == "ratio"


async def test_a_swap_is_met_by_a_request() -> None:
    swaps = []

    async def swap() -> None:
        swaps.append(1)

    figures = await run_one("swap", ChatServer(), swap=swap)
    assert len(swaps) == SMALL.repeats
    assert len(figures["all", "ttft_during_swap"].samples) == SMALL.repeats


async def test_the_runner_keeps_each_scenario_at_once_and_goes_on_after_one_that_fails() -> None:
    kept, messages = list[list[str]](), list[str]()
    async with session_with(ChatServer(max_answer=3), messages=messages) as session:
        assert await first_model(session.client) == "words"
        result = new_result("fake", session)
        await run_scenarios(
            session,
            ["interference", "swap", "cold_ttft"],
            result,
            keep=lambda r: kept.append(list(r.skipped)),
        )
    assert kept == [["interference"], ["interference", "swap"], ["interference", "swap"]]
    assert "--stop-token-id" in result.skipped["interference"]
    assert {figure.scenario for figure in result.figures} == {"cold_ttft"}
    assert set(result.durations_s) == {"interference", "swap", "cold_ttft"}
    assert any("not measured" in line for line in messages)


async def test_the_prompt_length_follows_the_servers_own_count() -> None:
    async with session_with(ChatServer()) as session:
        await session.prepare()
        assert session.text.tokens_per_word == 1.0


def test_every_scenario_of_the_table_has_its_file() -> None:
    assert all(callable(scenario(name)) for name in SCENARIOS)
