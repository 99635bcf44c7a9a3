"""Format of results: JSON for programs, aligned columns for people. All that the command line prints passes here.

Rule: text of clients, models and files passes the sanitizer; what steers the terminal is written in this file only.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from semanticd.control.terminal_text import many_lines, one_line, safe_json
from semanticd.domain.size_text import size

_MARKED_STYLES = {
    "heading": "1", "strong": "1", "emphasis": "3", "code": "36", "block": "36", "fence": "2", "bullet": "33",
    "quote": "2",
}  # fmt: skip
"""By kind of text its terminal attribute: 1 bold, 2 faint, 3 italic, 33 yellow, 36 cyan."""
_STYLES_WITHOUT_COLOUR = {kind: style for kind, style in _MARKED_STYLES.items() if len(style) == 1}


def print_json(value: object) -> None:
    """Print indented JSON on stdout."""
    print(safe_json(json.dumps(value, indent=2, ensure_ascii=False, default=str)))


def print_line(value: object) -> None:
    """Print one line of JSON on stdout, at once."""
    print_json_text(json.dumps(value, ensure_ascii=False, default=str))


def print_json_text(document: str) -> None:
    """Print a line of JSON that is written already, on stdout, at once."""
    print(safe_json(document), flush=True)


def print_text(text: str, *, at_once: bool = False) -> None:
    """Print lines on stdout; `at_once` where more comes only later."""
    print(many_lines(text), flush=at_once)


def print_piece(text: str) -> None:
    """Print a piece of an answer on stdout as it comes, in the line that the piece before it began."""
    print(many_lines(text), end="", flush=True)


def is_styled() -> bool:
    """Return whether stdout is a terminal that can show bold text."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb", "unknown")


def print_marked(text: str, kind: str) -> None:
    """Print a piece of Markdown on stdout, which is a terminal, in the style of its kind; see `MarkdownStream`."""
    style = (_STYLES_WITHOUT_COLOUR if os.environ.get("NO_COLOR") else _MARKED_STYLES).get(kind)
    shown = many_lines(text)
    print(f"\x1b[{style}m{shown}\x1b[0m" if style else shown, end="", flush=True)


def print_script(text: str) -> None:
    """Print data for a shell or a file on stdout: unchanged there, made safe on a terminal."""
    print(many_lines(text) if sys.stdout.isatty() else text, end="")


def narrate(text: str) -> None:
    """Print a message for users; never part of the data."""
    sys.stderr.write(f"{many_lines(text)}\n")
    sys.stderr.flush()


_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red", "skipped": "dim"}


def print_verdict(verdict: str, text: str, *, to_stderr: bool = False) -> None:
    """Print a line that begins with a verdict, in its colour where that is a terminal."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=to_stderr, highlight=False, soft_wrap=True)
    console.print(
        Text.assemble((f"{one_line(verdict):<8}", _STYLES.get(verdict, "")), many_lines(text)), soft_wrap=True
    )


def clear_screen() -> None:
    """Clear the terminal on stdout; does nothing if stdout is not a terminal, or knows no escape sequences."""
    if is_styled():
        sys.stdout.write("\x1b[H\x1b[2J")


def overwrite_line(text: str) -> None:
    """Show a text in place of the line on stderr, which is a terminal."""
    sys.stderr.write(f"\r\x1b[K{one_line(text)}")
    sys.stderr.flush()


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Print rows under upper-case headings; numbers to the right, missing values as `-`."""
    cells = [[_heading(column) for column in columns]]
    cells += [[shown(column, row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    numeric = [all(_is_number(row.get(column)) for row in rows) for column in columns]
    for line in cells:
        padded = [
            cell.rjust(width) if right and rows else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ]
        print("  ".join(padded).rstrip())


def print_facts(facts: Mapping[str, Any]) -> None:
    """Print a mapping as `name: value` lines; inner mappings are indented, rows begin with a dash."""
    for line in _fact_lines(facts):
        print(line)


def _fact_lines(facts: Mapping[str, Any]) -> Iterator[str]:
    width = max((len(name) for name in facts), default=0) + 1
    for name, value in facts.items():
        if isinstance(value, Mapping) and value:
            yield f"{one_line(name)}:"
            yield from (f"  {line}" for line in _fact_lines(value))
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            yield f"{one_line(name)}:"
            for item in value:
                yield from (f"  {' ' if at else '-'} {line}" for at, line in enumerate(_fact_lines(item)))
        else:
            yield f"{one_line(name) + ':':<{width}} {shown(name, value)}"


def _heading(column: str) -> str:
    """The cells contain their unit."""
    return column.removeprefix("num_").removesuffix("_bytes").removesuffix("_ratio").replace("_", " ").upper()


def shown(name: str, value: Any) -> str:
    """Return a value as people read it; the name's ending says its unit."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float) and name.endswith("_bytes"):
        return in_bytes(value)
    if name == "created" and not value:
        # A model that is not loaded.
        return "-"
    if isinstance(value, int | float) and (name.endswith("_at") or name == "created"):
        return _in_local_time(value)
    if isinstance(value, float):
        return f"{value:.0%}" if name.endswith("_ratio") else f"{value:.1f}".removesuffix(".0")
    if isinstance(value, list | tuple):
        return ", ".join(shown(name, item) for item in value) or "-"
    # A line break inside a value would look like a line of its own.
    return one_line(value)


def _in_local_time(seconds: float) -> str:
    """Return a time since the epoch as the user's clock shows it, or the number where no calendar has it."""
    try:
        moment = datetime.fromtimestamp(seconds, tz=timezone.utc).astimezone()
    except (OverflowError, ValueError, OSError):
        return one_line(seconds)
    return moment.isoformat(sep=" ", timespec="seconds")


def in_bytes(number: float) -> str:
    """Return a size with its unit."""
    return size(number)


def in_time(seconds: float) -> str:
    """Return a duration in its two largest units."""
    whole = int(seconds)
    for name, length, below, small in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= length:
            return f"{whole // length}{name} {whole % length // small}{below}"
    return f"{whole}s"


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
