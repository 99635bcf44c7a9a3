"""What `agents why` prints of a miss."""

from __future__ import annotations

from semanticd.control.results import MissRow, TurnRow
from semanticd.entrypoints.cli.agents import explained


def test_tokens_a_step_are_said_where_guesses_were_right() -> None:
    for steps, said in ((0, False), (40, False), (16, True)):
        text = explained(TurnRow(completion_tokens=40, decode_steps=steps, decode_ms=900))
        assert ("decode 900 ms, 2.5 tokens per step" in text) == said


def test_an_answer_that_the_budget_cut_short_says_so() -> None:
    said = "was cut off because the KV budget was full: raise SEMANTIC_MLX_CACHE_BUDGET_MB"
    assert said in explained(TurnRow(finish_reason="kv_budget"))
    assert said not in explained(TurnRow(finish_reason="length"))


def test_where_the_prompt_goes_on_as_before_no_difference_is_shown() -> None:
    lost = explained(TurnRow(miss=MissRow(cause="files_missing", position=256, expected="the text there")))
    assert "left the cache at token 256: files missing\n    at 'the text there'" in lost
    assert "found" not in lost
    changed = explained(
        TurnRow(miss=MissRow(cause="date_changed", position=9, expected="1 May", found="2 May"))
    )
    assert "expected '1 May', found '2 May'" in changed
