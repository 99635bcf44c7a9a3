"""WatchScreen: the base of all screens: the lines on top, the keys below, and `show`, called when the state changed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, cast

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widget import Widget

from semantic_tui.app_protocol import AppProtocol
from semantic_tui.state import WatchState
from semantic_tui.widgets.keys_line import Key, KeysLine
from semantic_tui.widgets.top_line import AlarmLine, ConnectionLine, PlacesLine, TopLine

_COMMON_KEYS: list[Key] = [
    ("q", "q", "Quit"),
    ("ctrl+p", "ctrl+p", "Palette"),
    ("question_mark", "?", "Help"),
]


class WatchScreen(Screen[None]):
    """A screen that shows the watch state."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("question_mark", "app.help", "Help", show=False),
        Binding("q", "app.quit", "Quit", show=False),
        Binding("exclamation_mark", "app.alarms", "Alarms", show=False),
        Binding("P", "app.peers", "Peers", show=False),
    ]

    def __init__(self) -> None:
        """Reuse the parsed style sheet: for a new screen Textual would parse all of it again, twice."""
        super().__init__()
        self._css_update_count = self.app._css_update_count  # noqa: SLF001 (there is no public way)

    @property
    def dashboard(self) -> AppProtocol:
        """The app, as screens may know it."""
        return cast("AppProtocol", self.app)

    def compose(self) -> ComposeResult:
        """Lay out the lines around the screen's own body."""
        yield TopLine(id="top")
        yield PlacesLine(id="places")
        yield ConnectionLine(id="connection")
        yield AlarmLine(id="alarms")
        yield from self.body()
        yield KeysLine(id="keys")

    def body(self) -> Iterable[Widget]:
        """Return the screen's own widgets."""
        raise NotImplementedError

    def keys(self) -> list[Key]:
        """Return the keys that work here: the screen's own first, then those of every screen."""
        own = [
            binding
            for cls in type(self).__mro__
            for binding in cls.__dict__.get("BINDINGS", ())
            if isinstance(binding, Binding) and binding.show and binding.description
        ]
        return [
            *((b.key.split(",")[0], b.key_display or b.key, b.description) for b in own),
            *_COMMON_KEYS,
        ]

    def refresh_from(self, state: WatchState) -> None:
        """Show the state; called at most ten times a second, and only while the screen is seen."""
        if not self.query(KeysLine):
            # The last part is not there yet: what is shown comes with the drawing after the screen is made.
            return
        self.query_one(TopLine).show(state)
        self.query_one(ConnectionLine).show(state, self.dashboard.clock())
        self.query_one(AlarmLine).show(state, self.size.width - 2)
        self.set_class(state.stale, "stale")
        self.show(state)

    def show(self, state: WatchState) -> None:
        """Show the state in the screen's own widgets."""
        raise NotImplementedError

    def on_screen_resume(self) -> None:
        """Catch up with what happened while another screen was seen."""
        self.query_one(PlacesLine).show(self.dashboard.places, self.dashboard.place)
        self._draw_soon()

    def on_resize(self) -> None:
        self._draw_soon()

    def _draw_soon(self) -> None:
        for line in self.query(KeysLine):
            line.show(self.keys(), self.size.width)
        self.call_after_refresh(lambda: self.refresh_from(self.dashboard.state))


class AgentActionsScreen(WatchScreen):
    """A screen with an agent to act on; subclasses say which."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("i", "say", "Chat"),
        Binding("p", "act('pin')", "Pin"),
        Binding("f", "act('fork')", "Fork"),
        Binding("w", "act('rewind')", "Rewind"),
        Binding("e", "act('evict')", "Evict"),
        Binding("d", "act('delete')", "Delete"),
        Binding("c", "act('cancel')", "Cancel"),
        Binding("x", "act('export')", "Export"),
        Binding("L", "log", "Log"),
    ]

    def chosen_agent(self) -> str | None:
        """Return the agent that actions are about."""
        raise NotImplementedError

    def action_act(self, action: str) -> None:
        """Pin or unpin, fork, rewind, evict, delete, export the agent, or cancel its requests."""
        agent = self.chosen_agent()
        if agent is None:
            self.notify("No agent selected.", severity="warning")
        else:
            self.dashboard.act_on_agent(action, agent)

    def action_say(self) -> None:
        """Talk with the agent, or with a fork of it."""
        agent = self.chosen_agent()
        if agent is None:
            self.notify("No agent selected to chat with.", severity="warning")
        else:
            self.dashboard.say(agent)

    def action_log(self) -> None:
        """Show the log's lines about the agent."""
        agent = self.chosen_agent()
        if agent is not None:
            self.dashboard.open_log(agent)
