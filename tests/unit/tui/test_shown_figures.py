"""Figures as screens show them: none is cut, and none stands for one that is not measured, or not yet."""

from __future__ import annotations

from dataclasses import replace

import pytest

from semantic_tui.agent_columns import columns_for
from semantic_tui.agent_facts import speed_text
from semantic_tui.live import agent_state
from semantic_tui.screens.panels import activity_lines, pool_lines, series
from semantic_tui.series import SERIES
from semantic_tui.state import WatchState
from semantic_tui.widgets.figures import series_line
from semanticd.control.results import RequestRow, SavingsFacts, TurnRow
from tests.fakes import watch_states


def test_an_agent_in_its_first_turn_shows_tokens_and_no_bytes() -> None:
    state = WatchState()
    running = {"id": "r", "agent": "new", "state": "decoding", "prefilled_tokens": 80, "completion_tokens": 4}
    state.take("requests", {"requests": [running, {"id": "s", "agent": "new", "state": "waiting"}]})
    (new,) = state.rows()
    assert new.row.num_tokens == 84
    for width in (80, 120, 200):
        cells = {column.title: column.cell(new) for column in columns_for(width)}
        taken = {cells[name] for name in ("RAM", "own", "shared", "disk", "tier") if name in cells}
        assert taken == {"-"}


@pytest.mark.parametrize("width", [80, 120, 200])
def test_why_the_furthest_of_several_requests_waits_is_not_cut(width: int) -> None:
    (room,) = (column.width for column in columns_for(width) if column.title == "state")
    for reason in ("memory", "place", "leader", "restore", "turn"):
        rows = [RequestRow(state="waiting", wait_reason=reason, age_s=59_000)] * 3
        assert len(agent_state(None, rows)[0]) <= room


@pytest.mark.parametrize("key", ["tokens_per_s", "prefill_tokens_per_s", "itl_ms"])
def test_a_rate_is_a_dash_while_nothing_is_measured(key: str) -> None:
    state = watch_states.busy()
    state.history.forget()
    state.take_history({"step_s": 1, "first": 0, "last": 2, "series": {key: [900.0, 3987.0, None]}})
    assert series(state, key, 60, 60).plain.endswith("-")


def test_the_bounds_of_a_series_are_whole_or_not_there() -> None:
    kinds = {one.key: one.show for one in SERIES}
    shown = {
        (key, least, most): series_line("x", [least, most], "-", 90, wanted=2, show=kinds[key]).plain[-18:]
        for key, least, most in (
            ("itl_ms", 69.3, 239.5), ("itl_ms", 0.4, 1147.8), ("prefill_tokens_per_s", 1098, 12547),
            ("ttft_ms", 855, 16_600), ("hit_rate", 0.0, 0.85), ("used_bytes", 90 * 2**20, 333 * 2**20),
            ("used_bytes", 1_000_000_000, 900_000_000_000), ("queue", 0, 52),
        )
    }  # fmt: skip
    assert [text.strip() for text in shown.values()] == [
        "69.3 to 239.5 ms", "0.4 ms to 1.1 s", "1,098 to 12,547/s", "855 ms to 16.6 s", "0 to 85 %",
        "90.0 to 333.0 MiB", "", "0 to 52",
    ]  # fmt: skip


def test_what_graphs_show_is_said_whole_or_with_its_name_only() -> None:
    state = watch_states.busy()
    for width in range(30, 110):
        for shown in (pool_lines, activity_lines):
            captions = [line.plain for line in shown(state, width, 60, span_s=60) if ": " in line.plain[:10]]
            assert all(len(caption) <= width for caption in captions)


def test_savings_say_what_was_recomputed_and_what_is_todays_where_both_fit() -> None:
    state = watch_states.busy()
    savings = replace(state.status.savings or SavingsFacts(), saved_s=9.8, recomputed_tokens=6298)
    state.status = replace(state.status, savings=savings)
    ends = {
        width: next(
            line.plain for line in pool_lines(state, width, 20, span_s=60) if "of prefill" in line.plain
        )
        for width in (36, 56, 96)
    }
    assert ends[36].strip().endswith("9.8 s of prefill")
    assert ends[56].endswith("recomputed 6,298 tokens")
    assert ends[96].endswith("today 2 min, recomputed 6,298 tokens")


def test_the_graphs_of_turns_take_the_rows_there_are_and_name_the_turns() -> None:
    turn = TurnRow(ttft_ms=80.0, decode_ms=500.0, completion_tokens=40)
    one, three = (speed_text([turn] * num, 60, 30).plain for num in (1, 3))
    assert len(one.split("\n")) == 28
    assert "turn 1" in one
    assert "-1 turns" not in one
    assert "turn 3" in three
