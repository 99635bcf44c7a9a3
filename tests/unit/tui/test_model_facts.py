"""What a change of models says before it happens."""

from __future__ import annotations

import pytest

from semantic_tui.model_facts import swap_text
from tests.fakes import watch_states


@pytest.mark.parametrize(("model", "is_fetched"), [("qwen3-4b", False), ("deepseek-coder-v2-lite", True)])
def test_a_swap_says_whether_files_are_fetched_first(model: str, is_fetched: bool) -> None:
    assert ("they are downloaded first" in swap_text(watch_states.busy(), model)) == is_fetched
