"""`tests/unit` has the rooms of the code, so that the tests of a file are easy to find."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "tests" / "unit"
FOLDERS = sorted({path.parent for path in UNIT.rglob("test_*.py")})
OF_ANOTHER_NAME = {"tui": "semantic_tui"}


def room_of(folder: Path) -> str:
    """Return the package that a folder's tests are about."""
    first, *others = folder.relative_to(UNIT).parts
    outer = OF_ANOTHER_NAME.get(first)
    return ".".join([outer, *others] if outer else ["semanticd", first, *others])


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.relative_to(UNIT).as_posix())
def test_every_folder_of_unit_tests_is_a_room_and_its_tests_use_it(folder: Path) -> None:
    room = room_of(folder)
    assert (ROOT / room.replace(".", "/")).is_dir()
    elsewhere = [
        path.name for path in folder.glob("test_*.py") if room not in path.read_text(encoding="utf-8")
    ]
    assert elsewhere == []
