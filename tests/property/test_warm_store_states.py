"""The store on disk against the store in memory: after any history both hold the same blocks.

Histories mix writes in any order, pruning, pins, deletion, damage, full disks, clean restarts and crashes.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from semanticd.adapters.disk.blocks.codec import encode
from semanticd.adapters.disk.blocks.warm_store import DiskWarmStore, WarmOptions
from semanticd.adapters.disk.blocks.write_policy import WritePolicy
from semanticd.application.ports.warm_store import BlockRecord
from semanticd.domain.ids import ModelFingerprint
from tests.fakes.blocks import make_chain, make_record, names, same
from tests.fakes.disk import FaultyFileSystem, crash
from tests.fakes.warm_store import MemoryWarmStore

OTHER_MODEL = ModelFingerprint("cd" * 32)


def forest() -> list[BlockRecord]:
    """Return blocks that share beginnings, with tails and snapshots, of two models, in several sizes."""
    trunk = make_chain(4)
    branch = make_chain(3, start=1, parent=trunk[1].block.block_hash, num_bytes=512)
    other = make_record((1, 2), fingerprint=OTHER_MODEL)
    tails = [
        make_record((7,), parent=record.block.block_hash, num_bytes=64) for record in (trunk[3], branch[2])
    ]
    states = [
        make_record((), parent=record.block.block_hash, kind="state") for record in (trunk[1], branch[0])
    ]
    after = make_record((3,), parent=other.block.block_hash, fingerprint=OTHER_MODEL)
    return [*trunk, *branch, *tails, *states, other, after, make_record((99,), num_bytes=4096)]


FOREST = forest()
ALL = names(FOREST)
SOME = st.lists(st.sampled_from(range(len(FOREST))), min_size=1, max_size=6)


class QuietDisk(FaultyFileSystem):
    """A disk that need not survive a power cut, so that many steps take little time."""

    def sync(self, fd: int, *, full: bool) -> None:
        """Fail only on demand."""
        self._happen("sync")


def size_of(record: BlockRecord) -> int:
    return encode(record).num_bytes


class WarmStoreStates(RuleBasedStateMachine):
    """Do the same to both stores and compare."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="smt-"))
        self.fs = QuietDisk()
        self.now = 1_800_000_000.0
        self.aside: set[int] = set()
        """Blocks that were found damaged: their files may be in quarantine."""

    @initialize(
        cap=st.none() | st.integers(1000, 9000), policy=st.sampled_from(["always", "always", "second_use"])
    )
    def begin(self, cap: int | None, policy: WritePolicy) -> None:
        self.options = WarmOptions(cap_bytes=cap, write_policy=policy)
        self.model = MemoryWarmStore(cap_bytes=cap, write_policy=policy, size_of=size_of)
        self.open()

    def open(self) -> None:
        self.store = DiskWarmStore.open(self.folder, options=self.options, fs=self.fs, now=self.tick)
        assert self.store.flush(60)
        assert self.store.recovery is None or self.store.recovery.wait(60)

    def tick(self) -> float:
        self.now += 1.0
        return self.now

    def write_both(self, chosen: list[int]) -> None:
        records = [FOREST[at] for at in chosen]
        ours, theirs = self.store.write(records).result(60), self.model.write(records).result(60)
        assert (ours.num_written, ours.num_present) == (theirs.num_written, theirs.num_present)
        assert sorted(ours.refused) == sorted(theirs.refused)
        assert ours.num_refused == len(ours.refused)
        assert bool(ours.reason) == bool(ours.refused)
        assert ours.bytes_written == theirs.bytes_written

    @rule(chosen=SOME)
    def write(self, chosen: list[int]) -> None:
        self.write_both(chosen)

    @rule(chosen=SOME, operation=st.sampled_from(["create", "writev", "sync", "rename"]))
    def write_to_a_full_disk(self, chosen: list[int], operation: str) -> None:
        self.fs.fail[operation], self.model.refuse = errno.ENOSPC, "full"
        self.write_both(chosen)
        self.fs.fail.clear()
        self.model.refuse = ""

    @rule(chosen=SOME)
    def touch(self, chosen: list[int]) -> None:
        for store in (self.store, self.model):
            store.touch([ALL[at] for at in chosen])

    @rule(chosen=SOME)
    def delete(self, chosen: list[int]) -> None:
        ours, theirs = [
            store.delete([ALL[at] for at in chosen]).result() for store in (self.store, self.model)
        ]
        if self.aside.isdisjoint(chosen):
            assert ours == theirs
        else:
            # What lay damaged in quarantine goes as well.
            assert ours >= theirs
            self.aside.difference_update(chosen)

    @rule(chosen=st.lists(st.sampled_from(range(len(FOREST))), max_size=3), owner=st.sampled_from("ab"))
    def protect(self, chosen: list[int], owner: str) -> None:
        for store in (self.store, self.model):
            store.protect([ALL[at] for at in chosen], owner=owner)

    @rule(down_to=st.none() | st.integers(0, 6000))
    def prune(self, down_to: int | None) -> None:
        self.store.prune(target_bytes=down_to)
        self.model.prune(target_bytes=down_to)

    @rule(fingerprint=st.sampled_from([None, OTHER_MODEL]))
    def clear(self, fingerprint: ModelFingerprint | None) -> None:
        self.store.clear(fingerprint)
        self.model.clear(fingerprint)

    @rule(at=st.sampled_from(range(len(FOREST))))
    def read(self, at: int) -> None:
        ours, theirs = self.store.read(ALL[at]).result(60), self.model.read(ALL[at]).result(60)
        assert same(ours, theirs) if theirs else ours is None

    @rule(
        at=st.sampled_from(range(len(FOREST))),
        position=st.integers(0, 10_000),
        how=st.sampled_from(["flip", "cut"]),
    )
    def damage(self, at: int, position: int, how: str) -> None:
        if self.model.get(ALL[at]) is None:
            return
        path = self.store.folder.block_path(FOREST[at].fingerprint, ALL[at])
        data = bytearray(path.read_bytes())
        position %= len(data)
        if how == "flip":
            data[position] ^= 1
        else:
            del data[position:]
        path.write_bytes(data)
        self.model.break_block(ALL[at])
        self.read(at)
        self.aside.add(at)

    @rule(at=st.sampled_from(range(len(FOREST))))
    def lose_a_file(self, at: int) -> None:
        if self.model.get(ALL[at]) is None:
            return
        self.store.folder.block_path(FOREST[at].fingerprint, ALL[at]).unlink()
        self.model.lose_block(ALL[at])
        self.read(at)

    @rule()
    def verify(self) -> None:
        report = self.store.verify(fix=False)
        assert (report.num_broken, report.num_missing, report.num_orphaned) == (0, 0, 0)

    @rule(clean=st.booleans())
    def restart(self, clean: bool) -> None:
        assert self.store.flush(60)
        if clean:
            self.store.close()
        else:
            crash(self.store)
        self.model.restart()
        self.open()
        assert (self.store.recovery is None) == clean

    @invariant()
    def both_hold_the_same(self) -> None:
        if not hasattr(self, "store"):
            return
        for record in FOREST:
            name = record.block.block_hash
            assert self.store.get(name) == self.model.get(name)
            assert set(self.store.children(record.block.parent)) == set(
                self.model.children(record.block.parent)
            )
        assert self.store.get_many(ALL) == self.model.get_many(ALL)
        ours, theirs = self.store.stats(), self.model.stats()
        assert ours.num_blocks == theirs.num_blocks
        files = sum(path.stat().st_size for path in self.store.folder.blocks.glob("*/**/*") if path.is_file())
        assert files == theirs.bytes_stored
        assert (
            self.options.cap_bytes is None
            or ours.bytes_stored <= self.options.cap_bytes
            or ours.num_quarantined
        )

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
        shutil.rmtree(self.folder, ignore_errors=True)


# 10,000 steps in CI (`HYPOTHESIS_PROFILE=ci`), a tenth of it on a developer's machine.
_CI = os.environ.get("CI") or os.environ.get("HYPOTHESIS_PROFILE") == "ci"
WarmStoreStates.TestCase.settings = settings(
    max_examples=120 if _CI else 20, stateful_step_count=50, deadline=None
)
TestWarmStoreStates = WarmStoreStates.TestCase
TestWarmStoreStates.pytestmark = [pytest.mark.timeout(600)]
