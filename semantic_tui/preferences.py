"""The choices that the dashboard keeps from run to run: theme, order, span, log level.

A file that cannot be read or written is ignored.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from platformdirs import user_state_path

from semantic_tui.agent_order import SORT_KEYS
from semantic_tui.history import SPANS_S

THEMES = ("dark", "light")
LOG_LEVELS = ("debug", "info", "warning", "error")


def default_file() -> Path:
    """Return the file of this user."""
    return user_state_path("semantic-tui", appauthor=False) / "dashboard.json"


class Preferences:
    """The remembered choices; every change is written at once, where there is a file."""

    def __init__(self, file: Path | None = None, *, theme: str | None = None) -> None:
        """Read the file; without one, or where a value is not known, the defaults hold.

        `theme` is the one to begin with in this run, whatever is remembered.
        """
        self._file = file
        self._theme_of_this_run = theme
        self.theme = THEMES[0]
        self.sort = next(iter(SORT_KEYS))
        self.reverse = False
        self.span_s = SPANS_S[1]
        self.log_level = LOG_LEVELS[1]
        if file is not None:
            with contextlib.suppress(OSError, ValueError):
                self._take(json.loads(file.read_text(encoding="utf-8")))

    @property
    def shown_theme(self) -> str:
        """The theme of this run."""
        return self._theme_of_this_run or self.theme

    def change(self, **choices: Any) -> None:
        """Set and remember choices by name."""
        self._take(choices)
        if "theme" in choices:
            self._theme_of_this_run = None
        if self._file is None:
            return
        kept = {name: getattr(self, name) for name in ("theme", "sort", "reverse", "span_s", "log_level")}
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.write_text(json.dumps(kept), encoding="utf-8")

    def _take(self, choices: Any) -> None:
        if not isinstance(choices, dict):
            return
        allowed: Mapping[str, Collection[object]] = {
            "theme": THEMES, "sort": SORT_KEYS, "reverse": (False, True), "span_s": SPANS_S, "log_level": LOG_LEVELS,
        }  # fmt: skip
        for name, values in allowed.items():
            value = choices.get(name)
            if isinstance(value, str | int) and value in values:
                setattr(self, name, value)
