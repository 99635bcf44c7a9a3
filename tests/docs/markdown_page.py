"""A Markdown page as its tests see it: headings, links, and fenced blocks with what is said of them.

A block is run unless a comment directly above it says why not: `<!-- not run: reason -->`. A block of the language
`text` below a block that is run shows what that prints; `…` in it stands for anything, a line of `…` for any lines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

RUNNABLE = ("bash", "sh", "shell", "console", "python")

_FENCE = re.compile(r"^( *)(`{3,}|~{3,})\s*([\w+-]*)")
_NOT_RUN = re.compile(r"^\s*<!-- not run: (.+?) -->\s*$")
_HEADING = re.compile(r"^(#{1,6})\s+(.*?)\s*#*$")
_LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
_CODE = re.compile(r"(`+)(.+?)\1")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block."""

    line: int
    """Where it begins, counted from 1."""
    language: str
    text: str
    not_run: str | None = None
    """Why it is not run, if the page says so."""
    output: str | None = None
    """What the page shows below it as its output."""


@dataclass(frozen=True, slots=True)
class Page:
    """One file."""

    path: Path
    anchors: frozenset[str]
    links: tuple[tuple[int, str], ...]
    """Line and target of each, as written."""
    blocks: tuple[Block, ...]


def read_page(path: Path) -> Page:
    """Read one page; a fence that is not closed runs to the end."""
    lines = path.read_text(encoding="utf-8").splitlines()
    anchors: list[str] = []
    links: list[tuple[int, str]] = []
    blocks: list[Block] = []
    number = 0
    reason: str | None = None
    while number < len(lines):
        line = lines[number]
        fence = _FENCE.match(line)
        if fence:
            begin = number + 1
            indent, mark, language = fence.groups()
            body = []
            number += 1
            while number < len(lines) and lines[number].strip() != mark:
                body.append(lines[number].removeprefix(indent))
                number += 1
            _add(blocks, Block(begin, language, "\n".join(body), reason))
            reason = None
        elif line.strip():
            said = _NOT_RUN.match(line)
            reason = said.group(1) if said else None
            heading = _HEADING.match(line)
            if heading:
                anchors.append(_slug(heading.group(2), anchors))
            links += [(number + 1, target) for target in _LINK.findall(_CODE.sub("", line))]
        number += 1
    return Page(path, frozenset(anchors), tuple(links), tuple(blocks))


def _add(blocks: list[Block], block: Block) -> None:
    last = blocks[-1] if blocks else None
    shows = (
        block.language == "text" and last is not None and last.language in RUNNABLE and last.output is None
    )
    if last is not None and shows:
        blocks[-1] = Block(last.line, last.language, last.text, last.not_run, block.text)
    else:
        blocks.append(block)


def _slug(heading: str, taken: list[str]) -> str:
    words = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    made = re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", words).strip().lower())
    number = sum(re.fullmatch(re.escape(made) + r"(_\d+)?", one) is not None for one in taken)
    return f"{made}_{number}" if number else made


def matches(shown: str, printed: str) -> bool:
    """Whether the output is as the page shows it, but for what `…` stands for and for trailing space."""
    pattern = ""
    for line in shown.strip("\n").splitlines():
        if line.strip() == "…":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += r"[^\n]*?".join(re.escape(part) for part in line.rstrip().split("…")) + r"[ \t]*\n"
    return re.fullmatch(r"\n*" + pattern + r"\s*", printed + "\n") is not None
