"""Reads `{"name": …, "arguments": {…}}` as it comes and hands on the arguments' JSON text piece by piece.

What is handed on is at every moment the beginning of valid JSON: reading stops at the first character that breaks it.
"""

from __future__ import annotations

import json
import re
from typing import Literal

_HEAD = re.compile(
    r'^\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)', re.DOTALL
)
_MAX_HEAD = 1024
_SPACE = " \t\n\r"
_NUMBER_SO_FAR = re.compile(r"-?(?:(?:0|[1-9]\d*)(?:\.\d*)?(?:(?<=\d)[eE][+-]?\d*)?)?\Z", re.ASCII)
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?\Z", re.ASCII)
_LITERALS = ("true", "false", "null")
_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}

Piece = tuple[Literal["name", "arguments"], str]


class JsonCallReader:
    """One call; calls in another form or order never yield a name and are left to a whole-text parser."""

    def __init__(self) -> None:
        """Begin before the first character."""
        self.name: str | None = None
        self.rest = ""
        """What came after the arguments ended or broke; nothing of it was handed on."""
        self._head: str | None = ""
        self._object = JsonObjectReader()

    @property
    def complete(self) -> bool:
        """Whether the arguments were read to their end."""
        return self._object.complete

    def feed(self, text: str) -> list[Piece]:
        """Take more text; return the name once, then the arguments' text in pieces."""
        pieces: list[Piece] = []
        if self.name is None:
            if self._head is None:
                return []
            self._head += text
            match = _HEAD.match(self._head)
            name = _decoded(match.group(1)) if match else None
            if match is None or name is None:
                if len(self._head) > _MAX_HEAD or match is not None:
                    self._head = None
                return []
            self.name = name
            pieces.append(("name", name))
            text = self._head[match.end() :]
        taken, rest = self._object.feed(text)
        self.rest += rest
        if taken:
            pieces.append(("arguments", taken))
        return pieces


class JsonObjectReader:
    """Follows one JSON object character by character; raw line breaks in strings, which models write, are escaped."""

    def __init__(self) -> None:
        """Expect the opening brace."""
        self.complete = False
        self.broken = False
        self._stack: list[str] = []
        self._expected = "object"
        self._scalar = ""
        self._escape = ""

    def feed(self, text: str) -> tuple[str, str]:
        """Return what belongs to the object, and what comes after its end or the place where it breaks."""
        taken: list[str] = []
        for index, character in enumerate(text):
            if self.complete or self.broken:
                return "".join(taken), text[index:]
            accepted = self._accept(character)
            if accepted is None:
                self.broken = True
                return "".join(taken), text[index:]
            taken.append(accepted)
        return "".join(taken), ""

    def _accept(self, character: str) -> str | None:
        """Return the character as it is written in JSON, or None when it cannot come here."""
        if self._expected in ("string", "key string"):
            return self._in_string(character)
        if self._expected == "scalar":
            if self._continues_scalar(character):
                return character
            if self._scalar not in _LITERALS and not _NUMBER.match(self._scalar):
                return None
            self._expected = "comma or end"
        if character in _SPACE:
            return character
        return character if self._structure(character) else None

    def _in_string(self, character: str) -> str | None:
        if self._escape:
            self._escape += character
            if self._escape == "\\u" or (
                self._escape.startswith("\\u") and character in "0123456789abcdefABCDEF"
            ):
                self._escape = "" if len(self._escape) == 6 else self._escape
                return character
            if len(self._escape) == 2 and character in '"\\/bfnrt':
                self._escape = ""
                return character
            return None
        if character == "\\":
            self._escape = character
        elif character == '"':
            self._expected = "colon" if self._expected == "key string" else "comma or end"
        elif character < " ":
            return _ESCAPES.get(character, f"\\u{ord(character):04x}")
        return character

    def _continues_scalar(self, character: str) -> bool:
        text = self._scalar + character
        if any(literal.startswith(text) for literal in _LITERALS) or _NUMBER_SO_FAR.match(text):
            self._scalar = text
            return True
        return False

    def _structure(self, character: str) -> bool:
        expected = self._expected
        if expected == "object":
            return self._open(character) if character == "{" else False
        if expected == "colon":
            self._expected = "value"
            return character == ":"
        if expected == "comma or end":
            if character == ",":
                self._expected = "key" if self._stack[-1] == "}" else "value"
                return True
            return self._close(character)
        if expected in ("key", "key or end"):
            if character == '"':
                self._expected = "key string"
                return True
            return expected == "key or end" and self._close(character)
        if expected == "value or end" and self._close(character):
            return True
        return self._value(character)

    def _value(self, character: str) -> bool:
        if character == '"':
            self._expected = "string"
            return True
        if character in "{[":
            return self._open(character)
        self._expected, self._scalar = "scalar", ""
        return self._continues_scalar(character)

    def _open(self, character: str) -> bool:
        self._stack.append("}" if character == "{" else "]")
        self._expected = "key or end" if character == "{" else "value or end"
        return True

    def _close(self, character: str) -> bool:
        if character != self._stack[-1]:
            return False
        self._stack.pop()
        self._expected = "comma or end"
        self.complete = not self._stack
        return True


def _decoded(literal: str) -> str | None:
    """Return the string that a JSON literal stands for; None when it is none, or cannot be sent anywhere."""
    try:
        text = str(json.loads(literal))
        text.encode()
    except ValueError:
        return None
    return text or None
