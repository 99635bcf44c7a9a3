"""Real forms and drafts: what a grammar forces is guessed, and an answer is what it is without drafts.

Forms that end in the middle of a draft, that are led to their end, stop texts over a draft's border, scores, penalties,
rows with and without a form together, and both turns of an agent, the second after a restart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from semanticd.adapters.mlx.model.loader import ComputeOptions, MlxModelLoader
from semanticd.adapters.models.registry import ModelRegistry
from semanticd.application.ports.inference import LoadedModel, finish_loading
from semanticd.domain.generation import OutputConstraint, SamplingParams
from semanticd.domain.memory_plan import DeviceMemory, WeightRoom
from semanticd.domain.model_cache_spec import StoragePrecision
from tests.fakes.mlx_rig import LoadedRig
from tests.fakes.tiny_families import write_tiny_family
from tests.fakes.warm_store import MemoryAgentArchive, MemoryWarmStore

pytestmark = pytest.mark.timeout(900)

ROOM = WeightRoom(DeviceMemory("cpu", 64 << 30, 64 << 30), lambda: 8 << 30)
GREEDY = SamplingParams(temperature=0)
FORCING = {
    "type": "object",
    "properties": {
        "the_first_of_the_people": {"type": "string", "maxLength": 4},
        "what_they_found_there": {"const": "some water and a long way down"},
        "how_many_of_them": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["the_first_of_the_people", "what_they_found_there", "how_many_of_them"],
    "additionalProperties": False,
}
SCHEMA = OutputConstraint("json_schema", schema=FORCING)
VERSE = OutputConstraint("regex", grammar=r"(the people were there and ){3}[a-z]{2} at the end")
LED = "it is led to its end"
Asked = tuple[OutputConstraint | None, SamplingParams, int]
ROWS: Mapping[str, tuple[Asked, ...]] = {
    "a form alone": ((SCHEMA, GREEDY, 200),),
    LED: ((replace(SCHEMA, max_tokens=40), GREEDY, 40),),
    "it is cut short": ((SCHEMA, GREEDY, 33),),
    "a stop text inside what is forced": ((SCHEMA, replace(GREEDY, stop=("r and a l",)), 200),),
    "sampled with scores": ((VERSE, SamplingParams(temperature=0.9, logprobs=True, top_logprobs=2), 120),),
    "with penalties": ((SCHEMA, SamplingParams(temperature=0.7, repetition_penalty=1.4), 200),),
    "beside others": (
        (SCHEMA, GREEDY, 200),
        (VERSE, GREEDY, 120),
        (None, replace(GREEDY, ignore_eos=True), 60),
    ),
}


def models(folder: Path, family: str, precision: StoragePrecision) -> list[LoadedModel]:
    """Return the model without drafts and with them."""

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError

    written = write_tiny_family(folder / "written", family)
    installed = ModelRegistry(folder / "models", convert_gguf=never).pull(str(written), lambda _: None)
    return [
        finish_loading(
            MlxModelLoader(
                block_tokens=16, precision=precision, room=ROOM, compute=ComputeOptions(max_drafts=most)
            ).load(installed, on_progress=lambda _: None)
        )
        for most in (0, 12)
    ]


@pytest.mark.parametrize(("family", "precision"), [("llama", "exact"), ("deepseek_v2", "q4")])
def test_forms_give_what_they_give_without_drafts(
    tmp_path: Path, family: str, precision: StoragePrecision
) -> None:
    prompt = "the people were there and each of them would find some water\n"
    found: list[list[tuple[Any, ...]]] = []
    accepted: list[dict[str, int]] = []
    for model in models(tmp_path, family, precision):
        seen: list[tuple[Any, ...]] = []
        forced: dict[str, int] = {}
        for name, rows in ROWS.items():
            warm, archive = MemoryWarmStore(), MemoryAgentArchive()
            for turn in range(2):
                with LoadedRig(model, warm=warm, archive=archive) as rig:
                    ids = rig.tokenizer.encode(prompt * (turn + 1))
                    with rig.held():
                        asks = [
                            rig.ask(
                                ids, agent=f"a{number}", max_tokens=most, sampling=sampling, seed=number,
                                constraint=constraint,
                            )
                            for number, (constraint, sampling, most) in enumerate(rows)
                        ]  # fmt: skip
                    for ask in asks:
                        answer = ask.answer()
                        scores = [one.logprob for one in answer.logprobs]
                        seen.append((name, turn, answer.text, answer.reason, answer.stop_sequence, scores))
                    rig.idle()
                    forced[name] = forced.get(name, 0) + rig.engine.drafts.forced.num_accepted
        found.append(seen)
        accepted.append(forced)
    for without, drafted in zip(*found, strict=True):
        assert without[:-1] == drafted[:-1]
        assert without[-1] == pytest.approx(drafted[-1], abs=1e-3)
    assert not any(accepted[0].values())
    # On the way to an early end the grammar is not asked what it forces.
    assert min(count for name, count in accepted[1].items() if name != LED) > 10, accepted[1]
