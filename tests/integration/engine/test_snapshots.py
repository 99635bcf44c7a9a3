"""Snapshots of layers that cannot be cut: where they are taken, what they cost, and which of them go."""

from __future__ import annotations

import random

import pytest

from semanticd.domain.ids import AgentId, BlockHash
from semanticd.domain.scheduler import SchedulerLimits
from semanticd.domain.snapshots import SHARE_OF_BUDGET
from tests.fakes.engine_rig import Answer, EngineRig
from tests.fakes.model_runner import BYTES_PER_TOKEN, STATE_BYTES, HashRunner, continuation
from tests.fakes.tokenizer import CharTokenizer
from tests.fakes.warm_store import MemoryAgentArchive, MemoryWarmStore

TOKENS = CharTokenizer()
A = AgentId("a")


def prompt(length: int, seed: int = 0) -> list[int]:
    source = random.Random(seed)
    return [source.randrange(95) for _ in range(length)]


class Disk:
    """What outlives an engine."""

    def __init__(self) -> None:
        self.warm = MemoryWarmStore()
        self.archive = MemoryAgentArchive()

    def engine(self, **more: object) -> EngineRig:
        return EngineRig(
            runner=HashRunner(has_state=True),
            warm=self.warm,
            archive=self.archive,
            snapshot_tokens=more.pop("snapshot_tokens", 64),  # type: ignore[arg-type]
            **more,  # type: ignore[arg-type]
        )

    def states(self) -> list[BlockHash]:
        return [name for name in self.warm.stored() if self.kind(name) == "state"]

    def kind(self, name: BlockHash) -> str:
        block = self.warm.get(name)
        assert block is not None
        return block.kind


def told(rig: EngineRig, ids: list[int], **more: object) -> Answer:
    answer = rig.ask(ids, **more).answer()  # type: ignore[arg-type]
    assert answer.text == TOKENS.decode(continuation(ids, 8, has_state=True)), "a wrong answer"
    return answer


def test_a_prompt_that_parts_in_its_middle_goes_on_from_the_last_regular_snapshot() -> None:
    shared = prompt(500)
    with Disk().engine() as rig:
        told(rig, shared + prompt(100, 1))
        answer = told(rig, shared + prompt(100, 2), agent="b")
        assert answer.cache.reused_hot_tokens == 448
        other = told(rig, prompt(500, 3), agent="a")
        assert other.cache.cached_tokens == 0


def test_without_spacing_there_are_snapshots_at_boundaries_only() -> None:
    shared = prompt(500)
    with Disk().engine(snapshot_tokens=0) as rig:
        told(rig, shared + prompt(100, 1), snapshot_points=(37,))
        answer = told(rig, shared + prompt(100, 2), agent="b", snapshot_points=(37,))
        assert answer.cache.reused_hot_tokens == 37


def test_a_snapshot_taken_over_at_a_boundary_is_a_boundary_of_its_new_agent() -> None:
    shared = prompt(200)
    with Disk().engine(snapshot_tokens=0) as rig:
        told(rig, shared + prompt(100, 1), snapshot_points=(96,))
        told(rig, shared + prompt(100, 2), agent="b", snapshot_points=(96,))
        boundaries = {one.position for one in rig.agents.get(AgentId("b")).snapshots if one.at_boundary}
        assert 96 in boundaries


def test_a_regular_snapshot_that_is_taken_over_is_no_boundary() -> None:
    shared = prompt(200)
    with Disk().engine(snapshot_tokens=64) as rig:
        told(rig, shared + prompt(100, 1))
        told(rig, shared + prompt(100, 2), agent="b")
        taken_over = [one for one in rig.agents.get(AgentId("b")).snapshots if one.position <= 192]
        assert [(one.position, one.at_boundary) for one in taken_over] == [(192, False)]


def test_who_took_a_snapshot_cannot_take_it_from_one_that_goes_on_from_it() -> None:
    disk, shared = Disk(), prompt(200)
    with disk.engine(snapshot_tokens=0) as rig:
        told(rig, shared + prompt(100, 1), snapshot_points=(96,))
        rig.idle()
        (state,) = [one.state for one in rig.agents.get(A).snapshots if one.position == 96]
        assert disk.archive.holders(state) == ["a"]
        held: list[list[AgentId]] = []

        def look(operation: str) -> None:
            if operation == "decode":
                held.append(disk.archive.holders(state))

        rig.runner.before = look
        told(rig, shared + prompt(100, 2), agent="b", snapshot_points=(96,))
        assert held[0] == ["a", "b"]


def test_where_the_nearest_snapshot_is_far_the_miss_says_so_and_where_it_is() -> None:
    ids = prompt(300)
    with Disk().engine(snapshot_tokens=0) as rig:
        told(rig, ids, snapshot_points=(40,))
        changed = ids[:250] + prompt(60, 1)
        miss = told(rig, changed, snapshot_points=(40,)).cache.miss
        assert miss is not None
        assert (miss.cause, miss.position) == ("no_snapshot", 40)
        counted = rig.metrics.counters["cache_misses_total", "no_snapshot"]
        assert counted == 1


def test_full_blocks_have_the_same_names_wherever_snapshots_were_taken() -> None:
    ids = prompt(160)
    disks = Disk(), Disk()
    for disk, points in zip(disks, ((), (37, 85)), strict=True):
        with disk.engine() as rig:
            told(rig, ids, snapshot_points=points)
    full = [{n for n in d.warm.stored() if len(d.warm.get(n).token_ids) == 16} for d in disks]  # type: ignore[union-attr]
    assert full[0] == full[1]
    assert len(full[0]) == 10


def test_a_damaged_block_costs_tokens_since_the_last_snapshot() -> None:
    ids, disk = prompt(400), Disk()
    with disk.engine() as rig:
        told(rig, ids)
    (damaged,) = [
        name
        for name in disk.warm.stored()
        if (block := disk.warm.get(name)) is not None and block.token_ids == tuple(ids[288:304])
    ]
    disk.warm.break_block(damaged)
    with disk.engine() as rig:
        answer = told(rig, ids)
        assert answer.cache.restored_warm_tokens == 256
    assert damaged in disk.warm.stored()
    with disk.engine() as rig:
        assert told(rig, ids).cache.computed_tokens <= 16


def test_a_lost_snapshot_is_written_again() -> None:
    ids, disk = prompt(100), Disk()
    with disk.engine() as rig:
        told(rig, ids, snapshot_points=(90,))
        rig.idle()
        lost = disk.states()
        for name in lost:
            disk.warm.lose_block(name)
        # They are in RAM: nothing is computed again, but what passes them once more sees that they are gone.
        told(rig, ids[:90] + prompt(30, 1), snapshot_points=(90,))
        told(rig, ids, agent="b")
    with disk.engine() as rig:
        told(rig, ids)
    with disk.engine() as rig:
        assert told(rig, ids).cache.computed_tokens <= 16


def test_the_snapshots_of_a_long_conversation_take_no_more_than_their_share_on_disk() -> None:
    disk = Disk()
    budget = 4000 * BYTES_PER_TOKEN
    ids = prompt(100)
    with disk.engine(budget_bytes=budget) as rig:
        for turn in range(40):
            answer = told(rig, ids, snapshot_points=(90, len(ids) - 3))
            ids = [*ids, *TOKENS.encode(answer.text), *prompt(23, turn)]
        rig.idle()
        share = rig.store.conversation_share
        positions = [one.position for one in rig.agents.get(A).snapshots]
        assert 90 in positions, "the head stays"
        assert len([at for at in positions if at > len(ids) - 70]) >= 4, "and what two turns took"
        assert 8 < len(positions) < 60
    kept = disk.archive.load(A)
    assert kept is not None
    assert sum(one.num_bytes for one in kept.snapshots) <= share
    assert set(disk.states()) == {one.state for one in kept.snapshots}
    assert {one.tail for one in kept.snapshots if one.tail} <= set(disk.warm.stored())


def test_a_snapshot_that_another_agent_holds_is_not_given_up() -> None:
    disk = Disk()
    budget = 4000 * BYTES_PER_TOKEN
    ids = prompt(100)
    with disk.engine(budget_bytes=budget) as rig:
        for turn in range(8):
            answer = told(rig, ids, snapshot_points=(100, len(ids) - 3))
            ids = [*ids, *TOKENS.encode(answer.text), *prompt(23, turn)]
        held = rig.agents.get(A).snapshots
        rig.agents.save(
            rig.agents.get(A).__class__(AgentId("fork"), 0.0, 0.0, block_table=rig.agents.get(A).block_table)
        )
        for turn in range(30):
            answer = told(rig, ids, snapshot_points=(100, len(ids) - 3))
            ids = [*ids, *TOKENS.encode(answer.text), *prompt(23, 50 + turn)]
    assert {one.state for one in held} <= set(disk.states())


class UnansweredArchive(MemoryAgentArchive):
    """An archive that does not answer before it is let, and must not be asked in the engine's time."""

    def __init__(self) -> None:
        super().__init__(hold_answers=True)

    def holders(self, block_hash: BlockHash) -> list[AgentId]:
        assert not self.hold_answers, "the engine thread asked the archive"
        return super().holders(block_hash)


def test_the_engine_does_not_wait_for_the_archive_to_give_snapshots_up() -> None:
    disk = Disk()
    disk.archive = UnansweredArchive()
    ids = prompt(100)
    with disk.engine(budget_bytes=4000 * BYTES_PER_TOKEN) as rig:
        for turn in range(30):
            answer = told(rig, ids, snapshot_points=(90, len(ids) - 3))
            ids = [*ids, *TOKENS.encode(answer.text), *prompt(23, turn)]
        rig.idle()
        kept = {one.state for one in rig.agents.get(A).snapshots}
        given_up = set(disk.states()) - kept
        assert given_up, "nothing is dropped before the archive has answered"
        disk.archive.hold_answers = False
        rig.on_engine(disk.archive.answer)
        rig.idle()
        assert set(disk.states()) == kept


@pytest.mark.parametrize("num_agents", [12])
def test_all_snapshots_together_leave_room_in_ram_for_blocks(num_agents: int) -> None:
    disk = Disk()
    budget = 40 * STATE_BYTES + 8000 * BYTES_PER_TOKEN
    with disk.engine(budget_bytes=budget, limits=SchedulerLimits(prefill_chunk=64)) as rig:
        for number in range(num_agents):
            told(rig, prompt(200, number), agent=f"agent-{number}")
            rig.idle()
        assert rig.on_engine(lambda: rig.store.pool.state_bytes) <= budget * SHARE_OF_BUDGET + 4 * STATE_BYTES
        for number in range(num_agents):
            assert told(rig, prompt(200, number), agent=f"agent-{number}").cache.computed_tokens <= 16
