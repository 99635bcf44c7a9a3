"""Arguments of control commands: declared in the table of commands, checked here before a command runs.

Every complaint names the argument, what was given and what was expected. No number is without bounds on both sides:
what is declared without them gets those of its kind.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from semanticd.domain.agent_bounds import MAX_COUNT, MAX_TTL_S

Kind = Literal["text", "integer", "number", "flag", "texts"]

_EXPECTED: dict[Kind, str] = {
    "text": "text",
    "integer": "a whole number",
    "number": "a number",
    "flag": "true or false",
    "texts": "a list of texts",
}
_HIGHEST: dict[Kind, float] = {"integer": MAX_COUNT, "number": MAX_TTL_S}
"""Maximum of a number: counts and bytes, and seconds."""
_REQUIRED = object()


class ArgumentError(ValueError):
    """The arguments of a command are wrong; the message says which and how."""


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a command; without a `default` it must be given, and null stands for the default."""

    name: str
    kind: Kind = "text"
    meaning: str = ""
    default: Any = _REQUIRED
    choices: tuple[str, ...] = ()
    minimum: float = 0
    above: float | None = None
    """Exclusive lower bound of a number, if it has one."""
    maximum: float | None = None
    """None: the highest of its kind."""
    max_chars: int = 4096
    """The longest text."""

    @property
    def required(self) -> bool:
        """Whether the argument is required."""
        return self.default is _REQUIRED

    def expected(self) -> str:
        """Return a description of the accepted values."""
        words = f"one of {', '.join(self.choices)}" if self.choices else _EXPECTED[self.kind]
        if self.kind not in _HIGHEST:
            return words
        if self.above is not None:
            return f"{words} above {self.above:g}, at most {self.highest:.0f}"
        return f"{words} from {self.minimum:g} to {self.highest:.0f}"

    @property
    def highest(self) -> float:
        """The maximum of a number."""
        return _HIGHEST[self.kind] if self.maximum is None else self.maximum

    def holds(self, value: float) -> bool:
        """Return whether a number is within the bounds."""
        above = self.above is None or value > self.above
        return above and self.minimum <= value <= self.highest


def check(given: Mapping[str, Any], declared: Sequence[Argument]) -> dict[str, Any]:
    """Return all declared arguments with their values or defaults.

    Raises:
        ArgumentError: An argument is unknown, missing or out of bounds.
    """
    names = [argument.name for argument in declared]
    for name in given:
        if name not in names:
            raise ArgumentError(_unknown(name, names))
    return {argument.name: _value(given, argument) for argument in declared}


def _unknown(name: str, names: list[str]) -> str:
    # No text is compared or sent back in the length that a frame has.
    close = difflib.get_close_matches(name[:60], names, n=1)
    if close:
        return f"unknown argument {_shown(name)}; did you mean {close[0]!r}?"
    return f"unknown argument {_shown(name)}; " + (
        f"expected: {', '.join(names)}" if names else "this command takes none"
    )


def _value(given: Mapping[str, Any], argument: Argument) -> Any:
    value = given.get(argument.name)
    if value is None:
        if argument.required:
            raise ArgumentError(f"argument {argument.name!r} is missing: expected {argument.expected()}")
        return argument.default
    fits = _fits(value, argument) and (not argument.choices or value in argument.choices)
    if not fits or (argument.kind in ("integer", "number") and not argument.holds(value)):
        raise ArgumentError(f"argument {argument.name!r} is {_shown(value)}: expected {argument.expected()}")
    return value


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _fits(value: object, argument: Argument) -> bool:
    kind, longest = argument.kind, argument.max_chars
    if kind == "text":
        return _is_text(value, longest)
    if kind == "texts":
        return (
            isinstance(value, list)
            and 0 < len(value) <= 64
            and all(_is_text(item, longest) for item in value)
        )
    if kind == "flag":
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if kind == "integer":
        return isinstance(value, int)
    return isinstance(value, int) or (isinstance(value, float) and value - value == 0)  # finite


def _is_text(value: object, longest: int) -> bool:
    return isinstance(value, str) and 0 < len(value) <= longest
