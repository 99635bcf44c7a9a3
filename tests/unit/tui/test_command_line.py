"""`semantic-tui` with flags: an agent's screen first, and a picture whose file cannot be written."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from semantic_tui.app import Dashboard
from semantic_tui.screens.agent import Tile
from semantic_tui.widgets.rows_table import RowsTable
from tests.fakes import control_script
from tests.fakes.control_daemon import FakeControlDaemon

Until = Callable[[Pilot[Any], Callable[[], object]], Awaitable[None]]


async def test_an_agents_screen_is_the_first_that_is_seen(socket_path: Path, until: Until) -> None:
    async with FakeControlDaemon(socket_path, control_script.answers()):
        app = Dashboard(socket_path, screen="agent", agent="planner")
        async with app.run_test(size=(120, 40)) as pilot:
            await until(pilot, lambda: [tile.agent for tile in app.screen.query(Tile)] == ["planner"])
            await until(pilot, lambda: app.screen.query_one("#turns", RowsTable).row_count)


async def test_a_picture_that_cannot_be_written_is_one_line(socket_path: Path) -> None:
    picture = socket_path.parent / "no-folder" / "x.svg"
    async with FakeControlDaemon(socket_path, control_script.answers()):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "semantic_tui", "--socket", str(socket_path)),
            *("--wait", "0", "--screenshot", str(picture)),
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, said = await process.communicate()
    assert process.returncode == 2
    assert said.decode().splitlines() == [f"semantic-tui: cannot write {picture}: No such file or directory"]
