"""How every screen looks, as pictures: run with `--snapshot-update` to accept a change, and look at what changed.

Nothing here moves: the state is given, the clock stands still, cursors do not blink, nothing is animated.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from textual import constants
from textual.pilot import Pilot
from textual.widgets import Input

from semantic_tui.app import SCREENS, Dashboard
from semantic_tui.preferences import Preferences
from semantic_tui.state import WatchState
from tests.fakes import watch_states

NARROW, USUAL, WIDE = (80, 24), (120, 40), (200, 60)
TILES = ("planner", "coder", "reviewer")

Compare = Callable[..., bool]


@pytest.fixture(autouse=True)
def _nothing_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "TEXTUAL_ANIMATIONS", "none")
    monkeypatch.setattr(Input, "cursor_blink", False)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def shown(state: WatchState, screen: str, *, theme: str = "dark") -> Dashboard:
    """Return a dashboard of this state, with tiles where they are seen."""
    preferences = Preferences(theme=theme)
    app = Dashboard(state=state, screen=screen, preferences=preferences, clock=lambda: watch_states.NOW)
    app.animation_level = "none"
    if state.agents and screen == "agent":
        for agent in TILES:
            app.toggle_watched(agent)
    return app


def looks_as_before(
    snap_compare: Compare,
    state: WatchState,
    screen: str = "dashboard",
    size: tuple[int, int] = USUAL,
    *,
    keys: tuple[str, ...] = (),
    theme: str = "dark",
) -> bool:
    """Show a state on a screen, press keys, and compare."""
    app = shown(state, screen, theme=theme)

    async def arrange(pilot: Pilot[Any]) -> None:
        await drawn(pilot)
        for key in keys:
            await pilot.press(key)
            await drawn(pilot)

    return snap_compare(app, terminal_size=size, run_before=arrange)


async def drawn(pilot: Pilot[Any]) -> None:
    """Wait until everything that was asked to be drawn is."""
    laying_tiles = [worker for worker in pilot.app.workers if worker.group == "tiles"]
    if laying_tiles:
        await pilot.app.workers.wait_for_complete(laying_tiles)
    await pilot.pause()
    await pilot.pause()


STATES: dict[str, tuple[Callable[[], WatchState], tuple[int, int]]] = {
    "empty": (watch_states.empty, USUAL),
    "busy": (watch_states.busy, USUAL),
    "disconnected": (watch_states.disconnected, USUAL),
    "swap-running": (watch_states.swapping, USUAL),
    "narrow": (watch_states.busy, NARROW),
    "wide": (watch_states.busy, WIDE),
}


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("state", STATES)
def test_every_screen_in_every_state(snap_compare: Compare, screen: str, state: str) -> None:
    make, size = STATES[state]
    assert looks_as_before(snap_compare, make(), screen, size)


@pytest.mark.parametrize(
    ("screen", "keys", "size"),
    [
        ("dashboard", ("d",), USUAL),
        ("dashboard", ("f",), NARROW),
        ("dashboard", ("x",), NARROW),
        ("agent", ("w",), USUAL),
        ("models", ("down", "w"), USUAL),
        ("models", ("down", "w"), NARROW),
        ("models", ("down", "l"), NARROW),
        ("models", ("u",), USUAL),
        ("models", ("p",), USUAL),
    ],
)
def test_dialogs_say_what_will_happen(
    snap_compare: Compare,
    screen: str,
    keys: tuple[str, ...],
    size: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir("/")
    assert looks_as_before(snap_compare, watch_states.busy(), screen, size, keys=keys)


@pytest.mark.parametrize("screen", SCREENS)
def test_the_light_theme(snap_compare: Compare, screen: str) -> None:
    assert looks_as_before(snap_compare, watch_states.swapping(), screen, theme="light")


def test_no_daemon_is_running(snap_compare: Compare) -> None:
    assert looks_as_before(snap_compare, watch_states.absent(), size=NARROW)


def test_a_failed_swap_is_rolled_back(snap_compare: Compare) -> None:
    assert looks_as_before(snap_compare, watch_states.rolled_back(), "models")


def test_an_engine_that_fails_every_request(snap_compare: Compare) -> None:
    assert looks_as_before(snap_compare, watch_states.failing(), size=NARROW)


def test_alarms_are_listed_with_what_to_do(snap_compare: Compare) -> None:
    assert looks_as_before(snap_compare, watch_states.failing(), size=NARROW, keys=("exclamation_mark",))


def test_an_agent_in_its_first_turn(snap_compare: Compare) -> None:
    assert looks_as_before(snap_compare, watch_states.first_turn(), size=NARROW)


def test_a_graph_as_large_as_the_screen(snap_compare: Compare) -> None:
    assert looks_as_before(snap_compare, watch_states.busy(), keys=("plus", "z"))


@pytest.mark.parametrize("screen", SCREENS)
def test_without_colours_parts_differ_by_their_characters(
    snap_compare: Compare, screen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert looks_as_before(snap_compare, watch_states.failing(), screen)


@pytest.mark.parametrize("size", [NARROW, USUAL, WIDE])
@pytest.mark.parametrize("screen", SCREENS)
async def test_theme_and_no_color_change_colours_only(
    screen: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a picture of each screen in each theme, and of each size in one, stand for all of their combinations."""
    dark = await text_of(screen, size, theme="dark")
    assert await text_of(screen, size, theme="light") == dark
    monkeypatch.setenv("NO_COLOR", "1")
    assert await text_of(screen, size, theme="dark") == dark


async def text_of(screen: str, size: tuple[int, int], *, theme: str) -> list[str]:
    """Return the lines of a busy daemon's screen."""
    app = shown(watch_states.busy(), screen, theme=theme)
    async with app.run_test(size=size) as pilot:
        await drawn(pilot)
        picture = ET.fromstring(app.export_screenshot())
    lines: dict[str, list[tuple[float, str]]] = {}
    for element in picture.iter("{http://www.w3.org/2000/svg}text"):
        lines.setdefault(element.get("y", ""), []).append((float(element.get("x", 0)), element.text or ""))
    return ["".join(text for _, text in sorted(pieces)) for pieces in lines.values()]


def test_where_a_prompt_differed(snap_compare: Compare) -> None:
    assert looks_as_before(snap_compare, watch_states.busy(), "agent", size=NARROW, keys=("enter",))


def test_dropped_events_are_counted_on_top(snap_compare: Compare) -> None:
    state = watch_states.busy()
    state.num_dropped = 12345
    assert looks_as_before(snap_compare, state, size=NARROW)


@pytest.mark.parametrize("keys", [("slash", *"hot"), ("s", "s", "s", "s", "r"), ("question_mark",)])
def test_filter_order_and_help(snap_compare: Compare, keys: tuple[str, ...]) -> None:
    assert looks_as_before(snap_compare, watch_states.busy(), size=NARROW, keys=keys)


def test_the_agents_transcript(snap_compare: Compare) -> None:
    assert looks_as_before(snap_compare, watch_states.busy(), "agent", keys=("shift+tab", "right"))


def test_the_agents_speed(snap_compare: Compare) -> None:
    assert looks_as_before(snap_compare, watch_states.busy(), "agent", keys=("shift+tab", "right", "right"))


def test_the_agents_blocks(snap_compare: Compare) -> None:
    keys = ("shift+tab", "right", "right", "right")
    assert looks_as_before(snap_compare, watch_states.busy(), "agent", keys=keys)


def test_the_log_from_a_level_on_with_a_search(snap_compare: Compare) -> None:
    assert looks_as_before(snap_compare, watch_states.busy(), "log", keys=("l", "l", "slash", *"load"))
