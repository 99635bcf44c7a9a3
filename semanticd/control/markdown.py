"""Markdown as it streams: pieces of text with their kinds, for terminals. Pure.

Rule: a piece is given out as soon as what it is cannot change, and nothing is lost but the marks of what is marked. A
mark that its line never closes is text, so that `*args` and 2 * 3 stay as they were written. Known are headings, lists,
quotes, fenced code with its fences, and within a line strong, emphasised and code; all else is text.
"""

from __future__ import annotations

import re
from typing import Final

Piece = tuple[str, str]
"""A text and its kind: text, heading, strong, emphasis, code, block (of fenced code), fence, bullet or quote."""

MAX_MARKED_CHARS: Final = 200
"""The longest text that a line marks; a mark that is not closed within it is text."""
_MAX_HELD_CHARS = MAX_MARKED_CHARS + 8

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_MAYBE_FENCE = re.compile(r" {0,3}(`{0,3}|~{0,3})")
_HEADING = re.compile(r"(#{1,6}) ")
_BULLET = re.compile(r"(\s*)[-*+] ")
_QUOTE = re.compile(r"\s{0,3}> ?")
_MAYBE_PREFIX = re.compile(r"\s*(#{0,6}|[-*+>]|`{0,2}|~{0,2})")
_INLINE = re.compile(
    r"(?<!`)(?P<tick>`{1,3})(?P<code>[^`]{1,200})(?P=tick)(?!`)"
    r"|\*\*(?P<strong>[^\s*](?:[^*]{0,198}[^\s*])?)\*\*"
    r"|(?<![\w*])\*(?P<emphasis>[^\s*](?:[^*]{0,198}[^\s*])?)\*(?![\w*])"
)
_OPEN = re.compile(r"`|\*\*(?!\s)|(?<![\w*])\*(?!\s)|\*$")


class MarkdownStream:
    """Turns an answer's text, as it comes, into pieces."""

    def __init__(self, *, in_lines: bool = True) -> None:
        """Begin at the start of a line; without `in_lines` only fenced code and headings count, and all marks stay."""
        self._in_lines = in_lines
        self._held = ""
        self._begins = True
        """Whether it begins a line."""
        self._line_kind = "text"
        self._fence = ""
        self._before = ""
        """The last character of the line that was given out: what a mark is depends on it."""

    @property
    def held(self) -> str:
        """The received text that was not emitted yet."""
        return self._held

    def feed(self, text: str) -> list[Piece]:
        """Take more text; returns the part that can be shown."""
        self._held += text
        pieces: list[Piece] = []
        while "\n" in self._held:
            line, _, self._held = self._held.partition("\n")
            pieces += self._take(line, whole=True)
            pieces.append(("\n", "text"))
            self._begins, self._before = True, ""
        rest, self._held = self._held, ""
        return pieces + self._take(rest, whole=False)

    def end(self) -> list[Piece]:
        """Return the text held back."""
        rest, self._held = self._held, ""
        return self._take(rest, whole=True)

    def _take(self, line: str, *, whole: bool) -> list[Piece]:
        """Return a line's pieces, of one that is not whole those that are certain; the rest is held back."""
        pieces: list[Piece] = []
        if self._begins:
            if not whole and self._is_undecided(line):
                self._held = line
                return []
            self._begins = False
            line, pieces = self._begin(line)
        if self._line_kind in ("block", "fence") or not self._in_lines:
            return [*pieces, (line, self._line_kind)] if line else pieces
        return pieces + self._inline(line, whole=whole)

    def _is_undecided(self, line: str) -> bool:
        return (_MAYBE_FENCE if self._fence else _MAYBE_PREFIX).fullmatch(line) is not None

    def _begin(self, line: str) -> tuple[str, list[Piece]]:
        """Determine the kind of line; returns the text after its mark, and the displayed mark."""
        fence = _FENCE.match(line)
        if self._fence:
            closes = fence is not None and fence[1].startswith(self._fence)
            self._line_kind = "fence" if closes else "block"
            self._fence = "" if closes else self._fence
            return line, []
        if fence is not None:
            self._fence, self._line_kind = fence[1], "fence"
            return line, []
        self._line_kind = "text"
        if heading := _HEADING.match(line):
            self._line_kind = "heading"
            return line[heading.end() if self._in_lines else 0 :], []
        if not self._in_lines:
            return line, []
        if bullet := _BULLET.match(line):
            return line[bullet.end() :], [(f"{bullet[1]}• ", "bullet")]
        if quote := _QUOTE.match(line):
            self._line_kind = "quote"
            return line[quote.end() :], [("│ ", "quote")]
        return line, []

    def _inline(self, line: str, *, whole: bool) -> list[Piece]:
        pieces: list[Piece] = []
        at = len(self._before)
        line = self._before + line
        for found in _INLINE.finditer(line, at):
            kind = next(name for name in ("code", "strong", "emphasis") if found[name] is not None)
            if not whole and (
                # The next character may show that it is not a mark; an earlier mark may cover more than this one.
                (found.end() == len(line) and kind != "strong") or _opened(line, at) < found.start()
            ):
                break
            pieces.append((line[at : found.start()], self._line_kind))
            pieces.append((found[kind], self._line_kind if self._line_kind == "heading" else kind))
            at = found.end()
        end = len(line) if whole else _opened(line, at)
        if not whole:
            self._held = line[end:]
        pieces.append((line[at:end], self._line_kind))
        self._before = line[max(0, end - 1) : end]
        return [piece for piece in pieces if piece[0]]


def _opened(line: str, at: int) -> int:
    """Return where the first mark stands that may still be closed; the line's end where there is none."""
    found = _OPEN.search(line, max(at, len(line) - _MAX_HELD_CHARS))
    return len(line) if found is None else found.start()


def markdown_pieces(text: str, *, in_lines: bool = True) -> list[Piece]:
    """Return the pieces of a whole text."""
    stream = MarkdownStream(in_lines=in_lines)
    return stream.feed(text) + stream.end()
