"""Rows join and leave a decode batch in any order: each gets its own tokens, and the others are not copied."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest
from mlx_lm.utils import load_model

from semanticd.adapters.mlx.model import latent_attention
from semanticd.adapters.mlx.model.runner import MlxModelRunner
from semanticd.application.ports.inference import DecodedToken
from semanticd.domain.generation import SamplingParams
from semanticd.domain.ids import ModelFingerprint, SequenceId
from tests.fakes.mlx_rig import prompt_of
from tests.fakes.tiny_families import write_tiny_family
from tests.fakes.tiny_mlx import BUILDERS, build

SCORED = SamplingParams(temperature=0, logprobs=True)
SAMPLED = SamplingParams(temperature=0.9, logprobs=True, presence_penalty=0.3)
LENGTHS = (3, 40, 17, 255, 90, 256, 8, 33)


def runner_of(family: str, folder: Path | None = None) -> MlxModelRunner:
    if family in BUILDERS:
        model = build(family)
    else:
        assert folder is not None
        model, _ = load_model(write_tiny_family(folder / family, family))
    latent_attention.install(model)
    return MlxModelRunner(model, fingerprint=ModelFingerprint("00" * 32), block_tokens=16)


def begin(runner: MlxModelRunner, number: int, length: int) -> None:
    uid, prompt = SequenceId(number), prompt_of(length, number)
    runner.open(uid, prefix=(), state=None, capacity_tokens=length)
    runner.prefill(uid, prompt[:-1])
    runner.start_decode(
        uid, last_token=prompt[-1], context=prompt[:-1], num_generated=0, seed=number, constraint=None,
        sampling=SAMPLED if number % 3 == 2 else SCORED,
    )  # fmt: skip


@pytest.mark.parametrize("family", [*sorted(BUILDERS), "deepseek_v32"])
def test_each_row_gets_the_tokens_and_scores_that_it_gets_alone(family: str, tmp_path: Path) -> None:
    runner = runner_of(family, tmp_path)
    source = random.Random(7)
    waiting, running = list(range(len(LENGTHS))), list[int]()
    found: dict[int, list[tuple[int, float]]] = {number: [] for number in waiting}
    while waiting or running:
        if waiting and (len(running) < 2 or source.random() < 0.4):
            running.append(waiting.pop(0))
            begin(runner, running[-1], LENGTHS[running[-1]])
        for _ in range(source.randrange(1, 5)):
            for token in runner.decode():
                assert token.logprob is not None
                found[token.sequence_id].append((token.token_id, token.logprob))
        if len(running) > 4 or not waiting or source.random() < 0.2:
            runner.close(SequenceId(running.pop(source.randrange(len(running)))))
        elif source.random() < 0.2:
            runner.compact()
    assert runner.running_bytes() == 0
    for number, tokens in found.items():
        begin(runner, number, LENGTHS[number])
        alone: list[DecodedToken] = []
        while len(alone) < len(tokens):
            alone += runner.decode()
        assert [token.token_id for token in alone] == [token_id for token_id, _ in tokens], number
        assert [token.logprob for token in alone] == pytest.approx([score for _, score in tokens], abs=1e-3)
        runner.close(SequenceId(number))


def peak_of(action: Callable[[], object]) -> int:
    """Return the peak bytes of an action, beyond what is allocated before it."""
    mx.synchronize()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    action()
    mx.synchronize()
    return mx.get_peak_memory() - before


def test_a_short_row_takes_the_place_of_a_long_one_without_a_copy_of_the_others() -> None:
    runner = runner_of("llama")
    for number in range(5):
        begin(runner, number, 500)
    while runner.num_cached(SequenceId(0)) < 503:
        runner.decode()
    row_bytes = runner.running_bytes() // 5

    def leave() -> None:
        runner.close(SequenceId(2))
        runner.decode()

    assert peak_of(leave) < row_bytes
    assert runner.spare_bytes(0) == row_bytes
    runner.open(SequenceId(9), prefix=(), state=None, capacity_tokens=20)
    runner.prefill(SequenceId(9), prompt_of(20, 9)[:-1])

    def join() -> None:
        runner.start_decode(
            SequenceId(9), last_token=5, context=prompt_of(20, 9)[:-1], num_generated=0, seed=9,
            constraint=None, sampling=SCORED,
        )  # fmt: skip
        runner.decode()
        runner.decode()

    assert peak_of(join) < row_bytes
    assert (runner.running_bytes(), runner.spare_bytes(0)) == (5 * row_bytes, 0)


def test_what_rows_left_is_given_back_on_demand() -> None:
    runner = runner_of("llama")
    for number in range(3):
        begin(runner, number, 300)
    for _ in range(3):
        runner.decode()
    before = runner.running_bytes()
    runner.close(SequenceId(1))
    assert runner.running_bytes() == before
    assert runner.compact() == before // 3
    assert runner.running_bytes() == before * 2 // 3
    assert runner.compact() == 0
