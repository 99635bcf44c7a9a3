"""What the self-test makes of figures: the verdict that each deserves."""

from __future__ import annotations

import json
from typing import Any

import pytest

from semanticd.domain.chat import TextPrompt
from semanticd.domain.errors import OutOfMemoryError
from semanticd.domain.generation import (
    Choice,
    FinishReason,
    GenerationResult,
    TokenLogprob,
    Usage,
)
from semanticd.domain.ids import AgentId, ModelId, RequestId
from semanticd.entrypoints.selftest.model_checks import LoadFigures, judge_load
from semanticd.entrypoints.selftest.run import without_home
from semanticd.entrypoints.selftest.speed_checks import (
    DecodeRates,
    is_worth_keeping,
    judge_batches,
    judge_decode,
    judge_form,
    judge_prefill,
    judge_rest,
    logprob_difference,
    schema_problem,
)
from semanticd.entrypoints.selftest.storage_checks import Turn, judge_shortage, judge_turns

MIB = 1 << 20


def load(**figures: int) -> LoadFigures:
    sizes = {"planned_bytes": 500 * MIB, "weights_bytes": 500 * MIB, "active_bytes": 500 * MIB}
    return LoadFigures(took_s=1.0, peak_bytes=0, footprint_bytes=0, **{**sizes, **figures})


def test_weights_larger_than_planned_are_red_and_what_loading_leaves_behind_is_told() -> None:
    assert judge_load(load()).verdict == "ok"
    assert judge_load(load(weights_bytes=300 * MIB, active_bytes=300 * MIB)).verdict == "ok"
    assert judge_load(load(weights_bytes=900 * MIB, active_bytes=900 * MIB)).verdict == "fail"
    assert judge_load(load(active_bytes=900 * MIB)).verdict == "fail"
    assert judge_load(load(planned_bytes=2000 * MIB, active_bytes=900 * MIB)).verdict == "warn"


def test_the_smallest_of_equally_fast_chunks_is_the_best_one() -> None:
    found = judge_prefill({128: 50.0, 256: 98.0, 512: 100.0, 1024: 99.0}, {128: 0}, num_tokens=2048)
    assert (found.verdict, found.figures["best_chunk"]) == ("ok", 256)
    assert judge_prefill({128: 50.0, 256: 90.0, 512: 100.0}, {}, num_tokens=1).figures["best_chunk"] == 512


def test_chunks_that_take_more_than_the_reserve_or_gain_nothing_are_told() -> None:
    assert judge_prefill({256: 1.0, 1024: 2.0}, {1024: 3 << 30}, num_tokens=1024).verdict == "warn"
    assert judge_prefill({128: 3.0, 256: 2.0, 512: 1.0}, {}, num_tokens=1024).verdict == "warn"


@pytest.mark.parametrize(
    ("rates", "kept"),
    [
        ({128: 1.0, 512: 9.0, 2048: 5.0}, True),
        ({128: 1.0, 512: 5.0, 2048: 9.0}, True),
        ({128: 1.0, 256: 9.0, 512: 5.0}, True),
        ({128: 1.0, 256: 5.0, 512: 9.0}, False),  # 2,048 may be better still
        ({128: 9.0, 512: 5.0, 2048: 1.0}, False),  # odd: something else ran
        ({128: 1.0, 2048: 5.0}, False),
    ],
)
def test_only_a_measurement_that_tells_bounds_later_chunks(rates: dict[int, float], kept: bool) -> None:
    assert is_worth_keeping(judge_prefill(rates, {}, num_tokens=1), rates, (128, 512, 2048)) is kept


@pytest.mark.parametrize(("engine", "verdict"), [(120, "ok"), (96, "ok"), (90, "warn"), (45, "fail")])
def test_decoding_is_held_against_the_librarys_own(engine: float, verdict: str) -> None:
    assert judge_decode(DecodeRates(engine, 100.0)).verdict == verdict


def test_a_form_that_is_not_kept_is_red_and_a_slow_one_yellow() -> None:
    assert judge_form("schema", plain=100, formed=96, problem=None).verdict == "ok"
    assert judge_form("schema", plain=100, formed=80, problem=None).verdict == "warn"
    assert judge_form("thinking", plain=100, formed=96, problem=None).verdict == "warn"
    assert judge_form("thinking", plain=100, formed=100, problem="30 tokens").verdict == "fail"


@pytest.mark.parametrize(
    ("answer", "follows"),
    [
        ({"title": "a", "numbers": list(range(12))}, True),
        ({"title": "a", "numbers": [1]}, False),
        ({"title": 1, "numbers": list(range(12))}, False),
        ({"title": "a", "numbers": [True] * 12}, False),
        ({"title": "a"}, False),
        ([], False),
    ],
)
def test_an_answer_is_checked_against_the_schema(answer: Any, follows: bool) -> None:
    assert (schema_problem(json.dumps(answer)) is None) is follows


def test_an_answer_that_is_cut_is_no_json() -> None:
    assert "not JSON" in (schema_problem('{"title": "a') or "")


def test_rows_that_depend_on_their_neighbours_are_red() -> None:
    rates = {1: 10.0, 2: 19.0, 4: 30.0}
    assert judge_batches(rates, {1: 0.0, 4: 0.01}).verdict == "ok"
    assert judge_batches(rates, {1: 0.0, 4: 0.2}).verdict == "warn"
    assert judge_batches(rates, {1: 0.0, 4: 2.0}).verdict == "fail"
    assert judge_batches({1: 10.0, 4: 8.0}, {1: 0.0}).verdict == "warn"


def result(*logprobs: tuple[int, float]) -> GenerationResult:
    tokens = tuple(TokenLogprob(token, "", logprob) for token, logprob in logprobs)
    choice = Choice("", "", (), FinishReason.LENGTH, logprobs=tokens)
    return GenerationResult(RequestId("r"), ModelId("m"), AgentId("a"), (choice,), Usage())


def test_log_probabilities_are_compared_as_far_as_the_tokens_are_the_same() -> None:
    one = result((1, -0.5), (2, -1.0), (3, -0.1))
    assert logprob_difference(one, result((1, -0.5), (2, -1.25), (3, -0.1))) == pytest.approx(0.25)
    assert logprob_difference(one, result((1, -0.5), (9, -7.0), (3, -9.0))) == 0.0
    assert logprob_difference(one, result((9, -0.5), (2, -1.0))) >= 1.0


def turn(name: str, *, prompt: int, new: int, computed: int, warm: int = 0) -> Turn:
    return Turn(name, prompt, new, computed, warm, 1.0)


def test_a_turn_that_computes_what_was_cached_is_red() -> None:
    first = turn("first", prompt=900, new=900, computed=900)
    second = turn("second", prompt=1100, new=200, computed=210)
    last = turn("restarted", prompt=1300, new=200, computed=400, warm=900)
    assert judge_turns([first, second, last], block_tokens=256).verdict == "ok"
    computing = turn("restarted", prompt=1300, new=200, computed=1300)
    assert judge_turns([first, second, computing], block_tokens=256).verdict == "fail"
    not_warm = turn("restarted", prompt=1300, new=200, computed=300)
    assert judge_turns([first, second, not_warm], block_tokens=256).verdict == "fail"


def test_a_machine_that_wakes_slowly_is_told() -> None:
    assert judge_rest(0.1, 0.2, rested_s=60).verdict == "ok"
    assert judge_rest(0.1, 3.0, rested_s=60).verdict == "warn"


def test_one_request_may_fail_when_memory_runs_out_and_no_other() -> None:
    short, answer = OutOfMemoryError("no memory"), result()

    def verdict(victim: Any, others: list[Any], after: int = 5) -> str:
        return judge_shortage(victim=victim, others=others, budgets=(10, after), real=True).verdict

    assert verdict(short, [answer, answer]) == "ok"
    assert verdict(short, [answer, short]) == "fail"
    assert verdict(answer, [answer]) == "fail"
    assert verdict(ValueError("another error"), [answer]) == "fail"
    assert verdict(short, [answer], after=11) == "fail"


def test_no_report_names_the_users_home() -> None:
    event = {"path": "/Users/ann/.semantic", "list": ["/Users/ann", 1], "prompt": TextPrompt("x")}
    clean = without_home(event, ["/Users/ann"])
    assert (clean["path"], clean["list"]) == ("~/.semantic", ["~", 1])
