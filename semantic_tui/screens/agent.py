"""The agent screen: live token streams side by side; below them, the facts about the selected agent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.containers import Container, VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import DataTable, Input, Static, TabbedContent, TabPane

from semantic_tui.agent_facts import blocks_text, difference, speed_text, turn_columns, turn_row, turn_text
from semantic_tui.live import agent_state
from semantic_tui.screens.dialogs import TextDialog
from semantic_tui.screens.watch_screen import AgentActionsScreen
from semantic_tui.state import AgentDetails, WatchState
from semantic_tui.transcript import entries
from semantic_tui.widgets.rows_table import RowsTable, fitted
from semantic_tui.widgets.shown_text import ShownText
from semantic_tui.widgets.transcript_view import TranscriptView
from semanticd.control.results import TurnRow

MAX_TILES = 6
_MIN_TILE_COLUMNS = 38
_TILE_CHARS = 4000
_SHORT_SCREEN = 30
_TABS_ROWS = 2
_GONE = "This agent was deleted. Press - to close its tile."
_NO_TILE = "No agent selected: press 1, then enter on an agent, or space on several."
_SHOWN_GONE = ("", -1)


class Tile(VerticalScroll):
    """One agent's stream; follows its end until it is scrolled away from it."""

    def __init__(self, agent: str) -> None:
        super().__init__(classes="tile")
        self.agent = agent
        self.border_title = Text(agent)
        self._shown: tuple[str, int] | None = None
        self._text = ""
        self._follows = True

    def compose(self) -> Iterable[Widget]:
        yield Static(Content.styled("No answer yet.", "$muted"))

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Follow the end from when it is reached until it is left; another size of the tile does not leave it."""
        super().watch_scroll_y(old_value, new_value)
        self._follows = self.max_scroll_y - new_value <= 1

    def on_resize(self) -> None:
        """Stay at the end, which is elsewhere now."""
        if self._follows:
            self.scroll_end(animate=False)

    def show(self, state: WatchState) -> None:
        """Show the stream's end, if it moved, and the agent's activity; without a stream, its last answer."""
        stream = state.streams.get(self.agent)
        row = state.agent(self.agent)
        if row is None and self.agent in state.details:
            # It is not among those used last, which are listed.
            row = state.details[self.agent].facts
        requests = state.requests_of(self.agent)
        is_gone = self._shown is not None and row is None and not requests and stream is None
        text = "gone" if is_gone else agent_state(row, requests)[0]
        if stream is not None:
            text += f", {stream.num_tokens} tokens"
        text += "" if self._follows else ", paused (end resumes)"
        if text != self._text:
            self._text, self.border_subtitle = text, Text(text)
        if stream is not None:
            mark, said = (stream.request, stream.num_tokens), stream.tail(_TILE_CHARS)
        else:
            answers = [entry.text for entry in entries(state, self.agent) if entry.role == "assistant"]
            mark, said = ("", len(answers)), answers[-1][-_TILE_CHARS:] if answers else ""
        texts = self.query(Static)
        if is_gone and texts:
            if self._shown != _SHOWN_GONE:
                texts.first().update(Content.styled(_GONE, "$muted"))
                self._shown = _SHOWN_GONE
            return
        if mark == self._shown or not said or not texts:
            if self._follows and self.scroll_y < self.max_scroll_y:
                # The end moves when other parts of the screen appear or disappear: scroll to it again.
                self.scroll_end(animate=False)
            return
        self._shown = mark
        texts.first().update(Content(said) if stream else Content.styled(f"Last answer:\n{said}", "$muted"))
        if self._follows:
            self.scroll_end(animate=False)

    def on_click(self, event: events.Click) -> None:
        screen = self.screen
        if isinstance(screen, AgentScreen):
            screen.dashboard.open_agent(self.agent)


class AgentScreen(AgentActionsScreen):
    """The streams of the selected agents, and why a turn was slow."""

    AUTO_FOCUS = "#turns"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left_square_bracket", "step(-1)", "Previous", key_display="[", show=False),
        Binding("right_square_bracket", "step(1)", "Next tile", key_display="]"),
        Binding("minus", "untile", "Close tile", key_display="-"),
        Binding("slash", "search", "Search", key_display="/"),
        Binding("escape", "close_search", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._laying: list[str] = []
        """The tiles that are being laid now."""

    def body(self) -> Iterable[Widget]:
        yield ShownText(id="hint")
        yield Container(id="tiles")
        with TabbedContent(id="facts"):
            with TabPane("Turns", id="turns-pane"):
                yield RowsTable(turn_columns(80), id="turns")
                yield ShownText(id="why")
            with TabPane("Transcript", id="transcript-pane"):
                yield Input(placeholder="search", id="search")
                yield TranscriptView(id="transcript")
            with TabPane("Speed", id="speed-pane"):
                yield ShownText(id="speed")
            with TabPane("Blocks", id="blocks-pane"):
                yield VerticalScroll(ShownText(id="blocks"))

    def on_mount(self) -> None:
        self.query_one("#search").display = False
        self.query_one("#turns").focus()

    def chosen_agent(self) -> str | None:
        """Return the agent whose facts are shown."""
        return self.dashboard.chosen

    def show(self, state: WatchState) -> None:
        wanted = self.dashboard.watched[-MAX_TILES:]
        hint = self.query_one("#hint", ShownText)
        hint.display = not wanted
        none = "No agents yet: the first request creates one."
        hint.show_text(Content(_NO_TILE if state.known_agents or state.requests else none))
        self.query_one("#tiles").display = self.query_one("#facts").display = bool(wanted)
        if wanted and self.focused is None:
            # Hidden turns cannot have the focus: they get it with the first tile.
            self.query_one("#turns").focus()
        tiles = {tile.agent: tile for tile in self.query(Tile)}
        if list(tiles) != wanted:
            if self._laying != wanted:
                self._laying = wanted
                # The method, not its coroutine: one that is replaced before it began would never be awaited.
                self.run_worker(self._lay_tiles, exclusive=True, group="tiles")  # type: ignore[arg-type]
        else:
            self._laying = []
            self._arrange(len(wanted))
            for tile in tiles.values():
                tile.show(state)
                tile.set_class(tile.agent == self.chosen_agent(), "chosen")
        agent = self.chosen_agent()
        if agent is not None:
            self._show_facts(state, agent)

    async def _lay_tiles(self) -> None:
        holder = self.query_one("#tiles")
        await holder.remove_children(Tile)
        await holder.mount(*(Tile(agent) for agent in self._laying))
        self.refresh_from(self.dashboard.state)

    def _arrange(self, num_tiles: int) -> None:
        columns = max(1, min(num_tiles, self.size.width // _MIN_TILE_COLUMNS))
        rows = -(-num_tiles // columns)
        # As even as can be: four tiles are two by two, not three and one.
        wanted = max(1, -(-num_tiles // max(1, rows)))
        tiles = self.query_one("#tiles")
        if tiles.styles.grid_size_columns != wanted:
            tiles.styles.grid_size_columns = wanted

    def _show_facts(self, state: WatchState, agent: str) -> None:
        if not self.query("#blocks"):
            # Tabs make their parts later than the screen is made.
            return
        turns = state.turns(agent)
        tab, width = self.query_one(TabbedContent).active, self.size.width
        if tab == "turns-pane":
            table, columns = self.query_one("#turns", RowsTable), turn_columns(width)
            table.name_columns(columns)
            table.show_rows([turn_row(at, turn, columns) for at, turn in enumerate(turns, 1)][::-1])
            name = fitted(agent, max(8, width - 50))
            table.entitle(f"Turns of {name} ({len(turns)})", "enter shows the difference")
            self._show_why()
        elif tab == "transcript-pane":
            self.query_one(TranscriptView).show_entries(entries(state, agent))
        elif tab == "speed-pane":
            # Not the pane's own: it has no size yet when its tab is opened.
            height = self.query_one(TabbedContent).size.height - _TABS_ROWS
            self.query_one("#speed", ShownText).show_text(
                speed_text(turns, max(20, width - 6), max(8, height))
            )
        else:
            facts = state.details.get(agent, AgentDetails()).facts
            text = blocks_text(facts, state.agent(agent) or facts, max(20, width - 6))
            self.query_one("#blocks", ShownText).show_text(text)

    def on_tabbed_content_tab_activated(self) -> None:
        agent = self.chosen_agent()
        if agent is not None:
            self.call_after_refresh(lambda: self._show_facts(self.dashboard.state, agent))

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        self._show_why()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Show where the turn's prompt differed from the cached text."""
        turn = self._turn()
        if turn is not None:
            self.app.push_screen(TextDialog("Where the prompt differed", difference(turn)))

    def _turn(self) -> TurnRow | None:
        """Return the turn under the cursor, if there is one."""
        if not self.query("#turns"):
            return None
        turns = self.dashboard.state.turns(self.chosen_agent() or "")[::-1]
        at = self.query_one("#turns", RowsTable).cursor_row
        return turns[at] if 0 <= at < len(turns) else None

    def _show_why(self) -> None:
        turn = self._turn()
        short = self.size.height < _SHORT_SCREEN
        text = (
            turn_text(turn, short=short)
            if turn is not None
            else Content.styled("No turn has finished yet.", "$muted")
        )
        self.query_one("#why", ShownText).show_text(text)

    def action_search(self) -> None:
        self.query_one(TabbedContent).active = "transcript-pane"
        box = self.query_one("#search", Input)
        box.display = True
        box.focus()

    def action_close_search(self) -> None:
        box = self.query_one("#search", Input)
        if box.display:
            box.value, box.display = "", False
            self.query_one(TranscriptView).focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        num_found = self.query_one(TranscriptView).search(event.value)
        plural = "" if num_found == 1 else "s"
        event.input.border_subtitle = (
            f"{num_found} matching line{plural}; enter, then n and N" if event.value else ""
        )

    def on_input_submitted(self) -> None:
        self.query_one(TranscriptView).focus()

    def action_step(self, by: int) -> None:
        watched = self.dashboard.watched[-MAX_TILES:]
        if watched:
            at = watched.index(self.dashboard.chosen) if self.dashboard.chosen in watched else 0
            self.dashboard.open_agent(watched[(at + by) % len(watched)])

    def action_untile(self) -> None:
        """Close the chosen agent's tile."""
        agent = self.chosen_agent()
        if agent is not None and agent in self.dashboard.watched:
            self.dashboard.toggle_watched(agent)
            self.show(self.dashboard.state)
