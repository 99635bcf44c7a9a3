"""How a large index behaves: opening it, and looking a 128-block prefix up. A script, because it measures time.

    python -m tests.integration.warm_index_scale [--records 400000] [--folder PATH]

Rows are made without files (nothing here reads a block). The promise: an index of 400,000 records opens in under a
second and answers a 128-block prefix lookup in under 5 ms.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from semanticd.adapters.disk.blocks.index import BlockIndex
from semanticd.adapters.disk.blocks.index_rows import NewBlock
from semanticd.adapters.disk.blocks.warm_store import DiskWarmStore
from semanticd.domain.block import Block, hash_block, root_hash
from semanticd.domain.ids import BlockHash, ModelFingerprint

FINGERPRINT = ModelFingerprint("ab" * 32)
LAYOUT = "v1-exact-b256-scale"
CHAIN = 128
BLOCK_TOKENS = 256


def chain_of(number: int) -> list[NewBlock]:
    """Return conversation `number`: 128 blocks of 256 tokens."""
    choose = random.Random(number)
    parent = root_hash(FINGERPRINT, LAYOUT)
    chain = []
    for _ in range(CHAIN):
        tokens = tuple(choose.choices(range(150_000), k=BLOCK_TOKENS))
        name = hash_block(fingerprint=FINGERPRINT, layout=LAYOUT, parent=parent, token_ids=tokens)
        block = Block(name, parent, tokens, 12_000_000)
        chain.append(NewBlock(block, FINGERPRINT, LAYOUT, file_bytes=12_004_000, used_at=1.8e9 + number))
        parent = name
    return chain


def fill(folder: Path, num_records: int) -> None:
    """Make an index of so many rows and close it cleanly."""
    DiskWarmStore.open(folder).close()
    index = BlockIndex(folder / "index.sqlite")
    for number in range(num_records // CHAIN):
        index.add(chain_of(number))
    index.close()


def forget_pages(folder: Path) -> None:
    """Ask the kernel to drop the index from its page cache, where it can be asked."""
    if not hasattr(os, "posix_fadvise"):
        return
    fd = os.open(folder / "index.sqlite", os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def milliseconds(deed: Callable[[], object]) -> float:
    started = time.perf_counter()
    deed()
    return 1000 * (time.perf_counter() - started)


def measure(folder: Path, num_records: int) -> None:
    """Open the index and look prefixes up; print figures."""
    forget_pages(folder)
    started = time.perf_counter()
    store = DiskWarmStore.open(folder)
    opened_ms = 1000 * (time.perf_counter() - started)
    settled_ms = milliseconds(store.flush)
    print(f"records                     {store.stats().num_blocks:,}")
    print(f"index file                  {(folder / 'index.sqlite').stat().st_size / 1e6:,.0f} MB")
    print(f"open, cold pages            {opened_ms:8.2f} ms")
    print(f"hash index read through     {settled_ms:8.2f} ms later, beside other work")
    choose = random.Random(7)
    chains = [
        [new.block.block_hash for new in chain_of(choose.randrange(num_records // CHAIN))] for _ in range(40)
    ]
    cold = [milliseconds(lambda hashes=hashes: store.get_many(hashes)) for hashes in chains]  # type: ignore[misc]
    warm = [milliseconds(lambda hashes=hashes: store.get_many(hashes)) for hashes in chains]  # type: ignore[misc]
    assert all(len(store.get_many(hashes)) == CHAIN for hashes in chains)
    miss = [milliseconds(lambda: store.get(BlockHash(choose.randbytes(32)))) for _ in range(200)]
    print(f"128-block prefix, first     {statistics.median(cold):8.2f} ms median, {max(cold):.2f} ms worst")
    print(f"128-block prefix, again     {statistics.median(warm):8.2f} ms median, {max(warm):.2f} ms worst")
    print(f"one block that is not there {statistics.median(miss):8.3f} ms median, {max(miss):.3f} ms worst")
    print(
        f"one prune of 100 leaves     {milliseconds(lambda: store.prune(target_bytes=freed(store))):8.2f} ms"
    )
    store.close()
    print(f"open and close, warm pages  {milliseconds(lambda: DiskWarmStore.open(folder).close()):8.2f} ms")


def freed(store: DiskWarmStore) -> int:
    return store.stats().bytes_stored - 100 * 12_004_000


def main() -> None:
    """Fill in one process, measure in a fresh one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=400_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--measure", action="store_true", help="the folder is filled already")
    options = parser.parse_args()
    if options.measure:
        measure(options.folder, options.records)
        return
    folder = options.folder or Path(tempfile.mkdtemp(prefix="smt-"))
    try:
        print(
            f"fill                        {milliseconds(lambda: fill(folder, options.records)) / 1000:8.1f} s",
            flush=True,
        )
        command = [sys.executable, "-m", "tests.integration.warm_index_scale", "--measure"]
        subprocess.run([*command, "--folder", str(folder), "--records", str(options.records)], check=True)
    finally:
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
