"""Scores of a prompt's tokens: the same in parts, whose logits are all that is there at a time."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from semanticd.adapters.mlx.model import runner as runner_module
from semanticd.adapters.mlx.model.runner import MlxModelRunner
from semanticd.application.ports.inference import DecodedToken
from semanticd.domain.ids import ModelFingerprint, SequenceId
from tests.fakes.mlx_rig import prompt_of
from tests.fakes.tiny_mlx import build

UID, PROMPT = SequenceId(1), prompt_of(61, 3)


def scored(model: Any, top: int) -> list[DecodedToken]:
    runner = MlxModelRunner(model, fingerprint=ModelFingerprint("00" * 32), block_tokens=16)
    runner.open(UID, prefix=(), state=None, capacity_tokens=64)
    found = runner.prefill_logprobs(UID, PROMPT[:60], targets=PROMPT[1:], top=top)
    assert runner.num_cached(UID) == 60
    return found


@pytest.mark.parametrize("top", [0, 5])
def test_a_long_chunk_is_scored_in_parts(top: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("llama")
    logits = model(mx.array([PROMPT[:60]]))[0].astype(mx.float32)
    truth = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
    lengths: list[int] = []

    class Watched:
        def __getattr__(self, name: str) -> Any:
            return getattr(model, name)

        def __call__(self, ids: mx.array, **more: Any) -> mx.array:
            lengths.append(ids.shape[1])
            result: mx.array = model(ids, **more)
            return result

    monkeypatch.setattr(runner_module, "SCORED_AT_ONCE", 16)
    found = scored(Watched(), top)
    assert max(lengths) == 16
    assert [token.token_id for token in found] == PROMPT[1:]
    for position, token in enumerate(found):
        assert token.logprob == pytest.approx(truth[position, token.token_id], abs=1e-4)
        best = np.sort(truth[position])[::-1][:top]
        assert [value for _, value in token.top] == pytest.approx(list(best), abs=1e-4)
        assert all(truth[position, number] == pytest.approx(value, abs=1e-4) for number, value in token.top)
