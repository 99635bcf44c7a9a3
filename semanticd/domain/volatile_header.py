"""The header line that coding agents put into system text, whose value differs between equal prompts.

It looks like `x-anthropic-billing-header: cc_version=2.1; cch=1a2b3;`, mostly as a block of its own without a line
break at its end. Only the header and its values are taken away: text after them on the same line stays.
"""

from __future__ import annotations

import re
from dataclasses import replace

from semanticd.domain.chat import Message, Part, TextPart

_HEADER = re.compile(
    r"^x-anthropic-billing-header:(?:[ \t]*[\w.-]+=[^;\s]*;|[ \t]*[^;\s]+[ \t]*$)+[ \t]*\n?", re.MULTILINE
)


def without_volatile_header(message: Message) -> Message:
    """Return a system message without the header, at any position; other messages unchanged.

    Each part is read for itself, and one that held nothing else is left out. No other text is changed.
    """
    if message.role != "system":
        return message
    parts: list[Part] = []
    for part in message.parts:
        if not isinstance(part, TextPart):
            parts.append(part)
            continue
        text = _HEADER.sub("", part.text)
        if text or not part.text:
            parts.append(part if text == part.text else TextPart(text))
    return message if tuple(parts) == message.parts else replace(message, parts=tuple(parts))
