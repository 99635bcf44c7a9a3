"""The dashboard by mouse, by palette, and in a terminal whose size changes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from textual.command import CommandPalette
from textual.pilot import Pilot
from textual.widgets import Input, RichLog

from semantic_tui.app import SCREENS, Dashboard
from semantic_tui.screens.agent import Tile
from semantic_tui.screens.dialogs import ConfirmDialog, TextDialog, WordDialog
from semantic_tui.screens.log import LogScreen
from semantic_tui.widgets.keys_line import KeysLine
from semantic_tui.widgets.rows_table import RowsTable
from semantic_tui.widgets.shown_text import ShownText
from semantic_tui.widgets.top_line import PlacesLine
from tests.fakes import watch_states

Until = Callable[[Pilot[Any], Callable[[], object]], Awaitable[None]]
SIZES = ((200, 60), (80, 24), (40, 10), (20, 5), (120, 40))


def busy(**more: Any) -> Dashboard:
    app = Dashboard(state=watch_states.busy(), clock=lambda: watch_states.NOW, **more)
    app.animation_level = "none"
    return app


def column_of(line: PlacesLine | KeysLine, words: str) -> tuple[int, int]:
    """Return where in a line's widget these words begin; the line has a column of padding."""
    return 2 + str(line.content).index(words), 0


def width_of(table: RowsTable) -> int:
    return sum(column.get_render_width(table) for column in table.ordered_columns)


async def test_a_click_on_a_screens_name_goes_there(until: Until) -> None:
    app = busy()
    async with app.run_test(size=(120, 40)) as pilot:
        for name in (*SCREENS[1:], SCREENS[0]):
            places = app.screen.query_one(PlacesLine)
            await until(pilot, lambda line=places: "Doctor" in str(line.content))
            await pilot.click(PlacesLine, offset=column_of(places, name.title()))
            await until(pilot, lambda name=name: app.place == name and app.screen.query("#keys"))


async def test_a_click_on_a_key_presses_it(until: Until) -> None:
    app = busy()
    async with app.run_test(size=(120, 40)) as pilot:
        keys = app.screen.query_one(KeysLine)
        await until(pilot, lambda: "Filter" in str(keys.content))
        await pilot.click(KeysLine, offset=column_of(keys, "Filter"))
        await until(pilot, lambda: app.screen.query_one("#filter", Input).has_focus)


async def test_a_click_on_a_heading_sorts_and_a_second_turns_the_order_around(until: Until) -> None:
    app = busy()
    async with app.run_test(size=(120, 40)) as pilot:
        table = app.screen.query_one(RowsTable)
        await until(pilot, lambda: table.row_count == 8)
        at = [str(column.label) for column in table.ordered_columns].index("tokens")
        left = sum(column.get_render_width(table) for column in table.ordered_columns[:at])
        await pilot.click(RowsTable, offset=(left + 3, 1))
        await until(pilot, lambda: app.preferences.sort == "num_tokens" and not app.preferences.reverse)
        await until(pilot, lambda: table.get_row_at(0)[0].plain.strip() == "archivist")
        await pilot.click(RowsTable, offset=(left + 3, 1))
        await until(pilot, lambda: app.preferences.reverse)
        await until(pilot, lambda: table.get_row_at(0)[0].plain.strip() == "planner")


async def test_a_click_chooses_an_agent_a_second_opens_it_and_one_on_a_tile_goes_there(until: Until) -> None:
    app = busy()
    app.toggle_watched("planner")
    async with app.run_test(size=(120, 40)) as pilot:
        table = app.screen.query_one(RowsTable)
        await until(pilot, lambda: table.row_count == 8)
        await pilot.click(RowsTable, offset=(6, 3))
        await until(pilot, lambda: table.current_key == "coder")
        assert app.place == "dashboard"
        await pilot.click(RowsTable, offset=(6, 3))
        await until(pilot, lambda: app.place == "agent" and len(app.screen.query(Tile)) == 2)
        assert app.chosen == "coder"
        await until(pilot, lambda: app.screen.query(Tile).first().size.width)
        await pilot.click(app.screen.query(Tile).first())
        await until(pilot, lambda: app.chosen == "planner")


@pytest.mark.parametrize(
    ("words", "dialog"), [("Fork coder", WordDialog), ("Delete archivist", ConfirmDialog)]
)
async def test_an_action_is_found_in_the_palette_and_run(words: str, dialog: type[Any], until: Until) -> None:
    app = busy()
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("ctrl+p")
        await until(pilot, lambda: isinstance(app.screen, CommandPalette))
        await pilot.press(*words)
        await until(pilot, lambda: app.screen.query_one("CommandList").option_count)  # type: ignore[attr-defined]
        await pilot.press("enter")
        await until(pilot, lambda: not isinstance(app.screen, CommandPalette) or app.screen.query(Input))
        if isinstance(app.screen, CommandPalette):
            await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, dialog))


@pytest.mark.parametrize("screen", SCREENS)
async def test_a_screen_fits_whatever_size_the_terminal_gets(screen: str, until: Until) -> None:
    app = busy(screen=screen)
    app.toggle_watched("planner")
    async with app.run_test(size=SIZES[-1]) as pilot:
        for width, height in SIZES:
            await pilot.resize_terminal(width, height)
            await until(pilot, lambda width=width: app.screen.size.width == width)
            for table in app.screen.query(RowsTable):
                await until(pilot, lambda table=table, width=width: width_of(table) <= max(width, 80))
            lines = app.export_screenshot()
            assert lines.startswith("<svg")


async def test_what_follows_its_end_does_so_at_any_size_and_what_was_scrolled_stays(until: Until) -> None:
    """Only scrolling leaves the end: another size must not, or a stream would stand still unnoticed."""
    app = busy(screen="agent")
    app.toggle_watched("planner")
    for number in range(80):
        text = f"Line {number} of a long answer that a narrow tile wraps and a wide one does not.\n"
        app.state.take("token", {"agent": "planner", "request": "req-1", "text": text, "num_tokens": number})
    async with app.run_test(size=(200, 60)) as pilot:
        await until(
            pilot, lambda: bool(app.screen.query(Tile)) and app.screen.query_one(Tile).max_scroll_y > 0
        )
        tile = app.screen.query_one(Tile)
        for size in (*SIZES, (80, 24), (200, 60)):
            await pilot.resize_terminal(*size)
            app.changed()
            await until(
                pilot,
                lambda: tile.scroll_y == tile.max_scroll_y and "paused" not in str(tile.border_subtitle),
            )

        def scrolled() -> bool:
            # Again: the way to the end that the last size asked for may come after the first time.
            tile.scroll_to(y=3, animate=False)
            app.changed()
            return "paused" in str(tile.border_subtitle) and tile.scroll_y == 3

        await until(pilot, scrolled)
        await pilot.resize_terminal(120, 40)
        app.changed()
        await until(pilot, lambda: "paused" in str(tile.border_subtitle))
        assert tile.scroll_y == 3


async def test_the_log_is_wrapped_anew_and_has_the_themes_colours(until: Until) -> None:
    app = busy(screen="log")
    for number in range(3):
        fields = {"text": f"{number} " + "many words " * 30}
        app.state.take(
            "log", {"timestamp": "2026-11-23T09:00:00Z", "level": "info", "event": "long", "fields": fields}
        )
    async with app.run_test(size=(200, 60)) as pilot:
        await until(
            pilot, lambda: bool(app.screen.query(RichLog)) and bool(app.screen.query_one(RichLog).lines)
        )
        log = app.screen.query_one(RichLog)
        wide = len(log.lines)
        await pilot.resize_terminal(80, 24)
        app.changed()
        await until(pilot, lambda: len(log.lines) > wide and log.lines[0].cell_length <= 80)
        app.action_theme()
        coloured = {
            segment.style.color.name for segment in log.lines[0] if segment.style and segment.style.color
        }
        await until(
            pilot,
            lambda: (
                coloured
                != {
                    segment.style.color.name
                    for segment in log.lines[0]
                    if segment.style and segment.style.color
                }
            ),
        )


async def test_a_drawing_right_after_a_change_of_theme_has_its_colours(until: Until) -> None:
    app = busy(screen="log")
    async with app.run_test(size=(80, 24)) as pilot:
        await until(
            pilot, lambda: bool(app.screen.query(RichLog)) and bool(app.screen.query_one(RichLog).lines)
        )
        log = app.screen.query_one(RichLog)

        def colours() -> set[str]:
            return {
                segment.style.color.name for segment in log.lines[0] if segment.style and segment.style.color
            }

        before = colours()
        app.action_theme()
        assert isinstance(app.screen, LogScreen)
        app.screen.refresh_from(app.state)
        await until(pilot, lambda: colours() != before)


async def test_a_verdict_keeps_its_lines_after_changes_elsewhere(
    until: Until,
) -> None:
    app = busy(screen="agent")
    app.toggle_watched("planner")
    async with app.run_test(size=(80, 24)) as pilot:
        for width, height in ((200, 60), (80, 24), (120, 40)):
            await pilot.press("3")
            await pilot.resize_terminal(width, height)
            await pilot.press("t")
            await pilot.pause()
            await pilot.press("2")
            await until(pilot, lambda: app.place == "agent" and app.screen.query("#why"))
            why = app.screen.query_one("#why", ShownText)
            await until(
                pilot,
                lambda why=why, width=width: (
                    app.screen.size.width == width
                    and why.size.width
                    and why.size.height == why.visual.get_height(why.styles, why.size.width)
                ),
            )


@pytest.mark.parametrize("size", [(40, 10), (300, 20), (80, 24), (60, 12)])
async def test_a_low_terminal_shows_agents_first_and_panels_only_where_they_say_something(
    size: tuple[int, int], until: Until
) -> None:
    app = busy()
    async with app.run_test(size=size) as pilot:
        table = app.screen.query_one(RowsTable)
        await until(pilot, lambda: table.row_count == 8 and table.size.height)
        panels = app.screen.query_one("#panels")
        await until(
            pilot,
            lambda: (
                min(8, table.size.height - table.header_height) >= 3
                and (not panels.display or panels.size.height >= 5)
                and panels.region.right <= size[0]
                and panels.region.bottom <= size[1] - 1
            ),
        )


async def test_enter_opens_a_turn_also_where_the_screen_was_opened_before_there_was_a_tile(
    until: Until,
) -> None:
    app = busy()
    async with app.run_test(size=(120, 40)) as pilot:
        # As where no agent was known yet: the key would open the one under the cursor.
        app.switch_mode("agent")
        await until(pilot, lambda: app.place == "agent" and app.screen.query("#keys"))
        await pilot.press("1")
        await until(pilot, lambda: app.place == "dashboard")
        app.toggle_watched("planner")
        await pilot.press("2")
        await until(
            pilot, lambda: app.place == "agent" and app.screen.query_one("#turns", RowsTable).row_count
        )
        await until(pilot, lambda: app.screen.focused is not None)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, TextDialog))
