"""What is counted about requests, and the verdict on a turn: bounded, and right to the token."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from semanticd.application.services.agent_facts import turn_facts
from semanticd.application.services.history import SERIES, KeptHistory, fold
from semanticd.application.services.outcomes import MAX_FAILURES_KEPT, Outcomes
from semanticd.application.services.samples import Sample, columns_of, samples_of
from semanticd.application.services.savings import MAX_DAYS_KEPT, Savings
from semanticd.application.services.verdict import verdict
from semanticd.domain.generation import CacheMiss, CacheReport
from tests.fakes.agents import make_turn
from tests.fakes.telemetry import ManualClock, RecordingMetrics


def refuse(outcomes: Outcomes, agent: str | None = "a", **more: Any) -> None:
    facts = {"kind": "refused", "request_id": "r", "agent_id": agent, "status": 429, **more}
    outcomes.not_answered("rate_limited", "too many requests", **facts)


def test_a_failure_is_kept_with_its_agent_and_reason_and_counted_for_a_minute() -> None:
    clock = ManualClock()
    outcomes = Outcomes(clock=clock)
    outcomes.answered()
    refuse(outcomes)
    refuse(outcomes, kind="failed", status=500)
    facts = outcomes.facts()
    assert (facts.num_answered, facts.num_failed, facts.num_refused) == (1, 1, 1)
    assert (facts.num_failed_last_minute, facts.num_refused_last_minute) == (1, 1)
    assert facts.last is not None
    assert (facts.last.agent, facts.last.code, facts.last.status) == ("a", "rate_limited", 500)
    assert outcomes.of_agent("a") == 2
    clock.advance(61)
    assert outcomes.facts().num_failed_last_minute == 0
    assert outcomes.facts().num_failed == 1


def test_failures_in_a_row_end_with_an_answer() -> None:
    outcomes = Outcomes(clock=ManualClock())
    for _ in range(3):
        refuse(outcomes, kind="failed")
    assert outcomes.facts().num_failed_in_a_row == 3
    refuse(outcomes)
    assert outcomes.facts().num_failed_in_a_row == 3, "a refusal says nothing of the engine"
    outcomes.answered()
    assert outcomes.facts().num_failed_in_a_row == 0


def test_only_the_last_failures_are_kept_newest_first() -> None:
    outcomes = Outcomes(clock=ManualClock())
    for at in range(MAX_FAILURES_KEPT + 5):
        refuse(outcomes, agent=f"agent-{at}")
    recent = outcomes.recent()
    assert len(recent) == MAX_FAILURES_KEPT
    assert recent[0].agent == f"agent-{MAX_FAILURES_KEPT + 4}"


def test_reused_tokens_are_worth_the_prefill_they_spare() -> None:
    clock = ManualClock()
    savings = Savings(clock=clock, metrics=RecordingMetrics())
    savings.started("a", CacheReport(300, 200, 0, 100), prefill_tokens_per_s=0.0)
    savings.started("a", CacheReport(300, 150, 50, 100), prefill_tokens_per_s=100.0)
    evicted = CacheReport(100, 0, 0, 100, CacheMiss(0, "evicted"))
    savings.started("b", evicted, prefill_tokens_per_s=100.0)
    total = savings.facts().total
    assert (total.reused_tokens, total.saved_s) == (400, 2.0)
    assert (total.recomputed_tokens, total.recomputed_s) == (100, 1.0)
    assert savings.of_agent("a").saved_s == 2.0
    assert savings.of_agent("b").recomputed_tokens == 100
    clock.advance(86_400)
    assert savings.facts().today.reused_tokens == 0
    assert savings.facts().total.reused_tokens == 400


DAY_S = 86_400
NOON = 1_700_049_600.0
"""2023-11-15 12:00 UTC."""


def saves(savings: Savings, agent: str, tokens: int) -> None:
    savings.started(agent, CacheReport(tokens, tokens, 0, 0), prefill_tokens_per_s=100.0)


def reused_today(savings: Savings) -> int:
    return savings.facts().today.reused_tokens


@pytest.fixture
def in_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Returns what sets the machine's time zone."""

    def choose(zone: str) -> None:
        monkeypatch.setenv("TZ", zone)
        time.tzset()

    yield choose
    monkeypatch.undo()
    time.tzset()


def test_today_is_a_day_of_the_local_calendar(in_zone: Callable[[str], None]) -> None:
    """Los Angeles: 2023-11-15 ends at 08:00 UTC of the 16th."""
    in_zone("America/Los_Angeles")
    clock = ManualClock(wall=NOON + 11 * 3600)  # 23:00 UTC, 15:00 there
    savings = Savings(clock=clock, metrics=RecordingMetrics())
    saves(savings, "a", 5)
    clock.advance(2 * 3600)  # the next day of UTC
    assert reused_today(savings) == 5
    saves(savings, "a", 2)
    assert reused_today(savings) == 7
    clock.advance(7 * 3600 - 1)
    assert reused_today(savings) == 7
    clock.advance(1)
    assert reused_today(savings) == 0
    assert savings.facts().total.reused_tokens == 7


@pytest.mark.parametrize(("begin", "hours"), [("2026-03-29", 23), ("2026-10-25", 25), ("2026-11-29", 24)])
def test_a_day_has_the_hours_that_daylight_saving_gives_it(
    begin: str, hours: int, in_zone: Callable[[str], None]
) -> None:
    in_zone("Europe/Berlin")
    midnight = datetime.strptime(begin, "%Y-%m-%d").timestamp()  # noqa: DTZ007 (local time is meant)
    clock = ManualClock(wall=midnight)
    savings = Savings(clock=clock, metrics=RecordingMetrics())
    saves(savings, "a", 5)
    clock.advance(3600 * hours - 1)
    assert reused_today(savings) == 5
    clock.advance(1)
    assert reused_today(savings) == 0


def test_a_clock_that_is_set_back_counts_for_its_day_again() -> None:
    clock = ManualClock(wall=NOON)
    savings = Savings(clock=clock, metrics=RecordingMetrics())
    saves(savings, "a", 5)
    clock.advance(DAY_S)
    saves(savings, "a", 2)
    clock.advance(-DAY_S)
    assert reused_today(savings) == 5
    saves(savings, "a", 1)
    assert reused_today(savings) == 6
    clock.advance(DAY_S)
    assert reused_today(savings) == 2
    for _ in range(3 * MAX_DAYS_KEPT):
        clock.advance(DAY_S)
        saves(savings, "a", 1)
    clock.advance(-200 * DAY_S)
    saves(savings, "a", 4)
    assert reused_today(savings) == 4, "also a day that is older than all that are kept"
    assert len(savings.kept()["days"]) == MAX_DAYS_KEPT
    assert savings.facts().total.reused_tokens == 12 + 3 * MAX_DAYS_KEPT


def after_a_restart(savings: Savings, clock: ManualClock) -> Savings:
    restarted = Savings(clock=clock, metrics=RecordingMetrics())
    restarted.restore(json.loads(json.dumps(savings.kept())), is_known=lambda agent: agent != "gone")
    return restarted


def test_savings_go_on_after_a_restart() -> None:
    clock = ManualClock(wall=NOON)
    savings = Savings(clock=clock, metrics=RecordingMetrics())
    for agent, tokens in (("a", 300), ("b", 200), ("gone", 100)):
        saves(savings, agent, tokens)
    restarted = after_a_restart(savings, clock)
    assert restarted.facts() == savings.facts()
    assert restarted.of_agent("a").saved_s == 3.0
    assert restarted.of_agent("gone").reused_tokens == 0, "it was deleted while no daemon ran"
    assert restarted.num_recomputed == 0, "which is what this daemon did"
    saves(restarted, "a", 100)
    assert (reused_today(restarted), restarted.of_agent("a").saved_s) == (700, 4.0)
    clock.advance(DAY_S)
    next_day = after_a_restart(restarted, clock)
    assert (reused_today(next_day), next_day.facts().total.reused_tokens) == (0, 700)


def test_a_deleted_agent_is_in_nothing_that_is_kept() -> None:
    savings = Savings(clock=ManualClock(), metrics=RecordingMetrics())
    saves(savings, "a", 300)
    saves(savings, "b", 300)
    before = savings.num_changes
    savings.forget("never seen")
    assert (savings.num_changes, savings.forgotten.is_set()) == (before, False)
    savings.forget("a")
    assert savings.num_changes > before
    assert savings.forgotten.is_set()
    assert '"a"' not in json.dumps(savings.kept())
    assert savings.facts().total.reused_tokens == 600


@pytest.mark.parametrize(
    "kept",
    [
        {},
        {"total": [1, 2, 3, 4], "days": {}},
        {"total": [1, 2, 3], "days": {}, "agents": {}},
        {"total": [1, 2, 3, -4], "days": {}, "agents": {}},
        {"total": [1, 2, 3, float("nan")], "days": {}, "agents": {}},
        {"total": [1, 2, 3, True], "days": {}, "agents": {}},
        {"total": [1, 2, 3, "4"], "days": {}, "agents": {}},
        {"total": [1, 2, 3, 4], "days": [], "agents": {}},
        {"total": [1, 2, 3, 4], "days": {"2023-11-15": None}, "agents": {}},
        {"total": [1, 2, 3, 4], "days": {}, "agents": {"a": {}}},
    ],
)
def test_what_is_no_record_of_savings_changes_nothing(kept: dict[str, Any]) -> None:
    savings = Savings(clock=ManualClock(), metrics=RecordingMetrics())
    saves(savings, "a", 300)
    before = savings.kept()
    with pytest.raises(ValueError, match="expected"):
        savings.restore(kept, is_known=lambda agent: True)
    assert savings.kept() == before


SAMPLE: Sample = dict.fromkeys(SERIES, 1.0)


def kept_history(*parts: Sequence[Sample]) -> KeptHistory:
    return KeptHistory(NOON, *(columns_of(samples, SERIES) for samples in parts))


def test_kept_samples_come_back_as_they_were_but_for_digits_that_no_graph_shows() -> None:
    seconds = tuple({**SAMPLE, "ttft_ms": None, "used_bytes": 123456789.0 + at} for at in range(12))
    kept = kept_history(seconds, [SAMPLE], seconds[:2])
    again = KeptHistory.read(json.loads(json.dumps(kept.plain())))
    assert again.ended_at == NOON
    assert samples_of(again.tens) == [SAMPLE]
    assert (len(samples_of(again.seconds)), len(samples_of(again.pending))) == (12, 2)
    sample = samples_of(again.seconds)[3]
    assert sample["ttft_ms"] is None
    assert sample["used_bytes"] == pytest.approx(123456789, rel=1e-5)


def test_series_of_another_version_are_left_out_or_empty() -> None:
    plain = kept_history([SAMPLE], [], []).plain()
    plain["seconds"]["of_tomorrow"] = [7.0]
    del plain["seconds"]["queue"]
    (sample,) = samples_of(KeptHistory.read(plain).seconds)
    assert sample == {**SAMPLE, "queue": None}


@pytest.mark.parametrize(
    "change",
    [
        {"ended_at": None}, {"ended_at": "now"}, {"ended_at": float("inf")}, {"ended_at": True},
        {"seconds": None}, {"tens": []}, {"pending": {"queue": 3}}, {"seconds": {"queue": ["1"]}},
        {"seconds": {"queue": [float("nan")]}}, {"seconds": {"queue": [1.0], "running": []}},
    ],
)  # fmt: skip
def test_what_is_no_history_is_refused(change: dict[str, Any]) -> None:
    plain = kept_history([SAMPLE], [], []).plain()
    with pytest.raises(ValueError, match="expected"):
        KeptHistory.read({**plain, **change})


TURN = replace(
    turn_facts(make_turn(1)),
    ttft_ms=5400.0,
    queue_ms=0.0,
    restore_ms=0.0,
    prefill_ms=0.0,
    computed_tokens=900,
    miss=None,
)


@pytest.mark.parametrize(
    ("facts", "more", "said"),
    [
        ({"queue_ms": 4300.0, "prefill_ms": 900.0}, {"reason": "memory", "behind": "coder-2"},
         "4.3 of 5.4 s waiting for RAM behind coder-2."),
        ({"queue_ms": 4300.0}, {}, "4.3 of 5.4 s waiting before its work began."),
        ({"restore_ms": 5000.0, "restored_warm_tokens": 3072}, {}, "5.0 of 5.4 s reading 3,072 tokens from disk."),
        ({"prefill_ms": 5000.0, "miss": CacheMiss(512, "date_changed")}, {},
         "5.0 of 5.4 s computing 900 tokens: a date or time changed at token 512."),
        ({"prefill_ms": 5000.0, "miss": None}, {}, "5.0 of 5.4 s computing 900 tokens that were new."),
        ({"prefill_ms": 1000.0}, {},
         "4.4 of 5.4 s between its own steps: other requests ran, or the machine was busy."),
        ({"ttft_ms": 84.0, "prefill_ms": 70.0}, {},
         "Quick: the first token came after 84 ms; 900 tokens were computed."),
    ],
)  # fmt: skip
def test_the_verdict_names_the_longest_part_and_its_reason(
    facts: dict[str, Any], more: dict[str, Any], said: str
) -> None:
    assert verdict(replace(TURN, **facts), **more) == said


def test_ten_samples_become_one_and_gaps_stay_gaps() -> None:
    samples = [{**dict.fromkeys(SERIES), "evictions": 1.0, "queue": float(at)} for at in range(10)]
    samples[3]["ttft_ms"], samples[5]["ttft_ms"] = 100.0, 300.0
    folded = fold(samples)
    assert (folded["evictions"], folded["queue"], folded["ttft_ms"]) == (10.0, 9.0, 200.0)
    assert folded["hit_rate"] is None
