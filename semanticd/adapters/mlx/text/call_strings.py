"""Says of a block of calls, as its text comes, whether a marker in it stands inside of a quoted string.

Inside of a string a marker is part of an argument, unless the model forgot the quote before its marker. So what follows
is held until the open value is whole (the marker is part of a string), or breaks, or the answer ends (it is a marker).
After `MOST_HELD` characters without a decision it is part of a string: written text has quotes, and they break JSON.
"""

from __future__ import annotations

import re

from semanticd.adapters.mlx.text.brackets import BracketEnd
from semanticd.adapters.mlx.text.json_call import JsonObjectReader

MOST_HELD = 1024
"""Characters that are held at most, the marker's included."""

_OPENS = re.compile(r"\{|(?<=\w)\(")
"""Start of a value whose strings are followed: a JSON object, or the arguments of a call in Python."""
_LEAD = re.compile(r"[\s\w.\[]*\Z")


class CallStrings:
    """Follows a block's values one after another; behind one that breaks no string is known."""

    def __init__(self, *, leading: bool = False) -> None:
        """Begin before the first character; with `leading` the block begins with a value, a list or a call's name."""
        self._leading = leading
        self._value: _JsonValue | _PythonValue | None = None
        self._is_over = False
        self._last = ""
        """The last character outside of values."""

    @property
    def inside(self) -> bool:
        """Whether the next character stands inside of a string."""
        return self._value is not None and self._value.in_string

    def drop(self) -> None:
        """Know no string any more."""
        self._value, self._is_over = None, True

    def feed(self, text: str) -> None:
        """Read all of the text."""
        while text and not self._is_over:
            value = self._value
            if value is None:
                text = self._open(text)
                continue
            num_read, is_whole = self.settle(text)
            text = text[num_read:]
            if is_whole is False and isinstance(value, _JsonValue) and text.startswith("'"):
                # JSON's values in Python's spelling.
                self._value, self._is_over = _PythonValue(depth=value.depth), False

    def settle(self, text: str) -> tuple[int, bool | None]:
        """Read on in the open value; return the number of characters read, and whether the value is whole.

        False: the value breaks at the next character. None: it is still open.
        """
        if self._value is None:
            return 0, False
        num_read, is_whole = self._value.read(text)
        if is_whole:
            self._value = None
        elif is_whole is False:
            self.drop()
        return num_read, is_whole

    def _open(self, text: str) -> str:
        """Look for the next value; return the text from its beginning on."""
        found = _OPENS.search(self._last + text)
        start = found.start() - len(self._last) if found is not None else len(text)
        if self._leading and not _LEAD.match(text[:start]):
            self.drop()
            return ""
        if found is None:
            self._last = text[-1]
            return ""
        self._value = _JsonValue() if found[0] == "{" else _PythonValue()
        self._leading, self._last = False, ""
        return text[start:]


class HeldText:
    """Text from a marker inside of a string on, held until it is decided whether the string contains the marker."""

    def __init__(self, strings: CallStrings) -> None:
        """Hold nothing yet; `strings` have read the text before the marker."""
        self._strings = strings
        self._parts: list[str] = []
        self._room = MOST_HELD

    @property
    def text(self) -> str:
        """All that is held."""
        return "".join(self._parts)

    def feed(self, text: str) -> tuple[str, bool | None]:
        """Take more text; return what is not held of it, and whether the marker is part of a string.

        None: that is not decided, and all of the text is held. After False the strings are dropped.
        """
        num_read, is_whole = self._strings.settle(text[: self._room])
        self._parts.append(text[:num_read])
        self._room -= num_read
        if is_whole is None and not self._room:
            is_whole = True
        return text[num_read:], is_whole


class _JsonValue:
    def __init__(self) -> None:
        self._reader = JsonObjectReader()

    @property
    def in_string(self) -> bool:
        return self._reader.in_string

    @property
    def depth(self) -> int:
        return self._reader.depth

    def read(self, text: str) -> tuple[int, bool | None]:
        _, rest = self._reader.feed(text)
        is_whole = True if self._reader.complete else (False if self._reader.broken else None)
        return len(text) - len(rest), is_whole


class _PythonValue:
    """Arguments in brackets; a string that continues on the next line breaks them."""

    def __init__(self, *, depth: int = 0) -> None:
        self._end = BracketEnd("\"'", depth=depth)

    @property
    def in_string(self) -> bool:
        return self._end.in_string

    def read(self, text: str) -> tuple[int, bool | None]:
        at = 0
        while at < len(text):
            if text[at] == "\n" and self._end.in_string:
                return at, False
            end = text.find("\n", at + 1)
            line = text[at : end if end >= 0 else len(text)]
            closed = self._end.feed(line)
            if closed is not None:
                return at + closed, True
            at += len(line)
        return at, None
