"""The changes to a request that made it answerable; the answer and the log report them.

Agents send a whole conversation with every request. A part that no text model can read, once in it, must not end the
conversation: it is replaced by words that the model sees. Only what the user asks about right now is refused.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from semanticd.domain.errors import UnsupportedError

Speaker = Literal["user", "assistant", "tool", "system"]

_MAX_FOREIGN_CHARS = 20_000
_UNREADABLE_FIELDS = (
    "id",
    "status",
    "encrypted_content",
    "encrypted_index",
    "data",
    "file_data",
    "image_url",
)


class Adjustments:
    """Counts changes by name while a request is read."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def note(self, name: str) -> None:
        """Count one change, such as `image_omitted`."""
        self._counts[name] += 1

    @property
    def words(self) -> tuple[str, ...]:
        """The changes as `name=count`, in the order in which they came up."""
        return tuple(f"{name}={count}" for name, count in self._counts.items())

    def omit(self, kind: str, *, name: str = "", path: str, asked: bool) -> str:
        """Return words that stand in for content such as an image.

        Raises:
            UnsupportedError: the user asks about it now (`asked`), so that no answer could be right.
        """
        if asked:
            raise UnsupportedError(
                f"this server's models read text only, not {kind}; send text, or leave it out", param=path
            )
        self.note(f"{kind}_omitted")
        return f"[{kind}{f' {name}' if name else ''} omitted: this model reads text only]"

    def describe(self, kind: str, fields: Mapping[str, Any]) -> str:
        """Return words for an item that only its own service can read, with those of its fields that are text."""
        self.note(f"{kind}_as_text")
        text = json.dumps(_readable(fields), ensure_ascii=False, sort_keys=True)
        if len(text) > _MAX_FOREIGN_CHARS:
            text = f"{text[:_MAX_FOREIGN_CHARS]}…"
        return f"[{kind} {text}]"


def _readable(value: Any) -> Any:
    if isinstance(value, Mapping):
        kept = {key: _readable(inner) for key, inner in value.items() if key not in _UNREADABLE_FIELDS}
        return {key: inner for key, inner in kept.items() if inner not in (None, {}, [])}
    return [_readable(inner) for inner in value] if isinstance(value, list) else value


def asked_now(speakers: Sequence[Speaker]) -> int | None:
    """Return the index of the user's current question: the last message, unless it is a tool result.

    None where the model speaks last, or where tools answered since it spoke: agents pass on a tool's images as users.
    """
    newest: int | None = None
    for index in range(len(speakers) - 1, -1, -1):
        if speakers[index] == "assistant":
            break
        if speakers[index] == "tool":
            return None
        if speakers[index] == "user" and newest is None:
            newest = index
    return newest
