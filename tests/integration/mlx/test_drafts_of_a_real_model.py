"""SmolLM2 as it is published: a question asked again takes fewer steps, and the answer is what it is without drafts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from semanticd.adapters.mlx.model.gguf.convert import convert
from semanticd.adapters.mlx.model.loader import ComputeOptions, MlxModelLoader
from semanticd.adapters.models.registry import ModelRegistry
from semanticd.application.ports.inference import LoadedModel, finish_loading
from semanticd.domain.chat import ChatPrompt, Message
from semanticd.domain.generation import SamplingParams
from semanticd.domain.ids import AgentId
from semanticd.domain.memory_plan import DeviceMemory, WeightRoom
from tests.fakes.mlx_rig import LoadedRig

pytestmark = [pytest.mark.model, pytest.mark.timeout(900)]

ROOM = WeightRoom(DeviceMemory("cpu", 64 << 30, 64 << 30), lambda: 8 << 30)
GREEDY = SamplingParams(temperature=0, ignore_eos=True)
QUESTION = "Why is the sky blue? Answer in two sentences."
OTHER = "List three uses of a paper clip."
NUM_TOKENS = 20


@pytest.fixture(scope="module")
def models(models_dir: Path) -> dict[int, LoadedModel]:
    """The model without drafts and with them."""

    def converted(path: Path, folder: Path, **more: Any) -> None:
        convert(path, folder, **more)

    installed = ModelRegistry(models_dir, convert_gguf=converted).pull("smollm2-135m", lambda progress: None)
    found = {}
    for max_drafts in (0, 12):
        loader = MlxModelLoader(
            block_tokens=16, precision="exact", room=ROOM, compute=ComputeOptions(max_drafts=max_drafts)
        )
        found[max_drafts] = finish_loading(loader.load(installed, on_progress=lambda share: None))
    return found


class RealRig(LoadedRig):
    """The rig of a model that speaks."""

    def ids(self, question: str) -> list[int]:
        """Return the prompt of a question."""
        return self.tokenizer.encode(self.tokenizer.render(ChatPrompt((Message.of("user", question),))))

    def steps(self, agent: str) -> int:
        """Return how many decode steps the agent's last answer took."""
        return self.agents.get(AgentId(agent)).turns[-1].decode_steps


def answers(rig: RealRig, asked: Mapping[str, tuple[str, SamplingParams]]) -> list[str]:
    """Let agents ask at the same time."""
    with rig.held():
        asks = [
            rig.ask(rig.ids(question), agent=agent, max_tokens=NUM_TOKENS, sampling=sampling, seed=3)
            for agent, (question, sampling) in asked.items()
        ]
    return [ask.answer().text for ask in asks]


def test_a_question_asked_again_has_the_same_answer_in_fewer_steps(models: dict[int, LoadedModel]) -> None:
    found, steps = [], {}
    for max_drafts, model in models.items():
        with RealRig(model) as rig:
            for turn in range(2):
                found += answers(rig, {"a": (QUESTION, GREEDY)})
                steps[max_drafts, turn] = rig.steps("a")
            found += answers(rig, {"b": (QUESTION, GREEDY)})
            steps[max_drafts, 2] = rig.steps("b")
    assert len(set(found)) == 1
    assert steps[0, 0] == steps[0, 1] == NUM_TOKENS
    assert steps[12, 1] <= NUM_TOKENS / 13 + 5
    assert steps[12, 2] == steps[12, 0], "what one agent was told is no draft for another"


def test_two_agents_that_ask_again_at_the_same_time_get_their_own(models: dict[int, LoadedModel]) -> None:
    asked = {"a": (QUESTION, GREEDY), "b": (OTHER, replace(GREEDY, temperature=0.7))}
    found, steps = [], {}
    for max_drafts, model in models.items():
        with RealRig(model) as rig:
            found += [answers(rig, asked) for _ in range(2)]
            steps[max_drafts] = [rig.steps(agent) for agent in asked]
    assert found[0] == found[1] == found[2] == found[3]
    assert max(steps[12]) < NUM_TOKENS / 2
    assert min(steps[0]) >= NUM_TOKENS - 1
