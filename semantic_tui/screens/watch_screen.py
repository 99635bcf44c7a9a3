"""WatchScreen: what all screens share: the lines on top, the footer, and `show`, called when the state changed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, cast

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Footer

from semantic_tui.state import WatchState
from semantic_tui.steering import Steering
from semantic_tui.widgets.top_line import ConnectionLine, TopLine


class WatchScreen(Screen[None]):
    """A screen that shows the watch state."""

    @property
    def dashboard(self) -> Steering:
        """The app, as screens may know it."""
        return cast("Steering", self.app)

    def compose(self) -> ComposeResult:
        """Lay out the lines around the screen's own body."""
        yield TopLine(id="top")
        yield ConnectionLine(id="connection")
        yield from self.body()
        yield Footer()

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
        self.call_after_refresh(lambda: self.refresh_from(self.dashboard.state))

    def on_resize(self) -> None:
        """Draw bars and sparklines at their new width."""
        self.call_after_refresh(lambda: self.refresh_from(self.dashboard.state))


class AgentActionsScreen(WatchScreen):
    """A screen with an agent to act on; subclasses say which."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "pin", "Pin"),
        Binding("f", "fork", "Fork"),
        Binding("w", "rewind", "Rewind"),
        Binding("e", "evict", "Evict"),
        Binding("d", "delete", "Delete"),
        Binding("x", "export", "Export"),
        Binding("c", "cancel", "Cancel"),
    ]

    def chosen_agent(self) -> str | None:
        """Return the agent that actions are about."""
        raise NotImplementedError

    def action_pin(self) -> None:
        """Pin the agent, or unpin it."""
        self._act("pin")

    def action_fork(self) -> None:
        """Ask for the copy's name and fork."""
        self._act("fork")

    def action_rewind(self) -> None:
        """Ask how many turns and rewind."""
        self._act("rewind")

    def action_evict(self) -> None:
        """Move the agent's blocks to disk."""
        self._act("evict")

    def action_delete(self) -> None:
        """Ask, and delete the agent."""
        self._act("delete")

    def action_export(self) -> None:
        """Ask for a path and export."""
        self._act("export")

    def action_cancel(self) -> None:
        """Cancel the agent's requests."""
        self._act("cancel")

    def _act(self, deed: str) -> None:
        agent = self.chosen_agent()
        if agent is None:
            self.notify("There is no agent to act on.", severity="warning")
        else:
            self.dashboard.act_on_agent(deed, agent)
