"""How every screen looks, as text, and each in its colours as a picture.

`UPDATE_SNAPSHOTS=1 pytest tests/unit/tui/test_snapshots.py` accepts a change: look at what changed before it is
committed. Nothing here moves: the state is given, the clock stands still, cursors do not blink, nothing is animated. An
app runs once for many screens and sizes: beginning one takes longer than drawing.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from difflib import unified_diff
from pathlib import Path
from typing import Any

import pytest
from textual import constants
from textual.app import App
from textual.color import Color
from textual.events import Key
from textual.filter import Monochrome
from textual.pilot import Pilot
from textual.widgets import Input

from semantic_tui.app import SCREENS, Dashboard
from semantic_tui.preferences import Preferences
from semantic_tui.screens.watch_screen import WatchScreen
from semantic_tui.state import WatchState
from semanticd.control.results import PeerFacts, read_all
from tests.fakes import control_script, watch_states

Size = tuple[int, int]
NARROW, USUAL, WIDE = (80, 24), (120, 40), (200, 60)
SIZES = (NARROW, USUAL, WIDE)
TILES = ("planner", "coder", "reviewer")
STATES: dict[str, Callable[[], WatchState]] = {
    "empty": watch_states.empty,
    "busy": watch_states.busy,
    "failing": watch_states.failing,
    "first-turn": watch_states.first_turn,
    "disconnected": watch_states.disconnected,
    "absent": watch_states.absent,
    "swapping": watch_states.swapping,
    "rolled-back": watch_states.rolled_back,
    "crowded": watch_states.crowded,
    "peers": watch_states.with_peers,
    "away": watch_states.away,
}
_SCREENS_OF = {"crowded": ("dashboard", "agent", "requests"), "peers": ("dashboard",), "away": ("dashboard",)}
"""Of states that show themselves on some screens only."""
_TILES_OF = {"crowded": (watch_states.WIDE_NAME, watch_states.COMBINED_NAME, watch_states.LONG_NAME)}
_FOLDER = Path(__file__).parent / "__snapshots__"
_UPDATES = bool(os.environ.get("UPDATE_SNAPSHOTS"))


@pytest.fixture(autouse=True)
def _nothing_moves(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(constants, "TEXTUAL_ANIMATIONS", "none")
    monkeypatch.setattr(Input, "cursor_blink", False)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def shown(
    state: WatchState,
    screen: str = "dashboard",
    *,
    theme: str = "dark",
    tiles: Sequence[str] = TILES,
) -> Dashboard:
    """Return a dashboard of this state, with tiles where there are agents."""
    preferences = Preferences(theme=theme)
    app = Dashboard(state=state, screen=screen, preferences=preferences, clock=lambda: watch_states.NOW)
    app.animation_level = "none"
    if state.agents:
        for agent in tiles:
            app.toggle_watched(agent)
    return app


async def drawn(pilot: Pilot[Any]) -> None:
    """Wait until everything that was asked to be drawn is: until two rounds have drawn the same.

    `Pilot.pause` waits in each round until the process is idle, which takes long where others are not.
    """
    before = ""
    for _ in range(50):
        app = pilot.app
        for screen in app.screen_stack:
            if isinstance(screen, WatchScreen):
                # What a timer does a tenth of a second later, at once.
                screen.refresh_from(screen.dashboard.state)
        if laying_tiles := [worker for worker in app.workers if worker.group == "tiles"]:
            await app.workers.wait_for_complete(laying_tiles)
        await pilot._wait_for_screen()  # noqa: SLF001 (Textual has no public way)
        round_ends = asyncio.Event()
        app.screen.call_after_refresh(round_ends.set)
        await round_ends.wait()
        # With its colours: what has the focus is coloured a moment after it was drawn.
        now = colours_of(app)
        at_rest = not app.screen._layout_required  # noqa: SLF001 (Textual has no public way)
        if now == before and at_rest:
            return
        before = now
    pytest.fail("the screen does not come to rest")


async def press(pilot: Pilot[Any], key: str) -> None:
    """Press a key; `Pilot` waits at each until the process is idle, which takes long where others are not."""
    pilot.app.post_message(Key(key, key if len(key) == 1 else None))
    await drawn(pilot)


def text_of(app: App[Any]) -> list[str]:
    """Return the lines on the terminal."""
    strips = app.screen._compositor.render_strips()  # noqa: SLF001 (a picture would take ten times as long)
    return [strip.text.rstrip() for strip in strips]


def colours_of(app: App[Any], *, monochrome: bool = False) -> str:
    """Return a digest of the terminal's cells with their colours; `monochrome`: as NO_COLOR would leave them."""
    digest = hashlib.sha256()
    for strip in app.screen._compositor.render_strips():  # noqa: SLF001 (a picture would take ten times as long)
        drawn_as = strip.apply_filter(Monochrome(), Color(0, 0, 0)) if monochrome else strip
        for text, style, _ in drawn_as.simplify():
            digest.update(f"{text}|{style}\n".encode())
    return digest.hexdigest()[:12]


class Snapshots:
    """A file of named texts that are compared, or written again."""

    def __init__(self, name: str) -> None:
        """Read the file."""
        self._file = _FOLDER / f"{name}.txt"
        self._seen: dict[str, list[str]] = {}

    def take(self, name: str, lines: Sequence[str]) -> None:
        """Add a text."""
        assert name not in self._seen
        self._seen[name] = list(lines)

    def is_part(self) -> bool:
        """Whether each text is one of the file's."""
        there = self._file.read_text(encoding="utf-8")
        return all("\n".join(("", *text, "")) in there for text in self._seen.values())

    def compare(self) -> None:
        """Compare all with the file's; a difference is shown as one."""
        lines = [line for name, text in self._seen.items() for line in (f"=== {name}", *text)]
        if _UPDATES:
            _FOLDER.mkdir(exist_ok=True)
            self._file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        before = self._file.read_text(encoding="utf-8").split("\n")[:-1]
        difference = list(unified_diff(before, lines, "before", "now", n=1, lineterm=""))
        assert not difference, "\n".join(difference[:200])


@pytest.mark.parametrize("state", STATES)
async def test_every_screen_in_every_state_and_size(state: str) -> None:
    """Texts are kept as they are; their colours in the themes, and without colours, as digests.

    Where a digest is another one and the text is the same, look at the pictures of the test below, or draw one.
    """
    found: dict[str, list[str]] = {}
    for theme in ("dark", "light"):
        app = shown(STATES[state](), theme=theme, tiles=_TILES_OF.get(state, TILES))
        async with app.run_test(size=NARROW) as pilot:
            for width, height in SIZES:
                await pilot.resize_terminal(width, height)
                for screen in _SCREENS_OF.get(state, SCREENS):
                    await app.switch_mode(screen)
                    await drawn(pilot)
                    text, name = text_of(app), f"{screen}, {width} x {height}"
                    if theme == "dark":
                        # No screen asks whether there are colours, see the test below.
                        colours = f"--- dark {colours_of(app)}  NO_COLOR {colours_of(app, monochrome=True)}"
                        found[name] = [colours, *text]
                    else:
                        assert text == found[name][1:], f"{name}: another theme says something else"
                        found[name][0] += f"  light {colours_of(app)}"
    snapshots = Snapshots(state)
    for name, lines in found.items():
        snapshots.take(name, lines)
    snapshots.compare()


async def test_without_colours_nothing_else_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what is drawn in colours stands for what is drawn without, in the other states."""
    monkeypatch.setenv("NO_COLOR", "1")
    kept = (_FOLDER / "failing.txt").read_text(encoding="utf-8")
    app = shown(watch_states.failing())
    async with app.run_test(size=NARROW) as pilot:
        for width, height in SIZES:
            await pilot.resize_terminal(width, height)
            for screen in SCREENS:
                await app.switch_mode(screen)
                await drawn(pilot)
                assert f"NO_COLOR {colours_of(app)}  light" in kept, f"{screen}, {width} x {height}"


DIALOGS: list[tuple[str, Size, str]] = [
    ("dashboard", USUAL, "d"), ("dashboard", NARROW, "f"), ("dashboard", NARROW, "x"),
    ("dashboard", NARROW, "question_mark"), ("dashboard", USUAL, "z"), ("dashboard", NARROW, "exclamation_mark"),
    ("agent", NARROW, "enter"), ("agent", USUAL, "w"), ("models", USUAL, "down w"), ("models", NARROW, "w"),
    ("models", NARROW, "l"), ("models", USUAL, "u"), ("models", USUAL, "p"), ("dashboard", NARROW, "P"),
]  # fmt: skip
"""Screens, sizes, and the keys that open a dialog there."""


async def test_dialogs_say_what_will_happen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    snapshots = Snapshots("dialogs")
    state = watch_states.failing()
    app = shown(state)
    async with app.run_test(size=USUAL) as pilot:
        for screen, size, keys in DIALOGS:
            peers = control_script.peers() if keys == "P" else []
            state.status = replace(state.status, peers=read_all(PeerFacts, peers))
            await pilot.resize_terminal(*size)
            await app.switch_mode(screen)
            await drawn(pilot)
            for key in keys.split():
                await press(pilot, key)
            assert len(app.screen_stack) == 2, f"{keys} on {screen} opens no dialog"
            await drawn(pilot)
            # What is behind it may be drawn a moment later, and is in other tests.
            (dialog,) = app.screen.children
            top, bottom, left, right = (
                dialog.region.y,
                dialog.region.bottom,
                dialog.region.x,
                dialog.region.right,
            )
            lines = [line.ljust(right)[left:right].rstrip() for line in text_of(app)[top:bottom]]
            snapshots.take(f"{screen}, {size[0]} x {size[1]}, {keys}", lines)
            await press(pilot, "escape")
    snapshots.compare()


VIEWS: list[tuple[str, Size, tuple[str, ...]]] = [
    ("dashboard", NARROW, ("slash", *"hot")),
    ("dashboard", NARROW, ("escape", "s", "s", "s", "s", "r")),
    ("dashboard", USUAL, ("plus", "plus")),
    ("log", USUAL, ("l", "l", "slash", *"load")),
    ("agent", USUAL, ("shift+tab", "right")),
    ("agent", USUAL, ("right",)),
    ("agent", USUAL, ("right",)),
]
"""Screens, sizes, and keys that show something else there, each with what those before have left."""


async def test_filter_order_log_and_an_agents_tabs() -> None:
    snapshots = Snapshots("views")
    state = watch_states.busy()
    state.num_dropped = 12345
    app = shown(state)
    async with app.run_test(size=USUAL) as pilot:
        for at, (screen, size, keys) in enumerate(VIEWS, 1):
            await pilot.resize_terminal(*size)
            await app.switch_mode(screen)
            await drawn(pilot)
            for key in keys:
                await press(pilot, key)
            await drawn(pilot)
            snapshots.take(f"{at}: {screen}, {size[0]} x {size[1]}, {' '.join(keys)}", text_of(app))
    snapshots.compare()


@pytest.mark.parametrize("colours", ["dark", "light", "none"])
async def test_every_screen_in_its_colours(colours: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their texts are those of the other test: so these stand for all states and sizes in these colours."""
    if colours == "none":
        monkeypatch.setenv("NO_COLOR", "1")
    texts = Snapshots("failing")
    app = shown(watch_states.failing(), theme="light" if colours == "light" else "dark")
    changed = []
    async with app.run_test(size=USUAL) as pilot:
        for screen in SCREENS:
            await app.switch_mode(screen)
            await drawn(pilot)
            texts.take(f"{screen}, {USUAL[0]} x {USUAL[1]}", text_of(app))
            file, picture = _FOLDER / f"{screen}-{colours}.svg", app.export_screenshot()
            if _UPDATES:
                file.write_text(picture, encoding="utf-8")
            if file.read_text(encoding="utf-8") != picture:
                changed.append(file.name)
    assert changed == []
    assert texts.is_part()


async def test_a_screen_that_is_opened_after_the_theme_was_changed_has_its_colours() -> None:
    app = shown(watch_states.failing())
    async with app.run_test(size=USUAL) as pilot:
        await press(pilot, "t")
        await app.switch_mode("requests")
        await drawn(pilot)
        picture = app.export_screenshot()
    assert picture == (_FOLDER / "requests-light.svg").read_text(encoding="utf-8")
