"""A worker's answers about the shards on its disk."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from semanticd.adapters.disk.blocks.warm_store import DiskWarmStore
from semanticd.adapters.ranks.shards import Shards
from tests.fakes.blocks import make_chain


def read(shards: Shards, name: bytes, fingerprint: str) -> Any:
    """Return a worker's answer to the daemon's question for a block."""
    answered: Future[Any] = Future()
    shards.handle("read", (1, name, fingerprint), lambda result, error: answered.set_result((result, error)))
    result, error = answered.result(60)
    assert error is None
    return result


def flip(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize(("harm", "lost"), [(Path.unlink, "missing"), (flip, "damaged")])
def test_a_worker_says_what_happened_to_the_file_of_a_shard(
    harm: Callable[[Path], object], lost: str, tmp_path: Path
) -> None:
    (record,) = make_chain(1)
    name = record.block.block_hash
    store = DiskWarmStore.open(tmp_path)
    store.write([record]).result(60)
    shards = Shards(store)
    assert read(shards, name, record.fingerprint) == [True, None]
    (file,) = tmp_path.rglob(f"{name.hex()}*.safetensors")
    harm(file)
    for _ in range(2):
        assert read(shards, name, record.fingerprint) == [False, lost]
    store.close()
