"""What can be removed from a disk that has no room: all of it, for that is how room is made."""

from __future__ import annotations

import os
import resource
import sqlite3
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import pytest

from semanticd.adapters.disk.agents.archive import DiskAgentArchive
from semanticd.adapters.disk.blocks.index import BlockIndex
from semanticd.adapters.disk.blocks.warm_store import DiskWarmStore, WarmOptions
from semanticd.adapters.disk.files.ballast import BALLAST_BYTES, Ballast
from semanticd.adapters.disk.files.database import is_out_of_room
from semanticd.adapters.disk.responses.archive import DiskResponseArchive
from semanticd.application.ports.response_archive import StoredItem, StoredResponse
from semanticd.domain.agent_summary import AgentQuery
from semanticd.domain.deletion import Deletion
from semanticd.domain.errors import CacheError, StorageFullError
from semanticd.domain.ids import AgentId
from tests.fakes.agents import full_agent
from tests.fakes.blocks import FINGERPRINT, make_chain, names
from tests.fakes.full_volume import FULL, fill, refuse_commits, small_volume
from tests.fakes.telemetry import ManualClock, RecordingLog

MIB = 1 << 20


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    with small_volume(tmp_path / "volume", num_bytes=24 * MIB) as path:
        yield path


class Disk:
    """All that lies in a cache folder, opened and closed together."""

    def __init__(self, root: Path, *, cap_bytes: int | None = None) -> None:
        self.warm = DiskWarmStore.open(root, options=WarmOptions(cap_bytes=cap_bytes))
        folder = self.warm.folder
        self.agents = DiskAgentArchive.open(folder, write_queue=self.warm.write_queue)
        self.responses = DiskResponseArchive.open(
            folder.responses, clock=ManualClock(), log=RecordingLog(), folder=folder
        )
        self.flush()

    def flush(self) -> None:
        assert self.warm.flush(60)
        assert self.responses.flush(60)

    def close(self) -> None:
        self.responses.close()
        self.agents.close()
        self.warm.close()

    @property
    def num_files(self) -> int:
        return len(list(self.warm.folder.blocks.glob("*/*/*.safetensors")))


CHAIN = make_chain(80, num_bytes=8192)
RESPONSE = StoredResponse(
    "r1", AgentId("agent:a"), 1_700_000_000.0, b"{}", (StoredItem("i1", b"x" * 9000),), num_output=1
)


def filled(root: Path) -> Disk:
    disk = Disk(root)
    assert disk.warm.write(CHAIN).result(60).num_written == len(CHAIN)
    for number in range(6):
        disk.agents.save(full_agent(f"agent-{number}"))
    disk.agents.save(full_agent())
    disk.responses.save(RESPONSE)
    disk.flush()
    return disk


@pytest.mark.parametrize("how", ["prune", "clear", "clear a model", "delete"])
def test_blocks_can_be_removed_from_a_full_volume(volume: Path, how: str) -> None:
    disk = filled(volume / "caches")
    fill(volume)
    if how == "prune":
        assert disk.warm.prune(target_bytes=0, dry_run=True) == disk.warm.stats().bytes_stored
        freed = disk.warm.prune(target_bytes=0)
    elif how == "delete":
        freed = disk.warm.delete(names(CHAIN)).result(60)
    else:
        freed = disk.warm.clear(FINGERPRINT if how == "clear a model" else None)
    assert freed > 80 * 8192
    assert disk.num_files == disk.warm.stats().num_blocks == disk.warm.stats().bytes_stored == 0
    disk.close()
    disk = Disk(volume / "caches")
    assert disk.warm.stats().num_blocks == 0
    disk.close()


def test_a_lower_cap_is_enforced_on_a_full_volume(volume: Path) -> None:
    disk = filled(volume / "caches")
    stored = disk.warm.stats().bytes_stored
    disk.close()
    fill(volume)
    disk = Disk(volume / "caches", cap_bytes=stored // 2)
    assert disk.warm.prune() >= stored // 2 - 1
    assert disk.warm.stats().bytes_stored <= stored // 2
    disk.close()


def test_agents_and_responses_deleted_on_a_full_volume_stay_deleted(volume: Path) -> None:
    disk = filled(volume / "caches")
    fill(volume)
    for agent_id in ("agent:a", *(f"agent-{number}" for number in range(6))):
        assert disk.agents.delete(AgentId(agent_id)).result(60) == "done", agent_id
    assert disk.responses.delete_agent(AgentId("agent:a")).result(60) == "done"
    assert disk.warm.folder.ballast.is_there, "there for the next one"
    disk.close()
    disk = Disk(volume / "caches")
    assert disk.agents.page(AgentQuery()).num_agents == 0
    assert disk.responses.load("r1") is None
    disk.close()


def test_a_folder_on_a_full_volume_can_be_opened(volume: Path) -> None:
    filled(volume / "caches").close()
    fill(volume)
    disk = Disk(volume / "caches")
    assert disk.warm.stats().num_blocks == len(CHAIN)
    assert disk.agents.page(AgentQuery()).num_agents == 7
    disk.close()


def test_a_folder_for_which_a_volume_has_no_byte_is_refused_with_what_to_do(volume: Path) -> None:
    (volume / "caches").mkdir(mode=0o700)
    filler = fill(volume)
    with pytest.raises(CacheError, match="No space left on device; make room on its volume or choose"):
        Disk(volume / "caches")
    filler.unlink()
    Disk(volume / "caches").close()


@pytest.mark.parametrize("how", ["prune", "clear", "delete"])
def test_files_go_though_the_index_never_finds_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    is_full = False
    refuse_commits(monkeypatch, lambda: is_full)
    disk = filled(tmp_path / "caches")
    stored = disk.warm.stats().bytes_stored
    is_full = True
    if how == "delete":
        assert disk.warm.delete(names(CHAIN), scrub=False).result(60) == stored
    else:
        assert (disk.warm.prune(target_bytes=0) if how == "prune" else disk.warm.clear()) == stored
    assert disk.num_files == disk.warm.stats().bytes_stored == 0
    assert disk.warm.read(CHAIN[0].block.block_hash).result(60) is None, "a miss, whatever the index says"
    assert disk.warm.prune(target_bytes=0) == 0
    is_full = False
    assert disk.warm.write(CHAIN[:3]).result(60).num_written == 3, "what is gone is not taken for present"
    assert disk.warm.stats().num_blocks == 3
    disk.close()


def test_rows_that_a_full_disk_kept_are_found_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_full = False
    refuse_commits(monkeypatch, lambda: is_full)
    disk = filled(tmp_path / "caches")
    is_full = True
    assert disk.warm.prune(target_bytes=0) > 0
    disk.close()
    is_full = False
    disk = Disk(tmp_path / "caches")
    assert disk.warm.recovery is not None
    assert disk.warm.recovery.wait(60)
    assert disk.warm.stats().num_blocks == 0
    disk.close()


def test_the_room_kept_is_given_up_for_deletions_and_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ballast = tmp_path / "caches" / "ballast"
    is_full = False
    refuse_commits(monkeypatch, lambda: is_full and ballast.exists())
    disk = filled(tmp_path / "caches")
    is_full = True
    assert disk.agents.delete(AgentId("agent:a")).result(60) == "done"
    assert disk.responses.delete("r1").result(60) == "done"
    assert ballast.exists()
    assert ballast.stat().st_blocks * 512 >= disk.warm.folder.ballast.num_bytes, "it takes its room"
    is_full = False
    disk.close()
    disk = Disk(tmp_path / "caches")
    assert disk.agents.load(AgentId("agent:a")) is None
    assert disk.responses.load("r1") is None
    disk.close()


@pytest.mark.parametrize("what", ["agent", "response", "an agent's responses"])
def test_what_a_full_disk_does_not_delete_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    is_full = False
    refuse_commits(monkeypatch, lambda: is_full)
    disk = filled(tmp_path / "caches")
    agent = disk.agents.load(AgentId("agent:a"))

    def delete() -> Future[Deletion]:
        if what == "agent":
            return disk.agents.delete(AgentId("agent:a"))
        return (
            disk.responses.delete("r1")
            if what == "response"
            else disk.responses.delete_agent(AgentId("agent:a"))
        )

    is_full = True
    deletions = [delete(), delete()]
    assert [deletion.result(60) for deletion in deletions] == ["no room", "no room"]
    disk.close()
    is_full = False
    disk = Disk(tmp_path / "caches")
    assert disk.agents.load(AgentId("agent:a")) == agent is not None
    assert disk.agents.page(AgentQuery()).num_agents == 7
    assert disk.responses.load("r1") == RESPONSE
    assert delete().result(60) == "done"
    assert (disk.agents.load(AgentId("agent:a")) is None) == (what == "agent")
    assert (disk.responses.load("r1") is None) == (what != "agent")
    disk.close()


def test_a_full_disk_is_recognized_while_the_ballast_is_in_use(volume: Path) -> None:
    disk = filled(volume / "caches")
    fill(volume)
    disk.warm.folder.ballast.num_bytes = 0  # it is not put back
    (volume / "caches" / "ballast").unlink()
    assert os.statvfs(volume).f_bavail * os.statvfs(volume).f_frsize >= BALLAST_BYTES
    assert is_out_of_room(sqlite3.OperationalError("disk I/O error"), folder=volume / "caches")
    disk.close()


@contextmanager
def failing_disk(num_bytes: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes: SQLite then says what it says of a disk that fails."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


def test_a_disk_that_fails_is_not_said_to_be_full(tmp_path: Path) -> None:
    disk = filled(tmp_path / "caches")
    with failing_disk(4096):
        assert disk.agents.delete(AgentId("agent:a")).result(60) == "failed"
        assert disk.responses.delete("r1").result(60) == "failed"
        for remove in (lambda: disk.warm.prune(target_bytes=0), disk.warm.clear):
            with pytest.raises(CacheError, match=r"index refuses .disk I/O error.; check the disk") as failed:
                remove()
            assert type(failed.value) is CacheError
    assert disk.agents.load(AgentId("agent:a")) is not None
    assert disk.num_files == len(CHAIN)
    disk.close()


def test_what_cannot_be_removed_is_an_error_that_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = filled(tmp_path / "caches")

    def refuse(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError(FULL)

    for name in ("remove_oldest_leaves", "shard", "remove_model"):
        monkeypatch.setattr(BlockIndex, name, refuse)
    for remove in (lambda: disk.warm.prune(target_bytes=0), disk.warm.clear):
        with pytest.raises(StorageFullError, match=f"index refuses .{FULL}"):
            remove()
    assert disk.num_files == len(CHAIN)
    disk.close()


def test_an_unfinished_ballast_is_made_anew(tmp_path: Path) -> None:
    ballast = Ballast(tmp_path / "ballast", num_bytes=1 << 16)
    (tmp_path / "ballast").write_bytes(b"x")
    assert not ballast.is_there
    assert ballast.put_back()
    assert ballast.is_there
    assert ballast.put_back()
    assert not Ballast(tmp_path / "missing" / "ballast").put_back()
