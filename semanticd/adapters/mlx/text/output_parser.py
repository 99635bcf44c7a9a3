"""Separates thinking and tool calls from an answer's text as it streams; what does not parse is text, never an error.

Text is passed on as soon as it cannot be the beginning of a marker. A call in JSON form is streamed: its name as soon
as it is known, its arguments piece by piece; calls in other forms (XML, Python) are parsed whole by the library's
parser for the model's family.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from semanticd.adapters.mlx.text.json_call import JsonCallReader
from semanticd.domain.generation import (
    GenerationEvent,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
    ToolCallStarted,
)

_CUT_CALL = re.compile(
    r'(?:"name"\s*:\s*"|<function=)(?P<name>[^"\\>\s]+)(?:"(?:\s*,\s*"(?:arguments|parameters)"\s*:)?|>)'
)
"""The beginning of a call in the forms that say the name first."""


@dataclass(frozen=True, slots=True)
class Markup:
    """A family's markers; None where it has no such thing. `parse` reads the text between the tool markers."""

    think_start: str | None = None
    think_end: str | None = None
    tool_start: str | None = None
    tool_end: str | None = None
    parse: Callable[[str, Any], Any] | None = None


class MlxOutputParser:
    """One answer's parser; see the port `OutputParser`."""

    def __init__(
        self,
        markup: Markup,
        *,
        tools: Sequence[Any],
        begins_thinking: bool = False,
        choice: int = 0,
        new_id: Callable[[], str] | None = None,
    ) -> None:
        """Parse for these tools (in the template's form); with none, tool markup is plain text."""
        self._markup = markup
        self._tools = list(tools)
        self._choice = choice
        self._new_id = new_id or (lambda: f"call_{secrets.token_hex(12)}")
        self._state: Literal["text", "thinking", "tool"] = "thinking" if begins_thinking else "text"
        self._buffer = ""
        self._call: JsonCallReader | None = None
        self._raw: list[str] = []
        self._num_calls = 0
        self._trim = False
        self.num_parse_failures = 0

    @property
    def num_tool_calls(self) -> int:
        """Calls begun so far."""
        return self._num_calls

    def feed(self, text: str) -> list[GenerationEvent]:
        """Take more text; return the events it completes."""
        self._buffer += text
        events: list[GenerationEvent] = []
        while self._advance(events):
            pass
        return events

    def finish(self, *, cut: bool = False) -> list[GenerationEvent]:
        """Take the end of the text; a call that is `cut` by its room is kept as far as it came, and is no text."""
        events: list[GenerationEvent] = []
        rest, self._buffer = self._buffer, ""
        if self._state == "tool":
            self._take_call(rest, events)
            if cut and not self._parse_whole("".join(self._raw)):
                self._cut_call(events)
            else:
                self._end_call(events)
        elif rest:
            self._emit(rest, events)
        return events

    def _advance(self, events: list[GenerationEvent]) -> bool:
        """Handle the buffer up to the next marker; False when more text is needed."""
        markers = self._markers()
        found = [(at, marker) for marker in markers if (at := self._buffer.find(marker)) >= 0]
        if found:
            at, marker = min(found)
            before, self._buffer = self._buffer[:at], self._buffer[at + len(marker) :]
            self._pass(before, events)
            self._switch(marker, events)
            return True
        keep = max((_overlap(self._buffer, marker) for marker in markers), default=0)
        ready, self._buffer = (
            self._buffer[: len(self._buffer) - keep],
            self._buffer[len(self._buffer) - keep :],
        )
        self._pass(ready, events)
        return False

    def _markers(self) -> list[str]:
        markup = self._markup
        if self._state == "thinking":
            return [markup.think_end] if markup.think_end else []
        if self._state == "tool":
            return [markup.tool_end] if markup.tool_end else []
        markers = [markup.think_start] if markup.think_start and markup.think_end else []
        if self._tools and markup.tool_start:
            # Templates write a line break before a call. As text it would come back, and there would be two.
            markers += [markup.tool_start, "\n" + markup.tool_start]
        return markers

    def _pass(self, text: str, events: list[GenerationEvent]) -> None:
        if not text:
            return
        if self._state == "tool":
            self._take_call(text, events)
        else:
            self._emit(text, events)

    def _emit(self, text: str, events: list[GenerationEvent]) -> None:
        if self._trim:
            # Line breaks around markup belong to the markup.
            text = text.lstrip("\n")
            self._trim = not text
        if not text:
            return
        if self._state == "thinking":
            events.append(ThinkingDelta(text, self._choice))
        else:
            events.append(TextDelta(text, choice=self._choice))

    def _switch(self, marker: str, events: list[GenerationEvent]) -> None:
        self._trim = True
        if self._state == "tool":
            self._end_call(events)
            self._state = "text"
        elif self._state == "thinking":
            self._state = "text"
        elif marker == self._markup.think_start:
            self._state = "thinking"
        else:
            self._state = "tool"
            self._call, self._raw = JsonCallReader(), []

    # Calls.

    def _take_call(self, text: str, events: list[GenerationEvent]) -> None:
        self._raw.append(text)
        if self._call is None:
            return
        for kind, value in self._call.feed(text):
            if kind == "name":
                events.append(ToolCallStarted(self._num_calls, self._new_id(), value, self._choice))
                self._num_calls += 1
            else:
                events.append(ToolCallDelta(self._num_calls - 1, value, self._choice))

    def _end_call(self, events: list[GenerationEvent]) -> None:
        call, raw = self._call, "".join(self._raw)
        self._call, self._raw = None, []
        if call is not None and call.name is not None:
            if not call.complete:
                # What was streamed cannot be taken back: the call stays cut, what broke it is shown.
                self._fail(call.rest, events)
            return
        calls = self._parse_whole(raw)
        for name, arguments in calls:
            events.append(ToolCallStarted(self._num_calls, self._new_id(), name, self._choice))
            events.append(ToolCallDelta(self._num_calls, arguments, self._choice))
            self._num_calls += 1
        if not calls:
            self._fail(raw, events)

    def _cut_call(self, events: list[GenerationEvent]) -> None:
        """Keep what there is of a call whose name is known; of another one nothing can be said."""
        call, raw = self._call, "".join(self._raw)
        self._call, self._raw = None, []
        if call is not None and call.name is not None:
            return
        self.num_parse_failures += 1
        named = _CUT_CALL.search(raw)
        if named is None or not any(tool["function"]["name"] == named["name"] for tool in self._tools):
            return
        events.append(ToolCallStarted(self._num_calls, self._new_id(), named["name"], self._choice))
        if arguments := raw[named.end() :].lstrip():
            events.append(ToolCallDelta(self._num_calls, arguments, self._choice))
        self._num_calls += 1

    def _fail(self, text: str, events: list[GenerationEvent]) -> None:
        self.num_parse_failures += 1
        if text:
            events.append(TextDelta(text, choice=self._choice))

    def _parse_whole(self, raw: str) -> list[tuple[str, str]]:
        """Return names and JSON arguments of all calls in the text, or nothing when any of it is no call."""
        for parse in (self._markup.parse, lambda text, _: json.loads(text)):
            if parse is None:
                continue
            try:
                parsed = parse(raw, self._tools)
                return [_call(call) for call in (parsed if isinstance(parsed, list) else [parsed])]
            except Exception:  # noqa: BLE001, S112 (whatever a family's parser trips over, the text is not a call)
                continue
        return []


def _call(call: Any) -> tuple[str, str]:
    """Return name and JSON arguments; raises when it is no call, or one that JSON cannot say."""
    name, arguments = call["name"], call.get("arguments", call.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = json.loads(arguments or "{}")
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        raise TypeError("a call has a name and an object of arguments")
    name.encode()
    text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        # Half of a surrogate pair: only an escape can say it.
        text = json.dumps(arguments, allow_nan=False)
    return name, text


def _overlap(text: str, marker: str) -> int:
    """Return how many characters at the end of `text` could be the beginning of `marker`."""
    for length in range(min(len(marker) - 1, len(text)), 0, -1):
        if text.endswith(marker[:length]):
            return length
    return 0
