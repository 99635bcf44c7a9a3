"""Whether an open file still lies at its path."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from semanticd.adapters.disk.files.placement import FilePlace


def test_a_file_that_is_removed_moved_or_replaced_is_not_held_any_more(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "file"
    file.parent.mkdir()
    file.write_bytes(b"1")
    place = FilePlace.of(file)
    file.write_bytes(b"22")
    assert place.is_held()
    file.rename(tmp_path / "file")
    assert not place.is_held()
    file.write_bytes(b"333")
    assert not place.is_held(), "another file of that name is not this one"
    file.unlink()
    file.parent.rmdir()
    assert not place.is_held()
    file.parent.write_bytes(b"no folder")
    assert not place.is_held()


def test_a_path_whose_volume_was_taken_away_is_not_to_be_made_again_on_another(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "file"
    file.parent.mkdir()
    file.write_bytes(b"1")
    place = FilePlace.of(file)
    file.unlink()
    file.parent.rmdir()
    assert place.volume_is_there()
    assert not replace(place, device=place.device + 1).volume_is_there()


def test_a_volume_that_was_attached_again_as_another_device_is_there_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "file"
    file.parent.mkdir()
    file.write_bytes(b"1")
    place = replace(FilePlace.of(file), device=FilePlace.of(file).device + 1)
    assert not place.is_held()
    assert place.volume_is_there()
    os.utime(file, ns=(0, 0))
    assert not place.volume_is_there(), "a file that was written by another daemon"
