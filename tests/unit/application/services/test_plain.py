"""Results become plain values under their published names."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from semanticd.application.services.plain import AS_CLASS, FLAT, HIDDEN, IF_KNOWN, plain


class Colour(enum.Enum):
    RED = "red"


class Pair(NamedTuple):
    left: int
    right: str


@dataclass(frozen=True, slots=True)
class Inner:
    first: int
    priority: str = field(metadata=AS_CLASS)


@dataclass(frozen=True, slots=True)
class Outer:
    before: str
    inner: Inner = field(metadata=FLAT)
    more: Mapping[str, Any] = field(metadata=FLAT)
    known: int | None = field(metadata=IF_KNOWN)
    unknown: int | None = field(metadata=IF_KNOWN)
    secret: int = field(metadata=HIDDEN)
    nothing: int | None
    nested: tuple[Inner, ...]


def test_fields_keep_their_names_and_their_order_unless_they_say_otherwise() -> None:
    inner = Inner(1, "background")
    made = plain(Outer("b", inner, {"x": (1, 2)}, 0, None, 7, None, (inner,)))
    assert list(made.items()) == [
        ("before", "b"),
        ("first", 1),
        ("class", "background"),
        ("x", [1, 2]),
        ("known", 0),
        ("nothing", None),
        ("nested", [{"first": 1, "class": "background"}]),
    ]


def test_tuples_become_lists_and_enumerations_their_values() -> None:
    assert plain({"pairs": (Pair(1, "a"),), "colour": Colour.RED}) == {"pairs": [[1, "a"]], "colour": "red"}


def test_what_is_no_result_comes_back_as_it_is() -> None:
    thing = object()
    assert plain([thing, b"x", True, None]) == [thing, b"x", True, None]
