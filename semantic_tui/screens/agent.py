"""The agent screen: live token streams side by side; below, what is known about the agent that is chosen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.markup import escape
from textual.widget import Widget
from textual.widgets import Static, TabbedContent, TabPane

from semantic_tui.plain import number, size
from semantic_tui.screens.watch_screen import AgentActionsScreen
from semantic_tui.state import WatchState
from semantic_tui.widgets.rows_table import Row, RowsTable

MAX_TILES = 4
_TILE_CHARS = 4000
_TURN_COLUMNS = ("prompt", "answer", "hot", "warm", "computed", "tier", "TTFT", "finish", "why")


def miss_told(miss: Any) -> str:
    """Return a miss report in a line."""
    if not isinstance(miss, dict):
        return ""
    cause = str(miss.get("cause") or miss.get("likely_cause") or "")
    at = next(
        (miss[key] for key in ("position", "at", "token_index", "diverged_at") if miss.get(key) is not None),
        None,
    )
    return cause + (f" at token {at}" if at is not None else "")


def turn_row(at: int, turn: Any) -> Row:
    """Return a turn's cells."""
    cells = (
        *(str(turn.get(key, "-")) for key in ("prompt_tokens", "completion_tokens", "reused_hot_tokens")),
        *(str(turn.get(key, "-")) for key in ("restored_warm_tokens", "computed_tokens", "tier")),
        number(turn.get("ttft_ms"), " ms"),
        str(turn.get("finish_reason") or "-"),
        miss_told(turn.get("miss")),
    )
    return str(turn.get("request_id") or at), tuple(escape(cell) for cell in cells)


class Tile(VerticalScroll):
    """One agent's stream; follows its end."""

    def __init__(self, agent: str) -> None:
        """Show this agent."""
        super().__init__(classes="tile")
        self.agent = agent
        self.border_title = escape(agent)
        self._shown: tuple[str, int] | None = None

    def compose(self) -> Iterable[Widget]:
        """Hold one text."""
        yield Static(Content("Nothing said yet."))

    def show(self, state: WatchState) -> None:
        """Show the stream's end, if it moved."""
        row = state.agent(self.agent)
        self.border_subtitle = escape(str(row.get("state") or "-"))
        stream = state.streams.get(self.agent)
        mark = (stream.request, stream.num_tokens) if stream else None
        if stream is None or mark == self._shown:
            return
        self._shown = mark
        self.border_subtitle = escape(f"{row.get('state') or '-'}, {stream.num_tokens} tokens")
        self.query_one(Static).update(Content(stream.tail(_TILE_CHARS)))
        self.scroll_end(animate=False)


class AgentScreen(AgentActionsScreen):
    """What the chosen agents say, and why a turn was slow."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left_square_bracket", "step(-1)", "Previous", key_display="[", show=False),
        Binding("right_square_bracket", "step(1)", "Next tile", key_display="]"),
    ]

    def body(self) -> Iterable[Widget]:
        """Lay out tiles and facts."""
        yield Horizontal(id="tiles")
        with TabbedContent(id="facts"):
            with TabPane("Turns", id="turns-pane"):
                yield RowsTable(_TURN_COLUMNS, id="turns")
            with TabPane("Transcript", id="transcript-pane"):
                yield VerticalScroll(Static(id="transcript"))
            with TabPane("Blocks", id="blocks-pane"):
                yield VerticalScroll(Static(id="blocks"))

    def chosen_agent(self) -> str | None:
        """Return the agent whose facts are shown."""
        return self.dashboard.chosen

    def show(self, state: WatchState) -> None:
        """Show streams and facts."""
        wanted = self.dashboard.watched[-MAX_TILES:]
        tiles = {tile.agent: tile for tile in self.query(Tile)}
        if list(tiles) != wanted:
            holder = self.query_one("#tiles")
            holder.remove_children(Tile)
            fresh = [Tile(agent) for agent in wanted]
            holder.mount(*fresh)
            self.call_after_refresh(lambda: self.refresh_from(self.dashboard.state))
        else:
            for tile in tiles.values():
                tile.show(state)
                tile.set_class(tile.agent == self.chosen_agent(), "chosen")
        self._show_facts(state)

    def _show_facts(self, state: WatchState) -> None:
        agent = self.chosen_agent()
        if agent is None:
            self.query_one("#transcript", Static).update(
                "No agent is chosen: press 1, then enter on an agent."
            )
            return
        row, details = state.agent(agent), state.details.get(agent, {})
        turns = details.get("turns") or []
        self.query_one("#turns", RowsTable).show_rows([turn_row(i, t) for i, t in enumerate(turns)][::-1])
        self.query_one("#transcript", Static).update(Content(transcript(details, state, agent)))
        shared = ", ".join(map(str, row.get("shared_with") or [])) or "nobody"
        told = (
            f"{row.get('num_blocks', 0)} blocks, {row.get('num_hot_blocks', 0)} in RAM\n"
            f"hot {size(row.get('hot_bytes'))}, on disk {size(row.get('warm_bytes'))}\n"
            f"shared with {shared}\n"
            f"model {row.get('model') or '-'}, class {row.get('class') or '-'}, "
            f"{'pinned' if row.get('pinned') else 'not pinned'}"
        )
        self.query_one("#blocks", Static).update(Content(told))

    def action_step(self, by: int) -> None:
        """Choose the tile beside."""
        watched = self.dashboard.watched[-MAX_TILES:]
        if watched:
            at = watched.index(self.dashboard.chosen) if self.dashboard.chosen in watched else 0
            self.dashboard.open_agent(watched[(at + by) % len(watched)])


def transcript(details: dict[str, Any], state: WatchState, agent: str) -> str:
    """Return the conversation as far as the daemon tells it, then what was heard since this screen was opened."""
    parts = [f"system: {details['system']}"] if details.get("system") else []
    for message in details.get("messages") or []:
        content = message.get("content")
        if isinstance(content, list):
            content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
        parts.append(f"{message.get('role', '?')}: {content}")
    stream = state.streams.get(agent)
    if stream is not None:
        parts.append(f"assistant (request {stream.request}):\n{stream.text}")
    return "\n\n".join(parts) or "The daemon has told nothing of this conversation yet."
