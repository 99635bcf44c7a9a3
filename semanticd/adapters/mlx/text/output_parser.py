"""Separates thinking and tool calls from streamed text; unparsable output is text, never an error.

Text is passed on as soon as it cannot be the beginning of a marker or of a bare call. A call whose arguments are JSON
is streamed: its name as soon as it is known, its arguments piece by piece; calls in other forms (XML, Python) are
parsed whole by the form's parser. The forms are those of the model's family (`tool_families`). A marker inside of a
string of a call does not end it (`call_strings`).
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from semanticd.adapters.mlx.text.brackets import BracketEnd
from semanticd.adapters.mlx.text.call_guard import LOOKED_AT, could_call
from semanticd.adapters.mlx.text.call_strings import CallStrings, HeldText
from semanticd.adapters.mlx.text.element_call import ElementCallReader
from semanticd.adapters.mlx.text.json_call import JSON_HEAD, JsonCallReader, Piece
from semanticd.adapters.mlx.text.tool_families import CallForm, Parse
from semanticd.adapters.mlx.text.whole_calls import json_calls, names_of
from semanticd.domain.generation import (
    GenerationEvent,
    TextDelta,
    ThinkingDelta,
    ToolCallBroken,
    ToolCallDelta,
    ToolCallStarted,
)

_CUT_CALL = re.compile(
    r'(?:"name"\s*:\s*"|<function=)(?P<name>[^"\\>\s]+)(?:"(?:\s*,\s*"(?:arguments|parameters)"\s*:)?|>)'
)
"""The beginning of a call in the forms that say the name first."""

_SPACE = " \t\r\n"
_BETWEEN_BARE = _SPACE + ";,"
"""Characters allowed between two bare calls."""
_NO_WORDS = re.compile(r"(?:\\n|[\s,;(){}\[\]`])*\Z")
"""Text without a meaning that models write between and after calls; some spell out the line break."""
_FENCE = "```"
_BEFORE_FENCE = ("\n", "}", "]", ")")
"""Texts before the closing fence of a code block; three backticks inside of a string follow others."""


@dataclass(frozen=True, slots=True)
class Markup:
    """The markers of a model's thinking and calls; None where it does not think."""

    think_start: str | None = None
    think_end: str | None = None
    forms: tuple[CallForm, ...] = ()


@dataclass(slots=True)
class _Block:
    """A block of calls that is being read."""

    form: CallForm
    marker: str
    """Opening marker, not emitted; a block without a call emits it if the marker has other uses too."""
    trim: bool = False
    """Whether line breaks before it belonged to other markup."""
    name: str | None = None
    """The offered tool that it certainly calls first; until then a guarded block hands nothing on."""
    reader: JsonCallReader | ElementCallReader | None = None
    brackets: BracketEnd | None = None
    strings: CallStrings = field(default_factory=CallStrings)
    """State of the strings of a block that a marker ends, `held` included."""
    held: HeldText | None = None
    """Text after a marker inside of a string; None: no marker is open."""
    head: str = ""
    """Beginning of the block, which its form's guard checks."""
    parts: list[str] = field(default_factory=list)

    @property
    def raw(self) -> str:
        """All that was read."""
        return "".join(self.parts)


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
        self._names = names_of(self._tools)
        forms = markup.forms if self._tools else ()
        self._bare = [form for form in forms if form.bare]
        # Templates write a line break before a call. As text it would come back, and there would be two.
        self._starts = {lead + form.start: form for form in forms if not form.bare for lead in ("", "\n")}
        self._choice = choice
        self._new_id = new_id or (lambda: f"call_{secrets.token_hex(12)}")
        self._state: Literal["text", "thinking", "call"] = "thinking" if begins_thinking else "text"
        self._buffer = ""
        self._block: _Block | None = None
        self._leads = True
        """Whether nothing was said yet but bare calls: another one may begin."""
        self._num_calls = self._num_broken = 0
        self._trim = False
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
        """Process the end of the text; a call that the token limit `cut` is kept incomplete, not emitted as text."""
        events: list[GenerationEvent] = []
        while (block := self._block) is not None:
            if block.held is not None:
                self._buffer, block.held = block.held.text + self._buffer, None
                if not cut:
                    # The value never became whole: the marker was one, and what follows it is text.
                    block.strings.drop()
                    while self._advance(events):
                        pass
                    continue
            rest, self._buffer = self._buffer, ""
            if self._take(block, rest, events):
                if cut and (_is_begun(block) or not self._parsed(block)):
                    self._cut_call(block, events)
                else:
                    self._end_block(block, "", events)
            # A block that was no call is text, in which another one may begin.
            while self._advance(events):
                pass
        rest, self._buffer = self._buffer, ""
        if self._after_bare_call() and not rest.strip(_BETWEEN_BARE):
            return events
        if cut and self._state == "text" and self._leads and any(s.startswith(rest) for s in self._starts):
            # Nothing was said but the beginning of a call's marker: no text of the answer.
            return events
        self._emit(rest, events)
        return events

    def _after_bare_call(self) -> bool:
        return bool(self._bare) and self._leads and self._num_calls > 0

    def _advance(self, events: list[GenerationEvent]) -> bool:
        """Handle the buffer up to the next marker; False when more text is needed."""
        block = self._block
        if block is not None:
            if block.brackets is not None:
                return self._advance_bare(block, block.brackets, events)
            if block.held is not None:
                return self._advance_held(block, block.held, events)
            return self._advance_block(block, events)
        if self._state == "text" and self._leads and self._bare:
            begun = self._begin_bare(events)
            if begun is not None:
                return begun
        markers = self._markers()
        found = [(at, -len(marker), marker) for marker in markers if (at := self._buffer.find(marker)) >= 0]
        if found:
            at, _, marker = min(found)
            before, self._buffer = self._buffer[:at], self._buffer[at + len(marker) :]
            self._emit(before, events)
            self._switch(marker)
            return True
        keep = max((_overlap(self._buffer, marker) for marker in markers), default=0)
        ready, self._buffer = _split(self._buffer, len(self._buffer) - keep)
        self._emit(ready, events)
        return False

    def _markers(self) -> list[str]:
        markup = self._markup
        if self._state == "thinking":
            return [markup.think_end] if markup.think_end else []
        markers = [markup.think_start] if markup.think_start and markup.think_end else []
        return [*markers, *self._starts]

    def _emit(self, text: str, events: list[GenerationEvent]) -> None:
        if self._trim:
            # Line breaks around markup belong to the markup.
            text = text.lstrip("\n")
            self._trim = not text
        if not text:
            return
        if self._state == "thinking":
            events.append(ThinkingDelta(text, self._choice))
            return
        self._leads = self._leads and not text.strip()
        events.append(TextDelta(text, choice=self._choice))

    def _switch(self, marker: str) -> None:
        if self._state == "thinking":
            self._state = "text"
        elif marker == self._markup.think_start:
            self._state = "thinking"
        else:
            self._begin(self._starts[marker], marker)
        self._trim = True

    def _begin(self, form: CallForm, marker: str) -> None:
        self._block = _Block(form, marker, trim=self._trim)
        if form.elements is not None and form.parse is not None:
            self._block.reader = ElementCallReader(form.elements, parse=form.parse, tools=self._tools)
        elif form.head is not None:
            self._block.reader = JsonCallReader(form.head)
        self._block.strings = strings_of(form)
        if form.bare:
            self._block.brackets = BracketEnd('"' if form.guard == "json" else "\"'")

    # Blocks of calls.

    def _begin_bare(self, events: list[GenerationEvent]) -> bool | None:
        """Begin a bare call where the answer, or what follows a bare call, looks like one; None: it does not."""
        rest = self._buffer.lstrip(_BETWEEN_BARE if self._num_calls else _SPACE)
        if not rest:
            # It may continue like a call; white space alone is not worth showing yet.
            return False
        for form in self._bare:
            if rest.startswith(form.start):
                self._begin(form, self._buffer[: len(self._buffer) - len(rest)])
                self._buffer = rest
                return True
        if not any(rest.startswith(marker) or marker.startswith(rest) for marker in self._markers()):
            self._leads = False
        return None

    def _advance_bare(self, block: _Block, brackets: BracketEnd, events: list[GenerationEvent]) -> bool:
        at = brackets.feed(self._buffer)
        text, self._buffer = _split(self._buffer, len(self._buffer) if at is None else at)
        if not self._take(block, text, events):
            return True
        if at is None:
            return False
        self._end_block(block, "", events)
        return True

    def _advance_block(self, block: _Block, events: list[GenerationEvent]) -> bool:
        end = block.form.end
        if not end:
            text, self._buffer = self._buffer, ""
            return not self._take(block, text, events)
        at = self._buffer.find(end)
        text, rest = _split(self._buffer, len(self._buffer) - _overlap(self._buffer, end) if at < 0 else at)
        self._buffer = rest
        block.strings.feed(text)
        if not self._take(block, text, events):
            return True
        if at < 0:
            return False
        if block.strings.inside:
            block.held = HeldText(block.strings)
            return True
        self._buffer = rest[len(end) :]
        if end == _FENCE and not block.raw.rstrip(" ").endswith(_BEFORE_FENCE):
            block.strings.feed(end)
            self._take(block, end, events)
        else:
            self._end_block(block, end, events)
        return True

    def _advance_held(self, block: _Block, held: HeldText, events: list[GenerationEvent]) -> bool:
        self._buffer, in_string = held.feed(self._buffer)
        if in_string is None:
            return False
        block.held = None
        if in_string:
            self._take(block, held.text, events)
        else:
            self._buffer = held.text + self._buffer
        return True

    def _take(self, block: _Block, text: str, events: list[GenerationEvent]) -> bool:
        """Read more of the block; return False when it turned out not to be a call, and was returned as text."""
        if not text:
            return True
        block.parts.append(text)
        if block.form.guard is not None and block.name is None:
            if len(block.head) >= LOOKED_AT:
                return True
            block.head += text
            begun = could_call(block.head[:LOOKED_AT], block.form.guard, self._names)
            if begun is False:
                self._give_back(block, "", events)
                return False
            if begun is None:
                return True
            block.name, text = begun, block.raw
        if block.reader is not None:
            self._stream(block, block.reader.feed(text), events)
        return True

    def _stream(self, block: _Block, pieces: Sequence[Piece], events: list[GenerationEvent]) -> None:
        for kind, value in pieces:
            if kind == "name":
                self._start_call(value, events)
            elif kind == "text":
                self._read_left(block, value, events)
            else:
                events.append(ToolCallDelta(self._num_calls - 1, value, self._choice))

    def _start_call(self, name: str, events: list[GenerationEvent]) -> None:
        events.append(ToolCallStarted(self._num_calls, self._new_id(), name, self._choice))
        self._num_calls += 1
        self._trim = True

    def _give_back(self, block: _Block, end: str, events: list[GenerationEvent]) -> None:
        """Show a block's marker as text and read again what follows it."""
        self._block, self._trim = None, block.trim
        self._emit(block.marker, events)
        self._leads = False
        self._buffer = block.raw + end + self._buffer

    def _end_block(self, block: _Block, end: str, events: list[GenerationEvent]) -> None:
        self._block, self._trim = None, True
        reader = block.reader
        if reader is not None and reader.started:
            self._stream(block, reader.end(), events)
            if reader.complete:
                left = reader.left
                # A marker that the end of the answer truncated is not text.
                self._read_left(block, left if end else _without_overlap(left, block.form.end), events)
            else:
                self._break_call(reader, events)
            return
        calls = self._parsed(block)
        self._add_calls(calls, events)
        if calls:
            return
        if block.form.guard is not None:
            self._give_back(block, end, events)
        else:
            self._fail(block.raw, events)

    def _read_left(
        self, block: _Block, text: str, events: list[GenerationEvent], *, cut: bool = False
    ) -> None:
        """Read what stands before, between or after the calls that a block's reader found: calls, or text.

        Where the answer is `cut`, what may be a call that was begun is left out.
        """
        head = block.form.head or JSON_HEAD
        while text:
            # A call that follows in another order of keys.
            calls = self._calls(json_calls, text)
            if calls:
                self._add_calls(calls, events)
                return
            found = head.anywhere.search(text)
            reader = JsonCallReader(head)
            pieces = reader.feed(text[found.start() :]) if found is not None else []
            if found is None or not reader.started:
                self._show_left(block, text, events, cut=cut)
                return
            self._show_left(block, text[: found.start()], events)
            self._stream(block, pieces, events)
            if not reader.complete:
                if not cut:
                    self._break_call(reader, events)
                return
            text = reader.left

    def _show_left(
        self, block: _Block, text: str, events: list[GenerationEvent], *, cut: bool = False
    ) -> None:
        """Emit text that is not a call; between a block's two markers it counts as a failure."""
        if not block.form.bare:
            text = text.replace(block.form.start, "")
        text = text.strip()
        if _NO_WORDS.match(text) or (cut and _may_begin_call(text)):
            return
        if block.form.end:
            self.num_parse_failures += 1
        self._leads = self._trim = False
        events.append(TextDelta(text, choice=self._choice))

    def _add_calls(self, calls: Sequence[tuple[str, str]], events: list[GenerationEvent]) -> None:
        for name, arguments in calls:
            self._start_call(name, events)
            events.append(ToolCallDelta(self._num_calls - 1, arguments, self._choice))

    def _cut_call(self, block: _Block, events: list[GenerationEvent]) -> None:
        """Keep what there is of a call whose name is known; of another one nothing can be said."""
        self._block = None
        if block.reader is not None and _is_begun(block):
            if block.reader.complete:
                left = _without_overlap(block.reader.left, block.form.end)
                self._read_left(block, left, events, cut=True)
            return
        if block.form.guard is not None and block.name is None:
            self._give_back(block, "", events)
            return
        self.num_parse_failures += 1
        named = _CUT_CALL.search(block.raw)
        name = named["name"] if named is not None and named["name"] in self._names else block.name
        if name is None:
            return
        self._start_call(name, events)
        arguments = block.raw[named.end() :].lstrip() if named is not None else ""
        if arguments.startswith("{"):
            events.append(ToolCallDelta(self._num_calls - 1, arguments, self._choice))

    def _break_call(self, reader: JsonCallReader | ElementCallReader, events: list[GenerationEvent]) -> None:
        """Report that the last call is not one; a stream that has emitted its start also gets the rest of its text."""
        self._num_broken += 1
        events.append(ToolCallBroken(self._num_calls - 1, reader.begun.lstrip(), self._choice))
        self._fail(reader.rest, events)

    def _fail(self, text: str, events: list[GenerationEvent]) -> None:
        self.num_parse_failures += 1
        if text:
            self._leads = False
            events.append(TextDelta(text, choice=self._choice))

    def _parsed(self, block: _Block) -> list[tuple[str, str]]:
        """Return all calls of a block that was not streamed; of one whose marker means other things, known ones."""
        calls = self._calls(block.form.parse, block.raw)
        if block.form.guard is not None and any(name not in self._names for name, _ in calls):
            return []
        return calls

    def _calls(self, parse: Parse | None, text: str) -> list[tuple[str, str]]:
        """Return names and JSON arguments of all calls in the text, or nothing if any part of it is not a call."""
        for read in (parse, json_calls):
            if read is None or not text:
                continue
            try:
                parsed = read(text, self._tools)
                return [_call(call) for call in (parsed if isinstance(parsed, list) else [parsed])]
            except Exception:  # noqa: BLE001, S112 (whatever a family's parser trips over, the text is not a call)
                continue
        return []


def strings_of(form: CallForm) -> CallStrings:
    """Return a reading of the strings in a block of this form, in which its end marker does not count."""
    # Elsewhere than in JSON, quotes stand in text.
    return CallStrings(leading=form.head is JSON_HEAD)


def _is_begun(block: _Block) -> bool:
    """Return whether one of its calls was already emitted."""
    return block.reader is not None and block.reader.started


def _call(call: Any) -> tuple[str, str]:
    """Return name and JSON arguments.

    Raises:
        TypeError: The call has no name or no object of arguments.
        ValueError: JSON cannot represent the arguments.
    """
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


def _without_overlap(text: str, marker: str | None) -> str:
    return text[: len(text) - _overlap(text, marker)] if marker else text


def _may_begin_call(text: str) -> bool:
    return text[0] in "{[<" or len(text.split()) == 1


def _split(text: str, at: int) -> tuple[str, str]:
    return text[:at], text[at:]
