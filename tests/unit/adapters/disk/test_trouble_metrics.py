"""What a failing disk does to the metrics; a healthy run never moves these."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from semanticd.adapters.disk.agents.archive import DiskAgentArchive
from semanticd.adapters.disk.agents.tables import AgentTables
from semanticd.adapters.disk.blocks.index import BlockIndex
from semanticd.adapters.disk.blocks.repository import BlockRepository
from semanticd.adapters.disk.blocks.warm_store import DiskWarmStore, WarmOptions
from semanticd.adapters.disk.files.folder import CacheFolder
from tests.fakes.agents import full_agent
from tests.fakes.blocks import make_chain, make_record
from tests.fakes.disk import FaultyFileSystem
from tests.fakes.telemetry import RecordingLog, RecordingMetrics


class Disk:
    """A store on a disk that fails on demand, and what it counted."""

    def __init__(self, folder: Path) -> None:
        self.fs = FaultyFileSystem()
        self.metrics = RecordingMetrics()
        options = WarmOptions(max_queue_bytes=1)
        self.store = DiskWarmStore.open(folder, options=options, metrics=self.metrics, fs=self.fs)

    def counted(self, name: str) -> float:
        return self.metrics.counters[(name,)]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path / "caches")
    yield made
    made.store.close()


def test_a_file_that_cannot_be_read_is_counted(disk: Disk) -> None:
    record = make_record()
    disk.store.write([record]).result(60)
    disk.fs.fail["read"] = errno.EIO
    assert disk.store.read(record.block.block_hash).result(60) is None
    assert disk.counted("warm_read_errors_total") == 1


def test_a_group_that_cannot_be_written_is_counted(disk: Disk) -> None:
    disk.fs.fail["create"] = errno.ENOSPC
    assert disk.store.write([make_record()]).result(60).num_refused == 1
    assert disk.counted("warm_write_errors_total") == 1


def test_blocks_that_a_full_queue_does_not_take_are_counted(disk: Disk) -> None:
    first, second = make_chain(2)
    writing, go_on = threading.Event(), threading.Event()

    def wait(operation: str) -> None:
        if operation == "create":
            writing.set()
            assert go_on.wait(60)

    disk.fs.before = wait
    under_way = disk.store.write([first])
    assert writing.wait(60)
    try:
        assert disk.store.write([second]).result(60).num_refused == 1
        assert disk.counted("warm_queue_full_total") == 1
    finally:
        go_on.set()
    assert under_way.result(60).num_written == 1


def test_an_index_that_does_not_answer_is_counted(tmp_path: Path) -> None:
    metrics, log, fs = RecordingMetrics(), RecordingLog(), FaultyFileSystem()
    folder = CacheFolder.open(tmp_path / "caches", fs=fs)
    index = BlockIndex(folder.index)
    storage = BlockRepository(
        folder=folder,
        index=index,
        fs=fs,
        metrics=metrics,
        log=log,
        now=time.time,
    )
    store = DiskWarmStore(storage, options=WarmOptions(), metrics=metrics, log=log, recovery=None)
    index.close()
    assert store.get(make_record().block.block_hash) is None
    assert metrics.counters["warm_index_errors_total",] >= 1
    store.close()


def test_agents_that_cannot_be_saved_or_read_are_counted(disk: Disk) -> None:
    folder, queue = disk.store.folder, disk.store.write_queue
    tables = AgentTables(folder.agents)
    archive = DiskAgentArchive(
        tables, folder=folder, write_queue=queue, metrics=disk.metrics, log=RecordingLog()
    )
    tables.close()
    agent = full_agent()
    assert archive.load(agent.agent_id) is None
    assert disk.counted("agent_load_errors_total") == 1
    archive.save(agent)
    archive.flush(60)
    assert disk.counted("agent_save_errors_total") >= 1
    archive.close()
