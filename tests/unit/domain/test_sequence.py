from __future__ import annotations

import itertools

import pytest

from semanticd.domain.ids import AgentId, BlockHash, ModelId, SequenceId
from semanticd.domain.sequence import Sequence, SequenceEvent, SequenceState
from semanticd.domain.snapshots import Snapshot

_S, _E = SequenceState, SequenceEvent

# Written out again, so that a slip in the product's table does not repeat itself here.
LEGAL = {
    (_S.WAITING, _E.ADMITTED): _S.PREFILLING,
    (_S.WAITING, _E.ENDED): _S.FINISHED,
    (_S.PREFILLING, _E.PREFILLED): _S.DECODING,
    (_S.PREFILLING, _E.PREEMPTED): _S.WAITING,
    (_S.PREFILLING, _E.ENDED): _S.FINISHED,
    (_S.DECODING, _E.PREEMPTED): _S.WAITING,
    (_S.DECODING, _E.ENDED): _S.FINISHED,
}


def make(**fields: object) -> Sequence:
    known: dict[str, object] = {
        "sequence_id": SequenceId(7),
        "agent_id": AgentId("a"),
        "model_id": ModelId("m"),
        "prompt_ids": (1, 2, 3),
        "max_new_tokens": 5,
        "arrived_at": 0.0,
    }
    return Sequence(**(known | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(("state", "event"), itertools.product(SequenceState, SequenceEvent))
def test_every_event_in_every_state_moves_on_or_is_refused_by_name(
    state: SequenceState, event: SequenceEvent
) -> None:
    sequence = make(state=state)
    if (state, event) in LEGAL:
        sequence.apply(event)
        assert sequence.state is LEGAL[state, event]
    else:
        with pytest.raises(ValueError, match=f"sequence 7 is {state.value}: it cannot be {event.value}"):
            sequence.apply(event)
        assert sequence.state is state


def test_after_a_preemption_prompt_and_output_are_prefilled_together() -> None:
    sequence = make(output_ids=[8, 9])
    assert sequence.token_ids == (1, 2, 3, 8, 9)
    assert sequence.num_tokens == 5
    assert sequence.num_to_prefill == 4


def test_the_last_token_starts_the_decoding_and_is_not_prefilled() -> None:
    assert make(num_cached=2).num_to_prefill == 0
    assert make(num_cached=3).num_to_prefill == 0
    assert make(prompt_ids=(1,)).num_to_prefill == 0


def test_the_full_table_has_the_snapshots_with_their_tails_behind_the_blocks() -> None:
    a, b, tail, first, second = (BlockHash(name) for name in (b"a", b"b", b"t", b"1", b"2"))
    snapshots = {4: Snapshot(4, first), 7: Snapshot(7, second, tail)}
    sequence = make(
        state=_S.PREFILLING, cuts_anywhere=False, block_table=[a, b], snapshots=snapshots, num_published=4
    )
    assert sequence.full_table == (a, b, first, tail, second)
    assert (sequence.last_snapshot, sequence.num_resumable) == (7, 7)


def test_without_snapshots_others_go_on_from_the_last_block_where_layers_can_be_cut() -> None:
    assert make(num_published=4, state=_S.PREFILLING).num_resumable == 4
    assert make(num_published=4, state=_S.PREFILLING, cuts_anywhere=False).num_resumable == 0
    assert make(num_published=4, cuts_anywhere=False).num_resumable == 4, "restored, with the state behind it"
