"""Which names of models are paths."""

from __future__ import annotations

import pytest

from semanticd.domain.model_name import is_path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("smollm2-135m", False), ("org/name", False), ("hf:org/name", False), ("hf:org/name.gguf", False),
        ("./name", True), ("../name", True), ("~/name", True), ("~user/name", True), ("/name", True),
        ("name.gguf", True), ("org/name.gguf", True), ("NAME.GGUF", True), ("hf:org/NAME.GGUF", False),
    ],
)  # fmt: skip
def test_a_name_is_a_path_by_how_it_begins_or_ends(name: str, expected: bool) -> None:
    assert is_path(name) is expected
