"""The doctor screen: the installation's findings and what to do about each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widget import Widget

from semantic_tui.screens.watch_screen import WatchScreen
from semantic_tui.state import WatchState
from semantic_tui.widgets.shown_text import ShownText

_MARKS = {"ok": ("✓", "$success"), "warning": ("!", "$warning"), "error": ("✗", "bold $error")}


class DoctorScreen(WatchScreen):
    """What `semanticd doctor` finds."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "run(False)", "Run again"),
        Binding("g", "run(True)", "Also generate"),
    ]

    def body(self) -> Iterable[Widget]:
        """Lay out the findings."""
        yield VerticalScroll(ShownText(id="findings"), id="doctor")

    def on_mount(self) -> None:
        """Examine at once, but leave the engine alone: opening a screen must cost no one anything."""
        self.query_one("#doctor").border_title = "Doctor"
        self.query_one("#doctor").focus()
        if self.dashboard.state.doctor is None:
            self.action_run(generate=False)

    def action_run(self, generate: bool) -> None:
        """Examine again; with `generate` the model computes a few tokens too."""
        self.dashboard.run_doctor(generate=generate)

    def show(self, state: WatchState) -> None:
        """Show the findings."""
        if state.doctor is None:
            self.query_one("#findings", ShownText).show_text("The daemon has not been examined yet: press r.")
            return
        parts: list[tuple[str, str] | str] = []
        for finding in state.doctor.findings:
            mark, style = _MARKS.get(finding.state, ("?", "$warning"))
            parts += [(mark, style), f" {finding.check:<20} {finding.message}\n"]
            if finding.advice and finding.state != "ok":
                parts.append((f"  {'':<20} {finding.advice}\n", "$muted"))
        self.query_one("#findings", ShownText).show_text(Content.assemble(*parts))
