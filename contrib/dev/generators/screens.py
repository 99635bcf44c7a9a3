"""Draw the dashboard's screens into docs/img as SVG: `make screens`.

The states are those of the snapshot tests, so the pictures need no daemon and are the same every time.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from semantic_tui.app import Dashboard
from semantic_tui.preferences import Preferences
from semantic_tui.state import WatchState
from tests.fakes import watch_states

REPOSITORY = Path(__file__).resolve().parents[3]
FOLDER = REPOSITORY / "docs" / "img"
TILES = ("planner", "coder", "reviewer")


async def draw(
    name: str, state: WatchState, *, screen: str, theme: str = "dark", keys: tuple[str, ...] = ()
) -> None:
    """Write one picture."""
    app = Dashboard(
        state=state, screen=screen, preferences=Preferences(theme=theme), clock=lambda: watch_states.NOW
    )
    if screen == "agent":
        for agent in TILES:
            app.toggle_watched(agent)
    async with app.run_test(size=(110, 34)) as pilot:
        await pilot.pause(0.5)
        for key in keys:
            await pilot.press(key)
            await pilot.pause(0.2)
        path = FOLDER / f"dashboard-{name}.svg"
        path.write_text(app.export_screenshot(title="semantic-tui"))
        print(path.relative_to(REPOSITORY))


async def main() -> None:
    """Write all pictures."""
    FOLDER.mkdir(exist_ok=True)
    busy, swapping = watch_states.busy, watch_states.swapping
    await draw("main", busy(), screen="dashboard")
    await draw("light", busy(), screen="dashboard", theme="light")
    await draw("agent", busy(), screen="agent")
    await draw("models", swapping(), screen="models")
    await draw("swap", busy(), screen="models", keys=("down", "w"))
    await draw("requests", busy(), screen="requests")
    await draw("log", busy(), screen="log")
    await draw("doctor", busy(), screen="doctor")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    asyncio.run(main())
