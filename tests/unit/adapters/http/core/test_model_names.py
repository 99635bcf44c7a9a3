"""A model's name is found however a client spells it."""

from __future__ import annotations

import pytest

from semanticd.adapters.http.core.config import HttpConfig
from semanticd.adapters.http.core.model_names import PROVIDERS, among, means_current, spellings

PATTERNS = HttpConfig().model_patterns


def test_the_name_itself_comes_first_and_plainer_spellings_follow() -> None:
    assert spellings("tiny") == ["tiny"]
    assert spellings("OpenAI/Tiny:latest") == [
        "OpenAI/Tiny:latest",
        "OpenAI/Tiny",
        "Tiny",
        "openai/tiny:latest",
        "openai/tiny",
        "tiny",
    ]
    assert spellings("litellm_proxy/openai/tiny")[-1] == "tiny"
    assert spellings("Qwen/Qwen3") == ["Qwen/Qwen3", "qwen/qwen3"]
    assert spellings("openai/") == ["openai/"]


@pytest.mark.parametrize("name", ["TINY", "tiny:latest", "Tiny:LATEST", *(f"{p}/tiny" for p in PROVIDERS)])
def test_a_known_model_is_found_by_any_spelling(name: str) -> None:
    assert among(name, ["other", "Tiny"]) == "Tiny"


@pytest.mark.parametrize("name", ["tiny2", "tiny:8b", "org/tiny", ""])
def test_another_name_is_not_found(name: str) -> None:
    assert among(name, ["other", "Tiny"]) is None


@pytest.mark.parametrize(
    "name",
    [
        "default",
        "openai/default",
        "Default",
        "haiku",
        "sonnet",
        "opus",
        "sonnet[1m]",
        "anthropic/claude-sonnet-5",
        "GPT-5",
    ],
)
def test_names_of_the_vendors_mean_the_current_model(name: str) -> None:
    assert means_current(name, PATTERNS)


def test_a_name_that_only_looks_like_one_does_not() -> None:
    assert not means_current("my-gpt-5", PATTERNS)
    assert not means_current("anything", ())
