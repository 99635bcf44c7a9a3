"""Reads `{"name": …, "arguments": {…}}` as it comes and hands on the arguments' JSON text piece by piece."""

from __future__ import annotations

import json
import re
from typing import Literal

_HEAD = re.compile(
    r'^\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)', re.DOTALL
)

Piece = tuple[Literal["name", "arguments"], str]


class JsonCallReader:
    """One call; calls in another form or order never yield a name and are left to a whole-text parser."""

    def __init__(self) -> None:
        """Begin before the first character."""
        self.name: str | None = None
        self.complete = False
        self._head = ""
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def feed(self, text: str) -> list[Piece]:
        """Take more text; return the name once, then the arguments' text in pieces."""
        if self.complete:
            return []
        pieces: list[Piece] = []
        if self.name is None:
            self._head += text
            match = _HEAD.match(self._head)
            if match is None:
                return []
            self.name = str(json.loads(match.group(1)))
            pieces.append(("name", self.name))
            text = self._head[match.end() :]
        taken = self._take(text)
        if taken:
            pieces.append(("arguments", taken))
        return pieces

    def _take(self, text: str) -> str:
        for index, character in enumerate(text):
            if self._in_string:
                if self._escaped:
                    self._escaped = False
                elif character == "\\":
                    self._escaped = True
                elif character == '"':
                    self._in_string = False
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self.complete = True
                    return text[: index + 1]
        return text
