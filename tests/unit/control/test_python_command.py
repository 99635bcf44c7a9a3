"""A module that is run as a process of its own: found where this Python finds it, never in the user's folder."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from semanticd.control.python_command import python_module

SHOWS = (
    "import runpy, sys; print(__name__, sys.argv[1:], runpy.WHOSE if hasattr(runpy, 'WHOSE') else 'pythons')"
)


def test_the_folder_that_the_user_is_in_is_not_searched(tmp_path: Path) -> None:
    trusted, cloned = tmp_path / "trusted", tmp_path / "cloned"
    for folder in (trusted, cloned):
        folder.mkdir()
    (trusted / "shows.py").write_text(SHOWS)
    (cloned / "shows.py").write_text("print('of the cloned repository')")
    (cloned / "runpy.py").write_text("WHOSE = 'of the cloned repository'")
    ran = subprocess.run(
        [*python_module("shows"), "one", "two words"],
        cwd=cloned,
        env={**os.environ, "PYTHONPATH": str(trusted)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.stdout, ran.stderr) == ("__main__ ['one', 'two words'] pythons\n", "")


def test_a_module_that_lies_there_only_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "lies_here.py").write_text("print('ran')")
    ran = subprocess.run(
        python_module("lies_here"), cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stdout) == (1, "")
