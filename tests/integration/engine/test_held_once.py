"""Blocks that made way for another while their conversation ran come back to RAM from its running cache."""

from __future__ import annotations

from tests.fakes.engine_rig import EngineRig, wait_until
from tests.fakes.model_runner import BYTES_PER_TOKEN, continuation

BUDGET = 4000 * BYTES_PER_TOKEN
PROMPT_TOKENS, OTHER_TOKENS = 1500, 700
"""The running cache of the one and twice the other leave no room for all blocks of the one."""
ANSWER_TOKENS = 90


def prompt(number: int, length: int = PROMPT_TOKENS) -> list[int]:
    return [(number * 31 + at * 7) % 89 + 1 for at in range(length)]


def truth(rig: EngineRig, ids: list[int]) -> str:
    return rig.tokenizer.decode(continuation(ids, ANSWER_TOKENS))


def test_what_made_way_while_it_ran_is_hot_again_before_its_next_turn() -> None:
    with EngineRig(budget_bytes=BUDGET) as rig:
        ids, other = prompt(0), prompt(1, OTHER_TOKENS)
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
