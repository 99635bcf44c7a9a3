"""Draw the dashboard's screens into docs/img as SVG: `make screens`.

They show what a real daemon said while real agents worked (`recorded_run.json`, made by `record_run.py`), so drawing
them needs no daemon, and they are the same every time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path

from textual.widgets import TextArea

from contrib.dev.generators.record_run import RECORD, TILES
from semantic_tui.app import Dashboard
from semantic_tui.preferences import Preferences
from semantic_tui.screens.chat import ChatScreen
from semantic_tui.state import WatchState

REPOSITORY = Path(__file__).resolve().parents[3]
FOLDER = REPOSITORY / "docs" / "img"
SIZE = (110, 34)


def recorded() -> WatchState:
    """Return what the dashboard knew at the moment of the record."""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    answers, state = record["answers"], WatchState(connection="connected", last_heard_at=0.0)
    state.take("status", answers["status"])
    state.take("requests", answers["requests.list"])
    state.take("agents", answers["agents.list"])
    for samples in answers["history"]:
        state.take_history(samples)
    state.take_failures(answers["requests.failures"])
    state.take_blocks(answers["cache.stats"])
    state.take_models(answers["models.list"])
    state.take_doctor(answers["doctor"])
    state.take_recent_log(answers["log.recent"])
    for agent, facts in answers["agents.show"].items():
        state.take_details(agent, facts, answers["agents.messages"][agent]["messages"])
    for token in record["tokens"]:
        state.take("token", token)
    return state


async def draw(
    name: str, *, screen: str, theme: str = "dark", keys: tuple[str, ...] = (), chat: bool = False
) -> None:
    """Write one picture; with `chat`, of the conversation with the agent in the first tile."""
    app = Dashboard(state=recorded(), screen=screen, preferences=Preferences(theme=theme), clock=lambda: 0.0)
    app.preferences.change(span_s=60)
    app.animation_level = "none"
    if screen == "agent":
        for agent in TILES:
            app.toggle_watched(agent)
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause(0.5)
        for key in keys:
            await pilot.press(key)
            await pilot.pause(0.2)
        if chat:
            app.push_screen(ChatScreen(app, TILES[0], forks=False))
            await pilot.pause(0.5)
            app.screen.query_one(TextArea).cursor_blink = False
        path = FOLDER / f"dashboard-{name}.svg"
        path.write_text(app.export_screenshot(title="semantic-tui"))
        print(path.relative_to(REPOSITORY))


async def main() -> None:
    """Write all pictures."""
    FOLDER.mkdir(exist_ok=True)
    await draw("main", screen="dashboard")
    await draw("light", screen="dashboard", theme="light")
    await draw("agent", screen="agent")
    await draw("chat", screen="agent", chat=True)
    await draw("models", screen="models")
    await draw("swap", screen="models", keys=("down", "w"))
    await draw("requests", screen="requests")
    await draw("log", screen="log")
    await draw("doctor", screen="doctor")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    asyncio.run(main())
