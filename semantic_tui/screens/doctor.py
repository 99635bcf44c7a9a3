"""The doctor screen: the findings about the installation, each with its remedy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widget import Widget

from semantic_tui.plain import shortened
from semantic_tui.screens.watch_screen import WatchScreen
from semantic_tui.state import WatchState
from semantic_tui.transcript import wrapped
from semantic_tui.widgets.shown_text import ShownText
from semanticd.control.results import DoctorResult

_NAME_WIDTH = 12
_MARKS = {"ok": ("✓", "$success"), "warning": ("!", "$warning"), "error": ("✗", "bold $error")}


class DoctorScreen(WatchScreen):
    """The findings of `semanticd doctor`."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "run(False)", "Run again"),
        Binding("g", "run(True)", "Also generate"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._asked = -1
        """Process id of the daemon that was examined when this screen was opened."""
        self._when = ""

    def body(self) -> Iterable[Widget]:
        yield VerticalScroll(ShownText(id="findings"), id="doctor")

    def on_mount(self) -> None:
        self.query_one("#doctor").border_title = "Doctor"
        self.query_one("#doctor").focus()

    def action_run(self, generate: bool) -> None:
        """Examine again; with `generate` the model computes a few tokens too."""
        self.dashboard.run_doctor(generate=generate)

    def show(self, state: WatchState) -> None:
        """Show the findings, and request them from a daemon that was not checked yet.

        The model is not run: opening a screen must not delay any request.
        """
        if state.doctor is None and state.connected and self._asked != state.daemon.pid:
            self._asked = state.daemon.pid
            self.action_run(generate=False)
        when = "checking…" if state.is_examining else state.examined_at and f"checked {state.examined_at}"
        if when != self._when:
            self._when = self.query_one("#doctor").border_subtitle = when
        if state.doctor is None:
            self.query_one("#findings", ShownText).show_text("Not checked yet: press r.")
            return
        self.query_one("#findings", ShownText).show_text(findings_text(state.doctor, self.size.width - 6))


def findings_text(report: DoctorResult, width: int) -> Content:
    """Return the findings with their advice, wrapped next to the names of the checks."""
    room = max(20, width - 2 - _NAME_WIDTH - 1)
    parts: list[tuple[str, str] | str] = []
    for finding in report.findings:
        mark, style = _MARKS.get(finding.state, ("?", "$warning"))
        advice = finding.advice if finding.state != "ok" else ""
        parts += [(mark, style), f" {shortened(finding.check, _NAME_WIDTH):<{_NAME_WIDTH}} "]
        parts.append(f"{_beside(finding.message, room)}\n")
        if advice:
            parts.append((f"{' ' * (_NAME_WIDTH + 3)}{_beside(advice, room)}\n", "$muted"))
    return Content.assemble(*parts)


def _beside(text: str, room: int) -> str:
    lines = [line for paragraph in text.split("\n") for line in wrapped(paragraph, room)]
    return f"\n{' ' * (_NAME_WIDTH + 3)}".join(lines)
