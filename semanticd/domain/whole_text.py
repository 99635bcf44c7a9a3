"""Text in whole characters: Python's may hold halves of surrogate pairs, which UTF-8, and so every answer, cannot."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_HALF = re.compile("[\ud800-\udfff]")


def has_half(text: str) -> bool:
    """Return whether a text contains an unpaired surrogate."""
    return _HALF.search(text) is not None


def whole_characters(text: str) -> str:
    """Return text in which halves of surrogate pairs are replaced."""
    return _HALF.sub("\N{REPLACEMENT CHARACTER}", text)


def whole_texts(value: Any) -> Any:
    """Return a JSON value in whose keys and texts halves of surrogate pairs are replaced."""
    if isinstance(value, str):
        return whole_characters(value)
    if isinstance(value, Mapping):
        return {whole_characters(key): whole_texts(item) for key, item in value.items()}
    return [whole_texts(item) for item in value] if isinstance(value, list | tuple) else value
