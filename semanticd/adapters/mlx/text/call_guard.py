"""Decides early whether text that begins like a call is one, where its marker means other things too.

Text that is not a call must not wait for its end to be shown.
"""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Literal

Language = Literal["json", "python", "either", "tag"]

LOOKED_AT = 2048
"""Characters to look at; after so many without a verdict, the whole text decides."""

_NAMED = re.compile(
    r'\s*\[?\s*\{\s*(?:"(?:type|id)"\s*:\s*"[^"]*"\s*,\s*)*(?:"function"\s*:\s*\{\s*)?"name"\s*:\s*'
    r'"((?:[^"\\]|\\.)*)"'
)
_OPENED = re.compile(r'\s*(?:\[\s*)?(?:\{\s*(?:"([^"\\]*)("?))?)?')
_CALL_KEYS = ("name", "type", "id", "function", "arguments", "parameters")
_PYTHON = re.compile(r"\s*(?:print\s*\(\s*)?\[?\s*(?:\w+\s*=\s*)?([\w.]*)\s*(\(?)")
_TAG = re.compile(r'\s*"?([^<>"\s]*)"?\s*(>?)')


def could_call(text: str, language: Language, names: Container[str]) -> str | Literal[False] | None:
    """Return the offered tool that the text begins to call; False: it does not; None: it is too early to say.

    The verdict on a text is the verdict on all that begin with it.
    """
    if language == "json":
        return _json(text, names)
    if language == "python":
        return _called(text, _PYTHON.match(text), names)
    if language == "tag":
        return _called(text, _TAG.match(text), names)
    verdicts = (_json(text, names), _called(text, _PYTHON.match(text), names))
    return verdicts[0] or verdicts[1] or (None if None in verdicts else False)


def _called(text: str, match: re.Match[str] | None, names: Container[str]) -> str | Literal[False] | None:
    """Judge a name that ends with a bracket, once it has ended."""
    if match is None or (not match[2] and match.end() < len(text)):
        return False
    if not match[2]:
        return None
    name = match[1]
    return next((n for n in (name, name.removesuffix(".call"), name.rpartition(".")[2]) if n in names), False)


def _json(text: str, names: Container[str]) -> str | Literal[False] | None:
    named = _NAMED.match(text)
    if named is not None:
        return named[1] if named[1] in names else False
    opened = _OPENED.match(text)
    key = opened[1] if opened is not None else None
    if opened is None or key is None:
        return None if opened is not None and opened.end() == len(text) else False
    if opened[2]:
        return None if key in _CALL_KEYS else False
    unfinished = opened.end() == len(text) and any(word.startswith(key) for word in _CALL_KEYS)
    return None if unfinished else False
