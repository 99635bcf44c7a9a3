"""Thinking that was sealed here is accepted again; thinking that others sealed or changed is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semanticd.adapters.http.openai.responses.reasoning import ReasoningForm, seal, signing_key, unseal

KEY = signing_key(())


@given(st.text(max_size=200))
def test_sealed_thinking_comes_back(text: str) -> None:
    assert unseal(seal(text, KEY), KEY) == text


def test_the_key_depends_on_the_api_keys_and_not_on_their_order_or_the_process() -> None:
    assert signing_key(("a", "b")) == signing_key(("b", "a"))
    assert signing_key(("a",)) != KEY
    assert unseal(seal("hm", KEY), signing_key(("a",))) is None


@pytest.mark.parametrize(
    "sealed", ["", "sem1.", "sem1.AAAA", "gAAAAABo", "sem1.é", seal("hm", KEY)[:-4] + "AAAA"]
)
def test_what_was_not_sealed_here_is_not_read(sealed: str) -> None:
    assert unseal(sealed, KEY) is None


def test_an_item_shows_thinking_as_it_was_asked_for() -> None:
    text = [{"type": "reasoning_text", "text": "hm"}]
    summary = [{"type": "summary_text", "text": "hm"}]
    plain = ReasoningForm().item("rs_1", "hm")
    assert plain == {"type": "reasoning", "id": "rs_1", "summary": [], "content": text}
    assert ReasoningForm(summarized=True).item("rs_1", "hm") == {**plain, "summary": summary, "content": []}
    assert ReasoningForm(key=KEY).item("rs_1", "hm") == {**plain, "encrypted_content": seal("hm", KEY)}
