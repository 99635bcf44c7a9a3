"""What settings become when the daemon is put together."""

from __future__ import annotations

import pytest

from semanticd.entrypoints.assembly import max_drafts


@pytest.mark.parametrize(("speculation", "found"), [("auto", 12), ("off", 0), (1, 1), (64, 64)])
def test_speculation_is_how_many_tokens_are_guessed(speculation: int | str, found: int) -> None:
    assert max_drafts(speculation) == found
