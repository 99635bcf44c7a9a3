"""The dashboard as text."""

from __future__ import annotations

from dataclasses import replace

from semantic_tui.live import LiveAgent
from semantic_tui.plain import agent_row, bar, count, dashboard, duration, short_size, shortened, size, table
from semanticd.control.results import (
    AgentRow,
    CacheStats,
    EngineFacts,
    RankFacts,
    RequestRow,
    SavedFacts,
    SavingsFacts,
    StatusResult,
    read,
)

STATUS = StatusResult(
    version="1.2.3",
    state="ready",
    uptime_s=5.4,
    address="http://127.0.0.1:8000",
    model="tiny",
    engine=EngineFacts(num_running=2, num_waiting=1, prefill_tokens_per_s=90.4, decode_tokens_per_s=12.34),
    cache=CacheStats(budget_bytes=1000, hot_bytes=250, running_bytes=250, num_hot_blocks=3, warm_bytes=2048),
)
AGENT = AgentRow(id="ada", state="hot", num_tokens=12, hot_bytes=1536, last_reuse_ratio=0.5, pinned=True)


def test_sizes_are_shown_in_the_largest_fitting_unit() -> None:
    assert [size(n) for n in (None, 0, 1023, 1024, 3 * 2**30)] == [
        "0 B",
        "0 B",
        "1023 B",
        "1.0 KiB",
        "3.0 GiB",
    ]


def test_a_bar_never_leaves_its_width() -> None:
    assert [bar(share, 4) for share in (-1, 0, 0.5, 1, 7)] == ["░░░░", "░░░░", "██░░", "████", "████"]


def test_what_is_too_long_for_a_narrow_table_is_shortened() -> None:
    assert [short_size(n) for n in (None, 999, 1536, 99.96 * 2**20, 768 * 1024, 3 * 2**40)] == [
        "0B", "999B", "1.5K", "100M", "768K", "3.0T",
    ]  # fmt: skip
    assert [count(n) for n in (0, 999_999, 1_000_000, 999_900_000, 10**11)] == [
        "0", "999,999", "1.0M", "999.9M", "100.0G",
    ]  # fmt: skip
    assert [duration(ms) for ms in (None, 84.4, 1500)] == ["-", "84 ms", "1.5 s"]
    assert [shortened("abcdefgh", width) for width in (8, 5)] == ["abcdefgh", "ab…gh"]


def test_what_a_daemon_does_not_tell_is_a_dash() -> None:
    row = agent_row(LiveAgent(AgentRow(id="new")))
    assert row[5:8] == ("-", "-", "-")
    assert agent_row(LiveAgent(AGENT))[5] == "50 %"
    assert agent_row(LiveAgent(AGENT))[9:] == ("yes", "-", "-")


def test_an_agent_in_its_first_turn_is_in_the_text_too() -> None:
    request = RequestRow(id="r", agent="newcomer", state="prefilling", prefill_progress=0.5)
    text = dashboard(STATUS, [AGENT], [request])
    assert any("newcomer" in line and "prefill 50 %" in line for line in text.splitlines())


def test_a_table_is_as_wide_as_its_widest_cells() -> None:
    assert table(("a", "bb"), [("ccc", "d")]) == ["a    bb", "ccc  d"]
    assert table(("a", "bb"), []) == ["a  bb"]


def test_the_dashboard_says_the_daemons_state_and_lists_its_agents() -> None:
    text = dashboard(STATUS, [AGENT], [])
    assert "semanticd 1.2.3  ready  up 5 s" in text
    assert "2 running, 1 waiting" in text
    assert bar(0.5, 30) in text
    assert "ada" in text.splitlines()[-1]


def test_tokens_per_step_are_said_where_they_are_more_than_one() -> None:
    engine = replace(
        STATUS.engine, batch_size=1, tokens_per_step=2.34, num_draft_tokens=40, num_accepted_tokens=31
    )
    text = dashboard(replace(STATUS, engine=engine), [], [])
    assert "decode 12.3 tok/s, 2.3 tokens per step" in text
    assert "31 of 40 drafted tokens accepted, each saved one decode step" in text
    idle = dashboard(replace(STATUS, engine=replace(engine, batch_size=0)), [], [])
    assert "a step" not in idle
    assert "guessed" not in dashboard(STATUS, [], [])


def test_times_are_in_units_that_people_read_and_savings_say_what_is_todays() -> None:
    savings = SavingsFacts(reused_tokens=900, saved_s=724.0, today=SavedFacts(saved_s=61.0))
    status = replace(STATUS, uptime_s=3725.0, savings=savings)
    text = dashboard(status, [replace(AGENT, last_ttft_ms=16649.0, saved_s=159.4)], [])
    assert "up 1 h 2 m" in text
    assert "12 min of prefill by 900 tokens, 61.0 s of it today" in text
    assert "16.6 s" in text.splitlines()[-1]
    assert "3 min" in text.splitlines()[-1]


def test_on_a_terminal_names_are_cut_until_the_tables_fit() -> None:
    name = "a-name-that-somebody-uses-" + "x" * 70
    request = RequestRow(id="req_1", agent=name, state="decoding")
    rows = ([replace(AGENT, id=name)], [request])
    agents, requests = dashboard(STATUS, *rows, width=110).split("\n\n")[1:]
    assert max(map(len, (agents + "\n" + requests).splitlines())) <= 110
    assert agents.splitlines()[1].startswith("a-name-that")
    assert dashboard(STATUS, *rows).count(name) == 2


def test_an_older_daemon_that_tells_less_is_shown_too() -> None:
    assert "? " in dashboard(read(StatusResult, {}), [], [read(RequestRow, {"id": "r"})])


def test_a_model_that_is_away_has_a_line_with_the_reason() -> None:
    lines = dashboard(replace(STATUS, model=None, model_away="rank 1 has not joined"), (), (), width=100)
    assert "\nmodel   away: rank 1 has not joined\n" in lines
    assert "model   away" not in dashboard(STATUS, (), (), width=100)


def test_machines_that_compute_together_have_a_line_each() -> None:
    ranks = (
        RankFacts(
            rank=0, address="10.0.0.1", state="ready", memory_bytes=2**30, step_ms=12.34, sent_bytes=1024
        ),
        RankFacts(rank=1, address="10.0.0.2", state="missing", last_failure="it was silent"),
        RankFacts(rank=2, address="10.0.0.3", state="ready", memory_bytes=2**30),
    )
    lines = dashboard(replace(STATUS, ranks=ranks), (), (), width=100)
    assert "rank 0  10.0.0.1: ready, 1.0 GiB, last step 12.3 ms, 1.0 KiB exchanged" in lines
    assert "rank 1  10.0.0.2: missing; it was silent" in lines
    assert "rank 2  10.0.0.3: ready, 1.0 GiB, no step yet, 0 B exchanged" in lines
