"""Published form of results: dataclasses become dictionaries of plain values, under names that clients know.

A field is published under its own name, in its place. Its metadata may say otherwise:

```
priority: Priority = field(metadata=AS_CLASS)      published as `class`, which Python keeps for itself
agent: AgentFacts = field(metadata=FLAT)           its own fields stand in its place
path: str | None = field(metadata=IF_KNOWN)        left out where it is None
aliases: tuple[str, ...] = field(metadata=HIDDEN)  for the daemon's own use
```
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from functools import cache
from typing import Any, Final, Literal

_KEY: Final = "published"

AS_CLASS: Final = {_KEY: "class"}
FLAT: Final = {_KEY: "flat"}
IF_KNOWN: Final = {_KEY: "if known"}
HIDDEN: Final = {_KEY: "hidden"}

_Rule = Literal["plain", "class", "flat", "if known"]


def plain(value: Any) -> Any:
    """Return a result as dictionaries, lists and scalars; other values are returned unchanged."""
    if value is None or isinstance(value, str | int | float):
        return value
    if dataclasses.is_dataclass(value):
        return _fields_of(value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value.value if isinstance(value, enum.Enum) else value


def _fields_of(value: object) -> dict[str, Any]:
    made: dict[str, Any] = {}
    kind: Any = type(value)
    for name, rule in _rules(kind):
        item = getattr(value, name)
        if rule == "flat":
            made |= plain(item)
        elif rule == "class":
            made["class"] = item
        elif rule == "plain" or item is not None:
            made[name] = plain(item)
    return made


@cache
def _rules(kind: type) -> tuple[tuple[str, _Rule], ...]:
    rules = [(one.name, one.metadata.get(_KEY, "plain")) for one in dataclasses.fields(kind)]
    return tuple((name, rule) for name, rule in rules if rule != "hidden")
