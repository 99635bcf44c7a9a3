"""Responses outlive the process, each item is stored once, and the oldest make room."""

from __future__ import annotations

import sqlite3
import stat
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from semanticd.adapters.disk.responses.archive import DiskResponseArchive
from semanticd.application.ports.response_archive import StoredItem, StoredResponse
from semanticd.domain.deletion import Deletion
from semanticd.domain.errors import CacheError
from semanticd.domain.ids import AgentId
from tests.fakes.telemetry import ManualClock, RecordingLog

DAY_S = 86_400.0
NOW = 1_700_000_000.0
"""Where the manual clock begins."""


def opened(path: Path, clock: ManualClock | None = None, **more: float) -> DiskResponseArchive:
    return DiskResponseArchive.open(path, clock=clock or ManualClock(), log=RecordingLog(), **more)  # type: ignore[arg-type]


def response(name: str, *items: str, agent: str = "a", at: float = NOW, size: int = 10) -> StoredResponse:
    """Return a response whose last item is its answer."""
    made = tuple(StoredItem(f"item-{text}", text.encode() * size) for text in items)
    return StoredResponse(name, AgentId(agent), at, b"{}", made, num_output=1)


def test_a_response_is_the_same_after_a_restart_and_only_its_owner_reads_the_file(tmp_path: Path) -> None:
    path = tmp_path / "responses.sqlite"
    first = opened(path)
    kept = [response("r1", "hi", "hello"), response("r2", "hi", "hello", "and?", "so", agent="b")]
    nobody = replace(response("r3", "x"), agent_id=None)
    for one in (*kept, nobody):
        first.save(one)
        assert first.load(one.response_id) == one, "readable while its saving waits"
    first.close()
    again = opened(path)
    assert [again.load(one.response_id) for one in (*kept, nobody)] == [*kept, nobody]
    assert again.item("item-and?") == b"and?" * 10
    assert again.item("nothing") is again.load("nothing") is None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again.close()


def test_a_conversation_continues_without_its_earlier_responses(
    tmp_path: Path,
) -> None:
    path = tmp_path / "responses.sqlite"
    archive = opened(path)
    texts = [f"turn {number}" for number in range(100)]
    for number in range(1, 101):
        archive.save(response(f"r{number}", *texts[:number], size=200))
        assert archive.flush(60)
    archive.close()
    assert path.stat().st_size < 2 * 100 * len("turn 00") * 200
    archive = opened(path)
    for number in range(1, 100):
        archive.delete(f"r{number}")
    assert archive.flush(60)
    last = archive.load("r100")
    assert last is not None
    assert len(last.items) == 100
    archive.delete("r100")
    assert archive.flush(60)
    assert archive.item("item-turn 0") is None
    archive.close()


def test_the_oldest_go_where_there_are_too_many_bytes_or_days(tmp_path: Path) -> None:
    clock = ManualClock()
    archive = opened(tmp_path / "r.sqlite", clock, max_bytes=400_000, max_age_days=30)
    for number in range(100):
        archive.save(response(f"r{number}", f"{number:04}", at=clock.wall() + number, size=5_000))
        assert archive.flush(60)
    assert archive.load("r0") is None
    assert archive.load("r99") is not None
    clock.advance(31 * DAY_S)
    archive.save(response("new", "new", at=clock.wall()))
    assert archive.flush(60)
    archive.save(response("newer", "newer", at=clock.wall()))
    assert archive.flush(60)
    assert archive.load("new") is not None
    assert archive.load("r90") is None
    archive.close()


def test_a_damaged_database_is_set_aside_and_an_unusable_place_is_named(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    path.write_bytes(b"no database at all, but long enough to be looked at" * 100)
    archive = opened(path)
    archive.save(response("r1", "hi"))
    assert archive.load("r1") is not None
    archive.close()
    assert path.with_name("r.sqlite.damaged").exists()
    with pytest.raises(CacheError, match="cannot open the responses' database"):
        opened(tmp_path)


def run(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(script)


REFUSED = "CREATE TRIGGER stuck BEFORE DELETE ON responses BEGIN SELECT raise(ABORT, 'the disk is full'); END"


@pytest.mark.parametrize("what", ["response", "agent"])
def test_what_could_not_be_deleted_is_there_as_it_was(tmp_path: Path, what: str) -> None:
    path = tmp_path / "r.sqlite"
    archive = opened(path)
    stored = [
        response("first", "hi", "shared", "secret"),
        response("kept", "hi", "shared", "other", agent="b"),
    ]
    for one in stored:
        archive.save(one)
    assert archive.flush(60)

    def delete() -> Future[Deletion]:
        return archive.delete("first") if what == "response" else archive.delete_agent(AgentId("a"))

    run(path, REFUSED)
    deletions = [delete(), delete()]
    assert archive.load("first") is None
    assert [deletion.result(60) for deletion in deletions] == ["failed", "failed"]
    assert [archive.load(one.response_id) for one in stored] == stored
    assert archive.item("item-secret") is not None
    archive.save(response("next", "next", agent="a"))
    assert archive.flush(60)
    assert archive.load("next") is not None
    run(path, "DROP TRIGGER stuck")
    assert delete().result(60) == "done"
    assert archive.load("first") is archive.item("item-secret") is None
    assert archive.load("kept") == stored[1]
    archive.save(response("last", "last", agent="a"))
    assert archive.flush(60)
    assert archive.load("last") is not None, "it came after the deletion"
    assert archive.delete("last").result(60) == "done"
    with closing(sqlite3.connect(path)) as connection:
        names = {name for (name,) in connection.execute("SELECT response_id FROM responses")}
    assert names == ({"kept", "next"} if what == "response" else {"kept"})
    archive.close()


def test_what_could_not_be_deleted_is_there_after_a_restart_too(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    archive = opened(path)
    archive.save(response("kept", "hi"))
    assert archive.flush(60)
    run(path, REFUSED)
    assert archive.delete("kept").result(60) == "failed"
    run(path, "DROP TRIGGER stuck")
    archive.close()
    again = opened(path)
    assert again.load("kept") is not None
    again.close()


class FullDisk:
    """Refuses responses while it is full."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path)

    def fill(self) -> None:
        self._connection.execute(
            "CREATE TRIGGER full BEFORE INSERT ON responses BEGIN SELECT raise(ABORT, 'full'); END"
        )

    def empty(self) -> None:
        self._connection.execute("DROP TRIGGER full")

    def close(self) -> None:
        self._connection.close()

    def names(self) -> list[str]:
        return [name for (name,) in self._connection.execute("SELECT response_id FROM responses ORDER BY id")]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[FullDisk]:
    opened(tmp_path / "responses.sqlite").close()
    made = FullDisk(tmp_path / "responses.sqlite")
    made.fill()
    yield made
    made.close()


def test_what_the_disk_refused_is_readable_and_stored_with_the_next_that_it_takes(
    tmp_path: Path, disk: FullDisk
) -> None:
    archive = opened(tmp_path / "responses.sqlite")
    refused = [response("r1", "hi", "a"), response("r2", "hi", "b"), response("r3", "x", agent="b")]
    for one in refused:
        archive.save(one)
    assert archive.flush(60)
    assert (archive.num_refused, archive.is_refusing, disk.names()) == (3, True, [])
    assert [archive.load(one.response_id) for one in refused] == refused
    archive.delete("r2")
    archive.delete_agent(AgentId("b"))
    disk.empty()
    archive.save(response("r4", "y"))
    assert archive.flush(60)
    assert (archive.num_refused, archive.is_refusing, disk.names()) == (0, False, ["r4", "r1"])
    archive.close()
    again = opened(tmp_path / "responses.sqlite")
    assert again.load("r1") == refused[0]
    assert again.load("r2") is again.load("r3") is None
    again.close()


def test_refused_writes_are_retried_while_nothing_else_is_written(tmp_path: Path, disk: FullDisk) -> None:
    clock = ManualClock()
    archive = opened(tmp_path / "responses.sqlite", clock, idle_s=0.001)
    archive.save(response("r1", "hi"))
    assert archive.flush(60)
    disk.empty()
    deadline = time.monotonic() + 60
    while disk.names() != ["r1"]:
        clock.advance(31)
        assert time.monotonic() < deadline
        time.sleep(0.002)
    archive.close()


def test_what_the_disk_refused_is_stored_at_the_end(tmp_path: Path, disk: FullDisk) -> None:
    archive = opened(tmp_path / "responses.sqlite")
    archive.save(response("r1", "hi"))
    assert archive.flush(60)
    disk.empty()
    archive.close()
    assert disk.names() == ["r1"]


def test_what_waits_for_the_disk_is_bounded_in_number_and_bytes(tmp_path: Path, disk: FullDisk) -> None:
    archive = opened(tmp_path / "responses.sqlite")
    for number in range(300):
        archive.save(response(f"r{number}", "hi"))
        assert archive.flush(60)
    assert archive.num_refused == 300
    assert (archive.load("r43"), archive.load("r44")) == (None, response("r44", "hi"))
    archive.save(response("large", "x", size=40 << 20))
    assert archive.flush(60)
    assert archive.load("large") is None
    archive.save(response("half", "x", size=20 << 20))
    archive.save(response("other half", "x", size=20 << 20))
    assert archive.flush(60)
    assert archive.load("half") is None
    disk.empty()
    archive.close()
    assert disk.names() == ["other half"], "the oldest were given up"


def test_an_agents_responses_are_gone_at_once_and_later_ones_stay(tmp_path: Path) -> None:
    archive = opened(tmp_path / "r.sqlite")
    for number in range(20):
        archive.save(response(f"old{number}", f"old {number}"))
    archive.delete_agent(AgentId("a"))
    archive.save(response("new", "new"))
    assert archive.load("old0") is archive.load("old19") is None
    assert archive.load("new") is not None
    assert archive.flush(60)
    assert archive.load("old0") is archive.load("old19") is None
    assert archive.load("new") is not None
    archive.close()


@pytest.mark.parametrize("what", ["response", "agent"])
def test_what_was_deleted_is_in_no_file_any_more(tmp_path: Path, what: str) -> None:
    path = tmp_path / "r.sqlite"
    path.with_name("r.sqlite.damaged").write_bytes(b"zqxjkvbz")
    archive = opened(path)
    archive.save(response("gone", "zqxjkvbz"))
    archive.save(response("kept", "other", agent="b"))
    assert archive.flush(60)
    if what == "response":
        archive.delete("gone")
    else:
        archive.delete_agent(AgentId("a"))
    assert archive.flush(60)
    assert [file.name for file in tmp_path.iterdir() if b"zqxjkvbz" in file.read_bytes()] == []
    assert archive.load("kept") is not None
    archive.close()


VERSION_1 = """
CREATE TABLE items(
  id INTEGER PRIMARY KEY, parent INTEGER NOT NULL, digest BLOB NOT NULL UNIQUE,
  item_id TEXT NOT NULL, document BLOB NOT NULL);
CREATE INDEX items_by_parent ON items(parent);
CREATE INDEX items_by_item ON items(item_id);
CREATE TABLE responses(
  id INTEGER PRIMARY KEY, response_id TEXT NOT NULL UNIQUE, agent_id TEXT, created_at REAL NOT NULL,
  last_item INTEGER NOT NULL, num_items INTEGER NOT NULL, num_output INTEGER NOT NULL, document BLOB NOT NULL);
CREATE INDEX responses_by_age ON responses(created_at);
CREATE INDEX responses_by_agent ON responses(agent_id);
CREATE INDEX responses_by_item ON responses(last_item);
PRAGMA user_version = 1;
INSERT INTO items VALUES (1, 0, x'01', 'msg_1', x'2231'), (2, 1, x'02', 'msg_0123456789abcdef01234567', x'2232');
INSERT INTO responses VALUES (1, 'old', 'a', 1.7e9, 2, 2, 1, x'7b7d');
"""


def test_a_first_version_database_is_migrated(
    tmp_path: Path,
) -> None:
    path = tmp_path / "r.sqlite"
    run(path, VERSION_1)
    for _start in range(2):
        archive = opened(path)
        found = archive.load("old")
        assert found is not None
        assert [item.document for item in found.items] == [b'"1', b'"2']
        assert archive.item("msg_1") is None
        assert archive.item("msg_0123456789abcdef01234567") == b'"2'
        archive.close()


def test_a_database_of_a_newer_version_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    archive = opened(path)
    archive.save(response("r1", "hi"))
    archive.close()
    with closing(sqlite3.connect(path)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(CacheError, match=r"a newer semanticd wrote it .*; install the newer version"):
        opened(path)
    assert not list(tmp_path.glob("*.damaged*"))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    archive = opened(path)
    assert archive.load("r1") == response("r1", "hi")
    archive.close()
