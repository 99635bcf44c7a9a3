"""A history is computed again once at most after a fault, and is warm from then on, on every kind of layer.

The engine, the runner, the cache folder and its files are the real ones; the models are tiny and random. Turns of one
conversation are asked in any order, as a template writes them that leaves thinking out. Between them the engine
restarts, the agent is evicted or deleted, and files are damaged or removed. The model of all that is the number of
tokens that a turn may cost, and its answer is the one that an engine gives which knows nothing.

`SEMANTIC_TEST_HISTORY_EXAMPLES` sets how many runs are made for each kind (default 5).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from semanticd.adapters.disk.agents.archive import DiskAgentArchive
from semanticd.adapters.disk.blocks.warm_store import DiskWarmStore
from semanticd.domain.ids import AgentId
from semanticd.domain.snapshots import MIN_DISTANCE
from tests.fakes.mlx_rig import BLOCK, MlxRig, cold_answer, prompt_of

EXAMPLES = int(os.environ.get("SEMANTIC_TEST_HISTORY_EXAMPLES", "5"))
NUM_TURNS = 5
SPACING = 4 * BLOCK
OPENING = prompt_of(3, 900)
"""What every prompt ends with: the next one goes on without it."""
CLOSE = MIN_DISTANCE + len(OPENING)
"""What a turn may cost that is warm."""
AGENT = AgentId("a")


class Turn:
    """One prompt of the conversation: where its head, the messages before the last, and all messages end."""

    def __init__(self, messages: list[list[int]]) -> None:
        ids = [token for message in messages for token in message]
        self.ids = [*ids, *OPENING]
        self.points = (len(messages[0]), len(ids) - len(messages[-1]), len(ids))

    @property
    def end(self) -> int:
        """Tokens that the next turn shares."""
        return self.points[-1]


def conversation() -> list[Turn]:
    """Return the turns; what is said of an answer later is not what the model generated."""
    messages = [prompt_of(53, 901), prompt_of(47, 902)]
    turns = [Turn(messages)]
    for number in range(1, NUM_TURNS):
        messages = [*messages, prompt_of(9 + number, 910 + number), prompt_of(30 + 11 * number, 920 + number)]
        turns.append(Turn(messages))
    return turns


TURNS = conversation()


class HistoryStates(RuleBasedStateMachine):
    """Drives one engine on one cache folder, through its restarts."""

    def __init__(self, family: str, truth: Sequence[list[int]]) -> None:
        super().__init__()
        self.family = family
        self.truth = truth

    @initialize()
    def begin(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="semanticd-history-"))
        self.warm_turns: set[int] = set()
        """Turns that were computed since the last fault that the engine has seen."""
        self.last = -1
        """The turn that was asked last."""
        self.damaged = False
        """Whether files were damaged that the engine need not have read since: it may still have them in RAM."""
        self.start()

    def start(self) -> None:
        self.disk = DiskWarmStore.open(self.home / "caches")
        archive = DiskAgentArchive.open(self.disk.folder, write_queue=self.disk.write_queue)
        self.rig = MlxRig(self.family, warm=self.disk, archive=archive, snapshot_tokens=SPACING)
        self.rig.__enter__()

    def stop(self) -> None:
        self.rig.__exit__(None, None, None)
        self.disk.close()

    @rule(number=st.integers(0, NUM_TURNS - 1))
    def ask(self, number: int) -> None:
        turn = TURNS[number]
        said, answer = self.rig.tell(turn.ids, snapshot_points=turn.points)
        self.last = number
        assert said == self.truth[number], "a wrong answer"
        most = len(turn.ids)
        if number in self.warm_turns:
            most = CLOSE
        elif number - 1 in self.warm_turns:
            most -= TURNS[number - 1].end - MIN_DISTANCE
        assert answer.cache.computed_tokens <= most, f"turn {number} is not warm"
        if not self.damaged:
            self.warm_turns.add(number)

    @rule()
    def restart(self) -> None:
        self.stop()
        self.start()
        self.damaged = False

    @rule()
    def lose_index(self) -> None:
        """Start without the index of blocks, which is rebuilt while turns are requested.

        That costs no token of the turn that was asked last, whose blocks its agent names. Other branches of the history
        hang on parts of blocks, which only the index finds: they are computed, once, or found when all was looked at.
        """
        self.warm_turns &= {self.last}
        self.stop()
        for path in (self.home / "caches").glob("index.sqlite*"):
            path.unlink()
        self.start()
        self.damaged = False

    @rule()
    def evict(self) -> None:
        self.rig.idle()
        self.rig.on_engine(lambda: self.rig.tables.evict_agent(AGENT))

    @rule(
        chosen=st.lists(st.integers(0, 999), min_size=1, max_size=3),
        how=st.sampled_from(["flip", "cut", "remove"]),
    )
    def damage(self, chosen: list[int], how: str) -> None:
        self.rig.idle()
        files = sorted((self.home / "caches" / "blocks").rglob("*.safetensors"))
        for path in {files[at % len(files)] for at in chosen} if files else ():
            content = bytearray(path.read_bytes())
            if how == "remove":
                path.unlink()
            elif how == "cut":
                path.write_bytes(content[: len(content) // 2])
            else:
                content[-1] ^= 255
                path.write_bytes(content)
        self.warm_turns.clear()
        self.damaged = True

    @rule()
    def delete(self) -> None:
        self.rig.idle()
        names = self.rig.agents.own_blocks(AGENT)
        self.rig.on_engine(lambda: self.rig.tables.delete_agent(AGENT, names))[1].result()
        self.rig.on_engine(lambda: self.rig.agents.delete(AGENT))
        self.warm_turns.clear()

    def teardown(self) -> None:
        if hasattr(self, "rig"):
            self.stop()
            shutil.rmtree(self.home)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "mamba2", "deepseek_v2", "qwen3_next"])
def test_a_history_is_computed_again_once_at_most_and_is_warm_from_then_on(family: str) -> None:
    truth = [cold_answer(family, turn.ids) for turn in TURNS]
    run_state_machine_as_test(
        lambda: HistoryStates(family, truth),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=25,
            deadline=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
