"""Kinds of values: each parses the value of a flag, a variable or a TOML key, and describes the expected form."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from semanticd.domain.model_name import HUB, is_path

_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value; `read` raises `ValueError` for anything that is not `expected`."""

    expected: str
    read: Callable[[object], Any]


def whole(*, minimum: int, maximum: int | None = None, choices: tuple[int, ...] = ()) -> Kind:
    """A whole number within bounds."""

    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError
        number = int(value)
        if number < minimum or (maximum is not None and number > maximum):
            raise ValueError
        if choices and number not in choices:
            raise ValueError
        return number

    if choices:
        return Kind(_either([str(choice) for choice in choices]), read)
    return Kind(f"a whole number {_bounds(minimum, maximum)}", read)


def auto_or(kind: Kind) -> Kind:
    """The word `auto`, or a value of another kind."""
    return _word_or("auto", kind, meant="auto")


def off_or(kind: Kind) -> Kind:
    """The word `off`, or a value of another kind."""
    return _word_or("off", kind, meant="off")


def exact_or(kind: Kind) -> Kind:
    """The word `exact`, which is read as None, or a value of another kind."""
    return _word_or("exact", kind, meant=None)


def _word_or(word: str, kind: Kind, *, meant: str | None) -> Kind:
    def read(value: object) -> Any:
        return meant if is_word(value, word) else kind.read(value)

    return Kind(f"{word}, or {kind.expected}", read)


def is_word(value: object, word: str) -> bool:
    """Return whether a value equals this word; ignores letter case."""
    return isinstance(value, str) and value.strip().lower() == word


def number(*, minimum: float, maximum: float | None = None) -> Kind:
    """A finite number within bounds."""

    def read(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        result = float(value)
        if not math.isfinite(result) or result < minimum or (maximum is not None and result > maximum):
            raise ValueError
        return result

    return Kind(f"a number {_bounds(minimum, maximum)}", read)


def text(expected: str = "text") -> Kind:
    """Any text that is not empty."""

    def read(value: object) -> str:
        if not isinstance(value, str) or not value.strip():
            raise ValueError
        return value.strip()

    return Kind(expected, read)


def texts(expected: str) -> Kind:
    """Texts: a TOML list, or separated by commas."""

    def read(value: object) -> tuple[str, ...]:
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            raise ValueError
        found = tuple(item.strip() for item in items if item.strip())
        if not found and isinstance(value, str) and value.strip():
            # Commas alone are a mistake: taken for nothing, they would leave a server without its key.
            raise ValueError
        return found

    return Kind(expected, read)


def key() -> Kind:
    """A secret that goes in an HTTP header, which takes printable ASCII only."""
    plain = text()

    def read(value: object) -> str:
        found: str = plain.read(value)
        if not _is_printable_ascii(found):
            raise ValueError
        return found

    return Kind("a key of printable ASCII, as in an HTTP header", read)


def keys() -> Kind:
    """Such secrets: a TOML list, or separated by commas."""
    plain = texts("keys")

    def read(value: object) -> tuple[str, ...]:
        found: tuple[str, ...] = plain.read(value)
        if not all(map(_is_printable_ascii, found)):
            raise ValueError
        return found

    return Kind(
        "one or more keys of printable ASCII, as in an HTTP header, separated by commas",
        read,
    )


def _is_printable_ascii(text: str) -> bool:
    return text.isascii() and text.isprintable()


def urls(*, most: int) -> Kind:
    """A bounded number of HTTP servers' addresses: a TOML list, or separated by commas; no folders, users or paths."""
    plain = texts("addresses")

    def read(value: object) -> tuple[str, ...]:
        found = tuple(item.rstrip("/") for item in plain.read(value))
        if len(found) > most or not all(_is_server(item) for item in found):
            raise ValueError
        return tuple(dict.fromkeys(found))

    return Kind(
        f"at most {most} addresses such as http://mac-2:8000, separated by commas, and no folder", read
    )


def _is_server(text: str) -> bool:
    parts = urlsplit(text)
    rest = parts.path or parts.query or parts.fragment or parts.username or parts.password
    # Asking for the port checks it.
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not rest and parts.port != 0


def choice(*choices: str, fold: Callable[[str], str] = str.lower) -> Kind:
    """One of some words, in either case."""

    def read(value: object) -> str:
        if not isinstance(value, str) or fold(value.strip()) not in choices:
            raise ValueError
        return fold(value.strip())

    return Kind(_either(list(choices)), read)


def flag() -> Kind:
    """True or false."""

    def read(value: object) -> bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.strip().lower() in _TRUE | _FALSE:
            return value.strip().lower() in _TRUE
        raise ValueError

    return Kind("true or false", read)


def folder() -> Kind:
    """A folder's path; `~` is the home folder, a relative one starts at the working folder."""
    return _path("a folder's path")


def file() -> Kind:
    """A file's path, likewise."""
    return _path("a file's path")


def _path(expected: str) -> Kind:
    def read(value: object) -> Path:
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            raise ValueError
        try:
            return Path(value.strip()).expanduser().absolute()
        except RuntimeError as error:
            raise ValueError from error  # `~` with the name of no user

    return Kind(expected, read)


def model() -> Kind:
    """A model's name, or a path; a relative one starts at the working folder."""

    def read(value: object) -> str:
        if not isinstance(value, str) or not value.strip():
            raise ValueError
        name = value.strip()
        try:
            return str(Path(name).expanduser().absolute()) if means_path(name) else name
        except (OSError, RuntimeError) as error:
            raise ValueError from error  # `~` with the name of no user, a name that the system refuses

    return Kind("a model's name", read)


def means_path(name: str) -> bool:
    """Return whether a model's name is a path; a plain word is a name even if a file here has this name."""
    return is_path(name) or (not name.startswith(HUB) and "/" in name and Path(name).exists())


def _bounds(minimum: float, maximum: float | None) -> str:
    low = _digits(minimum)
    return f"from {low}" if maximum is None else f"from {low} to {_digits(maximum)}"


def _digits(number: float) -> str:
    """Return a number with all of its digits: `1048576`, not `1.04858e+06`."""
    return str(int(number)) if number == int(number) else repr(number)


def _either(words: list[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
