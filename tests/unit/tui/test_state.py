"""The watch state: bounded, and content with what a daemon tells."""

from __future__ import annotations

from semantic_tui.agent_order import listed, matches
from semantic_tui.screens.log import wanted
from semantic_tui.state import (
    HISTORY,
    MAX_DETAILS,
    MAX_LOG_LINES,
    MAX_STREAM_CHARS,
    MAX_STREAMS,
    LogLine,
    WatchState,
)
from semantic_tui.widgets.figures import block_map, budget_bar, known_blocks, sparkline
from semantic_tui.widgets.top_line import complaint, span


def token(agent: str, text: str, num_tokens: int, request: str = "r") -> dict[str, object]:
    return {"agent": agent, "request": request, "text": text, "num_tokens": num_tokens}


def test_a_stream_is_the_text_of_the_newest_request() -> None:
    state = WatchState()
    for event in (token("a", "old", 1, "r1"), token("a", "he", 1, "r2"), token("a", "llo", 2, "r2")):
        state.take("token", event)
    assert state.streams["a"].text == "hello"
    assert state.streams["a"].num_tokens == 2
    assert state.streams["a"].tail(3) == "llo"


def test_nothing_grows_without_bound() -> None:
    state = WatchState()
    for at in range(MAX_STREAMS + 10):
        state.take("token", token(f"agent-{at}", "x", 1))
    for _ in range(200):
        state.take("token", token("long", "y" * 1000, 1))
    for _ in range(MAX_LOG_LINES + 5):
        state.take("log", {"event": "e"})
    for _ in range(HISTORY + 5):
        state.take("status", {})
    assert len(state.streams) == MAX_STREAMS
    assert len(state.streams["long"].text) <= MAX_STREAM_CHARS
    assert len(state.log) == MAX_LOG_LINES
    assert all(len(points) == HISTORY for points in state.history.values())


def test_dropped_events_are_counted() -> None:
    state = WatchState()
    state.take("token", token("a", "x", 1), 7)
    state.take("status", {}, 2)
    assert state.num_dropped == 9


def test_the_time_to_the_first_token_is_that_of_turns_that_ended() -> None:
    state = WatchState()
    state.take("agents", {"agents": [{"id": "a", "num_turns": 1, "last_ttft_ms": 100.0}]})
    state.take("status", {})
    state.take("agents", {"agents": [{"id": "a", "num_turns": 1, "last_ttft_ms": 100.0, "state": "active"}]})
    state.take("status", {})
    state.take("agents", {"agents": [{"id": "a", "num_turns": 2, "last_ttft_ms": 300.0}]})
    state.take("status", {})
    assert list(state.history["ttft_ms"]) == [100.0, 100.0, 300.0]


def test_only_the_agents_looked_at_last_are_kept_in_detail() -> None:
    state = WatchState()
    for at in range(MAX_DETAILS + 3):
        state.take_details(f"agent-{at}", {"turns": []})
    assert len(state.details) == MAX_DETAILS
    assert "agent-2" not in state.details


def test_the_hit_rate_is_that_of_the_tokens_between_two_snapshots() -> None:
    state = WatchState()
    state.take("status", {"cache": {"hot_hit_tokens": 1000, "computed_tokens": 0}})
    state.take("status", {"cache": {"hot_hit_tokens": 1030, "computed_tokens": 10}})
    assert state.history["hit_rate"][-1] == 0.75


def test_what_is_malformed_or_unknown_does_no_harm() -> None:
    state = WatchState()
    for event in ("status", "agents", "requests", "model", "log", "token", "from the future"):
        state.take(event, {})
    assert state.agents == []


def test_every_word_of_a_filter_must_match() -> None:
    row = {"id": "planner", "state": "hot", "class": "interactive", "pinned": True}
    assert matches(row, "PLAN hot pinned")
    assert not matches(row, "plan cold")


def test_unknown_values_come_last_in_either_order() -> None:
    rows = [{"id": "a"}, {"id": "b", "num_tokens": 1}, {"id": "c", "num_tokens": 2}]
    assert [row["id"] for row in listed(rows, sort="num_tokens")] == ["c", "b", "a"]
    assert [row["id"] for row in listed(rows, sort="num_tokens", reverse=True)] == ["b", "c", "a"]


def test_the_log_is_filtered_by_level_and_words() -> None:
    line = LogLine(0, "", "warning", "disk_full", {"path": "/x"})
    assert wanted(line, "info", "path=/x")
    assert not wanted(line, "error", "")
    assert not wanted(line, "debug", "absent")


def test_a_sparkline_has_its_width_and_its_top() -> None:
    assert sparkline([], 4) == "    "
    assert sparkline([0, 1], 4) == "  ▁█"
    assert sparkline([0.5], 1, top=1.0) == "▅"


def test_the_budget_bar_has_exactly_its_width_even_beyond_the_budget() -> None:
    for used in (0, 1, 500, 5000):
        bar = budget_bar(
            {"budget_bytes": 1000, "hot_bytes": used, "running_bytes": used, "pinned_bytes": 1}, 30
        )
        assert len(bar.plain) == 30


def test_blocks_are_drawn_from_counts_where_the_daemon_does_not_tell_them_one_by_one() -> None:
    cache = {"num_hot_blocks": 3, "num_shared_blocks": 1, "num_warm_blocks": 5}
    assert block_map(known_blocks(cache, None), 10, 2).plain == "◆■■□□"
    # Told one by one: shared ones first, and the five on disk hold all but the block that is not there yet.
    assert block_map(known_blocks(cache, [("hot", 1), ("dirty", 2)]), 10, 2).plain == "◆■□□□□"


def test_the_block_map_never_leaves_its_area() -> None:
    lines = block_map([("hot", 1)] * 1001, 10, 4).plain.splitlines()
    assert len(lines) <= 4
    assert max(map(len, lines)) == 10


def test_stale_data_is_called_stale_and_says_its_age() -> None:
    state = WatchState(connection="lost", reason="gone", status={"state": "ready"}, last_heard_at=10.0)
    assert "STALE: what is shown is 1 m 5 s old" in complaint(state, 75.0)
    assert "Press S" in complaint(WatchState(connection="absent"), 0.0)
    assert complaint(WatchState(connection="connected"), 0.0) == ""


def test_durations_have_their_two_largest_units() -> None:
    assert [span(s) for s in (5, 65, 3720, 90000)] == ["5 s", "1 m 5 s", "1 h 2 m", "1 d 1 h"]
