"""Dialogs: one that asks for a yes after saying what will happen, one that asks for a word, and the help page."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Label, Static

HELP = """\
Everywhere  1 Dashboard 2 Agent 3 Models 4 Requests 5 Log 6 Doctor
            ctrl+p palette  t dark or light  S start the daemon
            ? this page  q quit  tab next part  mouse: click anything

Agents      / filter: id, state, tier, class, model, pinned
            esc all  s sort by the next column  r reverse
            enter open  space show in a tile beside others
            p pin or unpin  f fork  w rewind  e evict to disk
            d delete  x export to a file  c cancel its requests
Agent       the same, and [ ] other tile  - close the tile
Models      enter or w swap  l load beside  u unload  p pull by name
Requests    c cancel
Log         / search  l next level  f follow or stay
Doctor      r run again

Budget bar  running requests, hot, pinned, in flight to disk; rest free
Block map   ■ of one agent  ◆ shared by several  □ only on disk
            green hot, violet pinned, blue on disk
Words       TTFT time to the first token, ITL time between tokens
            reuse: the share of the prompt that was cached
            tier: where it was cached; class: int(eractive), bg
"""


class ConfirmDialog(ModalScreen[bool]):
    """Says what will happen and asks; enter alone means no."""

    AUTO_FOCUS = "#no"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "Yes"),
        Binding("n,escape", "answer(False)", "No"),
    ]

    def __init__(self, title: str, text: str) -> None:
        """Ask about `text`."""
        super().__init__()
        self._heading, self._text = title, text

    def compose(self) -> ComposeResult:
        """Lay out the dialog."""
        with Vertical(classes="dialog"):
            yield Label(Content(self._heading), classes="heading")
            yield Static(Content(self._text))
            with Horizontal(classes="buttons"):
                yield Button("Yes (y)", id="yes", variant="warning")
                yield Button("No (n)", id="no")

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Answer."""
        self.dismiss(event.button.id == "yes")

    def action_answer(self, yes: bool) -> None:
        """Answer by key."""
        self.dismiss(yes)


class WordDialog(ModalScreen["str | None"]):
    """Asks for one line of text; escape gives None."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Cancel")]

    def __init__(self, title: str, text: str, value: str = "") -> None:
        """Ask, with a suggestion."""
        super().__init__()
        self._heading, self._text, self._value = title, text, value

    def compose(self) -> ComposeResult:
        """Lay out the dialog."""
        with Vertical(classes="dialog"):
            yield Label(Content(self._heading), classes="heading")
            yield Static(Content(self._text))
            yield Input(self._value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Answer."""
        self.dismiss(event.value.strip())


class HelpPage(ModalScreen[None]):
    """The keys and what the figures mean."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark", "dismiss", "Close")]

    def compose(self) -> ComposeResult:
        """Lay out the page."""
        with VerticalScroll(classes="dialog wide"):
            yield Label("Keys", classes="heading")
            yield Static(Content(HELP))
