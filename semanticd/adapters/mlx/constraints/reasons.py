"""Reasons for refusing a form, in terms of the client's schema: the grammar engine's own name its options.

A reason that is not known here is passed on as it is, on one line.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_MAX_CHARACTERS = 500

_RULES: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (
        re.compile(r"Unimplemented keys: \[(.*?)\]"),
        lambda found: f"its schema asks for {found[1].replace(chr(34), '')}; leave them out",
    ),
    (
        re.compile(r"oneOf constraints are not supported"),
        lambda found: "the cases of its oneOf may overlap; use anyOf",
    ),
    (
        re.compile(r"Unknown format: (.*)"),
        lambda found: f"the format {found[1]!r} is not supported; omit it, or express it as a pattern",
    ),
    (
        re.compile(r"Pointer '(.*?)' does not exist"),
        lambda found: f"its $ref '#{found[1]}' points to nothing; put the definition under $defs",
    ),
    (
        re.compile(r"Resource '(.*?)' is not present in a registry"),
        lambda found: f"its $ref {found[1]!r} points outside the schema; put the definition under $defs",
    ),
    (
        re.compile(r'unknown special token: "(.*?)";'),
        lambda found: f"it names the token {found[1]}; name tokens by id, as <[42]>, or quote their text",
    ),
    (
        # Of several lines: the pattern, marks below it, and the reason.
        re.compile(r"regex parse error:.*?^error: ([^\n]*)", re.DOTALL | re.MULTILINE),
        lambda found: f"one of its patterns is invalid: {found[1]}",
    ),
)


def plain_reason(reason: object) -> str:
    """Return the reason in one line of at most 500 characters."""
    text = str(reason)
    for pattern, words in _RULES:
        found = pattern.search(text)
        if found is not None:
            text = words(found)
            break
    return " ".join(text.split())[:_MAX_CHARACTERS]
