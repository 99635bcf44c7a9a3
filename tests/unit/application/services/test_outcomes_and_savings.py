"""What is counted about requests, and the verdict on a turn: bounded, and right to the token."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from semanticd.application.services.agent_facts import turn_facts
from semanticd.application.services.history import SERIES, fold
from semanticd.application.services.outcomes import MAX_FAILURES_KEPT, Outcomes
from semanticd.application.services.savings import Savings
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
        ({"prefill_ms": 1000.0}, {}, "4.4 of 5.4 s while the engine computed for other requests."),
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
