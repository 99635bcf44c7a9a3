"""What the doctor's checks find."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found."""

    check: str
    state: Literal["ok", "warning", "error"]
    message: str
    advice: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
