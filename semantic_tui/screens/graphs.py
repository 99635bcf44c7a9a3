"""The graphs: one series of the history at a time, as large as the screen, with its axes."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content

from semantic_tui.app_protocol import AppProtocol
from semantic_tui.history import SPANS_S, wanted
from semantic_tui.screens.dialogs import LiveDialog
from semantic_tui.series import SERIES
from semantic_tui.state import WatchState
from semantic_tui.widgets.figures import graph, time_axis
from semantic_tui.widgets.shown_text import ShownText


class GraphDialog(LiveDialog):
    """One graph over the dashboard; it is refreshed while it is open."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,z,q", "dismiss", "Close"),
        Binding("right,down,right_square_bracket,tab", "step(1)", "Next"),
        Binding("left,up,left_square_bracket,shift+tab", "step(-1)", "Previous"),
        Binding("plus,equals_sign", "span(1)", "Longer"),
        Binding("minus", "span(-1)", "Shorter"),
    ]

    def __init__(self, dashboard: AppProtocol) -> None:
        super().__init__()
        self._dashboard = dashboard
        self._at = 0

    def compose(self) -> ComposeResult:
        with Vertical(id="graph"):
            yield ShownText(id="graph-names")
            yield ShownText(id="graph-text")
            yield ShownText("", id="graph-keys")

    def on_mount(self) -> None:
        self.query_one("#graph-keys", ShownText).show_text(
            Content.styled("← → other series   + - longer or shorter   esc back", "$muted")
        )
        self.call_after_refresh(lambda: self.refresh_from(self._dashboard.state))

    def on_resize(self) -> None:
        self.call_after_refresh(lambda: self.refresh_from(self._dashboard.state))

    def refresh_from(self, state: WatchState) -> None:
        series, span_s = SERIES[self._at], self._dashboard.preferences.span_s
        values = state.history.values(series.key, span_s)
        known = [value for value in values if value is not None]
        names: list[tuple[str, str] | str] = []
        for at, one in enumerate(SERIES):
            names += [(one.title, "bold $accent reverse" if at == self._at else "$muted"), "  "]
        facts = (
            f"{series.meaning}; smallest {series.show(min(known))}, largest {series.show(max(known))}"
            if known
            else f"{series.meaning}; no data in this period"
        )
        self.query_one("#graph-names", ShownText).show_text(Content.assemble(*names, "\n", facts))
        width, height = max(20, self.size.width - 6), max(6, self.size.height - 8)
        drawn = graph(values, width, height, wanted=wanted(span_s), axis=time_axis(span_s), show=series.show)
        self.query_one("#graph-text", ShownText).show_text(drawn)

    def action_step(self, by: int) -> None:
        self._at = (self._at + by) % len(SERIES)
        self.refresh_from(self._dashboard.state)

    def action_span(self, by: int) -> None:
        chosen = self._dashboard.preferences
        at = SPANS_S.index(chosen.span_s) + by
        chosen.change(span_s=SPANS_S[max(0, min(at, len(SPANS_S) - 1))])
        self.refresh_from(self._dashboard.state)
