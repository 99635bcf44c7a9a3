"""KeysLine: the last line of a screen: the keys that work here, as many as fit; a click presses one.

Drawn when the screen is opened or its size changes, and never for a change of the state: Textual's own footer makes its
widgets again with each change of the focus.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from textual.content import Content
from textual.markup import escape
from textual.widgets import Static

Key = tuple[str, str, str]
"""Textual's name of the key, its common name, and its action."""


def fitting(keys: Sequence[Key], width: int) -> list[Key]:
    """Return the leading keys that fit into a line; the last of all, `?`, is always among them."""
    shown: list[Key] = []
    room = width - _length(keys[-1]) if keys else 0
    for key in keys[:-1]:
        if _length(key) > room:
            break
        room -= _length(key)
        shown.append(key)
    return [*shown, *keys[-1:]]


def _length(key: Key) -> int:
    return cell_len(key[1]) + cell_len(key[2]) + 3


class KeysLine(Static):
    """The keys that work here, as many as fit on a line; the last one always does."""

    _keys: tuple[list[Key], int] | None = None

    def show(self, keys: Sequence[Key], width: int) -> None:
        """Show these keys, if they are others or the width is."""
        mark = (list(keys), width)
        if self._keys == mark:
            return
        self._keys = mark
        self.update(Content.from_markup("  ".join(_markup(key) for key in fitting(keys, width - 2))))


def _markup(key: Key) -> str:
    pressed, name, does = key
    return f"[@click=app.simulate_key('{pressed}')][bold $accent]{escape(name)}[/] {escape(does)}[/]"
