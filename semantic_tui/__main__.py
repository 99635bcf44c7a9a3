"""`semantic-tui`: the dashboard, or its text once."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from semanticd.control.errors import ControlError


def main() -> None:
    """Run the dashboard; status 3 when `--once` finds no daemon."""
    parser = argparse.ArgumentParser(prog="semantic-tui", description="Watch and steer a running semanticd.")
    parser.add_argument("--socket", type=Path, help="the daemon's control socket (default: this user's)")
    parser.add_argument("--once", action="store_true", help="print the dashboard as text and exit")
    options = parser.parse_args()
    from semantic_tui.app import Dashboard, fetch
    from semantic_tui.plain import dashboard

    if not options.once:
        Dashboard(options.socket).run()
        return
    try:
        shown = fetch(options.socket)
    except ControlError as error:
        sys.stderr.write(f"semantic-tui: {error}\n")
        sys.exit(3)
    sys.stdout.write(dashboard(shown["status"], shown["agents"], shown["requests"]) + "\n")


if __name__ == "__main__":
    main()
