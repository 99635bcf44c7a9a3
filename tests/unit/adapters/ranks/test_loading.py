"""How ranks load a model, and what ends that: over real sockets, with ranks that answer as they are told."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator

import pytest

from semanticd.adapters.ranks.loader import ComputedAs, RankedLoader
from semanticd.application.ports.inference import LoadedModel, Tokenizer
from semanticd.application.ports.models import InstalledModel, ModelEntry
from semanticd.domain.errors import ModelLoadError, OverloadedError
from semanticd.domain.ids import SequenceId
from tests.fakes.scripted_ranks import FINGERPRINT, MEMORY_BYTES, STEP_S, ScriptedRanks, done, error
from tests.fakes.tokenizer import CharTokenizer


class Text:
    """A model that any number of ranks can share."""

    def spread_of(self, installed: InstalledModel, *, world_size: int) -> str:
        return "tensor"

    def has_experts(self, installed: InstalledModel) -> bool:
        return False

    def text(self, installed: InstalledModel) -> Tokenizer:
        return CharTokenizer()

    def check(self, installed: InstalledModel) -> Generator[None, None, None]:
        yield


@pytest.fixture
def ranks() -> Iterator[ScriptedRanks]:
    made = ScriptedRanks(2)
    yield made
    made.close()


def loader(ranks: ScriptedRanks) -> RankedLoader:
    computed = ComputedAs(block_tokens=64, precision="exact", cpu_math=False)
    return RankedLoader(ranks.group, Text(), computed=computed, follow_up=lambda formation, spec: ())


def installed(name: str = "tiny") -> InstalledModel:
    return InstalledModel(
        name, f"/models/{name}", FINGERPRINT, 4096, 1000, ModelEntry(name, f"/models/{name}")
    )


def begin(ranks: ScriptedRanks, name: str = "tiny") -> Generator[None, None, LoadedModel]:
    return loader(ranks).load(installed(name), on_progress=lambda share: None)


def finish(steps: Generator[None, None, LoadedModel]) -> LoadedModel:
    deadline = time.monotonic() + 60
    while True:
        try:
            next(steps)
        except StopIteration as finished:
            model: LoadedModel = finished.value
            return model
        assert time.monotonic() < deadline


def step_until(steps: Generator[None, None, LoadedModel], condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        next(steps)
        assert time.monotonic() < deadline


def test_a_second_model_is_told_to_unload_the_first(ranks: ScriptedRanks) -> None:
    ranks.joins(0)
    ranks.joins(1)
    finish(begin(ranks))
    for change in (lambda: finish(begin(ranks, "other")), lambda: loader(ranks).check(installed("other"))):
        with pytest.raises(ModelLoadError, match=r"the machines compute tiny.*unload it first") as refused:
            change()
        assert "has not joined" not in refused.value.message
    assert ranks.group.formation is not None, "the first one stays"


def test_loading_is_no_step_of_the_model(ranks: ScriptedRanks) -> None:
    ranks.joins(0, num_cached=done(7))
    ranks.joins(1)
    model = finish(begin(ranks))
    assert [one.step_ms for one in ranks.group.facts()] == [0.0, 0.0]
    assert [one.memory_bytes for one in ranks.group.facts()] == [MEMORY_BYTES] * 2
    assert model.runner.num_cached(SequenceId(1)) == 7
    assert [one.step_ms for one in ranks.group.facts()] == [1000 * STEP_S, 0.0]


def test_a_load_after_another_one_left_waits_until_the_ranks_have_started_again(ranks: ScriptedRanks) -> None:
    ranks.joins(0)
    ranks.joins(1)
    finish(begin(ranks)).runner.release()
    steps = begin(ranks, "other")
    for _ in range(3):
        next(steps)
    ranks.joins(0)
    next(steps)
    ranks.joins(1)
    assert finish(steps).model_id == "other"
    assert ranks.group.num_failures == 0


def test_ranks_that_were_never_there_are_not_waited_for(ranks: ScriptedRanks) -> None:
    ranks.joins(0)
    with pytest.raises(ModelLoadError, match=r"rank 1 \(127\.0\.0\.1\) has not joined") as refused:
        finish(begin(ranks))
    assert isinstance(refused.value.__cause__, OverloadedError)


def test_a_load_that_is_given_up_is_no_loss(ranks: ScriptedRanks) -> None:
    ranks.joins(0)
    ranks.joins(1, load=None)
    steps = begin(ranks)
    step_until(steps, lambda: ranks.group.formation is not None)
    steps.close()
    assert ranks.group.formation is None
    assert ranks.group.num_failures == 0
    assert "ranks_lost" not in {line[1] for line in ranks.log.lines}


def test_a_model_that_a_rank_cannot_load_is_no_loss_either(ranks: ScriptedRanks) -> None:
    ranks.joins(0, load=None)
    ranks.joins(1, load=error("load", "rank 1's files are damaged"))
    with pytest.raises(ModelLoadError, match="files are damaged") as failed:
        finish(begin(ranks))
    assert failed.value.__cause__ is None, "a retry would not help"
    assert ranks.group.num_failures == 0


def test_what_a_rank_waits_for_while_the_ring_is_formed_is_told(ranks: ScriptedRanks) -> None:
    waits = "rank 0 waits for the ring port of rank 1 at 127.0.0.1:2: timed out"
    ranks.joins(0, load=None, pong=waits)
    ranks.joins(1, load=None)
    steps = begin(ranks)
    step_until(steps, lambda: ranks.group.formation is not None)
    assert ranks.group.why_away() is None, "it loads"
    step_until(steps, lambda: ranks.group.why_away() == waits)
    steps.close()
    told = [fields for _, event, fields in ranks.log.lines if event == "rank_waits"]
    assert [(one["rank"], one["reason"]) for one in told] == [(0, waits)], "once"


def test_a_rank_that_hangs_while_it_loads_is_lost() -> None:
    with contextlib.closing(ScriptedRanks(2, timeout_s=0.5)) as ranks:
        ranks.joins(0, load=None)
        ranks.joins(1, load=None, pong=None)
        steps = begin(ranks)
        step_until(steps, lambda: ranks.group.formation is not None)
        formation = ranks.group.formation
        assert formation is not None
        first, second = formation.members
        step_until(steps, lambda: first.heard_at > second.heard_at + 1.0)
        formation.loading_silence_s = 0.8
        with pytest.raises(ModelLoadError, match=r"rank 1 \(127.0.0.1\) was silent for 0.8 s") as failed:
            finish(steps)
        assert isinstance(failed.value.__cause__, OverloadedError)


@pytest.mark.parametrize("how", ["gone", "without a ring"])
def test_a_rank_that_is_lost_while_it_loads_is_the_cause(how: str, ranks: ScriptedRanks) -> None:
    ranks.joins(0, load=None)
    cannot_connect = error("overloaded", "rank 1 cannot connect to the others: refused")
    ranks.joins(1, load=cannot_connect if how != "gone" else None)
    steps = begin(ranks)
    step_until(steps, lambda: ranks.group.formation is not None)
    if how == "gone":
        ranks.leave(1)
    with pytest.raises(ModelLoadError, match="rank 1") as failed:
        finish(steps)
    assert isinstance(failed.value.__cause__, OverloadedError)
    assert ranks.group.num_failures == 1
    assert "rank 1" in ranks.group.why_not_ready()
