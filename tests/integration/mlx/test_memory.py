"""A sequence that ended holds no memory, whether or not Python has looked for cycles since."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import mlx.core as mx
import pytest

from semanticd.adapters.mlx.model.runner import MlxModelRunner
from semanticd.application.ports.inference import PrefixPart
from semanticd.domain.decode_groups import capacity_for
from semanticd.domain.generation import SamplingParams
from semanticd.domain.ids import ModelFingerprint, SequenceId
from tests.fakes.mlx_rig import WITHOUT_END, MlxRig, prompt_of
from tests.fakes.tiny_mlx import BUILDERS, build

PROMPT = prompt_of(40, 1)


@pytest.fixture(autouse=True)
def no_collections() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def kept() -> int:
    mx.synchronize()
    return mx.get_active_memory()


@pytest.mark.parametrize("family", sorted(BUILDERS))
def test_a_closed_sequence_leaves_nothing_behind(family: str) -> None:
    runner = MlxModelRunner(build(family), fingerprint=ModelFingerprint("00" * 32), block_tokens=16)

    def live(number: int, prefix: list[PrefixPart]) -> list[PrefixPart]:
        sequence = SequenceId(number)
        runner.open(sequence, prefix=prefix, state=None, capacity_tokens=4096)
        runner.prefill(sequence, PROMPT[runner.num_cached(sequence) : 32])
        block = (
            [PrefixPart(runner.copy_blocks(sequence, [(0, 16)])[0], 16)] if runner.spec.cuts_anywhere else []
        )
        runner.start_decode(
            sequence, last_token=PROMPT[-1], context=PROMPT[:-1], num_generated=0, constraint=None, seed=0,
            sampling=SamplingParams(temperature=0),
        )  # fmt: skip
        for _ in range(3):
            runner.decode()
        runner.close(sequence)
        return block

    live(0, [])
    before = kept()
    block = live(1, [])
    live(2, block)
    held = sum(part.payload.num_bytes for part in block)
    # The allocator counts whole pieces of memory, which may be larger than the tensors in them.
    assert kept() - before <= 2 * held + 4096


@pytest.mark.parametrize("family", sorted(BUILDERS))
def test_warming_up_leaves_nothing_behind_either(family: str) -> None:
    model = build(family)
    runner = MlxModelRunner(model, fingerprint=ModelFingerprint("00" * 32), block_tokens=16)
    runner.warm_up()
    before = kept()
    runner.warm_up()
    assert (runner.running_bytes(), runner.decode()) == (0, [])
    assert kept() - before <= 4096


@pytest.mark.parametrize("family", sorted(BUILDERS))
def test_a_model_that_is_let_go_needs_no_collector(family: str) -> None:
    """The daemon freezes what was loaded, and a model that is swapped out must go all the same."""
    before = kept()
    model = BUILDERS[family]()
    runner = MlxModelRunner(model, fingerprint=ModelFingerprint("00" * 32), block_tokens=16)
    runner.warm_up()
    assert kept() - before > 100_000
    runner.release()
    del model, runner
    assert kept() - before <= 4096


def test_room_that_a_row_left_in_its_batch_is_there_for_a_prompt() -> None:
    spec = MlxModelRunner(build("llama"), fingerprint=ModelFingerprint("00" * 32), block_tokens=16).spec
    # Two running caches and some blocks.
    budget = 2 * capacity_for(200) * spec.running_bytes_per_token + spec.stored_bytes(240)
    with MlxRig("llama", budget_bytes=budget, max_drafts=0) as rig:
        with rig.held():
            long, _, again = (
                rig.ask(prompt_of(20, seed), agent=f"a{seed}", max_tokens=max_tokens, sampling=WITHOUT_END)
                for seed, max_tokens in ((1, 180), (2, 30), (3, 5))
            )
            over: list[bool] = []
            again.on_update = lambda _: over.append(long.over)
        assert len(again.answer().text) == 5
        assert not any(over), "it did not wait for the long answer to end"
        assert len(long.answer().text) == 180
