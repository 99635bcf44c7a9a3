"""Dialogs: a confirmation with the effects of an action, a prompt for one line, and the help page."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Label, Static

from semantic_tui.state import WatchState

HELP = """\
Everywhere  1 Dashboard 2 Agent 3 Models 4 Requests 5 Log 6 Doctor
            ctrl+p palette: every action  t dark or light
            ! alarms  P peers  ? this page  S start the daemon  q quit

Agents      enter open  / filter  s sort  r reverse  esc all
            space tile  z graphs  + - longer or shorter time
            p pin  f fork  w rewind  e evict  d delete  x export
            i chat  c cancel its requests  L its log
Agent       the same; [ ] previous, next tile  - close the tile
            enter on a turn shows where its prompt differed
Transcript  / search  n N next and previous match  y copy  o open all
Chat        enter send  ctrl+j newline  ctrl+x stop  tab scroll  esc back
Models      enter or w swap  l load  u unload  p pull
Requests    enter opens the agent, or a failure  c cancel
Log         / search  l level  f follow or pause
Doctor      r run again  g also generate with the model

State       decode 27/s, prefill 43 %, restore 61 %, wait 3.9 s (why)
            ×2.3: 2.3 tokens per step, because drafts were accepted
            why: RAM, batch (full), prefix (computed by another), disk
Waterfall   ░ queue ▒ restore ▓ prefill █ decode
Budget bar  █ running ▓ hot ▚ pinned ▒ being written · free
Block map   ■ of one agent  ◆ shared by several  □ only on disk
Words       TTFT time to the first token  ITL time between tokens
            reuse: share of the prompt that was cached
"""


class LiveDialog(ModalScreen[None]):
    """A dialog that is refreshed while it is open."""

    @property
    def agent(self) -> str | None:
        """The agent whose conversation it shows, if it shows one."""
        return None

    def refresh_from(self, state: WatchState) -> None:
        """Show the state; called at most ten times a second."""
        raise NotImplementedError


class ConfirmDialog(ModalScreen[bool]):
    """Shows the effects of an action and asks; enter alone means no."""

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
        with Vertical(classes="dialog"):
            yield Label(Content(self._heading), classes="heading")
            yield Static(Content(self._text))
            with Horizontal(classes="buttons"):
                yield Button("Yes (y)", id="yes", variant="warning")
                yield Button("No (n)", id="no")

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id == "yes")

    def action_answer(self, yes: bool) -> None:
        self.dismiss(yes)


class WordDialog(ModalScreen["str | None"]):
    """Asks for one line of text; escape gives None."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Cancel")]

    def __init__(self, title: str, text: str, value: str = "") -> None:
        """Ask, with a suggestion."""
        super().__init__()
        self._heading, self._text, self._value = title, text, value

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Label(Content(self._heading), classes="heading")
            yield Static(Content(self._text))
            yield Input(self._value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.dismiss(event.value.strip())


class HelpPage(ModalScreen[None]):
    """The help page: keys and figures."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark", "dismiss", "Close")]

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="dialog wide"):
            yield Label("Keys", classes="heading")
            yield Static(Content(HELP))


class TextDialog(ModalScreen[None]):
    """Shows a text that is too long for its place."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,enter", "dismiss", "Close")]

    def __init__(self, title: str, text: Content | str) -> None:
        super().__init__()
        self._heading, self._text = title, text

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="dialog wide"):
            yield Label(Content(self._heading), classes="heading")
            yield Static(self._text if isinstance(self._text, Content) else Content(self._text))
            yield Static(Content.styled("esc closes", "$muted"))
