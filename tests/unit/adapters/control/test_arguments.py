"""Arguments of control commands: every number has bounds, on both sides."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from semanticd.adapters.control import connection
from semanticd.adapters.control.arguments import Argument, ArgumentError, check
from semanticd.adapters.control.commands import COMMANDS


def numbers() -> Iterator[tuple[str, Argument]]:
    """Return all arguments that are numbers, of commands and of connections."""
    for name, spec in COMMANDS.items():
        yield from ((name, one) for one in spec.arguments)
    for name in ("_HELLO", "_SUBSCRIBE", "_UNSUBSCRIBE"):
        yield from ((name, one) for one in getattr(connection, name))


NUMBERS = [(name, one) for name, one in numbers() if one.kind in ("integer", "number")]


@pytest.mark.parametrize(("command", "argument"), NUMBERS, ids=lambda part: getattr(part, "name", part))
def test_every_number_is_taken_within_its_bounds_only(command: str, argument: Argument) -> None:
    lowest = argument.minimum if argument.above is None else argument.above
    assert math.isfinite(argument.highest)
    assert check({argument.name: int(argument.highest)}, [argument])
    for value in (math.inf, -math.inf, math.nan, 1e300, 2**63, argument.highest + 1, lowest - 1, -(2**63)):
        with pytest.raises(
            ArgumentError, match=r"expected a (whole )?number (from|above) .* (to|at most) \d+$"
        ):
            check({argument.name: value}, [argument])


def test_numbers_are_among_the_arguments() -> None:
    assert {(name, one.name) for name, one in NUMBERS} >= {
        ("agents.pin", "ttl_s"),
        ("agents.rewind", "turns"),
    }


@pytest.mark.parametrize(
    "name", ["".join(map(chr, range(32, 50_000))), "agent" * 100_000], ids=["many letters", "few letters"]
)
def test_an_unknown_name_is_neither_compared_nor_sent_back_in_its_whole_length(name: str) -> None:
    with pytest.raises(ArgumentError, match="unknown argument") as refused:
        check({name: 1}, (Argument("agent"),))
    assert len(str(refused.value)) < 200
