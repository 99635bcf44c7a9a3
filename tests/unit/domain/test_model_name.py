"""Which names of models are paths."""

from __future__ import annotations

import pytest

from semanticd.domain.model_name import did_you_mean, is_path


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


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("smollm2-135n", "smollm2-135m"),
        ("SmolLM-135M", "smollm2-135m"),
        ("openai/smolm2-135m", "smollm2-135m"),
        ("qwen3-8", "Qwen3-8B"),
        ("smollm2-135m", None),
        ("SMOLLM2-135M", None),
        ("deepseek", None),
        ("gpt-5", None),
        ("", None),
        ("x" * 5000, None),
        ("smollm2-135n" + "\n" * 5000, None),
    ],
)
def test_a_mistyped_name_is_answered_with_the_nearest_known_one(name: str, meant: str | None) -> None:
    said = did_you_mean(name, ["smollm2-135m", "Qwen3-8B"])
    assert said == ("" if meant is None else f" (did you mean {meant!r}?)")


def test_of_two_that_are_near_the_earlier_groups_is_preferred() -> None:
    assert "'qwen3-4b'" in did_you_mean("qwen3-8bb", ["qwen3-4b"], ["qwen3-8b"])
    assert "'qwen3-8b'" in did_you_mean("qwen3-8bb", ["smollm2"], ["qwen3-8b"])
    assert did_you_mean("qwen3-8b", ["qwen3-4b"], ["qwen3-8b"]) == "", "it is spelled right, and not loaded"
