"""The models screen: what is loaded and available, and changes of it with their progress."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.markup import escape
from textual.widget import Widget
from textual.widgets import DataTable, Static

from semantic_tui.plain import bar, size
from semantic_tui.screens.watch_screen import WatchScreen
from semantic_tui.state import WatchState
from semantic_tui.widgets.rows_table import RowsTable

_COLUMNS = ("model", "state", "weights", "on disk", "context", "precision", "about")


def model_cells(row: Any) -> tuple[str, ...]:
    """Return a model's cells as markup."""
    state = "current" if row.get("current") else "loaded" if row.get("loaded") else ""
    state = state or ("installed" if row.get("installed") else "can be pulled")
    style = {"current": "bold green", "loaded": "green", "installed": "yellow"}.get(state, "dim")
    return (
        escape(str(row.get("id", ""))),
        f"[{style}]{state}[/]",
        size(row["weights_bytes"]) if row.get("weights_bytes") else "-",
        size(row["size_bytes"]) if row.get("size_bytes") else "-",
        str(row.get("context_length") or "-"),
        escape(str(row.get("precision") or "-")),
        escape(str(row.get("description") or "")),
    )


def swap_warning(state: WatchState, model: str) -> str:
    """Return what a swap will do: drain, memory, agents affected."""
    old = state.status.get("model")
    target: dict[str, Any] = next((row for row in state.models if row.get("id") == model), {})
    affected = sum(
        1 for row in state.agents if row.get("model") == old and row.get("state") in ("hot", "active")
    )
    weights = target.get("weights_bytes") or target.get("size_bytes")
    return (
        f"{model} becomes the current model in place of {old or 'none'}.\n"
        f"Memory: about {size(weights) if weights else 'an unknown amount'} for its weights. It is loaded beside the "
        "old one where both fit; else new requests wait until the old one has left.\n"
        f"Drain: {len(state.requests)} requests run or wait now and are finished on the old model.\n"
        f"Agents: {affected} have blocks in RAM; these go to disk and are warm again after swapping back.\n"
        "If loading fails, the old model serves again."
    )


def changes_told(state: WatchState) -> str:
    """Return a line per change, newest first; a failed one says what serves now."""
    lines = []
    for model, change in reversed(state.changes.items()):
        stage, share = str(change.get("stage", "")), float(change.get("progress") or 0)
        line = f"{model:<28} {stage:<10} {bar(share, 24)} {100 * share:3.0f} %"
        if stage == "failed":
            line = f"{model:<28} failed: {change.get('reason', '')}"
            line += f"\n{'':<28} rolled back: {state.status.get('model') or 'no model'} serves"
        lines.append(line)
    return "\n".join(lines) or "No model was loaded, swapped or pulled since the dashboard was opened."


class ModelsScreen(WatchScreen):
    """Load, unload, swap and pull."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("w", "change('swap')", "Swap to"),
        Binding("l", "change('load')", "Load"),
        Binding("u", "change('unload')", "Unload"),
        Binding("p", "pull", "Pull"),
    ]

    def body(self) -> Iterable[Widget]:
        """Lay out table and progress."""
        yield RowsTable(_COLUMNS, id="models")
        yield VerticalScroll(Static(id="changes-text"), id="changes", can_focus=False)

    def on_mount(self) -> None:
        """Name the parts."""
        self.query_one("#models").border_title = "Models"
        self.query_one("#changes").border_title = "Changes"
        self.query_one("#models").focus()

    def show(self, state: WatchState) -> None:
        """Show models and changes."""
        self.query_one(RowsTable).show_rows([(str(r.get("id")), model_cells(r)) for r in state.models])
        self.query_one("#changes-text", Static).update(Content(changes_told(state)))

    def action_change(self, deed: str) -> None:
        """Ask, and change the model under the cursor."""
        model = self.query_one(RowsTable).current_key
        if model is not None:
            self.dashboard.change_model(deed, model)

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Swap to the model."""
        self.action_change("swap")

    def action_pull(self) -> None:
        """Ask for a name and pull."""
        self.dashboard.change_model("pull", self.query_one(RowsTable).current_key or "")
