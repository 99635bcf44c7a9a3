"""JSON inside of texts: as deep as a body may be, and a plain `ValueError` for all else."""

from __future__ import annotations

import random

import pytest

from semanticd.domain.json_text import is_nested_deeper, parse_json_text
from semanticd.domain.limits import LIMITS


def nested(depth: int, rng: random.Random) -> str:
    text = "1"
    for _ in range(depth):
        text = f"[{text}]" if rng.random() < 0.5 else f'{{"a": {text}, "b": [0]}}'
    return text


@pytest.mark.parametrize("depth", [*range(1, 62), *range(66, 2000, 37), 5_000, 100_000])
def test_text_is_parsed_up_to_the_limit_of_bodies(depth: int) -> None:
    text = nested(depth, random.Random(depth))
    if depth < LIMITS.nesting:
        assert not is_nested_deeper(parse_json_text(text), LIMITS.nesting)
    else:
        with pytest.raises(ValueError, match="nested"):
            parse_json_text(text)


def test_the_limit_itself_is_allowed() -> None:
    assert parse_json_text("[" * LIMITS.nesting + "]" * LIMITS.nesting)
    with pytest.raises(ValueError, match="nested deeper than 64 levels"):
        parse_json_text("[" * (LIMITS.nesting + 1) + "]" * (LIMITS.nesting + 1))


@pytest.mark.parametrize("text", ["", "{", "[" * 500, b"\xff", "x", "NaN", "[1e400]", "-Infinity"])
def test_what_is_no_json_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        parse_json_text(text)
