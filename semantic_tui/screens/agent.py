"""The agent screen: live token streams side by side; below, what is known about the agent that is chosen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.containers import Container, VerticalScroll
from textual.content import Content
from textual.markup import escape
from textual.widget import Widget
from textual.widgets import DataTable, Static, TabbedContent, TabPane

from semantic_tui.agent_facts import TURN_COLUMNS, blocks_text, miss_text, transcript, turn_row
from semantic_tui.plain import number
from semantic_tui.screens.watch_screen import AgentActionsScreen
from semantic_tui.state import WatchState
from semantic_tui.widgets.rows_table import RowsTable
from semantic_tui.widgets.shown_text import ShownText

MAX_TILES = 6
_MIN_TILE_COLUMNS = 38
_TILE_CHARS = 4000


class Tile(VerticalScroll):
    """One agent's stream; follows its end."""

    def __init__(self, agent: str) -> None:
        """Show this agent."""
        super().__init__(classes="tile")
        self.agent = agent
        self.border_title = escape(agent)
        self._shown: tuple[str, int] | None = None
        self._text = ""

    def compose(self) -> Iterable[Widget]:
        """Hold one text."""
        yield Static(
            Content.styled("Nothing was heard of this agent since the dashboard was opened.", "$muted")
        )

    def show(self, state: WatchState) -> None:
        """Show the stream's end, if it moved, and the agent's speed."""
        row, requests = state.agent(self.agent), state.requests_of(self.agent)
        stream = state.streams.get(self.agent)
        text = str(requests[0].get("state") if requests else row.get("state") or "unknown")
        if requests and requests[0].get("tokens_per_s"):
            text += f", {number(requests[0]['tokens_per_s'], ' tok/s', digits=1)}"
        if stream is not None:
            text += f", {stream.num_tokens} tokens"
        if text != self._text:
            self._text, self.border_subtitle = text, escape(text)
        mark = (stream.request, stream.num_tokens) if stream else None
        if stream is None or mark == self._shown:
            return
        self._shown = mark
        self.query_one(Static).update(Content(stream.tail(_TILE_CHARS)))
        self.scroll_end(animate=False)

    def on_click(self, event: events.Click) -> None:
        """Choose this agent."""
        screen = self.screen
        if isinstance(screen, AgentScreen):
            screen.dashboard.open_agent(self.agent)


class AgentScreen(AgentActionsScreen):
    """What the chosen agents say, and why a turn was slow."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left_square_bracket", "step(-1)", "Previous", key_display="[", show=False),
        Binding("right_square_bracket", "step(1)", "Next tile", key_display="]"),
        Binding("minus", "untile", "Close tile", key_display="-"),
    ]

    def __init__(self) -> None:
        """Begin without tiles."""
        super().__init__()
        self._laying: list[str] = []
        """The tiles that are being laid now."""

    def body(self) -> Iterable[Widget]:
        """Lay out tiles and facts."""
        yield Static(id="hint")
        yield Container(id="tiles")
        with TabbedContent(id="facts"):
            with TabPane("Turns", id="turns-pane"):
                yield RowsTable(TURN_COLUMNS, id="turns")
                yield ShownText(id="why")
            with TabPane("Transcript", id="transcript-pane"):
                yield VerticalScroll(ShownText(id="transcript"))
            with TabPane("Blocks", id="blocks-pane"):
                yield VerticalScroll(ShownText(id="blocks"))

    def on_mount(self) -> None:
        """Focus the turns."""
        text = "No agent is chosen: press 1, then enter on an agent, or space on several."
        self.query_one("#hint", Static).update(text)
        self.query_one("#turns").focus()

    def chosen_agent(self) -> str | None:
        """Return the agent whose facts are shown."""
        return self.dashboard.chosen

    def show(self, state: WatchState) -> None:
        """Show streams and facts."""
        wanted = self.dashboard.watched[-MAX_TILES:]
        self.query_one("#hint").display = not wanted
        self.query_one("#tiles").display = self.query_one("#facts").display = bool(wanted)
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
        self.query_one("#tiles").styles.grid_size_columns = max(1, -(-num_tiles // max(1, rows)))

    def _show_facts(self, state: WatchState, agent: str) -> None:
        details = state.details.get(agent, {})
        turns = details.get("turns") or []
        table = self.query_one("#turns", RowsTable)
        table.show_rows([turn_row(at, turn) for at, turn in enumerate(turns, 1)][::-1])
        table.entitle(f"Turns of {escape(agent)} ({len(turns)})")
        self._show_why()
        self.query_one("#transcript", ShownText).show_text(transcript(details, state, agent))
        width = max(20, self.size.width - 6)
        self.query_one("#blocks", ShownText).show_text(blocks_text({**details, **state.agent(agent)}, width))

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """Explain the turn under the cursor."""
        self._show_why()

    def _show_why(self) -> None:
        details = self.dashboard.state.details.get(self.chosen_agent() or "", {})
        turns = (details.get("turns") or [])[::-1]
        at = self.query_one("#turns", RowsTable).cursor_row
        text = miss_text(turns[at].get("miss")) if 0 <= at < len(turns) else Content("No turn has ended yet.")
        self.query_one("#why", ShownText).show_text(text)

    def action_step(self, by: int) -> None:
        """Choose the tile beside."""
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
