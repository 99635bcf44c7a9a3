"""The disk's own promises, beyond the contract: files, damage, full disks, restarts."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from semanticd.adapters.disk.blocks import recovery, repository
from semanticd.adapters.disk.blocks.codec import encode
from semanticd.adapters.disk.blocks.index import BlockIndex
from semanticd.adapters.disk.blocks.warm_store import DiskWarmStore, WarmOptions
from semanticd.adapters.disk.files.folder import SHARDS
from semanticd.application.ports.warm_store import BlockRecord, WriteResult
from semanticd.domain.errors import CacheError
from semanticd.domain.ids import BlockHash, ModelFingerprint
from tests.fakes.blocks import make_chain, make_record, names, same
from tests.fakes.disk import FaultyFileSystem, crash
from tests.fakes.engine_rig import wait_until
from tests.fakes.telemetry import RecordingLog

Open = Callable[..., DiskWarmStore]


@pytest.fixture
def fs() -> FaultyFileSystem:
    return FaultyFileSystem()


@pytest.fixture
def open_store(tmp_path: Path, fs: FaultyFileSystem) -> Iterator[Open]:
    opened: list[DiskWarmStore] = []

    def open_it(*, now: Callable[[], float] = lambda: 1_800_000_000.0, **options: Any) -> DiskWarmStore:
        store = DiskWarmStore.open(tmp_path / "caches", options=WarmOptions(**options), fs=fs, now=now)
        opened.append(store)
        return store

    yield open_it
    for store in opened:
        store.close()


def path_of(store: DiskWarmStore, record: BlockRecord) -> Path:
    return store.folder.block_path(record.fingerprint, record.block.block_hash)


def files_in(store: DiskWarmStore) -> list[Path]:
    return sorted(path for path in store.folder.blocks.glob("*/**/*") if path.is_file())


def settle(store: DiskWarmStore) -> None:
    """Wait for the queue and any recovery."""
    assert store.flush(60)
    assert store.recovery is None or store.recovery.wait(60)


def forget_rows(store: DiskWarmStore, hashes: list[BlockHash]) -> None:
    """Remove rows and leave their files."""
    with closing(BlockIndex(store.folder.index)) as index:
        index.remove(hashes)


# ---- files


def test_files_lie_where_the_format_says_and_only_the_user_can_read_them(open_store: Open) -> None:
    store = open_store()
    record = make_record()
    store.write([record]).result(60)
    name = record.block.block_hash.hex()
    root = store.folder.root
    assert path_of(store, record) == root / "blocks" / ("ab" * 8) / name[:2] / f"{name}.safetensors"
    assert path_of(store, record).read_bytes() == b"".join(encode(record).pieces)
    for path in [root, *root.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_everything_is_there_after_a_restart_and_no_file_is_looked_at(
    open_store: Open, fs: FaultyFileSystem
) -> None:
    chain = make_chain(5)
    store = open_store()
    settle(store)
    store.write(chain).result(60)
    store.close()

    fs.list_files = lambda folder: pytest.fail("listed") if "blocks" in str(folder) else []  # type: ignore[method-assign]
    store = open_store()
    assert store.recovery is None
    assert store.get_many(names(chain)) == [record.block for record in chain]
    assert store.stats().num_blocks == 5
    assert all(same(store.read(r.block.block_hash).result(60), r) for r in chain)


def test_all_readers_run_before_the_first_read(open_store: Open) -> None:
    before = {thread.ident for thread in threading.enumerate()}
    open_store(num_readers=3)
    started = [thread for thread in threading.enumerate() if thread.ident not in before]
    assert sum(thread.name.startswith("semanticd-warm-reader") for thread in started) == 3


def test_a_second_owner_is_refused_with_the_folder_and_the_first_ones_pid(open_store: Open) -> None:
    store = open_store()
    with pytest.raises(CacheError) as caught:
        open_store()
    assert str(store.folder.root) in caught.value.message
    assert str(os.getpid()) in caught.value.message
    store.close()
    open_store()


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="SEMANTIC_AGENT_CACHE_DIR"):
        DiskWarmStore.open(tmp_path / "file" / "caches")


# ---- damage: always a miss, counted, set aside


def flip(position: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[position] ^= 0x10
        path.write_bytes(data)

    return damage


def replace_by_sibling(path: Path) -> None:
    path.write_bytes(b"".join(encode(make_record((77, 78))).pieces))


DAMAGE: dict[str, Callable[[Path], None]] = {
    "header length": flip(1),
    "metadata": flip(60),
    "checksum": flip(40),
    "token ids": lambda path: flip(path.read_bytes().index(b'"1 2 3 4"') + 3)(path),
    "tensor entry": lambda path: flip(path.read_bytes().index(b"data_offsets") + 3)(path),
    "first tensor": flip(-256),
    "last tensor": flip(-1),
    "truncated": lambda path: os.truncate(path, path.stat().st_size - 1),
    "halved": lambda path: os.truncate(path, path.stat().st_size // 2),
    "emptied": lambda path: os.truncate(path, 0),
    "grown": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "another block's": replace_by_sibling,
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_file_is_a_miss_counted_and_set_aside(open_store: Open, what: str) -> None:
    store = open_store()
    record = make_record((1, 2, 3, 4))
    child = make_record((5,), parent=record.block.block_hash)
    store.write([record, child]).result(60)
    path = path_of(store, record)
    DAMAGE[what](path)
    assert store.read(record.block.block_hash).result(60) is None
    assert store.get(record.block.block_hash) is None
    assert store.stats().num_quarantined == 1
    assert not path.exists()
    assert len(list(store.folder.quarantine.iterdir())) == 1
    assert same(store.read(child.block.block_hash).result(60), child), "its child is not touched"
    assert store.lost_file([child.block.block_hash, record.block.block_hash]) == "damaged"
    assert store.write([record]).result(60).num_written == 1
    assert store.lost_file([record.block.block_hash]) is None, "it is there again"
    assert same(store.read(record.block.block_hash).result(60), record)


@pytest.mark.parametrize("what", ["missing", "damaged"])
def test_a_lost_block_is_known_as_lost_before_its_row_goes(
    open_store: Open, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    store = open_store()
    # A new folder is looked through, and that finds missing files too.
    assert store.recovery is None or store.recovery.wait(60)
    record = make_record()
    store.write([record]).result(60)
    path = path_of(store, record)
    if what == "missing":
        path.unlink()
    else:
        path.write_bytes(b"x")
    known: list[str | None] = []
    remove = BlockIndex.remove

    def removes(index: BlockIndex, names: list[BlockHash]) -> Any:
        known.append(store.lost_file(names))
        return remove(index, names)

    monkeypatch.setattr(BlockIndex, "remove", removes)
    assert store.read(record.block.block_hash).result(60) is None
    assert known == [what]


def test_a_missing_file_is_a_miss_and_its_row_goes(open_store: Open) -> None:
    store = open_store()
    record = make_record()
    store.write([record]).result(60)
    path_of(store, record).unlink()
    assert store.read(record.block.block_hash).result(60) is None
    assert store.get(record.block.block_hash) is None
    assert (store.stats().num_blocks, store.stats().num_quarantined) == (0, 0)
    assert store.lost_file([record.block.block_hash]) == "missing"


def test_a_file_that_cannot_be_read_just_now_stays(open_store: Open, fs: FaultyFileSystem) -> None:
    store = open_store()
    record = make_record()
    store.write([record]).result(60)
    fs.fail["read"] = errno.EMFILE
    assert store.read(record.block.block_hash).result(60) is None
    assert store.lost_file([record.block.block_hash]) == "damaged"
    fs.fail.clear()
    assert same(store.read(record.block.block_hash).result(60), record)
    assert store.lost_file([record.block.block_hash]) is None


def test_the_quarantine_is_bounded_and_counts_towards_the_cap(open_store: Open) -> None:
    store = open_store()
    records = [make_record((n,)) for n in range(20)]
    store.write(records).result(60)
    for record in records:
        flip(-1)(path_of(store, record))
        assert store.read(record.block.block_hash).result(60) is None
    held = list(store.folder.quarantine.iterdir())
    assert len(held) == 16
    assert store.stats().bytes_stored == sum(path.stat().st_size for path in held)
    assert store.prune(target_bytes=0) > 0
    assert list(store.folder.quarantine.iterdir()) == []


# ---- files and index that disagree


def test_a_deleted_index_is_made_anew_from_the_files(open_store: Open) -> None:
    chain = make_chain(4)
    state = make_record((), parent=chain[1].block.block_hash, kind="state")
    store = open_store()
    store.write([*chain, state]).result(60)
    before = store.stats().bytes_stored
    store.close()
    for path in store.folder.root.glob("index.sqlite*"):
        path.unlink()

    store = open_store()
    settle(store)
    assert store.get_many(names(chain)) == [record.block for record in chain]
    assert store.get(state.block.block_hash) == state.block
    assert store.stats().bytes_stored == before
    assert store.recovery is not None
    assert (store.recovery.progress, store.recovery.complete) == ((5, 5), True)


@pytest.mark.parametrize("damage", ["garbage", "emptied", "other schema", "cut"])
def test_a_broken_index_is_made_anew_from_the_files(open_store: Open, damage: str) -> None:
    chain = make_chain(4)
    store = open_store()
    store.write(chain).result(60)
    store.close()
    index = store.folder.index
    if damage == "garbage":
        index.write_bytes(os.urandom(20_000))
    elif damage == "emptied":
        os.truncate(index, 0)
    elif damage == "cut":
        os.truncate(index, 4096)
    else:
        with sqlite3.connect(index) as connection:
            connection.execute("PRAGMA user_version = 99")
        connection.close()
    store = open_store()
    settle(store)
    assert store.get_many(names(chain)) == [record.block for record in chain]
    assert all(same(store.read(r.block.block_hash).result(60), r) for r in chain)


def test_an_index_damaged_while_running_is_made_anew(open_store: Open) -> None:
    store = open_store()
    chain = make_chain(200)
    store.write(chain).result(60)
    settle(store)
    with closing(sqlite3.connect(store.folder.index, isolation_level=None)) as other:
        # What another connection has changed, the store's own no longer have in their page caches.
        other.execute("UPDATE blocks SET last_used_at = last_used_at + 1")
        (busy, *_) = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert not busy
        size = store.folder.index.stat().st_size
        with store.folder.index.open("r+b") as file:
            file.seek(4096)
            file.write(os.urandom(size - 4096))
    assert store.get_many(names(chain)) == []
    settle(store)
    assert store.get_many(names(chain)) == [record.block for record in chain]


def test_blocks_are_found_by_name_before_recovery_has_finished(
    open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = make_chain(4)
    store = open_store()
    store.write(chain).result(60)
    before = store.stats().bytes_stored
    store.close()
    store.folder.index.unlink()
    go_on, survey = threading.Event(), recovery.survey
    monkeypatch.setattr(recovery, "survey", lambda *args, **more: go_on.wait(60) and survey(*args, **more))

    store = open_store()
    fingerprint = chain[0].fingerprint
    assert store.get_many(names(chain)) == []
    found = store.find_files([*names(chain[:2]), *names([make_record((77,))])], fingerprint)
    assert found is not None
    assert found.result(60) == 2
    assert store.get_many(names(chain)) == [record.block for record in chain[:2]]
    assert all(same(store.read(r.block.block_hash).result(60), r) for r in chain[:2])
    again = store.find_files(names(chain[:2]), fingerprint)
    assert again is not None
    assert again.result(60) == 0
    gone = path_of(store, chain[3])
    size = gone.stat().st_size
    # What is deleted has no row yet, and must not come back with its file.
    assert store.delete(names(chain[3:])).result(60) == size
    assert not gone.exists()
    go_on.set()
    settle(store)
    assert store.find_files(names(chain), fingerprint) is None
    assert store.get_many(names(chain)) == [record.block for record in chain[:3]]
    assert store.stats().bytes_stored == before - size, "none is counted twice"


def test_rows_without_files_go_after_an_unclean_end(open_store: Open) -> None:
    chain = make_chain(3)
    store = open_store()
    store.write(chain).result(60)
    path_of(store, chain[2]).unlink()
    crash(store)
    store = open_store()
    settle(store)
    assert [store.get(name) is not None for name in names(chain)] == [True, True, False]
    assert store.stats().bytes_stored == sum(path.stat().st_size for path in files_in(store))


def test_files_without_rows_are_adopted_and_leftovers_removed_after_an_unclean_end(open_store: Open) -> None:
    chain = make_chain(3)
    store = open_store()
    store.write(chain).result(60)
    forget_rows(store, names(chain[1:]))
    leftover = path_of(store, chain[0]).with_suffix(".safetensors.123-4.tmp")
    leftover.write_bytes(b"half")
    foreign = leftover.with_name("README")
    foreign.write_text("mine")
    broken = make_record((55,))
    path_of(store, broken).parent.mkdir(parents=True, exist_ok=True)
    path_of(store, broken).write_bytes(b"".join(encode(broken).pieces)[:-1])
    crash(store)

    store = open_store()
    settle(store)
    assert store.get_many(names(chain)) == [record.block for record in chain]
    assert not leftover.exists()
    assert foreign.exists(), "what is not ours is left alone"
    wait_until(lambda: store.stats().num_quarantined == 1, "the broken file is set aside and counted")
    report = store.verify(fix=False)
    assert (report.num_checked, report.num_broken, report.num_missing, report.num_orphaned) == (3, 0, 0, 0)


def test_a_recovery_cut_short_goes_on_at_the_next_start(open_store: Open, fs: FaultyFileSystem) -> None:
    chain = make_chain(300)
    store = open_store()
    store.write(chain).result(60)
    store.close()
    store.folder.index.unlink()
    reached, go_on = threading.Event(), threading.Event()
    read_start = fs.read_start

    def slowly(path: Path, num_bytes: int) -> tuple[bytes, int]:
        reached.set()
        go_on.wait(60)
        return read_start(path, num_bytes)

    fs.read_start = slowly  # type: ignore[method-assign]
    store = open_store()
    assert reached.wait(60)
    assert store.stats().bytes_stored == sum(path.stat().st_size for path in files_in(store)), (
        "counted at once"
    )
    assert store.recovery is not None
    store.recovery.stop(wait=False)
    go_on.set()
    store.close()
    assert not store.recovery.complete

    store = open_store()
    settle(store)
    assert len(store.get_many(names(chain))) == 300


def test_blocks_are_written_while_the_folder_is_looked_through(
    open_store: Open, fs: FaultyFileSystem
) -> None:
    chain = make_chain(4)
    store = open_store()
    store.write(chain[:2]).result(60)
    store.close()
    (store.folder.root / "unclean").touch()
    may_go_on = threading.Semaphore(1)
    list_files = fs.list_files

    num_asked = num_released = 0

    def one_by_one(folder: Path) -> list[str]:
        nonlocal num_asked
        num_asked += 1
        may_go_on.acquire(timeout=60)
        return list_files(folder)

    fs.list_files = one_by_one  # type: ignore[method-assign]
    store = open_store()
    written = store.write(chain[2:])
    deadline = time.monotonic() + 60
    while not written.done():
        # One folder at a time, and none while the group is written, however long its disk takes.
        if num_released < num_asked:
            num_released += 1
            may_go_on.release()
        assert time.monotonic() < deadline, "the group is not written before all was looked at"
        time.sleep(0.002)
    share = store.stats().recovered_share
    assert share is not None
    assert share < 1
    for _ in SHARDS:
        may_go_on.release()
    settle(store)
    assert store.stats().recovered_share is None
    assert len(store.get_many(names(chain))) == 4


def test_verify_finds_and_fixes_what_disagrees(open_store: Open) -> None:
    store = open_store()
    records = [make_record((n,)) for n in range(6)]
    store.write(records).result(60)
    settle(store)
    flip(-1)(path_of(store, records[0]))
    path_of(store, records[1]).unlink()
    forget_rows(store, [records[2].block.block_hash])
    path_of(store, records[3]).with_suffix(".safetensors.9-9.tmp").write_bytes(b"half")
    report = store.verify(fix=False)
    assert (report.num_checked, report.num_broken, report.num_missing, report.num_orphaned) == (4, 1, 1, 2)
    assert store.verify(fix=True) == report
    after = store.verify(fix=False)
    assert (after.num_checked, after.num_broken, after.num_missing, after.num_orphaned) == (4, 0, 0, 0)
    assert store.get(records[2].block.block_hash) == records[2].block


def test_the_store_verifies_itself_in_the_background(open_store: Open) -> None:
    record = make_record()
    store = open_store(verify_every_s=0.02)
    store.write([record]).result(60)
    flip(-1)(path_of(store, record))
    deadline = time.monotonic() + 60
    while not store.stats().num_quarantined and time.monotonic() < deadline:
        time.sleep(0.01)
    assert store.stats().num_quarantined == 1


# ---- writes that cannot be


@pytest.mark.parametrize("operation", ["create", "writev", "sync", "rename"])
def test_a_failing_disk_refuses_leaves_nothing_and_recovers(
    open_store: Open, fs: FaultyFileSystem, operation: str
) -> None:
    store = open_store()
    chain = make_chain(3)
    fs.fail[operation] = errno.ENOSPC
    result = store.write(chain).result(60)
    assert (result.num_written, result.num_refused, set(result.refused)) == (0, 3, set(names(chain)))
    assert os.strerror(errno.ENOSPC) in result.reason
    assert files_in(store) == []
    assert (store.stats().num_write_errors, store.stats().bytes_stored) == (1, 0)
    fs.fail.clear()
    assert store.write(chain).result(60).num_written == 3
    assert store.get_many(names(chain)) == [record.block for record in chain]


def test_a_disk_that_fills_up_keeps_what_was_stored(open_store: Open, fs: FaultyFileSystem) -> None:
    store = open_store()
    kept, extra = make_record((1,)), make_record((2,))
    store.write([kept]).result(60)
    fs.room_bytes = 100
    assert store.write([extra]).result(60).num_refused == 1
    assert files_in(store) == [path_of(store, kept)]
    fs.room_bytes = None
    assert store.write([extra]).result(60).num_written == 1


def test_an_index_that_cannot_be_written_leaves_no_files(open_store: Open) -> None:
    store = open_store()
    settle(store)
    connection = sqlite3.connect(store.folder.index)
    connection.execute("CREATE TRIGGER full BEFORE INSERT ON blocks BEGIN SELECT raise(ABORT, 'full'); END")
    connection.commit()
    result = store.write(make_chain(2)).result(60)
    assert (result.num_refused, files_in(store)) == (2, [])
    connection.execute("DROP TRIGGER full")
    connection.commit()
    connection.close()
    assert store.write(make_chain(2)).result(60).num_written == 2


def hold_writes(fs: FaultyFileSystem) -> threading.Event:
    """Make the disk wait before it creates a file, until the event is set."""
    go_on = threading.Event()

    def wait(operation: str) -> None:
        if operation == "create":
            go_on.wait(60)

    fs.before = wait
    return go_on


def test_a_full_queue_refuses_at_once(open_store: Open, fs: FaultyFileSystem) -> None:
    store = open_store(max_queue_bytes=600)
    settle(store)
    go_on = hold_writes(fs)
    first, second, third = (make_record((n,), num_bytes=256) for n in range(3))
    futures = [store.write([record]) for record in (first, second)]
    refused = store.write([third]).result(0)
    assert (refused.refused, refused.reason) == ((third.block.block_hash,), "the write queue is full")
    assert store.stats().pending_writes == 2
    go_on.set()
    assert [future.result(60).num_written for future in futures] == [1, 1]
    assert store.write([third]).result(60).num_written == 1


def test_one_group_larger_than_the_queue_is_taken_when_nothing_waits(open_store: Open) -> None:
    store = open_store(max_queue_bytes=10)
    assert store.write(make_chain(3)).result(60).num_written == 3


def test_what_is_deleted_while_it_waits_is_not_written(open_store: Open, fs: FaultyFileSystem) -> None:
    store = open_store()
    settle(store)
    go_on = hold_writes(fs)
    store.write([make_record((1,))])
    doomed, kept = make_record((2,)), make_record((3,))
    later = store.write([doomed, kept])
    threading.Timer(0.05, go_on.set).start()
    store.delete([doomed.block.block_hash]).result()
    assert later.result(60).num_written == 1
    assert store.get(doomed.block.block_hash) is None
    assert store.get(kept.block.block_hash) == kept.block


def test_the_index_is_scrubbed_where_a_deletion_asks_for_it(open_store: Open) -> None:
    store = open_store()
    given_up, deleted = make_record((7,) * 16), make_record((8,) * 16)
    for record in (given_up, deleted):
        assert store.write([record]).result(60).num_written == 1
    settle(store)
    log = store.folder.index.with_name(store.folder.index.name + "-wal")
    assert store.delete([given_up.block.block_hash], scrub=False).result(60) > 0
    assert log.stat().st_size > 0
    assert store.delete([deleted.block.block_hash]).result(60) > 0
    assert log.stat().st_size == 0
    assert store.get(given_up.block.block_hash) is store.get(deleted.block.block_hash) is None


def test_lookups_do_not_wait_for_a_write(open_store: Open, fs: FaultyFileSystem) -> None:
    store = open_store()
    record = make_record((1,))
    store.write([record]).result(60)
    settle(store)
    go_on = hold_writes(fs)
    writing = store.write([make_record((2,))])
    store.touch([record.block.block_hash])
    store.protect([record.block.block_hash], owner="a")
    assert store.get(record.block.block_hash) == record.block
    assert same(store.read(record.block.block_hash).result(60), record)
    assert store.stats().num_blocks == 1
    assert not writing.done()
    go_on.set()
    assert writing.result(60).num_written == 1


def test_the_daily_budget_holds_over_a_restart_and_ends_with_the_day(open_store: Open) -> None:
    noon = 1_800_014_400.0 - (1_800_014_400.0 % 86_400) + 43_200
    chain = make_chain(3)
    size = encode(chain[0]).num_bytes
    store = open_store(write_budget_bytes=2 * size + 10, now=lambda: noon)
    result = store.write(chain).result(60)
    assert (result.num_written, result.refused, result.reason) == (
        2,
        (names(chain)[2],),
        "daily write budget",
    )
    assert store.stats().written_today_bytes == 2 * size
    store.close()
    store = open_store(write_budget_bytes=2 * size + 10, now=lambda: noon + 600)
    assert store.write(chain).result(60).num_refused == 1
    store.close()
    store = open_store(write_budget_bytes=2 * size + 10, now=lambda: noon + 86_400)
    assert store.stats().written_today_bytes == 0
    assert store.write(chain).result(60).num_written == 1


def test_the_cap_holds_before_each_write(open_store: Open, fs: FaultyFileSystem) -> None:
    size = encode(make_record((1, 1))).num_bytes
    cap = 5 * size
    store = open_store(cap_bytes=cap)
    on_disk: list[int] = []

    def look(operation: str) -> None:
        if operation in ("writev", "rename"):
            on_disk.append(sum(path.stat().st_size for path in files_in(store)))

    fs.before = look
    for n in range(30):
        assert store.write([make_record((n, n)), make_record((n, n, n))]).result(60).num_refused == 0
    assert max(on_disk) <= cap


def test_least_recent_use_is_remembered_over_a_restart(open_store: Open) -> None:
    clock = iter(range(1_800_000_000, 1_900_000_000))
    tick = lambda: float(next(clock))  # noqa: E731
    store = open_store(now=tick)
    a, b = make_record((1,)), make_record((2,))
    store.write([a]).result(60)
    store.write([b]).result(60)
    store.touch([a.block.block_hash])
    store.close()
    store = open_store(now=tick, cap_bytes=2 * encode(a).num_bytes)
    store.write([make_record((3,))]).result(60)
    assert store.get(a.block.block_hash) is not None
    assert store.get(b.block.block_hash) is None


def test_clear_also_takes_files_without_rows_and_spares_other_models(open_store: Open) -> None:
    store = open_store()
    ours = make_record((1,))
    namesake = make_record(
        (2,), fingerprint=ModelFingerprint("ab" * 8 + "ff" * 24)
    )  # same folder, another model
    store.write([ours, namesake]).result(60)
    lost = make_record((3,))
    path_of(store, lost).parent.mkdir(parents=True, exist_ok=True)
    path_of(store, lost).write_bytes(b"".join(encode(lost).pieces))
    store.clear(ours.fingerprint)
    assert files_in(store) == [path_of(store, namesake)]
    store.clear()
    assert files_in(store) == []


def test_what_is_left_on_the_volume_is_known_at_once_and_again_after_each_write(
    open_store: Open, fs: FaultyFileSystem
) -> None:
    fs.room_bytes = 50_000_000
    store = open_store()
    assert store.stats().free_disk_bytes == 50_000_000
    fs.room_bytes = 40_000_000
    assert store.write([make_record((1,))]).result(60).num_written == 1
    left = store.stats().free_disk_bytes
    assert left == fs.room_bytes < 40_000_000


# ---- the volume


def block_bytes(store: DiskWarmStore, record: BlockRecord) -> int:
    return len(b"".join(encode(record).pieces))


def test_nothing_is_written_below_the_reserve_and_all_is_when_space_returns(
    open_store: Open, fs: FaultyFileSystem
) -> None:
    store = open_store(reserve_bytes=10_000)
    chain = make_chain(6)
    size = block_bytes(store, chain[0])
    fs.removed_bytes_return = False
    fs.says_free = 10_000 + 3 * size
    result = store.write(chain).result(60)
    assert (result.num_written, result.num_refused) == (3, 3)
    assert result.reason == "the disk's reserve is reached"
    fs.says_free = 5_000
    more = store.write(make_chain(2, start=500)).result(60)
    assert (more.num_written, more.num_refused) == (0, 2)
    stats = store.stats()
    assert (stats.free_disk_bytes, stats.reserve_bytes, stats.num_refused) == (5_000, 10_000, 5)
    fs.says_free = 10**8
    assert store.write(chain).result(60).num_written == 3
    assert store.get_many(names(chain)) == [record.block for record in chain]


def test_old_blocks_make_room_above_the_reserve(open_store: Open, fs: FaultyFileSystem) -> None:
    store = open_store(reserve_bytes=10_000)
    old, new = make_chain(5), make_chain(3, start=500)
    store.write(old).result(60)
    size = block_bytes(store, old[0])
    fs.says_free = 10_000 + size
    assert store.write(new).result(60).num_written == 3
    assert store.get_many(names(new)) == [record.block for record in new]
    assert 1 <= len(store.get_many(names(old))) < 5
    assert fs.says_free >= 10_000


def test_the_cache_is_not_emptied_where_that_makes_no_room(open_store: Open, fs: FaultyFileSystem) -> None:
    store = open_store(reserve_bytes=10_000)
    old = make_chain(5)
    store.write(old).result(60)
    fs.says_free = 1
    assert store.write(make_chain(2, start=500)).result(60).num_refused == 2
    assert len(store.get_many(names(old))) == 5, "all of them together would not reach the reserve"
    fs.removed_bytes_return = False
    fs.says_free = 9_999
    for start in (500, 600, 700):
        assert store.write(make_chain(1, start=start)).result(60).num_refused == 1
    assert len(store.get_many(names(old))) >= 3, "removing was tried once"


def test_a_cap_that_goes_by_the_volume_stays_what_it_was_at_the_first_start(
    open_store: Open, fs: FaultyFileSystem
) -> None:
    gib = 1024**3
    fs.says_free, fs.says_size = 100 * gib, 400 * gib
    store = open_store(cap_bytes="by volume", reserve_bytes="by volume")
    assert (store.stats().cap_bytes, store.stats().reserve_bytes) == (20 * gib, 20 * gib)
    store.close()
    fs.says_free = gib
    store = open_store(cap_bytes="by volume", reserve_bytes=0)
    assert store.stats().cap_bytes == 20 * gib
    store.close()
    (store.folder.root / "cap").write_text("what")
    fs.says_free = 1000 * gib
    assert open_store(cap_bytes="by volume").stats().cap_bytes == 64 * gib


def test_a_store_opens_below_the_reserve_and_sets_its_cap_later(
    open_store: Open, fs: FaultyFileSystem
) -> None:
    store = open_store()
    chain = make_chain(3)
    store.write(chain).result(60)
    store.close()
    gib = 1024**3
    fs.says_free, fs.says_size, fs.removed_bytes_return = 0, 100 * gib, False
    store = open_store(cap_bytes="by volume", reserve_bytes="by volume")
    assert store.get_many(names(chain)) == [record.block for record in chain]
    assert store.write(make_chain(1, start=500)).result(60).num_refused == 1
    assert store.get_many(names(chain)) == [record.block for record in chain]
    store.close()
    fs.says_free = 50 * gib
    store = open_store(cap_bytes="by volume", reserve_bytes="by volume")
    assert store.stats().cap_bytes is not None
    assert store.stats().cap_bytes >= 10 * gib
    assert store.write(make_chain(1, start=500)).result(60).num_written == 1


def test_a_store_that_was_opened_on_a_full_volume_has_its_cap_once_there_is_room(
    open_store: Open, fs: FaultyFileSystem
) -> None:
    gib = 1024**3
    fs.says_free, fs.says_size = 0, 100 * gib
    store = open_store(cap_bytes="by volume", reserve_bytes="by volume")
    chain = make_chain(4)
    assert store.write(chain[:2]).result(60).num_written == 0
    fs.says_free = 50 * gib
    assert store.write(chain).result(60).num_written == 4
    assert store.stats().cap_bytes == 10 * gib
    fs.says_free = 20 * gib
    assert store.write(make_chain(1, start=500)).result(60).num_written == 1
    assert store.stats().cap_bytes == 10 * gib, "decided for good"


def test_pruning_much_lets_blocks_be_written_in_between(
    open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository, "PRUNED_AT_ONCE", 8)
    store = open_store()
    chain = make_chain(40)
    assert store.write(chain).result(60).num_written == 40
    removed: list[int] = []
    written: list[Future[WriteResult]] = []

    def hear(names: Sequence[BlockHash]) -> None:
        removed.append(len(names))
        if len(removed) == 1:
            written.append(store.write(make_chain(1, start=500)))

    def pause(_: float) -> None:
        assert written[0].result(60).num_written == 1

    store.when_pruned(hear)
    monkeypatch.setattr(repository.time, "sleep", pause)
    assert store.prune(target_bytes=0) > 0
    assert removed[:4] == [8, 8, 8, 8]
    assert store.get_many(names(chain)) == []


def test_an_index_that_refuses_again_and_again_is_one_line_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    log, chain = RecordingLog(), make_chain(1)
    store = DiskWarmStore.open(tmp_path / "caches", log=log)
    store.write(chain).result(60)
    monkeypatch.setattr(BlockIndex, "touch", refuse)
    for _ in range(5):
        store.touch(names(chain))
        assert store.flush(60)
    store.close()
    assert [event for _, event, _ in log.lines].count("cache_index_not_read") == 1


def test_the_agents_database_counts_towards_the_cap_and_leaves_blocks_half_of_it(open_store: Open) -> None:
    chain = make_chain(4)
    sizes = [len(b"".join(encode(record).pieces)) for record in chain]
    cap = sum(sizes) + 10
    store = open_store(cap_bytes=cap)
    database = store.folder.root / "agents.sqlite"
    database.write_bytes(bytes(sizes[-1]))
    result = store.write(chain).result(60)
    assert (result.num_written, result.reason) == (3, "the cap is reached")
    database.write_bytes(bytes(10 * cap))
    assert store.write(make_chain(1, start=500)).result(60).num_written == 1
    assert cap // 2 - max(sizes) <= store.stats().bytes_stored <= cap // 2
    database.unlink()
    assert store.write(chain).result(60).num_refused == 0


def test_a_cap_that_is_reached_is_logged_once_with_what_to_do(tmp_path: Path) -> None:
    log = RecordingLog()
    options = WarmOptions(cap_bytes=0)
    store = DiskWarmStore.open(tmp_path / "caches", options=options, log=log)
    for start in range(3):
        store.write(make_chain(2, start=100 * start)).result(60)
    store.close()
    ((_, _, fields),) = [line for line in log.lines if line[1] == "blocks_not_written"]
    assert fields["reason"] == "the cap is reached"
    assert "SEMANTIC_AGENT_CACHE_MAX_GB" in fields["remedy"]


def test_the_blocks_are_marked_as_a_cache_and_the_agents_are_not(open_store: Open) -> None:
    store = open_store()
    tag = store.folder.blocks / "CACHEDIR.TAG"
    assert tag.read_bytes().startswith(b"Signature: 8a477f597d28d172789f06886806bc55")
    assert not (store.folder.root / "CACHEDIR.TAG").exists()
    assert store.clear() == 0
    assert tag.exists()


def replace_by(what: str, path: Path, elsewhere: Path) -> None:
    """Move a block's file away, and leave something else in its place."""
    path.rename(elsewhere)
    if what == "link":
        path.symlink_to(elsewhere)
    elif what == "dangling link":
        path.symlink_to(elsewhere.with_name("nowhere"))
    elif what == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()


@pytest.mark.parametrize("found_by", ["reading", "writing", "verifying", "the next start"])
@pytest.mark.parametrize("what", ["link", "dangling link", "pipe", "folder"])
def test_what_is_no_file_in_a_blocks_place_is_damage_and_the_block_is_written_again(
    open_store: Open, tmp_path: Path, what: str, found_by: str
) -> None:
    store = open_store()
    chain = make_chain(3)
    store.write(chain).result(60)
    settle(store)
    moved = [tmp_path / f"moved-{number}" for number in range(3)]
    for record, elsewhere in zip(chain, moved, strict=True):
        replace_by(what, path_of(store, record), elsewhere)
    if found_by == "reading":
        assert all(store.read(name).result(60) is None for name in names(chain))
        assert store.lost_file(names(chain)) == "damaged"
        assert store.stats().num_quarantined == 3
    elif found_by == "verifying":
        assert store.verify(fix=True).num_broken == 3
        assert store.stats().num_quarantined == 3
    elif found_by == "the next start":
        store.folder.index.unlink()
        store.close()
        store = open_store()
        settle(store)
        assert store.stats().num_quarantined == 3
    if found_by != "writing":
        assert not any(os.path.lexists(path_of(store, record)) for record in chain)
    assert store.write(chain).result(60).num_written == 3
    assert all(stat.S_ISREG(path_of(store, record).lstat().st_mode) for record in chain)
    assert all(same(store.read(r.block.block_hash).result(60), r) for r in chain)
    # What a link leads to is not ours: it is neither read nor removed.
    assert all(elsewhere.is_file() for elsewhere in moved)
    assert not any(path.is_symlink() for path in store.folder.quarantine.iterdir())


def test_a_deleted_block_whose_file_became_a_link_leaves_none(open_store: Open, tmp_path: Path) -> None:
    store = open_store()
    (record,) = make_chain(1)
    store.write([record]).result(60)
    settle(store)
    replace_by("link", path_of(store, record), tmp_path / "moved")
    store.delete([record.block.block_hash]).result(60)
    assert not os.path.lexists(path_of(store, record))
    assert (tmp_path / "moved").is_file()


def test_a_folder_of_blocks_that_was_removed_is_no_failure_of_clearing(open_store: Open) -> None:
    store = open_store()
    store.write(make_chain(2)).result(60)
    settle(store)
    store.folder.blocks.rename(store.folder.blocks.with_name("moved"))
    assert store.clear() > 0
    assert store.stats().num_blocks == 0
