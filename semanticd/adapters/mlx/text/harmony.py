"""Reads answers in the channels that gpt-oss speaks in (the harmony format): every message says who it is for.

```
<|channel|>analysis<|message|>They want rain.<|end|>                                           thinking
<|start|>assistant<|channel|>final<|message|>It rains.                                         text
<|start|>assistant<|channel|>commentary to=functions.look <|constrain|>json<|message|>{"at":…} a call
```
The prompt ends after `<|start|>assistant`, so an answer begins inside a header. A marker inside of a string of a call
does not end it (`call_strings`). The format: OpenAI, harmony cookbook.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

from semanticd.adapters.mlx.text.answer_parts import Part
from semanticd.adapters.mlx.text.call_strings import CallStrings, HeldText
from semanticd.adapters.mlx.text.json_call import JsonObjectReader
from semanticd.domain.generation import (
    GenerationEvent,
    TextDelta,
    ThinkingDelta,
    ToolCallBroken,
    ToolCallDelta,
    ToolCallStarted,
)

MARKERS = ("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>")
"""Special tokens that the parser must see."""

_FINAL, _ENDS = "<|channel|>final<|message|>", ("<|end|>", "<|start|>")
"""Markers before the text for the user, and at the end of a message."""


def _parts() -> Mapping[str, Part]:
    """Return the parts of an answer, of which the client sees the final message alone; an answer begins in a header."""
    header, addressed, final = Part(), Part(), Part(is_visible=True)
    call = Part(strings=partial(CallStrings, leading=True))
    for part in (header, addressed, call):
        part.marks[_FINAL] = final
    for part in (addressed, call, final):
        part.marks.update(dict.fromkeys(_ENDS, header))
    header.marks["to="] = addressed
    addressed.marks["<|message|>"] = call
    return {"header": header, "addressed": addressed, "call": call, "final": final}


PARTS = _parts()
"""Parts of an answer by name, for stop strings (`answer_parts`)."""

_MARKER = re.compile("|".join(re.escape(marker) for marker in MARKERS))
_LONGEST = max(map(len, MARKERS))
_HEADERS = (*MARKERS, "to=", "assistant")
_LONGEST_HEADER = 256
_RECIPIENT = re.compile(r"\bto=(?:functions\.)?([\w.-]+)")

Kind = Literal["header", "text", "thinking", "call"]


class HarmonyParser:
    """One answer's parser; see the port `OutputParser`."""

    def __init__(
        self,
        *,
        names: Sequence[str],
        choice: int = 0,
        new_id: Callable[[], str] | None = None,
    ) -> None:
        """Calls of these tools are calls; a message to any other recipient is text."""
        self._names = frozenset(names)
        self._choice = choice
        self._new_id = new_id or (lambda: f"call_{secrets.token_hex(12)}")
        self._kind: Kind = "header"
        self._header = ""
        self._buffer = ""
        self._arguments = JsonObjectReader()
        self._strings = CallStrings(leading=True)
        """State of the strings in the last call's arguments, `_held` included."""
        self._held: HeldText | None = None
        """Text after a marker inside of a string; None: no marker is open."""
        self._written = ""
        """Text of the last call's arguments."""
        self._num_calls = self._num_broken = 0
        self.num_parse_failures = 0

    @property
    def num_tool_calls(self) -> int:
        """Calls begun so far, except those that broke off."""
        return self._num_calls - self._num_broken

    def feed(self, text: str) -> list[GenerationEvent]:
        """Take more text; return the events it completes."""
        self._buffer += text
        events: list[GenerationEvent] = []
        while self._advance(events):
            pass
        return events

    def finish(self, *, cut: bool = False) -> list[GenerationEvent]:
        """Take the end of the text; a call that is `cut` was passed on as far as it came."""
        events: list[GenerationEvent] = []
        while (held := self._held) is not None:
            self._buffer, self._held = held.text + self._buffer, None
            if cut:
                break
            self._strings.drop()
            while self._advance(events):
                pass
        rest, self._buffer = self._buffer, ""
        self._take(rest, events)
        self._end(events, cut=cut)
        return events

    def _advance(self, events: list[GenerationEvent]) -> bool:
        """Handle the buffer up to the next marker, or what is held; False when more text is needed."""
        if self._held is not None:
            return self._advance_held(self._held, events)
        match = _MARKER.search(self._buffer)
        at = match.start() if match is not None else len(self._buffer) - _possible_marker(self._buffer)
        text, self._buffer = self._buffer[:at], self._buffer[at:]
        if self._kind == "call":
            self._strings.feed(text)
        self._take(text, events)
        if match is None:
            return False
        if self._kind == "call" and self._strings.inside:
            self._held = HeldText(self._strings)
            return True
        self._buffer = self._buffer[len(match[0]) :]
        self._mark(match[0], events)
        return True

    def _advance_held(self, held: HeldText, events: list[GenerationEvent]) -> bool:
        self._buffer, in_string = held.feed(self._buffer)
        if in_string is None:
            return False
        self._held = None
        if in_string:
            self._take(held.text, events)
        else:
            self._buffer = held.text + self._buffer
        return True

    def _take(self, text: str, events: list[GenerationEvent]) -> None:
        if not text:
            return
        if self._kind == "header":
            self._header += text
            if not self._is_header():
                # No header at all, as under an enforced form: what comes is said to the user.
                text, self._header, self._kind = self._header, "", "text"
        if self._kind == "text":
            events.append(TextDelta(text, choice=self._choice))
        elif self._kind == "thinking":
            events.append(ThinkingDelta(text, self._choice))
        elif self._kind == "call":
            taken, _ = self._arguments.feed(text)
            if self._arguments.complete or self._arguments.broken:
                self._strings.drop()
            self._written += text
            if taken:
                events.append(ToolCallDelta(self._num_calls - 1, taken, self._choice))

    def _is_header(self) -> bool:
        begin = self._header.lstrip()
        if len(begin) > _LONGEST_HEADER:
            return False
        return any(begin.startswith(word) or word.startswith(begin) for word in _HEADERS)

    def _mark(self, marker: str, events: list[GenerationEvent]) -> None:
        if self._kind == "header":
            if marker == "<|message|>":
                self._begin(events)
            else:
                self._header = "" if marker in ("<|start|>", "<|end|>") else self._header + marker
        elif marker in ("<|start|>", "<|end|>", "<|channel|>"):
            self._end(events)
            self._header = marker if marker == "<|channel|>" else ""

    def _begin(self, events: list[GenerationEvent]) -> None:
        """Begin the message that the header announced."""
        header, self._header = self._header, ""
        recipient = _RECIPIENT.search(header)
        if recipient is not None and recipient.group(1) in self._names:
            self._kind, self._arguments, self._written = "call", JsonObjectReader(), ""
            self._strings = CallStrings(leading=True)
            events.append(ToolCallStarted(self._num_calls, self._new_id(), recipient.group(1), self._choice))
            self._num_calls += 1
        elif "analysis" in header and recipient is None:
            self._kind = "thinking"
        else:
            self.num_parse_failures += recipient is not None
            self._kind = "text"

    def _end(self, events: list[GenerationEvent], *, cut: bool = False) -> None:
        if self._kind == "call" and not self._arguments.complete:
            self.num_parse_failures += 1
            if not cut:
                self._num_broken += 1
                events.append(ToolCallBroken(self._num_calls - 1, self._written, self._choice))
        self._kind = "header"
        self._header = ""


def _possible_marker(text: str) -> int:
    """Return how many characters at the end of `text` could be the beginning of a marker."""
    for length in range(min(_LONGEST - 1, len(text)), 0, -1):
        tail = text[-length:]
        if any(marker.startswith(tail) for marker in MARKERS):
            return length
    return 0
