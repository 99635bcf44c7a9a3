"""What `semanticd status` says to people of what needs their attention."""

from __future__ import annotations

from dataclasses import replace

from semanticd.control.results import (
    CacheStats,
    DraftSourceFacts,
    EngineFacts,
    LoadedModelFacts,
    PeerFacts,
    RankFacts,
    RequestRow,
    SavedFacts,
    SavingsFacts,
    StatusResult,
)
from semanticd.entrypoints.cli.status import render

MIB = 1024 * 1024
MODELS = (
    LoadedModelFacts(id="other", block_bytes=900 * MIB),
    LoadedModelFacts(id="m", current=True, block_bytes=6 * MIB),
)


def line(status: StatusResult, name: str) -> str:
    return next((line for line in render(status).splitlines() if line.startswith(name)), "")


def test_a_cap_below_a_block_of_the_model_is_said_to_keep_nothing() -> None:
    for cap, keeps_nothing in ((None, False), (6 * MIB, False), (6 * MIB - 1, True)):
        status = StatusResult(models=MODELS, cache=CacheStats(warm_cap_bytes=cap))
        said = line(status, "warm")
        assert ("keeps no whole block: one of m takes 6.0 MiB" in said) == keeps_nothing, said


def test_a_model_comes_with_what_it_computes_in_where_that_is_known() -> None:
    models = (LoadedModelFacts(id="m", current=True, compute_dtype="float32"),)
    assert line(StatusResult(model="m", models=models), "model") == "model    m, computed in float32"
    assert line(StatusResult(model="m", models=MODELS), "model") == "model    m"


def test_without_a_model_the_state_is_named_and_what_to_run_and_no_cause_is_invented() -> None:
    none = StatusResult(version="1", state="no_model", model_stage="idle", model_error="a/b: it is not there")
    assert line(none, "semanticd").startswith("semanticd 1: no model, up")
    assert line(none, "model") == "model    - no model is loaded; run `semanticd models load NAME`"
    assert line(none, "failed") == "failed   the last change of models: a/b: it is not there"
    away = replace(none, model_away="the machines lost their connection; rank 1 (10.0.0.2) has not joined")
    assert line(away, "model") == f"model    - {away.model_away}"
    loading = StatusResult(state="starting", model_stage="loading", model_progress=0.4)
    assert line(loading, "model") == "model    - (loading 40 %)"


def test_tokens_per_step_are_said_while_guesses_are_right() -> None:
    engine = EngineFacts(batch_size=1, tokens_per_step=2.34, num_draft_tokens=40, num_accepted_tokens=31)
    status = StatusResult(engine=engine)
    assert line(status, "engine").endswith("tok/s, 2.3 tokens per step")
    assert line(status, "guessed") == "guessed  31 of 40 drafted tokens accepted, each saved one decode step"
    sources = (DraftSourceFacts("forced", 9, 9), DraftSourceFacts("own"), DraftSourceFacts("earlier", 31, 22))
    assert line(StatusResult(engine=replace(engine, draft_sources=sources)), "guessed").endswith(
        "each saved one decode step (by a form 9 of 9, from earlier turns 22 of 31)"
    )
    assert line(StatusResult(engine=replace(engine, draft_sources=sources[:2])), "guessed").endswith(
        "each saved one decode step"
    )
    assert not line(StatusResult(engine=EngineFacts(batch_size=1)), "engine").endswith("a step")
    assert not line(StatusResult(), "guessed")


def test_a_machine_that_has_computed_nothing_yet_has_no_last_step() -> None:
    ranks = (RankFacts(0, "10.0.0.1", "ready", step_ms=3.21), RankFacts(1, "10.0.0.2", "ready"))
    said = render(StatusResult(ranks=ranks))
    assert "0 at 10.0.0.1: ready, 0 B, last step 3.2 ms, " in said
    assert "1 at 10.0.0.2: ready, 0 B, no step yet, " in said


def test_what_the_disk_refused_is_said() -> None:
    assert line(StatusResult(cache=CacheStats()), "unsaved") == ""
    refused = CacheStats(num_unsaved_agents=2, num_unsaved_responses=1)
    assert "2 agents and 1 response in memory only: the disk refused them" in line(
        StatusResult(cache=refused), "unsaved"
    )


def test_requests_that_wait_have_a_line_each_and_the_first_ones_only() -> None:
    rows = [RequestRow(agent=f"a{at}", state="waiting", age_s=3.9, wait_reason="model") for at in range(10)]
    rows.append(RequestRow(agent="b", state="decoding"))
    lines = render(StatusResult(), rows).splitlines()
    at = next(at for at, text in enumerate(lines) if text.startswith("waiting"))
    assert lines[at] == "waiting  a0: wait 3.9 s (model loads)"
    assert lines[at + 1] == "         a1: wait 3.9 s (model loads)"
    assert lines[at + 8] == "         and 2 more"
    assert "waiting " not in render(StatusResult(), rows[-1:])


def test_each_peer_has_a_line_and_its_failure_is_said() -> None:
    peers = (
        PeerFacts("http://mac-2:8000", "ready", 12, 9, 7, 3 * MIB, 0, 110.0 * MIB, None),
        PeerFacts("http://mac-3:8000", "resting", 3, 0, 0, 0, 2, None, "it cannot be reached"),
    )
    said = render(StatusResult(peers=peers)).splitlines()
    assert (
        "peers    http://mac-2:8000: ready, asked about 12 prompts, 7 blocks (3.0 MiB) read at 110.0 MiB/s"
        in said
    )
    assert (
        "         http://mac-3:8000: resting, asked about 3 prompts, 0 blocks (0 B) read, 2 failures; "
        "last: it cannot be reached" in said
    )
    assert not line(StatusResult(), "peers")


def test_savings_say_how_much_of_them_is_todays() -> None:
    savings = SavingsFacts(
        reused_tokens=900, saved_s=724.0, recomputed_tokens=12, today=SavedFacts(saved_s=61.0)
    )
    said = line(StatusResult(savings=savings), "saved")
    assert said.startswith(
        "saved    12m 4s of prefill by 900 tokens, 1m 1s of it today; 12 tokens recomputed"
    )
