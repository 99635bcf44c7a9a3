"""Regular expressions as trees: read in the syntax of Rust's `regex`, as far as they can be written again.

Sets of characters are numbers of 129 bits: a bit for each ASCII character, and the last for all others.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

MAX_DEPTH = 60
"""Brackets within one another."""
NUM_ASCII = 128
OTHERS = 1 << NUM_ASCII
ALL = (OTHERS << 1) - 1


def set_of(characters: Iterable[str]) -> int:
    """Return a set of ASCII characters."""
    return reduce(lambda found, one: found | 1 << ord(one), characters, 0)


CONTROLS = set_of(map(chr, range(32)))
ESCAPED = CONTROLS | set_of('"\\')
"""Characters that JSON escapes."""

_DIGITS = set_of("0123456789")
_WORD = _DIGITS | set_of("_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_SPACE = set_of(" \t\n\r\f\v")


class UntranslatableError(Exception):
    """The pattern cannot be expressed for a JSON string here."""


@dataclass(frozen=True, slots=True)
class Characters:
    """One character of a set."""

    source: str
    """As a regular expression."""
    members: int
    """Of the characters beyond ASCII some may be in the set."""
    ignores_case: bool = False


@dataclass(frozen=True, slots=True)
class Chain:
    """One node after another."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several nodes."""

    options: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """A node several times; `most` of None is without an end."""

    node: Node
    least: int
    most: int | None


Node = Characters | Chain | Choice | Repeat


def literal(text: str, *, ignores_case: bool = False) -> Node:
    """Return the node of a text."""
    return Chain(tuple(character(one, ignores_case=ignores_case) for one in text))


def character(one: str, *, ignores_case: bool = False) -> Characters:
    """Return the node of one character."""
    code = ord(one)
    found = 1 << code if code < NUM_ASCII else OTHERS
    # A character that needs no escape in any pattern or line of a grammar.
    source = one if one.isascii() and (one.isalnum() or one in " _") else f"\\x{{{code:x}}}"
    return Characters(source, found | (_both_cases(one) if ignores_case else 0), ignores_case)


def between(first: str, last: str) -> Characters:
    """Return the node of one character of a range."""
    if len(first) != 1 or len(last) != 1 or first > last:
        raise UntranslatableError("a range needs two characters in order")
    source = f"[\\x{{{ord(first):x}}}-\\x{{{ord(last):x}}}]"
    return Characters(source, _range(ord(first), ord(last)))


def _both_cases(one: str) -> int:
    # Some letters beyond ASCII fold to k and s.
    return set_of(c for c in one.lower() + one.upper() if c.isascii()) | (OTHERS if one in "kKsS" else 0)


def _range(first: int, last: int) -> int:
    ascii_part = ((1 << (min(last, NUM_ASCII - 1) + 1)) - 1) & ~((1 << first) - 1) if first < NUM_ASCII else 0
    return ascii_part | (OTHERS if last >= NUM_ASCII else 0)


class PatternReader:
    """Reads a pattern in the syntax of Rust's `regex`, as far as it can be rewritten."""

    def __init__(self, pattern: str, flags: str = "") -> None:
        """Read this pattern under these flags (i, s; others are not known here)."""
        if set(flags) - set("ismu"):
            raise UntranslatableError(f"the flags {flags!r} of a pattern")
        self._text = pattern
        self._at = 0
        self._case = "i" in flags
        self._dot_is_all = "s" in flags
        self._depth = 0

    def read(self) -> Node:
        """Return the whole pattern's node.

        Raises:
            UntranslatableError: it has parts that cannot be rewritten, or is not a pattern.
        """
        found = self._choice()
        if self._at < len(self._text):
            raise UntranslatableError("a pattern with a bracket that was not opened")
        return found

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self) -> str:
        one = self._peek()
        if not one:
            raise UntranslatableError("a pattern that ends too early")
        self._at += 1
        return one

    def _choice(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise UntranslatableError("a pattern with too many brackets within one another")
        options = [self._sequence()]
        while self._peek() == "|":
            self._at += 1
            options.append(self._sequence())
        self._depth -= 1
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def _sequence(self) -> Node:
        parts: list[Node] = []
        while self._peek() not in ("", "|", ")"):
            parts.append(self._repeated(self._atom()))
        return parts[0] if len(parts) == 1 else Chain(tuple(parts))

    def _repeated(self, node: Node) -> Node:
        while True:
            counts = re.compile(r"\{(\d+)(?:(,)(\d*))?\}").match(self._text, self._at)
            if self._peek() in ("*", "+", "?") and self._peek():
                sign = self._take()
                node = Repeat(node, 1 if sign == "+" else 0, 1 if sign == "?" else None)
            elif counts:
                self._at = counts.end()
                least = int(counts[1])
                most = (int(counts[3]) if counts[3] else None) if counts[2] else least
                node = Repeat(node, least, most)
            else:
                return node
            if self._peek() == "?":
                raise UntranslatableError("a lazy repetition in a pattern")

    def _atom(self) -> Node:
        one = self._take()
        if one == "(":
            return self._group()
        if one == "[":
            return self._class(self._at - 1)
        if one == ".":
            if self._dot_is_all:
                return Characters("(?s:.)", ALL)
            return Characters("[^\\n]", ALL & ~set_of("\n"))
        if one == "\\":
            return self._escape()
        if one in "^$":
            raise UntranslatableError(f"the anchor {one} in a pattern")
        if one in "*+?{":
            raise UntranslatableError("a repetition of nothing in a pattern")
        return character(one, ignores_case=self._case)

    def _group(self) -> Node:
        before = self._case, self._dot_is_all
        named = re.compile(r"\?P?<[A-Za-z_]\w*>").match(self._text, self._at)
        if named:
            self._at = named.end()
        elif self._peek() == "?":
            flags = re.compile(r"\?([isU]*)(?:-([isU]*))?(:|\))").match(self._text, self._at)
            if flags is None or "U" in flags[0]:
                raise UntranslatableError("a lookaround or a flag in a pattern")
            self._at = flags.end()
            self._case = (self._case or "i" in flags[1]) and "i" not in (flags[2] or "")
            self._dot_is_all = (self._dot_is_all or "s" in flags[1]) and "s" not in (flags[2] or "")
            if flags[3] == ")":
                # They hold until the group around them ends.
                return Chain(())
        found = self._choice()
        if self._take() != ")":
            raise UntranslatableError("a pattern with a bracket that is not closed")
        self._case, self._dot_is_all = before
        return found

    def _escape(self) -> Characters:
        begins = self._at - 1
        one, found = self._escaped()
        if one is not None:
            return character(one, ignores_case=self._case)
        return Characters(self._text[begins : self._at], found)

    def _escaped(self) -> tuple[str | None, int]:
        """Return the character that an escape stands for, or None and the set."""
        one = self._take()
        if one in "xuU":
            digits = re.compile(r"\{([0-9A-Fa-f]{1,8})\}").match(self._text, self._at)
            if digits is None:
                number = {"x": 2, "u": 4, "U": 8}[one]
                digits = re.compile(f"([0-9A-Fa-f]{{{number}}})").match(self._text, self._at)
            if digits is None or int(digits[1], 16) > 0x10FFFF or 0xD800 <= int(digits[1], 16) < 0xE000:
                raise UntranslatableError("an escape in a pattern that names no character")
            self._at = digits.end()
            return chr(int(digits[1], 16)), 0
        if one in "ntrfva":
            return {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "a": "\a"}[one], 0
        if one in "dws":
            known = {"d": _DIGITS, "w": _WORD, "s": _SPACE}[one]
            return None, known | OTHERS
        if one in "DWS":
            known = {"D": _DIGITS, "W": _WORD, "S": _SPACE}[one]
            return None, ALL & ~known
        if one in "pP":
            return None, self._property(negated=one == "P")
        if one.isascii() and one.isalnum():
            raise UntranslatableError(f"\\{one} in a pattern")
        return one, 0

    def _property(self, *, negated: bool) -> int:
        named = re.compile(r"\{(\^?)([A-Z][a-z]?)\}|([A-Z])").match(self._text, self._at)
        if named is None:
            raise UntranslatableError("a property of characters in a pattern that is not a general category")
        self._at = named.end()
        category = named[2] or named[3]
        found = set_of(c for c in map(chr, range(NUM_ASCII)) if unicodedata.category(c).startswith(category))
        return (ALL & ~found if negated != bool(named[1]) else found) | OTHERS

    def _class(self, begins: int) -> Characters:
        is_negated = self._peek() == "^"
        self._at += is_negated
        found = 0
        is_first = True
        while is_first or self._peek() != "]":
            is_first = False
            found |= self._class_item()
        self._at += 1
        if self._case:
            # Case matters to letters alone, and none of them is escaped.
            letters = (chr(code) for code in range(NUM_ASCII) if found >> code & 1)
            found = reduce(lambda cases, one: cases | _both_cases(one), letters, found)
        if is_negated:
            found = ALL & ~found | OTHERS
        return Characters(self._text[begins : self._at], found, self._case)

    def _class_item(self) -> int:
        one = self._take()
        if one == "[" or (one in "&-~" and self._peek() == one):
            raise UntranslatableError("a set of characters within another in a pattern")
        if one == "\\":
            named, found = self._escaped()
            if named is None:
                return found
            one = named
        if self._peek() != "-" or self._text[self._at + 1 : self._at + 2] in ("]", ""):
            return _range(ord(one), ord(one))
        self._at += 1
        last = self._take()
        if last == "\\":
            named, _ = self._escaped()
            if named is None:
                raise UntranslatableError("a range in a pattern that ends in a class")
            last = named
        if last == "[" or last < one:
            raise UntranslatableError("a range in a pattern that is out of order")
        return _range(ord(one), ord(last))
