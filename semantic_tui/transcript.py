"""A conversation as entries with roles, also where only the prompt's text is kept, in a model's chat template. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len, chop_cells, set_cell_size

from semantic_tui.state import AgentDetails, WatchState
from semanticd.control.markdown import MarkdownStream
from semanticd.control.prompt_text import prompt_messages
from semanticd.control.results import MessagePart, MessageRow, is_said

COLLAPSED_ROLES = ("system", "tools", "tool", "developer")
"""Roles whose text is long and seldom read: shown as one line until asked for."""
_LINE_KINDS = {"block": "code", "fence": "code", "heading": "heading"}
_MIN_FOLDED_CELLS = 10
_MARKED = ("strong", "emphasis", "code", "bullet", "quote")


@dataclass(frozen=True, slots=True)
class Entry:
    """One message; `num_cached` of its characters came from the cache in the last turn (None: not known)."""

    role: str
    text: str
    num_cached: int | None = None
    now: bool = False
    """Whether it is being written."""
    start: int = 0
    """Offset of its text in the prompt's text, in characters."""


Mark = tuple[int, int, str]
"""A part of a line that is more than text: its first character, the one behind it, and its kind in Markdown."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the view: its text, what kind of text it is, and whether it came from the cache."""

    text: str
    kind: str = "text"
    """text, role, heading or code."""
    cached: bool | None = None
    entry: int = 0
    marks: tuple[Mark, ...] = ()


def entries(state: WatchState, agent: str) -> list[Entry]:
    """Return the conversation as the daemon keeps it, then the agent's answer so far."""
    details = state.details.get(agent, AgentDetails())
    messages, system = details.messages, details.facts.system
    said = state.said.get(agent)
    asked, num_cached = _asked_now(state, agent, only_said=said is not None)
    kept_as_messages = bool(messages) and all(message.role != "transcript" for message in messages)
    if kept_as_messages:
        found = [Entry(message.role or "?", words_of(message.content)) for message in messages]
        prompt = parsed(_text(asked)) if asked else []
        if num_user_turns(found) < num_user_turns(prompt):
            found += _since_last_answer(prompt)
    else:
        # Of a client that keeps the conversation the prompt is all of it.
        shown = asked or messages
        if not asked and details.facts.turns:
            last = details.facts.turns[-1]
            num_cached = (last.reused_hot_tokens or 0) + (last.restored_warm_tokens or 0)
        found = parsed(_text(shown)) if shown else []
        num_chars = _cached_chars(shown, num_cached)
        found = _marked(found, num_chars) if num_chars is not None else found
    if system and not any(entry.role == "system" for entry in found):
        found.insert(0, Entry("system", system))
    stream = state.streams.get(agent)
    running = {row.id for row in state.requests_of(agent)}
    if said is not None:
        if num_user_turns(found) <= said.num_turns_before:
            found.append(Entry("user", said.text))
        stream = state.answer(agent, said)
        if stream is not None:
            # The first tokens may come before the list of requests has theirs.
            running.add(stream.request)
    if stream is not None and (stream.request in running or not messages):
        found.append(Entry("assistant", stream.text, now=stream.request in running))
    return [entry for entry in found if entry.text or entry.now]


def _asked_now(
    state: WatchState, agent: str, *, only_said: bool
) -> tuple[tuple[MessageRow, ...], int | None]:
    """Return the prompt of the agent's newest request while it runs, and how many of its tokens were cached.

    With `only_said` that of a turn of the chat: requests of other clients are not part of it.
    """
    for row in reversed(state.requests_of(agent)):
        prompt = None if only_said and not is_said(row.id) else state.prompts.get(row.id)
        if prompt:
            return prompt, None if row.state == "waiting" else row.cached_tokens
    return (), None


def _since_last_answer(found: Sequence[Entry]) -> list[Entry]:
    """Return the text after the model's last answer."""
    last = max((at for at, entry in enumerate(found) if entry.role == "assistant"), default=-1)
    return [Entry(entry.role, entry.text) for entry in found[last + 1 :] if entry.role != "system"]


def _text(messages: Iterable[MessageRow]) -> str:
    return "".join(words_of(message.content) for message in messages)


def num_user_turns(found: Iterable[Entry]) -> int:
    """Return how many messages are a user's."""
    return sum(entry.role == "user" for entry in found)


def words_of(content: str | Sequence[MessagePart]) -> str:
    """Return a message's text; a part that is not text is named."""
    return content if isinstance(content, str) else "".join(_part_text(part) for part in content)


def _part_text(part: MessagePart) -> str:
    if part.type == "tool_call":
        return f"[calls {part.name}({part.arguments})]"
    if part.type == "tool_result":
        return f"[result: {part.content}]"
    return part.text or part.thinking


def parsed(text: str) -> list[Entry]:
    """Return the messages in a prompt's text; one entry of all of it where no template is recognised."""
    return [Entry(message.role, message.text, start=message.start) for message in prompt_messages(text)]


def _cached_chars(messages: Iterable[MessageRow], num_cached: int | None) -> int | None:
    """Return how many characters of a prompt came from the cache, by its segments' tokens; None: it is not known."""
    if num_cached is None:
        return None
    left = num_cached
    chars = 0
    for message in messages:
        tokens, length = message.num_tokens, len(words_of(message.content))
        if tokens is None:
            return None
        if tokens > left:
            return chars + (length * left // tokens if tokens else 0)
        left -= tokens
        chars += length
    return chars


def _marked(found: Sequence[Entry], num_cached: int) -> list[Entry]:
    """Return the entries with how much of each lies within the cached characters of the prompt's text."""
    return [
        replace(entry, num_cached=max(0, min(len(entry.text), num_cached - entry.start))) for entry in found
    ]


class EntryLayout:
    """One message as the view's lines; while it streams, only the new text is laid out."""

    def __init__(self, entry: Entry, width: int, *, number: int, open_all: bool) -> None:
        """Wrap the message with this number; system text and tool results are one line unless all are open."""
        self._entry, self._width, self._number = entry, width, number
        self._whole: list[Line] = []
        """The lines of paragraphs that have ended."""
        self._text, self._kind, self._marks = "", "text", list[Mark]()
        self._passed = 0
        # A model's text is Markdown; other text is displayed as it is.
        self._markdown = MarkdownStream(in_lines=entry.role == "assistant")
        self._is_closed = entry.role in COLLAPSED_ROLES and not open_all
        name = f"{entry.role}, now" if entry.now else entry.role
        if self._is_closed:
            name = _folded(name, entry.text, width)
        self._whole.append(Line(name, "role", entry=number))
        if not self._is_closed:
            self._take(entry.text)

    def extend(self, entry: Entry) -> bool:
        """Take the text added to the message; returns False where it is another message."""
        before = self._entry
        if entry == before:
            return True
        same = replace(before, text=entry.text) == entry and entry.text.startswith(before.text)
        if not same or not entry.now or self._is_closed:
            return False
        self._entry = entry
        self._take(entry.text[len(before.text) :])
        return True

    @property
    def lines(self) -> list[Line]:
        """The message's lines, and an empty one."""
        shown = list(self._whole)
        if not self._is_closed:
            text = self._text + self._markdown.held.expandtabs(4)
            shown += self._wrapped(text, self._kind, self._marks)
        return [*shown, Line("", entry=self._number)]

    def _take(self, text: str) -> None:
        pieces = self._markdown.feed(text)
        if not self._entry.now:
            pieces += self._markdown.end()
        for piece, kind in pieces:
            if piece == "\n":
                self._whole += self._wrapped(self._text, self._kind, self._marks)
                self._passed = self._entry.text.find("\n", self._passed) + 1
                self._text, self._kind, self._marks = "", "text", []
                continue
            shown = piece.expandtabs(4)
            if kind in _MARKED:
                self._marks.append((len(self._text), len(self._text) + len(shown), kind))
            self._kind = _LINE_KINDS.get(kind, self._kind)
            self._text += shown

    def _wrapped(self, text: str, kind: str, marks: Sequence[Mark]) -> list[Line]:
        num_cached = self._entry.num_cached
        cached = None if num_cached is None else self._passed < num_cached
        made: list[Line] = []
        at = 0
        for piece in wrapped(text, self._width):
            at = text.index(piece, at)
            within = _within(marks, at, at + len(piece)) if marks else ()
            made.append(Line(piece, kind, cached, self._number, within))
            at += len(piece)
        return made


def _folded(name: str, text: str, width: int) -> str:
    """Return a closed message as one line: as much of its beginning as leaves room for its length and the key."""
    words = " ".join(text.split())
    for end in (f"… {len(text):,} characters (o opens)", f"… {len(text):,} (o opens)", "…"):
        room = width - cell_len(f"{name}: {end}")
        if room >= min(cell_len(words), _MIN_FOLDED_CELLS):
            return f"{name}: {set_cell_size(words, min(room, cell_len(words))).rstrip()}{end}"
    return set_cell_size(f"{name}…", width).rstrip()


def lines(found: Iterable[Entry], width: int, *, open_all: bool) -> list[Line]:
    """Return the view's lines, wrapped; system text and tool results are one line each unless all are open."""
    layouts = (EntryLayout(entry, width, number=at, open_all=open_all) for at, entry in enumerate(found))
    return [line for layout in layouts for line in layout.lines]


def _within(marks: Sequence[Mark], start: int, end: int) -> tuple[Mark, ...]:
    """Return the parts of marks between two characters, counted from the first of them."""
    return tuple(
        (max(first, start) - start, min(last, end) - start, kind)
        for first, last, kind in marks
        if first < end and last > start
    )


def wrapped(text: str, width: int) -> list[str]:
    """Return a paragraph as lines of at most `width` terminal cells, cut at spaces where there are any."""
    if cell_len(text) <= width:
        return [text]
    pieces: list[str] = []
    line = ""
    for word in re.split(r"(?<= )", text):
        if line and cell_len(line) + cell_len(word) > width:
            pieces.append(line.rstrip())
            line = ""
        if cell_len(word) > width:
            *full, line = chop_cells(word, width)
            pieces += full
        else:
            line += word
    return [*pieces, line]
