r"""Text from elsewhere (prompts, answers, ids, log lines, errors) made safe to show on a terminal. Pure.

Rule: everything that the CLI or the dashboard shows and did not write itself passes here once. A character that would
steer the terminal, reorder the line, or make an exported picture invalid XML becomes a visible escape: ESC is shown as
`\x1b`, a right-to-left override as `\u202e`. All other characters stay as they are, in every script.

Escaped are: C0 controls and DEL; C1 controls; the line and paragraph separators; bidirectional controls (Unicode
Standard Annex 9) and the deprecated format characters after them; interlinear annotations and the byte order mark; lone
surrogates; noncharacters; tags (U+E0000 to U+E007F), which hide text. Joiners and variation selectors stay: scripts
and emoji need them.
"""

from __future__ import annotations

import re
from typing import Any, Final

_UNSAFE_BUT_LAYOUT: Final = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 without tab and newline, DEL, C1
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f"  # marks, separators, embeddings, isolates, deprecated formats
    "\ufdd0-\ufdef\ufeff\ufff9-\ufffb\ufffe\uffff"  # noncharacters, byte order mark, annotations
    "\ud800-\udfff"  # surrogates: Python's text may hold lone ones, UTF-8 and XML may not
    "\U000e0000-\U000e007f"  # tags
    + "".join(f"{chr(plane * 0x10000 + 0xFFFE)}{chr(plane * 0x10000 + 0xFFFF)}" for plane in range(1, 17))
)
_UNSAFE_IN_LINES: Final = re.compile(f"[{_UNSAFE_BUT_LAYOUT}]")
_UNSAFE_IN_LINE: Final = re.compile(f"[\t\n{_UNSAFE_BUT_LAYOUT}]")
_SHORT: Final = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def one_line(text: object) -> str:
    """Return the text with every unsafe character escaped, line breaks and tabs too: for names, cells and titles."""
    return _UNSAFE_IN_LINE.sub(_visible, str(text))


def many_lines(text: object) -> str:
    r"""Return the text with unsafe characters escaped; `\n` and tabs stay, and a `\r\n` becomes a `\n`."""
    shown = str(text)
    return _UNSAFE_IN_LINES.sub(_visible, shown.replace("\r\n", "\n") if "\r" in shown else shown)


def safe_json(document: str) -> str:
    """Return a JSON document that decodes to the same value and holds no unsafe character."""
    # Outside its strings JSON has only ASCII; inside them, `json.dumps` has escaped C0 already.
    return _UNSAFE_IN_LINES.sub(_json_escape, document)


def safe_values(value: Any) -> Any:
    """Return facts as a peer sent them, maps and lists within one another, with all text passed by `many_lines`."""
    if isinstance(value, str):
        # The usual case costs one look: printable text of any script holds nothing unsafe.
        return value if value.isprintable() else many_lines(value)
    if isinstance(value, dict):
        return {safe_values(key): safe_values(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [safe_values(one) for one in value]
    return value


def _visible(found: re.Match[str]) -> str:
    character = found[0]
    if character in _SHORT:
        return _SHORT[character]
    number = ord(character)
    return (
        f"\\x{number:02x}"
        if number < 0x100
        else f"\\u{number:04x}"
        if number < 0x10000
        else f"\\U{number:08x}"
    )


def _json_escape(found: re.Match[str]) -> str:
    number = ord(found[0])
    if number < 0x10000:
        return f"\\u{number:04x}"
    number -= 0x10000
    return f"\\u{0xD800 | number >> 10:04x}\\u{0xDC00 | number & 0x3FF:04x}"
