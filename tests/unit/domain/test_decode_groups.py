"""What a decode batch takes in memory: padding, room and growth."""

from __future__ import annotations

from semanticd.domain.decode_groups import GROWTH_TOKENS, DecodeGroup, choose_group


def test_a_row_that_is_as_long_as_the_others_needs_no_more_room_than_it_has() -> None:
    assert DecodeGroup(0, (300, 400)).room_for(500) == 0


def test_a_short_row_gets_the_room_of_the_longest() -> None:
    assert DecodeGroup(0, (900,)).room_for(20) == 1024 - 256


def test_a_long_row_gives_its_room_to_the_others() -> None:
    assert DecodeGroup(0, (100, 200)).room_for(900) == 2 * (1024 - 256)


def test_a_prompt_that_fills_its_room_brings_the_room_of_its_next_token() -> None:
    assert DecodeGroup(0, (100, 200)).room_for(512) == 2 * (768 - 256)


def test_every_row_grows_when_the_longest_has_filled_its_room() -> None:
    group = DecodeGroup(0, (20, 3 * GROWTH_TOKENS))
    assert group.growth(longest=4 * GROWTH_TOKENS) == 2 * GROWTH_TOKENS
    assert group.growth(longest=3 * GROWTH_TOKENS) == 0
    assert group.growth_is_due
    assert not DecodeGroup(0, (GROWTH_TOKENS, 3 * GROWTH_TOKENS + 1)).growth_is_due


def test_a_row_decodes_alone_where_there_is_no_room_for_padding() -> None:
    groups = [DecodeGroup(0, (900,))]
    assert choose_group(20, groups, room_tokens=10_000) == 0
    assert choose_group(20, groups, room_tokens=100) == 1
