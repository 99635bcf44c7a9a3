"""Who waits for whom: by the names of blocks, so that long prompts cost no more than short ones."""

from __future__ import annotations

from typing import Any

import pytest

from semanticd.domain.ids import AgentId, BlockHash, ModelId, SequenceId
from semanticd.domain.scheduler import Admit, Scheduler, SchedulerLimits
from semanticd.domain.sequence import Sequence, SequenceEvent
from semanticd.domain.single_flight import computes_prefix_of
from tests.fakes.model_runner import HashRunner

SPEC = HashRunner(block_tokens=16).spec


class CountedIds(tuple[int, ...]):
    """Token ids that count how many of them were read in slices."""

    num_read = 0

    def __getitem__(self, at: Any) -> Any:
        """Read, and count."""
        found = super().__getitem__(at)
        if isinstance(at, slice):
            CountedIds.num_read += len(found)
        return found


def sequence(number: int, ids: list[int], *, published: int = 0, root: BlockHash | None = None) -> Sequence:
    return Sequence(
        SequenceId(number),
        agent_id=AgentId(str(number)),
        model_id=ModelId("m"),
        prompt_ids=CountedIds(ids),
        max_new_tokens=1,
        arrived_at=float(number),
        num_published=published,
        chain=SPEC.chain(ids, root=root),
    )


HEAD = list(range(100))


@pytest.mark.parametrize(
    ("shared", "published", "min_tokens", "waits"),
    [
        (100, 0, 32, True),
        (40, 0, 32, True),
        (31, 0, 32, False),
        (32, 0, 32, True),
        (100, 68, 32, True),
        (100, 69, 32, False),
        (64, 32, 32, True),
        (63, 32, 32, False),
    ],
)
def test_tokens_count_one_by_one_though_blocks_are_compared_by_name(
    shared: int, published: int, min_tokens: int, waits: bool
) -> None:
    leader = sequence(1, HEAD + [1000] * 50, published=published)
    follower = sequence(2, HEAD[:shared] + [2000] * 90)
    assert computes_prefix_of(leader, follower, min_tokens=min_tokens) is waits
    for one in (leader, follower):
        one.chain = None
    assert computes_prefix_of(leader, follower, min_tokens=min_tokens) is waits, "the same without names"


def test_prompts_below_different_roots_do_not_wait_for_one_another() -> None:
    leader = sequence(1, [*HEAD, 1])
    follower = sequence(2, [*HEAD, 2], root=BlockHash(b"\1" * 32))
    assert not computes_prefix_of(leader, follower, min_tokens=32)


def test_a_decision_reads_no_prompt_however_many_wait() -> None:
    scheduler = Scheduler(limits=SchedulerLimits(max_batch_size=5), block_tokens=16)
    head = list(range(20_000))
    for number in range(60):
        scheduler.add(sequence(number, [*head, *[number] * 20]))
    step = scheduler.decide(1000.0)
    assert isinstance(step, Admit)
    leader = scheduler.get(step.sequence_id)
    assert leader is not None
    leader.apply(SequenceEvent.ADMITTED)
    CountedIds.num_read = 0
    scheduler.decide(1000.0)
    assert CountedIds.num_read <= 8 * 59 * 16, "no more than a few blocks of each pair"
    CountedIds.num_read = 0
    scheduler.decide(1000.1)
    assert CountedIds.num_read == 0, "nothing has happened since"
    leader.num_published = 10_000
    CountedIds.num_read = 0
    scheduler.decide(1000.2)
    assert CountedIds.num_read == 0, "what they share is known"
    assert scheduler.leader_of(next(s for s in scheduler.sequences() if s is not leader)) is leader
    scheduler.remove(leader.sequence_id)
    assert isinstance(scheduler.decide(1001.0), Admit), "the next one leads"
