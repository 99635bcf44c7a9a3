"""The record of a machine: kept whole, and nothing that a damaged one says is believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from semanticd.adapters.machine_record import MachineRecord


def test_the_best_chunk_is_known_to_the_next_run_for_the_same_software_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "machine.json"
    record = MachineRecord(path, now=lambda: 5.0)
    record.begin_run()
    record.keep_chunks(fingerprint="f", computed_by="mlx32", best=1024, tokens_per_s={256: 10.04, 1024: 20.0})
    again = MachineRecord(path)
    assert again.best_chunk(fingerprint="f", computed_by="mlx32") == 1024
    assert again.best_chunk(fingerprint="f", computed_by="mlx33") is None
    assert again.best_chunk(fingerprint="g", computed_by="mlx32") is None
    assert again.last_began_at == 5.0
    assert [one.name for one in path.parent.iterdir()] == ["machine.json"]


def test_a_run_that_is_cut_off_leaves_the_name_of_its_check(tmp_path: Path) -> None:
    record = MachineRecord(tmp_path / "machine.json")
    record.begin_run()
    record.checking("decode")
    assert MachineRecord(record.path).interrupted_check == "decode"
    record.checking(None)
    assert MachineRecord(record.path).interrupted_check is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[" * 100_000,
        "[]",
        json.dumps({"format": 2, "models": {}}),
        json.dumps({"format": 1, "models": 7, "selftest": []}),
        json.dumps({"format": 1, "models": {"f": {"computed_by": "m", "best_chunk": "many"}}}),
        json.dumps({"format": 1, "models": {"f": {"computed_by": "m", "best_chunk": True}}}),
        json.dumps({"format": 1, "models": {"f": {"computed_by": "m", "best_chunk": -1}}}),
        json.dumps({"format": 1, "models": {"f": {"computed_by": "m", "best_chunk": 1 << 40}}}),
        json.dumps({"format": 1, "models": {"f": []}, "selftest": {"began_at": "x", "check": 3}}),
    ],
)
def test_a_damaged_record_counts_as_none_and_is_replaced(tmp_path: Path, content: str) -> None:
    path = tmp_path / "machine.json"
    path.write_text(content)
    record = MachineRecord(path)
    assert record.best_chunk(fingerprint="f", computed_by="m") is None
    assert (record.last_began_at, record.interrupted_check) == (None, None)
    record.keep_chunks(fingerprint="f", computed_by="m", best=512, tokens_per_s={})
    assert MachineRecord(path).best_chunk(fingerprint="f", computed_by="m") == 512


def test_a_record_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    record: Any = MachineRecord(tmp_path / "file" / "machine.json")
    record.begin_run()
    record.checking("load")
