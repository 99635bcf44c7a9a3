"""The peers: the machines from which blocks are read; shown over any screen."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Label

from semantic_tui.peer_facts import peers_text
from semantic_tui.screens.dialogs import LiveDialog
from semantic_tui.state import WatchState
from semantic_tui.widgets.shown_text import ShownText


class PeersDialog(LiveDialog):
    """Each peer with its figures; refreshed while it is open."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,enter,P", "dismiss", "Close")]

    def __init__(self, state: WatchState) -> None:
        super().__init__()
        self._state = state

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="dialog wide"):
            yield Label("Peers", classes="heading")
            yield ShownText(id="peers-text")
            yield ShownText(Content.styled("esc closes", "$muted"))

    def on_mount(self) -> None:
        self.refresh_from(self._state)

    def refresh_from(self, state: WatchState) -> None:
        self.query_one("#peers-text", ShownText).show_text(
            peers_text(state.status.peers, self.size.width - 6)
        )
