"""The findings of the doctor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check."""

    check: str
    state: Literal["ok", "warning", "error"]
    message: str
    advice: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
