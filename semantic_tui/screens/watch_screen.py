"""WatchScreen: what all screens share: the lines on top, the footer, and `show`, called when the state changed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, cast

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Footer

from semantic_tui.app_protocol import AppProtocol
from semantic_tui.state import WatchState
from semantic_tui.widgets.top_line import ConnectionLine, PlacesLine, TopLine

_PALETTE_FROM = 100
"""Terminal columns from which the footer names the command palette beside a screen's own keys."""


class WatchScreen(Screen[None]):
    """A screen that shows the watch state."""

    # First in the footer, where a narrow terminal does not cut them off.
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("question_mark", "app.help", "Help", key_display="?"),
        Binding("q", "app.quit", "Quit"),
    ]

    @property
    def dashboard(self) -> AppProtocol:
        """The app, as screens may know it."""
        return cast("AppProtocol", self.app)

    def compose(self) -> ComposeResult:
        """Lay out the lines around the screen's own body."""
        yield TopLine(id="top")
        yield PlacesLine(id="places")
        yield ConnectionLine(id="connection")
        yield from self.body()
        yield Footer(compact=True)

    def body(self) -> Iterable[Widget]:
        """Return the screen's own widgets."""
        raise NotImplementedError

    def refresh_from(self, state: WatchState) -> None:
        """Show the state; called at most ten times a second, and only while the screen is seen."""
        self.query_one(TopLine).show(state)
        self.query_one(ConnectionLine).show(state, self.dashboard.clock())
        self.set_class(state.stale, "stale")
        self.show(state)

    def show(self, state: WatchState) -> None:
        """Show the state in the screen's own widgets."""
        raise NotImplementedError

    def on_screen_resume(self) -> None:
        """Catch up with what happened while another screen was seen."""
        self.query_one(PlacesLine).show(self.dashboard.places, self.dashboard.place)
        self.call_after_refresh(lambda: self.refresh_from(self.dashboard.state))

    def on_resize(self) -> None:
        """Draw bars and sparklines at their new width."""
        self.query_one(Footer).show_command_palette = self.size.width >= _PALETTE_FROM
        self.call_after_refresh(lambda: self.refresh_from(self.dashboard.state))


class AgentActionsScreen(WatchScreen):
    """A screen with an agent to act on; subclasses say which."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "act('pin')", "Pin"),
        Binding("f", "act('fork')", "Fork"),
        Binding("w", "act('rewind')", "Rewind"),
        Binding("e", "act('evict')", "Evict"),
        Binding("d", "act('delete')", "Delete"),
        Binding("x", "act('export')", "Export"),
        Binding("c", "act('cancel')", "Cancel"),
    ]

    def chosen_agent(self) -> str | None:
        """Return the agent that actions are about."""
        raise NotImplementedError

    def action_act(self, action: str) -> None:
        """Pin or unpin, fork, rewind, evict, delete, export the agent, or cancel its requests."""
        agent = self.chosen_agent()
        if agent is None:
            self.notify("There is no agent to act on.", severity="warning")
        else:
            self.dashboard.act_on_agent(action, agent)
