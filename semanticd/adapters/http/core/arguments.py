"""A tool call's arguments as clients send them back: JSON text, or the object itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def read_arguments(given: str | Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a call's arguments; text that is not a JSON object (models err, clients send it back) is kept as text."""
    if isinstance(given, Mapping):
        return dict(given)
    try:
        parsed = json.loads(given or "{}")
    except (ValueError, RecursionError):
        parsed = None
    return parsed if isinstance(parsed, dict) else {"arguments": given}
