"""Blocks of a model over several machines, whose workers answer over real sockets."""

from __future__ import annotations

import contextlib

import pytest

from semanticd.adapters.disk.files.rare_log import RareLog
from semanticd.adapters.ranks.warm_store import RankedWarmStore
from semanticd.domain.block import LostFile
from semanticd.domain.ids import BlockHash, ModelFingerprint
from tests.fakes.blocks import make_chain
from tests.fakes.scripted_ranks import ScriptedRanks
from tests.fakes.telemetry import RecordingLog
from tests.fakes.warm_store import MemoryWarmStore


class OwnStore(MemoryWarmStore):
    """Rank 0's blocks, all of one model."""

    def names(self, fingerprint: ModelFingerprint, layout: str) -> list[BlockHash]:
        return self.stored()


def test_a_worker_that_lacks_many_blocks_is_named_once() -> None:
    own, log = OwnStore(), RecordingLog()
    chain = make_chain(60)
    own.write(chain).result()
    with contextlib.closing(ScriptedRanks(3)) as ranks:
        for rank in range(3):
            ranks.joins(rank)
        formation = ranks.group.form("tiny")
        rare_logs = {rank: RareLog(log) for rank in (1, 2)}
        store = RankedWarmStore(own, formation=lambda: formation, log=log, rare_logs=rare_logs)
        for record in chain:
            assert store.read(record.block.block_hash).result(60) is None
    reports = [fields for _, event, fields in log.lines if event == "rank_lacks_block"]
    assert sorted((one["rank"], one["count"]) for one in reports) == [(1, 1), (2, 1)]
    assert not own.stored(), "a block that one machine lacks is computed and written again"


@pytest.mark.parametrize("lost", ["missing", "damaged", "pruned", None])
def test_what_happened_to_a_worker_s_file_happened_to_the_block(lost: LostFile | None) -> None:
    own, log = OwnStore(), RecordingLog()
    chain = make_chain(2)
    first, second = (record.block.block_hash for record in chain)
    own.write(chain).result()
    with contextlib.closing(ScriptedRanks(2)) as ranks:
        ranks.joins(0)
        ranks.joins(1, lost=lost)
        formation = ranks.group.form("tiny")
        store = RankedWarmStore(own, formation=lambda: formation, log=log, rare_logs={1: RareLog(log)})
        assert store.read(second).result(60) is None
        assert store.lost_file([first]) is None
        assert store.lost_file([first, second]) == lost
    (report,) = [fields for _, event, fields in log.lines if event == "rank_lacks_block"]
    assert report["file"] == (lost or "not known")
