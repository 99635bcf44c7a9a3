"""The watch state: bounded, and tolerant of a daemon's data."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest

from semantic_tui.agent_columns import columns_for
from semantic_tui.agent_order import listed, matches
from semantic_tui.alarms import alarms
from semantic_tui.history import SAMPLES_KEPT, resampled
from semantic_tui.live import LiveAgent, agent_state, request_state, waits_text
from semantic_tui.plain import dashboard, span
from semantic_tui.screens.doctor import findings_text
from semantic_tui.screens.log import wanted
from semantic_tui.screens.panels import activity_lines, request_line
from semantic_tui.state import (
    MAX_DETAILS,
    MAX_LOG_LINES,
    MAX_OTHER_STREAMS,
    MAX_STREAM_CHARS,
    MAX_STREAMS,
    MAX_STREAMS_CHARS,
    MIN_STREAM_CHARS,
    STREAM_PIECE_CHARS,
    LogLine,
    WatchState,
)
from semantic_tui.widgets.figures import block_map, budget_bar, known_blocks, sparkline
from semantic_tui.widgets.top_line import complaint, headline
from semanticd.control.results import (
    AgentRow,
    CacheStats,
    DoctorResult,
    Finding,
    HelloResult,
    RequestRow,
    StatusResult,
    read,
)
from tests.fakes import watch_states


def token(agent: str, text: str, num_tokens: int, request: str = "r") -> dict[str, object]:
    return {"agent": agent, "request": request, "text": text, "num_tokens": num_tokens}


def test_a_stream_is_the_text_of_the_newest_request() -> None:
    state = WatchState()
    for event in (token("a", "old", 1, "r1"), token("a", "he", 1, "r2"), token("a", "llo", 2, "r2")):
        state.take("token", event)
    assert state.streams["a"].text == "hello"
    assert state.streams["a"].num_tokens == 2
    assert state.streams["a"].tail(3) == "llo"


def test_tokens_of_two_requests_of_one_agent_are_not_mixed() -> None:
    state = WatchState()
    rows = [{"id": request, "agent": "a", "state": "decoding"} for request in ("r1", "r2")]
    state.take("requests", {"requests": rows})
    for at in range(1, 4):
        for request, text in (("r1", "one "), ("r2", "two ")):
            state.take("token", token("a", text, at, request))
    assert state.streams["a"].text == "one one one "
    assert state.requests_heard("a") == {"r1", "r2"}
    state.take("requests", {"requests": rows[1:]})
    assert state.streams["a"].text == "two two two "
    assert state.streams["a"].num_tokens == 3
    assert not state.other_streams


def test_streams_alongside_others_are_bounded_and_leave_with_their_requests() -> None:
    state = WatchState()
    rows = [{"id": f"r{at}", "agent": "a", "state": "decoding"} for at in range(2 * MAX_OTHER_STREAMS)]
    state.take("requests", {"requests": rows})
    for row in rows:
        for _ in range(20):
            state.take("token", token("a", "x" * 512, 1, row["id"]))
    assert len(state.other_streams) == MAX_OTHER_STREAMS
    assert all(stream.num_chars <= MIN_STREAM_CHARS + 512 for _, stream in state.other_streams.values())
    state.take("requests", {"requests": rows[:1]})
    assert not state.other_streams


def test_streams_of_tokens_have_bounded_memory() -> None:
    state = WatchState()
    pieces = [f"{at:03} in a row, " for at in range(1000)]
    agents = [f"agent-{at}" for at in range(100)]
    for at, piece in enumerate(pieces):
        for agent in agents[: 100 if at % 50 == 0 else 2]:
            state.take("token", token(agent, piece, at + 1))
    kept = state.streams["agent-0"]
    assert "".join(pieces).endswith(kept.text)
    assert 0.9 < kept.num_chars * len(agents) / MAX_STREAMS_CHARS <= 1
    assert len(kept.pieces) <= 2 * kept.num_chars / STREAM_PIECE_CHARS


def test_nothing_grows_without_bound() -> None:
    state = WatchState()
    for at in range(MAX_STREAMS + 10):
        state.take("token", token(f"agent-{at}", "x", 1))
    for _ in range(200):
        state.take("token", token("long", "y" * 1000, 1))
    for _ in range(MAX_LOG_LINES + 5):
        state.take("log", {"event": "e"})
    for at in range(1000):
        state.take_history({"step_s": 1, "first": at, "last": at, "series": {"queue": [1.0]}})
    assert len(state.streams) == MAX_STREAMS
    assert len(state.streams["long"].text) <= MAX_STREAM_CHARS
    assert len(state.log) == MAX_LOG_LINES
    assert len(state.history.values("queue", 600)) == SAMPLES_KEPT[1]


def test_dropped_events_are_counted() -> None:
    state = WatchState()
    state.take("token", token("a", "x", 1), 7)
    state.take("status", {}, 2)
    assert state.num_dropped == 9


def test_only_the_agents_looked_at_last_are_kept_in_detail() -> None:
    state = WatchState()
    for at in range(MAX_DETAILS + 3):
        state.take_details(f"agent-{at}", {"turns": []})
    assert len(state.details) == MAX_DETAILS
    assert "agent-2" not in state.details


def test_history_grows_by_what_is_new_and_begins_again_after_a_gap() -> None:
    state = WatchState()
    state.take_history({"step_s": 1, "first": 0, "last": 1, "series": {"ttft_ms": [None, 80.0]}})
    state.take_history({"step_s": 1, "first": 2, "last": 2, "series": {"ttft_ms": [120.0]}})
    assert state.history.values("ttft_ms", 60) == [None, 80.0, 120.0]
    state.take_history({"step_s": 1, "first": 9, "last": 9, "series": {"ttft_ms": [1.0]}})
    assert state.history.values("ttft_ms", 60) == [1.0]


def test_points_that_are_drawn_keep_the_largest_value_and_the_gaps() -> None:
    assert resampled([1.0, 5.0, None, None, 2.0, 3.0], 3, 6) == [5.0, None, 3.0]
    assert resampled([4.0], 2, 4) == [None, 4.0]
    assert resampled([], 2, 4) == [None, None]


def test_dropped_events_end_with_the_connection() -> None:
    state = WatchState()
    state.begin(HelloResult(pid=1))
    state.take("status", {}, 94_417)
    state.take_history({"step_s": 1, "first": 0, "last": 0, "series": {"queue": [1.0]}})
    state.begin(HelloResult(pid=1))
    assert (state.num_dropped, state.history.last(1)) == (0, 0)
    state.begin(HelloResult(pid=2))
    assert state.history.last(1) == -1


def test_an_agent_in_its_first_turn_has_a_row_from_its_requests_arrival_on() -> None:
    state = WatchState()
    state.take("agents", {"agents": [{"id": "old", "state": "hot"}]})
    request = {"id": "r", "agent": "new", "state": "waiting", "age_s": 3.94, "wait_reason": "memory"}
    state.take("requests", {"requests": [request]})
    new, old = state.rows()
    assert (new.row.id, new.requests, old.row.id, old.requests) == (
        "new",
        (read(RequestRow, request),),
        "old",
        (),
    )
    assert agent_state(new.row, new.requests)[0] == "wait 3.9 s (RAM)"


def test_lines_that_were_fetched_are_not_taken_again_when_they_come_as_events() -> None:
    state = WatchState()
    lines = [{"timestamp": f"2026-11-28T08:00:0{at}Z", "event": f"e{at}"} for at in range(3)]
    state.take_recent_log({"lines": lines[:2]})
    for line in lines:
        state.take("log", line)
    assert [line.event for line in state.log] == ["e0", "e1", "e2"]
    state.take_recent_log({"lines": lines})
    assert len(state.log) == 3


def test_text_from_the_daemon_is_safe_as_soon_as_it_is_taken() -> None:
    state, hostile = WatchState(), "a\x1b[2Jb\u202ec"
    state.take("agents", {"agents": [{"id": hostile}]})
    state.take("requests", {"requests": [{"agent": hostile}]})
    state.take("token", {"agent": "a", "request": "r", "text": hostile, "num_tokens": 1})
    state.take("log", {"event": hostile, "fields": {hostile: hostile}})
    state.take("model", {"model": "m", "reason": hostile})
    state.take_recent_log({"lines": [{"timestamp": "1", "event": hostile}]})
    state.take_failures({"failures": [{"message": hostile}]})
    state.take_models({"models": [{"description": hostile}]})
    state.take_doctor({"findings": [{"message": hostile}]})
    state.take_details("a", {"system": hostile}, [{"content": hostile}])
    facts = (
        state.agents,
        state.requests,
        state.changes,
        state.failures,
        state.models,
        state.doctor,
        state.details,
    )
    shown = (
        json.dumps(facts, ensure_ascii=False, default=asdict)
        + state.streams["a"].text
        + "".join(line.text for line in state.log)
    )
    assert not set(shown) & {"\x1b", "\u202e"}
    assert r"\u001b" not in shown, "JSON's own escape of a control that was let through"


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"state": "decoding", "tokens_per_s": 27.4}, "decode 27/s"),
        ({"state": "decoding", "completion_tokens": 3}, "decode 3 tokens"),
        ({"state": "decoding", "tokens_per_s": 27.4, "tokens_per_step": 1.04}, "decode 27/s"),
        ({"state": "decoding", "tokens_per_s": 127.4, "tokens_per_step": 12.34}, "decode 127/s ×12.3"),
        ({"state": "prefilling", "prefill_progress": 0.43}, "prefill 43 %"),
        ({"state": "waiting", "restore_progress": 0.61, "wait_reason": "restore"}, "restore 61 %"),
        ({"state": "waiting", "age_s": 3.9, "wait_reason": "place"}, "wait 3.9 s (batch)"),
        ({"state": "waiting", "age_s": 93.7, "wait_reason": "leader"}, "wait 94 s (prefix)"),
        ({"state": "waiting", "age_s": 599, "wait_reason": "memory", "num_preemptions": 1}, "preempted 599 s (RAM)"),
        ({"state": "waiting", "age_s": 3.9, "wait_reason": "memory", "num_preemptions": 1}, "preempted 3.9 s (RAM)"),
        ({"state": "waiting", "age_s": 3.9, "wait_reason": "model"}, "wait 3.9 s (model loads)"),
        ({"state": "waiting", "age_s": 0.3, "wait_reason": "prompt"}, "wait 0.3 s (reading the prompt)"),
        ({"state": "waiting"}, "wait 0.0 s"),
    ],
)  # fmt: skip
def test_what_a_request_does_is_said_in_words(row: dict[str, Any], text: str) -> None:
    assert request_state(read(RequestRow, row))[0] == text


@pytest.mark.parametrize("reason", ["memory", "place", "leader", "restore", "turn", "model", "prompt"])
def test_why_a_request_waits_is_not_cut_in_the_narrowest_table(reason: str) -> None:
    (width,) = (column.width for column in columns_for(80) if column.title == "state")
    for age_s in (0.04, 9.94, 16.3, 599, 3600, 59_000):
        state = request_state(RequestRow(state="waiting", wait_reason=reason, age_s=age_s), room=width)[0]
        assert len(state) <= width


def test_alarms_name_the_agent_and_the_reason_errors_first() -> None:
    assert alarms(watch_states.busy()) == []
    found = alarms(watch_states.failing())
    assert [alarm.level for alarm in found] == ["error", "warning", "warning"]
    assert found[0].short == "engine failing: 12 in a row (tester: engine_error)"
    assert "out of memory" in found[0].detail
    assert "● failing" in headline(watch_states.failing()).plain


@pytest.mark.parametrize(
    ("free", "level"), [(None, None), (50 * 2**30, None), (2**30, "warning"), (2**28, "error"), (0, "error")]
)
def test_a_volume_that_is_nearly_full_is_an_alarm(free: int | None, level: str | None) -> None:
    state = watch_states.busy()
    state.status = replace(state.status, cache=replace(state.cache, free_disk_bytes=free))
    assert [alarm.level for alarm in alarms(state)] == ([level] if level else [])


def test_a_volume_below_the_reserve_is_an_alarm_that_names_the_setting() -> None:
    state = watch_states.busy()
    cache = replace(state.cache, free_disk_bytes=8 * 2**30, disk_reserve_bytes=10 * 2**30)
    state.status = replace(state.status, cache=cache)
    (alarm,) = alarms(state)
    assert (alarm.level, alarm.short) == ("warning", "disk reserve (8.0 GiB free)")
    assert "SEMANTIC_AGENT_DISK_RESERVE_GB" in alarm.detail


def test_the_engines_line_says_what_those_that_wait_are_waiting_for() -> None:
    state = watch_states.busy()
    wide, narrow = (activity_lines(state, width, 12, span_s=60)[0].plain for width in (60, 40))
    assert wide.endswith("2 waiting (RAM 1, disk 1)")
    assert narrow.endswith("2 waiting")
    reasons = [
        RequestRow(state="waiting", wait_reason=one) for one in ("place", "leader", "leader", None, "new")
    ]
    assert waits_text(reasons) == "prefix 2, batch 1"
    assert "2 waiting (RAM 1, disk 1)" in dashboard(state.status, state.agents, state.requests)


def test_a_requests_line_keeps_its_width_and_cuts_no_number() -> None:
    decoding = RequestRow(agent="a-rather-long-name-of-an-agent", state="decoding", completion_tokens=46,
                          max_new_tokens=120, tokens_per_s=3.0)  # fmt: skip
    for width in range(28, 100):
        line = request_line(decoding, width).plain
        assert len(line) <= max(width, 30)
        assert line.rstrip().endswith(("3/s", "46/120", "46 of 120", "46 of 120 tokens"))


def test_what_the_doctor_found_is_wrapped_beside_the_checks_name() -> None:
    finding = Finding(check="model", state="warning", message="one " * 20, advice="two " * 20)
    lines = findings_text(DoctorResult(findings=(finding,)), 60).plain.splitlines()
    assert len(lines) == 4
    assert all(line.startswith(" " * 15) and len(line) <= 60 for line in lines[1:])


def test_a_daemon_that_is_gone_is_not_called_ready() -> None:
    line = headline(watch_states.disconnected()).plain
    assert "ready" not in line
    assert "up " not in line


def test_what_is_malformed_or_unknown_does_no_harm() -> None:
    state = WatchState()
    for event in ("status", "agents", "requests", "model", "log", "token", "from the future"):
        state.take(event, {})
    assert state.agents == ()


def test_every_word_of_a_filter_must_match() -> None:
    agent = LiveAgent(AgentRow(id="planner", state="hot", priority="interactive", pinned=True))
    assert matches(agent, "PLAN hot pinned")
    assert not matches(agent, "plan cold")


def test_unknown_values_come_last_in_either_order() -> None:
    times = {"a": None, "b": 1.0, "c": 2.0}
    rows = [LiveAgent(AgentRow(id=name, last_ttft_ms=ms)) for name, ms in times.items()]
    assert [agent.row.id for agent in listed(rows, sort="last_ttft_ms")] == ["c", "b", "a"]
    assert [agent.row.id for agent in listed(rows, sort="last_ttft_ms", reverse=True)] == ["b", "c", "a"]


def test_the_log_is_filtered_by_level_and_words() -> None:
    line = LogLine(0, "", "warning", "disk_full", {"path": "/x"})
    assert wanted(line, "info", "path=/x")
    assert not wanted(line, "error", "")
    assert not wanted(line, "debug", "absent")


def test_a_sparkline_has_its_width_and_its_top() -> None:
    assert sparkline([], 4) == "    "
    assert sparkline([0, 1], 4) == "  ▁█"
    assert sparkline([0.5], 1, top=1.0) == "▅"
    assert sparkline([1.0, None, 1.0], 3) == "█ █", "what was not measured is a gap"


def test_the_budget_bar_has_exactly_its_width_even_beyond_the_budget() -> None:
    for used in (0, 1, 500, 5000):
        bar = budget_bar(
            CacheStats(budget_bytes=1000, hot_bytes=used, running_bytes=used, pinned_bytes=1), 30
        )
        assert len(bar.plain) == 30


def test_blocks_are_drawn_from_counts_where_the_daemon_does_not_tell_them_one_by_one() -> None:
    cache = CacheStats(num_hot_blocks=3, num_shared_blocks=1, num_warm_blocks=5)
    assert block_map(known_blocks(cache, None), 10, 2).plain == "◆■■□□"
    # Told one by one: shared ones first, and the five on disk hold all but the block that is not there yet.
    assert block_map(known_blocks(cache, [("hot", 1), ("dirty", 2)]), 10, 2).plain == "◆■□□□□"


def test_the_block_map_never_leaves_its_area() -> None:
    lines = block_map([("hot", 1)] * 1001, 10, 4).plain.splitlines()
    assert len(lines) <= 4
    assert max(map(len, lines)) == 10


def test_stale_data_is_called_stale_and_says_its_age() -> None:
    state = WatchState(
        connection="lost", reason="gone", status=StatusResult(state="ready"), last_heard_at=10.0
    )
    assert "STALE: the figures are 1 m 5 s old" in complaint(state, 75.0)
    assert "Press S" in complaint(WatchState(connection="absent"), 0.0)
    assert complaint(WatchState(connection="connected"), 0.0) == ""


def test_durations_have_their_two_largest_units() -> None:
    assert [span(s) for s in (5, 65, 3720, 90000)] == ["5 s", "1 m 5 s", "1 h 2 m", "1 d 1 h"]


def test_a_budget_that_was_lowered_because_memory_is_short_is_an_alarm() -> None:
    state = watch_states.busy()
    budget = state.cache.budget_bytes
    state.status = replace(state.status, cache=replace(state.cache, planned_bytes=budget))
    assert alarms(state) == []
    state.status = replace(state.status, cache=replace(state.cache, planned_bytes=2 * budget))
    (alarm,) = alarms(state)
    assert (alarm.level, alarm.short) == ("warning", "memory short: KV 4.0 GiB")
