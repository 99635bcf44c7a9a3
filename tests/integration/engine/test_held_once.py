"""A running conversation takes its room once: blocks that the disk has make way for its running cache, and others'."""

from __future__ import annotations

import pytest

from tests.fakes.engine_rig import Ask, EngineRig, wait_until
from tests.fakes.model_runner import BYTES_PER_TOKEN, continuation
from tests.fakes.warm_store import MemoryWarmStore

BUDGET = 4000 * BYTES_PER_TOKEN
PROMPT_TOKENS = 1500
"""Two of them, with their blocks, take one and a half times the budget."""
ANSWER_TOKENS = 90


def prompt(number: int, length: int = PROMPT_TOKENS) -> list[int]:
    return [(number * 31 + at * 7) % 89 + 1 for at in range(length)]


def truth(rig: EngineRig, ids: list[int]) -> str:
    return rig.tokenizer.decode(continuation(ids, ANSWER_TOKENS))


def ask_both(rig: EngineRig, prompts: list[list[int]]) -> list[Ask]:
    with rig.held():
        return [
            rig.ask(ids, agent=f"agent-{number}", max_tokens=ANSWER_TOKENS)
            for number, ids in enumerate(prompts)
        ]


def largest_batch(rig: EngineRig) -> int:
    """Return the most rows that decoded together since the last call."""
    sizes, rig.runner.batch_sizes = rig.runner.batch_sizes, []
    return max(sizes)


def num_preemptions(rig: EngineRig) -> float:
    return sum(value for (name, *_), value in rig.metrics.counters.items() if "preempt" in name)


def test_two_conversations_that_exceed_half_the_budget_run_at_the_same_time() -> None:
    with EngineRig(budget_bytes=BUDGET) as rig:
        prompts = [prompt(number) for number in range(2)]
        texts = [one.answer().text for one in ask_both(rig, prompts)]
        assert texts == [truth(rig, ids) for ids in prompts]
        assert largest_batch(rig) == 2
        assert num_preemptions(rig) == 0
        rig.idle()
        # And again, with what each said before, and more.
        longer = [[*ids, *continuation(ids, ANSWER_TOKENS), 5, 6, 7] for number, ids in enumerate(prompts)]
        answers = [one.answer() for one in ask_both(rig, longer)]
        assert [one.text for one in answers] == [truth(rig, ids) for ids in longer]
        assert largest_batch(rig) == 2
        assert num_preemptions(rig) == 0
        assert max(one.cache.computed_tokens for one in answers) <= 2 * rig.runner.spec.block_tokens


@pytest.mark.parametrize("disk", ["none", "full", "slow"])
def test_without_a_disk_that_takes_blocks_they_run_one_after_the_other(disk: str) -> None:
    warm = MemoryWarmStore(hold_writes=disk == "slow")
    warm.refuse = "the disk is full" if disk == "full" else ""
    with EngineRig(budget_bytes=BUDGET, warm=warm, no_warm=disk == "none") as rig:
        rig.ask(prompt(9, 100), agent="other").answer()
        prompts = [prompt(number) for number in range(2)]
        asked = ask_both(rig, prompts)
        texts = [one.answer().text for one in asked]
        assert texts == [truth(rig, ids) for ids in prompts]
        assert num_preemptions(rig) == 0


def test_what_made_way_while_it_ran_is_hot_again_before_its_next_turn() -> None:
    with EngineRig(budget_bytes=BUDGET) as rig:
        ids, other = prompt(0), prompt(1)
        first = rig.ask(ids, agent="first", max_tokens=400)
        wait_until(lambda: bool(first.text))
        rig.ask(other, agent="second", max_tokens=4).answer()
        num_left = rig.store.counters.evictions["budget"]
        said = first.answer()
        rig.idle()
        assert num_left > 20, "the second needed the room of the first one's blocks"
        rig.on_engine(lambda: hot_as_on_disk(rig))
        more = [*ids, *continuation(ids, 400), 5, 6, 7]
        again = rig.ask(more, agent="first", max_tokens=ANSWER_TOKENS).answer()
        assert said.text == rig.tokenizer.decode(continuation(ids, 400))
        assert again.text == truth(rig, more)
        assert again.cache.reused_hot_tokens >= PROMPT_TOKENS


def hot_as_on_disk(rig: EngineRig) -> None:
    """Check that each block that lies in both tiers has the same bytes in both."""
    for block in rig.store.pool:
        record = rig.warm.read(block.block_hash).result()
        if record is not None:
            assert rig.runner.dump(rig.store.payload(block.block_hash)) == record.tensors
