"""Reads calls whose arguments are a JSON object as they come, and hands the arguments' text on piece by piece.

A family says what stands before the arguments (`CallHead`): `{"name": …, "arguments": ` with most, a name between
control tokens with others. The emitted text is at every moment the beginning of valid JSON: reading stops at the
first character that breaks it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Literal

_MAX_HEAD = 1024
_SPACE = " \t\n\r"
_CLOSING = _SPACE + ",;}]"
_NUMBER_SO_FAR = re.compile(r"-?(?:(?:0|[1-9]\d*)(?:\.\d*)?(?:(?<=\d)[eE][+-]?\d*)?)?\Z", re.ASCII)
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?\Z", re.ASCII)
_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')
"""Characters that a string contains without an escape."""
_LITERALS = ("true", "false", "null")
_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}

Piece = tuple[Literal["name", "arguments", "text"], str]
"""A part of a call, or text that stands before one."""


@dataclass(frozen=True, slots=True)
class CallHead:
    """The text before a call's arguments, and between them and the next call, as patterns.

    A group is the name: `name` as it is, or `quoted`, a JSON string.
    """

    first: re.Pattern[str]
    following: re.Pattern[str]
    anywhere: re.Pattern[str]
    """A head alone, to be searched for."""
    after: re.Pattern[str]
    """Text that belongs to a call after its arguments."""

    @classmethod
    def of(cls, head: str, *, before: str = r"\s*", after: str) -> CallHead:
        """Put the patterns together: `before` the first call's head, `after` a call's arguments."""
        head = f"(?:{head})\\s*(?=\\{{)"
        return cls(
            first=re.compile(before + head, re.DOTALL),
            following=re.compile(rf"{after}[\s;,]*{head}", re.DOTALL),
            anywhere=re.compile(head, re.DOTALL),
            after=re.compile(after, re.DOTALL),
        )


JSON_CALL = (
    r'\{\s*(?:"(?:type|id)"\s*:\s*"[^"]*"\s*,\s*)*"name"\s*:\s*(?P<quoted>"(?:[^"\\]|\\.)*")\s*,'
    r'\s*"(?:arguments|parameters)"\s*:'
)
AFTER_JSON_CALL = r'\s*(?:,\s*"(?:type|id)"\s*:\s*"[^"]*"\s*)*\}'

JSON_HEAD = CallHead.of(JSON_CALL, before=r"\s*(?:\[\s*)?", after=AFTER_JSON_CALL)
"""Calls as most families write them, alone, one after another, or in a list."""


class JsonCallReader:
    """The calls of one block; those in another form or order never yield a name and are left to a whole-text parser."""

    def __init__(self, head: CallHead = JSON_HEAD) -> None:
        self.started = False
        """Whether a call was begun."""
        self.complete = False
        """Whether the last call's arguments were read to their end."""
        self.rest = ""
        """Text after the end of the last arguments, or after an error in them; not emitted yet."""
        self._begun: list[str] = []
        self._head = head
        self._pattern = head.first
        self._seen: str | None = ""
        self._object: JsonObjectReader | None = None

    @property
    def begun(self) -> str:
        """Text of the last call, from its head to the end of its arguments or to the first error in them."""
        return "".join(self._begun)

    @property
    def left(self) -> str:
        """Text after the last call, without the delimiters that close the call and its list."""
        closing = self._head.after.match(self.rest)
        end = closing.end() if closing is not None else 0
        return self.rest[end or _end_of_object(self.rest) :].lstrip(_CLOSING)

    def feed(self, text: str) -> list[Piece]:
        """Take more text; return each call's name once, then its arguments' text in pieces."""
        pieces: list[Piece] = []
        while text:
            if self._object is None:
                name, text = self._search(text)
                if name is None:
                    break
                self.started, self.complete, self.rest, self._object = True, False, "", JsonObjectReader()
                pieces.append(("name", name))
                continue
            before = text
            taken, text = self._object.feed(before)
            self._begun.append(before[: len(before) - len(text)])
            if taken:
                pieces.append(("arguments", taken))
            if self._object.complete or self._object.broken:
                self.complete = self._object.complete
                self._pattern, self._seen = self._head.following, "" if self.complete else None
                self._object = None
        return pieces

    def end(self) -> list[Piece]:
        """Process the end of the block: a truncated call stays truncated."""
        return []

    def _search(self, text: str) -> tuple[str | None, str]:
        """Look for the next call's head; return its name and the text after it."""
        self.rest += text
        if self._seen is None:
            return None, ""
        self._seen += text
        match = self._pattern.match(self._seen, 0, _MAX_HEAD)
        if match is None:
            if len(self._seen) > _MAX_HEAD:
                self._seen = None
            return None, ""
        groups = match.groupdict()
        name = groups.get("name") or _decoded(groups.get("quoted") or "")
        head = match if self._pattern is self._head.first else self._head.anywhere.search(self._seen)
        self._begun = [self._seen[(head or match).start() : match.end()]]
        after, self._seen = self._seen[match.end() :], None
        return (name, after) if name is not None else (None, "")


class JsonObjectReader:
    """Follows one JSON object character by character; raw line breaks in strings, which models write, are escaped."""

    def __init__(self) -> None:
        self.complete = False
        self.broken = False
        self._stack: list[str] = []
        self._expected = "object"
        self._scalar = ""
        self._escape = ""

    @property
    def in_string(self) -> bool:
        """Whether the next character stands inside of a string."""
        return self._expected in ("string", "key string") and not self.broken

    @property
    def depth(self) -> int:
        """Number of open objects and lists."""
        return len(self._stack)

    def feed(self, text: str) -> tuple[str, str]:
        """Return the object's text, and the text after its end or after the point where it breaks."""
        taken: list[str] = []
        at = 0
        while at < len(text) and not self.complete:
            plain = _PLAIN.match(text, at) if self.in_string and not self._escape else None
            accepted = plain[0] if plain is not None else self._accept(text[at])
            if self.broken or accepted is None:
                self.broken = True
                break
            taken.append(accepted)
            at += len(plain[0]) if plain is not None else 1
        return "".join(taken), text[at:]

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


def _end_of_object(text: str) -> int:
    """Return where an object ends of which text begins behind a value; 0 where it does not."""
    start = '{"": 0 '
    try:
        return json.JSONDecoder(strict=False).raw_decode(start + text)[1] - len(start)
    except (ValueError, RecursionError):
        return 0


def _decoded(literal: str) -> str | None:
    """Return the string that a JSON literal stands for; None when it is invalid, or cannot be encoded as UTF-8."""
    try:
        text = str(json.loads(literal))
        text.encode()
    except ValueError:
        return None
    return text or None
