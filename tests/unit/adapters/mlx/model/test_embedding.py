"""Vectors of real models of every kind of layer: alone, in a batch, and in parts they are the same."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from semanticd.adapters.mlx.model import latent_attention
from semanticd.adapters.mlx.model.embedding import TextEmbedder
from semanticd.adapters.mlx.model.output_head import OutputHead
from semanticd.adapters.mlx.model.runner import MlxModelRunner
from semanticd.application.ports.models import Pooling
from semanticd.domain.errors import InvalidRequestError, UnsupportedError
from semanticd.domain.generation import SamplingParams
from semanticd.domain.ids import ModelFingerprint, SequenceId
from tests.fakes.tiny_mlx import BUILDERS, build

TEXTS = [[5, 6, 7, 8, 9, 10, 11], [12, 13, 14], list(range(20, 60))]
UID = SequenceId(-1)


def embedder(family: str = "llama", pooling: Pooling = "mean") -> TextEmbedder:
    model = build(family)
    latent_attention.install(model)  # as the model loader does
    return TextEmbedder(model, OutputHead(model), pooling=pooling)


def numbers(vector: bytes) -> np.ndarray:
    return np.frombuffer(vector, "<f4")


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("family", sorted(BUILDERS))
def test_company_and_parts_change_no_vector(family: str, pooling: Pooling) -> None:
    made = embedder(family, pooling)
    together = made.whole(TEXTS, dimensions=None)
    for text, vector in zip(TEXTS, together, strict=True):
        (alone,) = made.whole([text], dimensions=None)
        np.testing.assert_allclose(numbers(vector), numbers(alone), atol=1e-4)
        assert np.linalg.norm(numbers(vector)) == pytest.approx(1.0, abs=1e-5)
    parts = [made.part(UID, TEXTS[2][at : at + 16], is_last=at == 32, dimensions=None) for at in (0, 16, 32)]
    assert parts[:2] == [None, None]
    assert parts[2] is not None
    np.testing.assert_allclose(numbers(parts[2]), numbers(together[2]), atol=1e-4)
    assert made.running_bytes() > 0
    made.close(UID)
    assert made.running_bytes() == 0


def test_the_mean_is_that_of_the_features_and_the_last_one_the_last() -> None:
    model = build("llama")
    features = np.array(model.model(mx.array([TEXTS[0]]))[0])
    for pooling, expected in (("mean", features.mean(axis=0)), ("last", features[-1])):
        (vector,) = TextEmbedder(model, OutputHead(model), pooling=pooling).whole([TEXTS[0]], dimensions=None)  # type: ignore[arg-type]
        np.testing.assert_allclose(numbers(vector), expected / np.linalg.norm(expected), atol=1e-5)


def test_fewer_dimensions_are_the_leading_ones_scaled_anew_and_more_are_refused() -> None:
    made = embedder()
    (whole,), (short,) = made.whole(TEXTS[:1], dimensions=None), made.whole(TEXTS[:1], dimensions=5)
    leading = numbers(whole)[:5]
    np.testing.assert_allclose(numbers(short), leading / np.linalg.norm(leading), atol=1e-5)
    with pytest.raises(InvalidRequestError, match="128 dimensions") as refused:
        made.whole(TEXTS[:1], dimensions=129)
    assert refused.value.param == "dimensions"


class Headless:
    """Computes its logits in an unusual place."""

    def modules(self) -> list[Any]:
        return []

    def __call__(self, rows: mx.array, cache: Any) -> mx.array:
        return mx.zeros((*rows.shape, 4))


def test_a_model_whose_features_are_not_seen_says_so() -> None:
    model = Headless()
    with pytest.raises(UnsupportedError, match="no embeddings"):
        TextEmbedder(model, OutputHead(model), pooling="mean").whole(TEXTS, dimensions=None)


def test_answers_are_what_they_were_beside_and_after_vectors() -> None:
    runner = MlxModelRunner(build("qwen3"), fingerprint=ModelFingerprint("a" * 64), block_tokens=16)

    def answer(*, beside: bool) -> list[int]:
        runner.open(SequenceId(1), prefix=(), state=None, capacity_tokens=32)
        runner.prefill(SequenceId(1), TEXTS[0])
        if beside:
            runner.embed_part(UID, TEXTS[1], is_last=False, dimensions=None)
            runner.embed(TEXTS, dimensions=None)
        greedy = SamplingParams(temperature=0)
        runner.start_decode(
            SequenceId(1),
            last_token=1,
            context=TEXTS[0],
            num_generated=0,
            sampling=greedy,
            constraint=None,
            seed=0,
        )
        tokens: list[int] = []
        while len(tokens) < 8:
            tokens += [token.token_id for token in runner.decode()]
        runner.close(SequenceId(1))
        runner.close(UID)
        return tokens[:8]

    assert answer(beside=True) == answer(beside=False)
    assert runner.running_bytes() == 0
