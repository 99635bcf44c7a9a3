"""What every warm store promises, on disk and in memory alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from semanticd.adapters.disk.blocks.warm_store import DiskWarmStore, WarmOptions
from semanticd.application.ports.warm_store import WarmStore
from semanticd.domain.block import root_hash
from semanticd.domain.ids import BlockHash, ModelFingerprint
from tests.fakes.blocks import FINGERPRINT, LAYOUT, make_chain, make_record, names, same
from tests.fakes.warm_store import MemoryWarmStore

MakeStore = Callable[..., WarmStore]


class Ticks:
    """A clock that moves on by a second whenever it is read."""

    def __init__(self) -> None:
        self._now = 1_800_000_000.0

    def __call__(self) -> float:
        self._now += 1.0
        return self._now


@pytest.fixture(params=["memory", "disk"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeStore]:
    opened: list[WarmStore] = []

    def make(**options: Any) -> WarmStore:
        store: WarmStore
        if request.param == "memory":
            store = MemoryWarmStore(**options)
        else:
            store = DiskWarmStore.open(tmp_path / "caches", options=WarmOptions(**options), now=Ticks())
        opened.append(store)
        return store

    yield make
    for store in opened:
        store.close()


@pytest.fixture
def store(make_store: MakeStore) -> WarmStore:
    return make_store()


def size_of(make_store: MakeStore) -> int:
    """Return what one block of `make_record` counts for in this store."""
    probe = make_store()
    probe.write([make_record((9, 9, 9))]).result(60)
    size = probe.stats().bytes_stored
    probe.clear()
    probe.close()
    return size


def test_a_block_read_back_is_the_block_that_was_written(store: WarmStore) -> None:
    record = make_record()
    store.write([record]).result(60)
    assert same(store.read(record.block.block_hash).result(60), record)


def test_an_unknown_block_is_a_miss_everywhere(store: WarmStore) -> None:
    unknown = BlockHash(b"\x01" * 32)
    assert store.get(unknown) is None
    assert store.get_many([unknown]) == []
    assert store.children(unknown) == []
    assert store.read(unknown).result(60) is None
    assert store.delete([unknown]).result() == 0


def test_facts_are_known_once_the_write_is_done(store: WarmStore) -> None:
    record = make_record()
    result = store.write([record]).result(60)
    assert store.get(record.block.block_hash) == record.block
    assert (result.num_written, result.num_present, result.num_refused) == (1, 0, 0)
    assert result.bytes_written >= record.block.num_bytes


def test_get_many_stops_at_the_first_gap(store: WarmStore) -> None:
    chain = make_chain(40)
    store.write(chain).result(60)
    store.delete([chain[17].block.block_hash]).result()
    assert store.get_many(names(chain)) == [record.block for record in chain[:17]]
    assert store.get_many([]) == []


def test_children_are_the_blocks_that_directly_follow(store: WarmStore) -> None:
    first, second, third = make_chain(3)
    tail = make_record((7,), parent=first.block.block_hash)
    state = make_record((), parent=first.block.block_hash, kind="state")
    store.write([first, second, third, tail, state]).result(60)
    children = store.children(first.block.block_hash)
    assert set(children) == {second.block, tail.block, state.block}


def test_what_is_stored_is_not_written_again(store: WarmStore) -> None:
    chain = make_chain(3)
    store.write(chain[:2]).result(60)
    written = store.stats().bytes_written
    again = store.write(chain[:2]).result(60)
    assert (again.num_written, again.num_present, again.bytes_written) == (0, 2, 0)
    assert store.stats().bytes_written == written
    more = store.write(chain).result(60)
    assert (more.num_written, more.num_present) == (1, 2)


def test_a_record_given_twice_in_a_group_is_written_once(store: WarmStore) -> None:
    record = make_record()
    assert store.write([record, record]).result(60).num_written == 1
    assert store.stats().num_blocks == 1


def test_a_group_may_come_in_any_order(store: WarmStore) -> None:
    chain = make_chain(5)
    assert store.write(chain[::-1]).result(60).num_written == 5
    assert store.get_many(names(chain)) == [record.block for record in chain]


def test_models_with_equal_tokens_do_not_share(store: WarmStore) -> None:
    other = ModelFingerprint("cd" * 32)
    ours, theirs = make_record((1, 2)), make_record((1, 2), fingerprint=other)
    store.write([ours]).result(60)
    assert store.get(theirs.block.block_hash) is None
    assert store.children(root_hash(other, LAYOUT)) == []


def test_delete_removes_only_what_is_named(store: WarmStore) -> None:
    chain = make_chain(3)
    store.write(chain).result(60)
    before = store.stats().bytes_stored
    freed = store.delete([chain[1].block.block_hash]).result()
    assert store.stats().bytes_stored == before - freed
    assert freed > 0
    assert [store.get(name) is not None for name in names(chain)] == [True, False, True]


def test_clear_takes_one_model_or_everything(store: WarmStore) -> None:
    other = ModelFingerprint("cd" * 32)
    store.write([*make_chain(2), make_record(fingerprint=other)]).result(60)
    assert store.clear(other) > 0
    assert store.stats().num_blocks == 2
    assert store.clear() > 0
    assert (store.stats().num_blocks, store.stats().bytes_stored) == (0, 0)


def test_the_cap_removes_what_was_used_longest_ago(make_store: MakeStore) -> None:
    size = size_of(make_store)
    store = make_store(cap_bytes=3 * size)
    a, b, c, d = (make_record((n, n, n)) for n in range(4))
    for record in (a, b, c):
        store.write([record]).result(60)
    store.touch([a.block.block_hash])
    store.write([d]).result(60)
    stored = [store.get(record.block.block_hash) is not None for record in (a, b, c, d)]
    assert stored == [True, False, True, True]
    assert store.stats().bytes_stored <= 3 * size
    assert store.stats().num_pruned == 1


def test_the_cap_takes_children_before_their_parents(make_store: MakeStore) -> None:
    size = size_of(make_store)
    store = make_store(cap_bytes=4 * size)
    chain = make_chain(3)
    for record in chain:
        store.write([record]).result(60)
    for at in range(2):
        store.write([make_record((7, 7, at))]).result(60)
    assert [store.get(name) is not None for name in names(chain)] == [True, True, False]


def test_a_parent_is_not_pruned_to_make_room_for_its_child(make_store: MakeStore) -> None:
    size = size_of(make_store)
    store = make_store(cap_bytes=2 * size)
    parent, child = make_chain(2)
    other = make_record((5, 5, 5))
    store.write([parent]).result(60)
    store.write([other]).result(60)
    assert store.write([child]).result(60).num_written == 1
    assert store.get(parent.block.block_hash) is not None
    assert store.get(other.block.block_hash) is None


def test_protected_blocks_stay_and_a_full_store_refuses(make_store: MakeStore) -> None:
    size = size_of(make_store)
    store = make_store(cap_bytes=2 * size)
    chain = make_chain(2)
    store.write(chain).result(60)
    store.protect(names(chain), owner="pinned agent")
    extra = make_record((8, 8, 8))
    refused = store.write([extra]).result(60)
    assert (refused.num_refused, refused.refused) == (1, (extra.block.block_hash,))
    assert refused.reason
    assert store.get_many(names(chain)) == [record.block for record in chain]
    store.protect([], owner="pinned agent")
    assert store.write([extra]).result(60).num_written == 1


def test_a_block_that_can_never_fit_costs_nothing_that_is_stored(make_store: MakeStore) -> None:
    size = size_of(make_store)
    store = make_store(cap_bytes=2 * size)
    kept = make_record((1, 1, 1))
    store.write([kept]).result(60)
    huge = make_record((2, 2, 2), num_bytes=64 * size)
    assert store.write([huge]).result(60).num_refused == 1
    assert store.get(kept.block.block_hash) is not None


@pytest.mark.parametrize("order", [1, -1])
def test_a_group_that_fits_in_part_keeps_its_beginning(make_store: MakeStore, order: int) -> None:
    size = size_of(make_store)
    store = make_store(cap_bytes=3 * size)
    chain = make_chain(5)
    result = store.write(chain[::order]).result(60)
    assert (result.num_written, result.num_refused) == (3, 2)
    assert set(result.refused) == set(names(chain[3:]))
    assert store.get_many(names(chain)) == [record.block for record in chain[:3]]


def test_second_use_writes_what_comes_back(make_store: MakeStore) -> None:
    store = make_store(write_policy="second_use")
    record, touched = make_record((1,)), make_record((2,))
    first = store.write([record]).result(60)
    assert (first.num_written, first.refused) == (0, (record.block.block_hash,))
    assert "second_use" in first.reason
    assert store.write([record]).result(60).num_written == 1
    store.touch([touched.block.block_hash])
    assert store.write([touched]).result(60).num_written == 1


def test_asking_whether_a_block_is_wanted_counts_as_a_use_of_it(make_store: MakeStore) -> None:
    record = make_record()
    name = record.block.block_hash
    for policy, expected in (
        ("always", [True, True]),
        ("off", [False, False]),
        ("second_use", [False, True]),
    ):
        store = make_store(write_policy=policy)
        assert [store.wants(name), store.wants(name)] == expected
        assert store.write([record]).result(60).num_refused == (policy == "off")
        store.clear()
        store.close()


def test_off_writes_nothing(make_store: MakeStore) -> None:
    store = make_store(write_policy="off")
    record = make_record()
    for _ in range(3):
        assert store.write([record]).result(60).num_refused == 1
    assert store.stats().num_blocks == 0


def test_prune_goes_down_to_the_target(make_store: MakeStore) -> None:
    store = make_store()
    chain = make_chain(6)
    store.write(chain).result(60)
    half = store.stats().bytes_stored // 2
    assert store.prune() == 0
    assert store.prune(target_bytes=half) >= half
    assert store.stats().bytes_stored <= half
    assert store.get_many(names(chain)) == [record.block for record in chain[:3]]


def test_the_future_of_a_read_or_write_never_raises_after_close(store: WarmStore) -> None:
    record = make_record()
    store.close()
    store.close()
    result = store.write([record]).result(60)
    assert (result.num_refused, result.reason) == (1, "the store is closed")
    assert store.flush(60)


def test_verify_finds_nothing_in_a_sound_store(store: WarmStore) -> None:
    store.write(make_chain(3)).result(60)
    report = store.verify(fix=True)
    assert (report.num_checked, report.num_broken, report.num_missing, report.num_orphaned) == (3, 0, 0, 0)


def test_stats_count_what_happened(store: WarmStore) -> None:
    chain = make_chain(2)
    store.write(chain).result(60)
    store.read(chain[0].block.block_hash).result(60)
    stats = store.stats()
    assert (stats.num_blocks, stats.num_writes, stats.num_reads, stats.pending_writes) == (2, 2, 1, 0)
    assert stats.bytes_stored == stats.bytes_written > 0
    assert stats.bytes_read > 0


def test_a_dry_run_of_pruning_says_what_pruning_frees_and_removes_nothing(store: WarmStore) -> None:
    records = make_chain(4)
    store.write(records).result(60)
    stored = store.stats().bytes_stored
    store.protect([records[0].block.block_hash], owner="pinned")
    would = store.prune(target_bytes=stored // 2, dry_run=True)
    assert (store.stats().bytes_stored, store.stats().num_blocks) == (stored, 4)
    assert would > 0
    assert store.prune(target_bytes=stored // 2, dry_run=False) == would
    assert store.prune(target_bytes=stored, dry_run=True) == 0


def test_sizes_are_those_of_each_model_and_layout(store: WarmStore) -> None:
    assert store.sizes() == ()
    ours = make_chain(3)
    store.write(ours).result(60)
    store.write([make_record(fingerprint=ModelFingerprint("f" * 64))]).result(60)
    sizes = store.sizes()
    assert [(one.fingerprint, one.num_blocks) for one in sizes] == [(FINGERPRINT, 3), ("f" * 64, 1)]
    assert sum(one.num_bytes for one in sizes) == store.stats().bytes_stored


def test_what_was_deleted_is_not_lost_and_what_made_room_is(store: WarmStore) -> None:
    chain = make_chain(3)
    store.write(chain).result(60)
    store.delete(names(chain)[:1]).result()
    assert store.lost_file(names(chain)) is None
    store.prune(target_bytes=0)
    assert all(store.read(name).result(60) is None for name in names(chain))
    assert store.lost_file(names(chain)[:1]) is None
    assert store.lost_file(names(chain)) == "pruned"


def test_all_is_lost_that_was_cleared(store: WarmStore) -> None:
    chain = make_chain(3)
    store.write(chain).result(60)
    store.clear()
    assert store.lost_file(names(chain)) == "pruned"
