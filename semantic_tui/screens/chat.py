"""The chat: a conversation with an agent; a sent turn appears at once, and the answer as it streams."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import TextArea

from semantic_tui.app_protocol import AppProtocol
from semantic_tui.live import agent_state
from semantic_tui.screens.dialogs import LiveDialog
from semantic_tui.state import WatchState
from semantic_tui.transcript import entries
from semantic_tui.widgets.shown_text import ShownText
from semantic_tui.widgets.transcript_view import TranscriptView

_KEYS = "enter send  ctrl+j newline  ↑ ↓ earlier turns  tab scroll  ctrl+x stop  esc back"
_FORKS = "Another client owns the conversation: your first turn creates a fork, which shares all blocks."


class Words(TextArea):
    """Input of a turn; enter sends it, and the arrow keys recall earlier turns."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+x", "screen.stop", "Stop", show=False)]

    def __init__(self) -> None:
        super().__init__(id="words", soft_wrap=True, tab_behavior="focus", show_line_numbers=False)
        self.earlier: list[str] = []
        """Earlier messages, oldest first."""
        self._at: int | None = None
        self._draft = ""

    async def _on_key(self, event: events.Key) -> None:
        """Send, start a new line, or recall earlier turns."""
        row, last_row = self.cursor_location[0], self.document.line_count - 1
        screen = self.screen
        if event.key == "enter" and isinstance(screen, ChatScreen):
            screen.send()
        elif event.key == "ctrl+j":
            self.insert("\n")
        elif event.key == "up" and row == 0:
            self._recall(-1)
        elif event.key == "down" and row == last_row:
            self._recall(1)
        else:
            await super()._on_key(event)
            return
        event.stop()
        event.prevent_default()

    def _recall(self, by: int) -> None:
        if self._at is None:
            self._draft = self.text
        at = (len(self.earlier) if self._at is None else self._at) + by
        if not 0 <= at <= len(self.earlier):
            return
        self._at = at if at < len(self.earlier) else None
        self.text = self._draft if self._at is None else self.earlier[at]
        self.move_cursor(self.document.end)

    def take(self) -> str:
        """Return the text, and clear the input."""
        text = self.text.strip()
        self.text, self._at = "", None
        return text


class ChatScreen(LiveDialog):
    """A conversation with one agent."""

    AUTO_FOCUS = "#words"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Back"),
        Binding("ctrl+x", "stop", "Stop the answer"),
    ]

    def __init__(self, dashboard: AppProtocol, agent: str, *, forks: bool) -> None:
        """Talk with this agent, or with a fork that the first turn makes."""
        super().__init__()
        self._dashboard = dashboard
        self._agent = agent
        self._forks = forks
        self._waits = False
        self._titles: tuple[str, str] | None = None

    @property
    def agent(self) -> str | None:
        """The agent that is spoken with."""
        return self._agent

    def compose(self) -> ComposeResult:
        with Vertical(id="chat"):
            yield TranscriptView(id="conversation")
            yield Words()
            yield ShownText(id="chat-keys")

    def on_mount(self) -> None:
        self.query_one("#chat-keys", ShownText).show_text(Content.styled(_KEYS, "$muted"))
        said = [entry.text for entry in entries(self._dashboard.state, self._agent) if entry.role == "user"]
        self.query_one(Words).earlier = said
        self.call_after_refresh(lambda: self.refresh_from(self._dashboard.state))

    def refresh_from(self, state: WatchState) -> None:
        """Show the conversation so far, and the agent's activity."""
        if not self.query("#chat-keys"):
            return
        agent, requests = self._agent, state.requests_of(self._agent)
        model = next((row.model for row in requests), "") or getattr(state.agent(agent), "model", "") or ""
        doing = agent_state(state.agent(agent), requests)[0] if requests or not self._waits else "waiting"
        titles = (f"{agent}  {model}".rstrip(), _FORKS if self._forks and not self._waits else doing)
        if titles != self._titles:
            self._titles = titles
            chat = self.query_one("#chat")
            chat.border_title, chat.border_subtitle = map(Text, titles)
        self.query_one(TranscriptView).show_entries(entries(state, agent))

    def send(self) -> None:
        """Send the text."""
        words = self.query_one(Words)
        if not words.text.strip():
            return
        if self._waits:
            self.notify(
                "The answer has not finished: wait for it, or press ctrl+x to stop it.", severity="warning"
            )
            return
        self._waits = True
        text = words.take()
        # The app's work, not this screen's: the turn continues where the screen is left.
        self.app.run_worker(self._take_turn(text))

    async def _take_turn(self, text: str) -> None:
        words = self.query_one(Words)
        came = False
        try:
            if self._forks:
                fork = await self._dashboard.fork(self._agent)
                if fork is None:
                    return
                self._agent, self._forks = fork, False
            words.earlier.append(text)
            for conversation in self.query(TranscriptView):
                # None, where the screen was left meanwhile.
                conversation.scroll_end(animate=False)
            came = await self._dashboard.take_turn(self._agent, text)
        finally:
            self._waits = False
            if not came and self.is_attached and not words.text:
                # Nothing that was written is lost.
                words.text = text
                words.move_cursor(words.document.end)

    def action_stop(self) -> None:
        self._dashboard.stop_answer(self._agent)
