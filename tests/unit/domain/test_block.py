from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semanticd.domain.block import Block, hash_block, pack_token_ids, root_hash, unpack_token_ids
from semanticd.domain.ids import BlockHash, ModelFingerprint

FINGERPRINT = ModelFingerprint("0123456789abcdef" * 4)
LAYOUT = "v1-exact-b256-0011223344556677"

# What is stored today must be found tomorrow: these names never change.
PINNED_ROOT = "1c504dfadc9d60191e88b1f618ba4a2e78aad5412a9c400be1f0d7606e938374"
PINNED_BLOCK = "7813192a6ad42892be962d629e38b68ed9410b520cbdd77b30bee16172c96964"
PINNED_STATE = "a3ae18ddff7390561eaa9e3125f7514c02f3eb320992fa3179737befb6f93eda"


def test_names_are_what_they_were_when_blocks_were_written() -> None:
    root = root_hash(FINGERPRINT, LAYOUT)
    block = hash_block(fingerprint=FINGERPRINT, layout=LAYOUT, parent=root, token_ids=[0, 1, 2, 49151])
    state = hash_block(fingerprint=FINGERPRINT, layout=LAYOUT, parent=block, token_ids=(), kind="state")
    assert (root.hex(), block.hex(), state.hex()) == (PINNED_ROOT, PINNED_BLOCK, PINNED_STATE)


def test_every_part_of_a_name_counts() -> None:
    known = {
        "fingerprint": FINGERPRINT,
        "layout": LAYOUT,
        "parent": root_hash(FINGERPRINT, LAYOUT),
        "token_ids": (1, 2, 3),
        "kind": "kv",
    }
    others = {
        "fingerprint": ModelFingerprint("f" * 64),
        "layout": LAYOUT.replace("exact", "q8"),
        "parent": BlockHash(bytes(32)),
        "token_ids": (1, 2, 4),
        "kind": "state",
    }
    names = {hash_block(**(known | {part: value})) for part, value in others.items()}  # type: ignore[arg-type]
    names.add(hash_block(**known))  # type: ignore[arg-type]
    assert len(names) == 6


def test_tokens_cannot_move_between_neighbours() -> None:
    root = root_hash(FINGERPRINT, LAYOUT)

    def chain(*runs: tuple[int, ...]) -> BlockHash:
        name = root
        for run in runs:
            name = hash_block(fingerprint=FINGERPRINT, layout=LAYOUT, parent=name, token_ids=run)
        return name

    assert len({chain((1, 2, 3)), chain((1, 2), (3,)), chain((1,), (2, 3)), chain((1,), (2,), (3,))}) == 4


@given(st.lists(st.integers(-(2**31), 2**31 - 1)))
def test_packed_ids_unpack_to_themselves_as_little_endian_int32(ids: list[int]) -> None:
    data = pack_token_ids(ids)
    assert data == b"".join(struct.pack("<i", one) for one in ids)
    assert unpack_token_ids(data) == tuple(ids)


def test_ids_cut_short_are_refused() -> None:
    with pytest.raises(struct.error):
        unpack_token_ids(b"12345")


def test_a_block_counts_its_tokens() -> None:
    assert Block(BlockHash(b"n"), BlockHash(b"p"), (1, 2, 3), 24).num_tokens == 3
