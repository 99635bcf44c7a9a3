from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semanticd.domain.block import hash_block
from semanticd.domain.ids import BlockHash, ModelFingerprint
from semanticd.domain.model_cache_spec import LayerSpec, ModelCacheSpec
from semanticd.domain.snapshots import (
    MIN_DISTANCE,
    RECENT_TURNS,
    Snapshot,
    Stop,
    merged,
    next_stop,
    state_name,
    still_on,
    thinned,
)

SPEC = ModelCacheSpec(ModelFingerprint("ab" * 32), (LayerSpec("state", "s", state_bytes=16),), 4, "exact", 0)
STATE = BlockHash(b"s" * 32)


def stop(start: int, end: int, *, points: tuple[int, ...] = (), spacing: int = 0, last: int = 0) -> Stop:
    return next_stop(start, end, points=points, spacing=spacing, last=last, num_prompt_tokens=1000)


def test_a_chunk_ends_at_the_next_boundary_or_multiple_of_the_spacing() -> None:
    points = (100, 400)
    assert stop(0, 64, points=points) == Stop(64)
    assert stop(64, 128, points=points) == Stop(100, takes_snapshot=True, at_boundary=True)
    assert stop(100, 164, points=points, last=100) == Stop(164)
    assert stop(380, 500, points=points, spacing=256) == Stop(400, takes_snapshot=True, at_boundary=True)
    assert stop(200, 300, points=points, spacing=256) == Stop(256, takes_snapshot=True)
    assert stop(200, 256, points=points, spacing=256) == Stop(256, takes_snapshot=True), (
        "at the chunk's end too"
    )
    assert stop(400, 1000, points=points) == Stop(1000), "no spacing, no snapshots but at boundaries"


def test_boundaries_close_behind_a_snapshot_are_left_out_but_for_the_last_one() -> None:
    close = 100 + MIN_DISTANCE - 1
    assert stop(100, 300, points=(close, 200), last=100).position == 200
    assert stop(100, 300, points=(close,), last=100).position == close


def test_a_regular_snapshot_close_to_the_prompts_end_is_left_out() -> None:
    found = next_stop(0, 260, points=(), spacing=256, last=0, num_prompt_tokens=260)
    assert found == Stop(260)


def test_a_regular_snapshot_close_behind_a_boundary_is_left_out() -> None:
    close = 256 - MIN_DISTANCE + 1
    assert stop(close, 600, points=(close,), spacing=256, last=close) == Stop(512, takes_snapshot=True)


def test_a_snapshot_that_a_later_turn_went_on_from_stays_a_boundary() -> None:
    head, other = Snapshot(40, STATE, at_boundary=True, turn=1), Snapshot(60, STATE, turn=1)
    used = [Snapshot(40, STATE), Snapshot(90, STATE, at_boundary=True)]
    assert merged([other, head], used, turn=2) == [
        replace(head, turn=2),
        other,
        Snapshot(90, STATE, at_boundary=True, turn=2),
    ]


@given(
    points=st.lists(st.integers(1, 999), max_size=4, unique=True).map(sorted),
    spacing=st.sampled_from([0, 64, 256]),
    chunk=st.integers(1, 300),
)
def test_a_prefill_comes_to_its_end_and_passes_the_last_boundary(
    points: list[int], spacing: int, chunk: int
) -> None:
    position, last, taken = 0, 0, []
    while position < 999:
        found = stop(position, min(position + chunk, 999), points=tuple(points), spacing=spacing, last=last)
        assert position < found.position <= position + chunk
        position = found.position
        if found.takes_snapshot:
            taken.append(position)
            last = position
    assert not points or points[-1] in taken
    assert all(at in points or at % spacing == 0 for at in taken)


def name(parent: BlockHash, *token_ids: int) -> BlockHash:
    return hash_block(fingerprint=SPEC.fingerprint, layout=SPEC.layout, parent=parent, token_ids=token_ids)


def test_snapshots_of_the_same_beginning_stay_and_others_do_not() -> None:
    first = name(SPEC.root, 1, 2, 3, 4)
    tail, other_tail = name(first, 5, 6), name(first, 5, 7)
    ours = [
        Snapshot(4, state_name(SPEC, first)),
        Snapshot(6, state_name(SPEC, tail), tail),
        Snapshot(6, state_name(SPEC, other_tail), other_tail),
        Snapshot(6, state_name(SPEC, tail), other_tail),
        Snapshot(12, STATE),
        Snapshot(4, STATE),
    ]
    found = still_on(ours, spec=SPEC, table=[first], root=SPEC.root, token_ids=(1, 2, 3, 4, 5, 6, 9))
    assert found == ours[:2]


@given(
    positions=st.lists(st.integers(1, 5000), min_size=1, max_size=30, unique=True),
    turns=st.lists(st.integers(1, 6), min_size=30, max_size=30),
    boundaries=st.lists(st.booleans(), min_size=30, max_size=30),
    room=st.integers(0, 30),
)
def test_what_is_recent_or_the_head_stays_and_the_rest_fits(
    positions: list[int], turns: list[int], boundaries: list[bool], room: int
) -> None:
    known = [
        Snapshot(position, STATE, num_bytes=10, at_boundary=at_boundary, turn=turn)
        for position, turn, at_boundary in zip(positions, turns, boundaries, strict=False)
    ]
    given_up = thinned(known, end=5001, turn=6, max_bytes=10 * room)
    kept = [one for one in known if one not in given_up]
    needed = [one for one in known if one.at_boundary and one.turn > 6 - RECENT_TURNS]
    needed += sorted((one for one in known if one.at_boundary), key=lambda one: one.position)[:1]
    assert all(one in kept for one in needed)
    assert len(kept) == min(len(known), max(room, len(set(needed))))


def test_what_is_left_lies_the_closer_together_the_younger_it_is() -> None:
    known = [Snapshot(at, STATE, num_bytes=1, turn=0) for at in range(100, 10_001, 100)]
    given_up = thinned(known, end=10_000, turn=9, max_bytes=10)
    kept = sorted(one.position for one in known if one not in given_up)
    gaps = [after - before for before, after in itertools.pairwise(kept)]
    assert len(kept) == 10
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 8 * gaps[-1]


@pytest.mark.parametrize(("tail", "names"), [(None, (STATE,)), (BlockHash(b"t"), (BlockHash(b"t"), STATE))])
def test_a_snapshot_names_its_tail_first(tail: BlockHash | None, names: tuple[BlockHash, ...]) -> None:
    assert Snapshot(5, STATE, tail).names == names
