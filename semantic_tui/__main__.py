"""`semantic-tui`: the dashboard, its text once, or a picture of it."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import shutil
import sys
from pathlib import Path

from semanticd.control.client import ControlClient
from semanticd.control.errors import ControlError
from semanticd.control.results import AgentRow, RequestRow, StatusResult, read, read_all, rows_in
from semanticd.control.terminal_text import safe_values

NO_DAEMON = 3
SCREENSHOT_WITHIN_S = 10.0
OBJECTS_PER_COLLECTION = 5000
DEFAULT_SCREEN = "dashboard"
_DUMB = ("dumb", "unknown", "")


def main() -> None:
    """Run the dashboard; status 3 when `--once` or `--screenshot` finds no daemon."""
    parser = argparse.ArgumentParser(
        prog="semantic-tui", description="Watch and control a running semanticd."
    )
    parser.add_argument("--socket", type=Path, help="the daemon's control socket (default: this user's)")
    parser.add_argument("--once", action="store_true", help="print the dashboard as text and exit")
    parser.add_argument(
        "--screenshot", type=Path, metavar="FILE.svg", help="write a screenshot as SVG and exit"
    )
    parser.add_argument(
        "--screen",
        default=DEFAULT_SCREEN,
        help="first screen: dashboard, agent, models, requests, log or doctor (default: dashboard)",
    )
    parser.add_argument("--agent", help="agent to show first, or in the screenshot")
    parser.add_argument(
        "--size", default="120x36", help="columns and rows of the screenshot (default: 120x36)"
    )
    parser.add_argument(
        "--wait",
        type=float,
        default=1.0,
        metavar="S",
        help="seconds to wait before the screenshot (default: 1)",
    )
    parser.add_argument(
        "--theme", choices=("dark", "light"), help="colour theme (default: the last one used, else dark)"
    )
    options = parser.parse_args()
    try:
        if options.once:
            _once(options.socket)
        elif options.screenshot is not None:
            asyncio.run(_screenshot(options, _columns_and_rows(options.size)))
        else:
            _run(options)
    except (ControlError, ValueError) as error:
        sys.stderr.write(f"semantic-tui: {error}\n")
        sys.exit(NO_DAEMON if isinstance(error, ControlError) else 2)


def _run(options: argparse.Namespace) -> None:
    if os.environ.get("TERM") in _DUMB or not sys.stdout.isatty():
        sys.stderr.write(
            "semantic-tui: this terminal cannot show the dashboard (TERM is dumb, or the output is not a terminal); "
            "printing it as text, as --once does\n"
        )
        _once(options.socket, width=shutil.get_terminal_size().columns if sys.stdout.isatty() else None)
        return
    from semantic_tui.app import Dashboard
    from semantic_tui.preferences import Preferences, default_file

    if sys.__stderr__ is None or not sys.__stderr__.isatty():
        # Textual draws on standard error. Where that goes elsewhere (`semantic-tui 2>errors`) the screen is here.
        sys.__stderr__ = sys.__stdout__  # type: ignore[misc]
    preferences = Preferences(default_file(), theme=options.theme)
    shorten_collections()
    screen = "agent" if options.agent and options.screen == DEFAULT_SCREEN else options.screen
    Dashboard(options.socket, screen=screen, agent=options.agent, preferences=preferences).run()


def shorten_collections() -> None:
    """Exempt imported objects from garbage collection and collect less often: a collection delays keys and drawing."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(OBJECTS_PER_COLLECTION)


def _columns_and_rows(size: str) -> tuple[int, int]:
    columns, _, rows = size.partition("x")
    if not (columns.isdigit() and rows.isdigit()):
        raise ValueError(f"{size!r} is not a valid size: give columns x rows, such as 120x36")
    return int(columns), int(rows)


def _once(socket: Path | None, *, width: int | None = None) -> None:
    from semantic_tui.plain import dashboard

    with ControlClient.connect(socket, name="semantic-tui") as client:
        status = read(StatusResult, safe_values(client.call("status")))
        agents = read_all(AgentRow, safe_values(rows_in(client.call("agents.list"), "agents")))
        requests = read_all(RequestRow, safe_values(rows_in(client.call("requests.list"), "requests")))
    sys.stdout.write(dashboard(status, agents, requests, width=width) + "\n")


async def _screenshot(options: argparse.Namespace, size: tuple[int, int]) -> None:
    from semantic_tui.app import Dashboard
    from semantic_tui.preferences import Preferences

    preferences = Preferences(theme=options.theme)
    app = Dashboard(options.socket, screen=options.screen, preferences=preferences)
    async with app.run_test(size=size) as pilot:
        deadline = asyncio.get_running_loop().time() + SCREENSHOT_WITHIN_S
        while not app.state.connected and asyncio.get_running_loop().time() < deadline:
            await pilot.pause(0.05)
        if not app.state.connected:
            raise ControlError(app.state.reason or "the daemon did not answer")
        if options.screen == "agent":
            chosen = options.agent or next((row.id for row in app.state.agents), None)
            if chosen is not None:
                app.open_agent(chosen)
        await pilot.pause(options.wait)
        picture = app.export_screenshot(title="semantic-tui")
    try:
        options.screenshot.write_text(picture, encoding="utf-8")
    except OSError as error:
        raise ValueError(f"cannot write {options.screenshot}: {error.strerror or error}") from error


if __name__ == "__main__":
    main()
