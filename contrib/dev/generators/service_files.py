"""Write the files under `contrib/` that code makes: service files and shell completions, from what installs them.

Usage: `python contrib/dev/generators/service_files.py` (tests compare).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from semanticd.adapters.service import LABEL, UNIT, LaunchdAgent, SystemdUnit
from semanticd.entrypoints.cli.completion import script
from semanticd.entrypoints.cli.program import program

CONTRIB = Path(__file__).resolve().parents[2]
ARGUMENTS = ("/usr/local/bin/semanticd", "serve")


def files() -> dict[Path, str]:
    """Return every generated file's path and content."""
    launchd = LaunchdAgent(arguments=ARGUMENTS, log_folder=Path("/Users/YOU/Library/Logs/semanticd"))
    return {
        CONTRIB / "systemd" / UNIT: SystemdUnit(arguments=ARGUMENTS).text(),
        CONTRIB / "launchd" / f"{LABEL}.plist": launchd.text(),
        CONTRIB / "completions" / "semanticd.bash": script("bash", program),
        CONTRIB / "completions" / "_semanticd": script("zsh", program),
        CONTRIB / "completions" / "semanticd.fish": script("fish", program),
    }


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    for path, content in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        print(path.relative_to(CONTRIB.parent))
