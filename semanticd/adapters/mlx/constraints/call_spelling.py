"""The spelling of calls by a family of models: the text around the name and the arguments."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CallSpelling:
    """A block of calls: `start`, for each call `before`, name, `between`, arguments and `after`, and `end`.

    `joint` stands between two calls of one block; None: a block has one call, and blocks stand on lines of their own.
    An empty `start` means that a call is known by its beginning alone.
    """

    start: str
    before: str
    between: str
    after: str
    end: str
    joint: str | None = None

    def name(self, name: str) -> str:
        """Return a tool's name as it stands between `before` and `between`."""
        return json.dumps(name, ensure_ascii=False)[1:-1] if self.between.startswith('"') else name

    def written(self, calls: Sequence[tuple[str, str]]) -> str:
        """Return the text of calls, given as names and JSON arguments."""
        bodies = [
            f"{self.before}{self.name(name)}{self.between}{arguments}{self.after}"
            for name, arguments in calls
        ]
        if self.joint is not None:
            return f"{self.start}{self.joint.join(bodies)}{self.end}"
        return "\n".join(f"{self.start}{body}{self.end}" for body in bodies)


def json_spelling(start: str, end: str, *, arguments: str = "arguments") -> CallSpelling:
    """Return `{"name": …, "arguments": …}` between two markers; on a line of its own where there is an end."""
    line = "\n" if end else ""
    return CallSpelling(start, f'{line}{{"name": "', f'", "{arguments}": ', f"}}{line}", end)
