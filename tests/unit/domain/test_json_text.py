"""JSON inside of texts: as deep as a body may be, and a plain `ValueError` for all else."""

from __future__ import annotations

import json
import random
import re

import pytest

from semanticd.domain import json_text
from semanticd.domain.json_text import has_more_values, is_nested_deeper, parse_json_text
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


def count(text: str) -> int:
    """Return what `has_more_values` counts, found another way."""
    return 1 + len(re.findall(r"[,[{]", re.sub(r'"(?:[^"\\]|\\.)*"', "", text, flags=re.DOTALL)))


def random_value(rng: random.Random, depth: int) -> object:
    kind = rng.randrange(6) if depth else rng.randrange(4)
    if kind < 4:
        word = "".join(rng.choices('\\"[]{},:ab\U0001f600\n', k=rng.choice((0, 1, 3, 20))))
        return (word, 5, None, word * 3)[kind]
    items = [random_value(rng, depth - 1) for _ in range(rng.randrange(5))]
    return items if kind == 4 else {f'{index}"\\': item for index, item in enumerate(items)}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1 << 20])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_values_are_counted_outside_of_strings_however_the_text_is_cut(
    monkeypatch: pytest.MonkeyPatch, size: int, ascii_only: bool
) -> None:
    monkeypatch.setattr(json_text, "SLICE_CHARACTERS", size)
    for number in range(60):
        text = json.dumps(random_value(random.Random(number), 5), ensure_ascii=ascii_only)
        exact = count(text)
        for given in (text, text.encode()):
            assert not has_more_values(given, exact), text
            assert has_more_values(given, exact - 1), text


def test_text_of_more_values_than_a_body_may_hold_is_no_json() -> None:
    many = "[" + "1," * LIMITS.json_values + "1]"
    with pytest.raises(ValueError, match="more than"):
        parse_json_text(many)
    assert parse_json_text(json.dumps(["," * LIMITS.json_values])) == ["," * LIMITS.json_values]
