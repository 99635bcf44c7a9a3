"""TextEmbedder: vectors of texts, pooled from the features of the model's last layer.

Rows are padded on the right: in a causal model no position looks at one behind it, so padding changes nothing before.
Pooled are all positions of a text (`mean`), or its last one (`last`), as the model was trained for; then the leading
numbers are taken, and the vector is scaled to length one.

Engine thread only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import make_prompt_cache

from semanticd.adapters.mlx.model.kv_codec import flatten
from semanticd.adapters.mlx.model.output_head import OutputHead
from semanticd.application.ports.models import Pooling
from semanticd.domain.errors import InvalidRequestError, UnsupportedError
from semanticd.domain.ids import SequenceId


@dataclass(slots=True)
class _Text:
    """A text whose first tokens are computed."""

    cache: list[Any]
    total: mx.array | None = None
    """The sum of its positions' features, `[D]`; where the last one is pooled, that of the latest part."""
    num_tokens: int = 0


class TextEmbedder:
    """Computes vectors with one of mlx-lm's models."""

    def __init__(self, model: Any, head: OutputHead, *, pooling: Pooling) -> None:
        """Read features where the model's head does."""
        self._model = model
        self._head = head
        self._pooling = pooling
        self._texts: dict[SequenceId, _Text] = {}

    def whole(self, texts: Sequence[Sequence[int]], *, dimensions: int | None) -> list[bytes]:
        """Return the vectors of whole texts, computed at once."""
        longest = max(map(len, texts))
        rows = mx.array([[*ids, *[0] * (longest - len(ids))] for ids in texts])
        features = self._features(rows, None)
        lengths = mx.array([len(ids) for ids in texts])
        positions = mx.arange(longest)[None, :]
        ends = lengths[:, None]
        chosen = positions == ends - 1 if self._pooling == "last" else positions < ends
        # A padding position may hold any value, including NaN.
        pooled = mx.where(chosen[:, :, None], features, 0.0).sum(axis=1)
        return self._vectors(pooled, dimensions)

    def part(
        self, sequence_id: SequenceId, token_ids: Sequence[int], *, is_last: bool, dimensions: int | None
    ) -> bytes | None:
        """Compute the next tokens of a text, and return its vector with the last ones."""
        text = self._texts.get(sequence_id)
        if text is None:
            text = self._texts[sequence_id] = _Text(make_prompt_cache(self._model))
        features = self._features(mx.array([list(token_ids)]), text.cache)[0]
        if self._pooling == "last":
            text.total = features[-1]
        else:
            part = features.sum(axis=0)
            text.total = part if text.total is None else text.total + part
        text.num_tokens += len(token_ids)
        mx.eval(text.total, [cache.state for cache in text.cache])
        return self._vectors(text.total[None, :], dimensions)[0] if is_last else None

    def close(self, sequence_id: SequenceId) -> None:
        """Forget a text's parts."""
        self._texts.pop(sequence_id, None)

    def running_bytes(self) -> int:
        """Bytes of the running caches."""
        return sum(leaf.nbytes for text in self._texts.values() for leaf in flatten(text.cache))

    def _features(self, rows: mx.array, cache: list[Any] | None) -> mx.array:
        with self._head.seen() as seen:
            self._model(rows, cache=cache)
        if len(seen) != 1:
            raise UnsupportedError(
                "this model's features cannot be read, so that it gives no embeddings", param="model"
            )
        return seen[0].astype(mx.float32)

    def _vectors(self, pooled: mx.array, dimensions: int | None) -> list[bytes]:
        size = pooled.shape[1]
        if dimensions is not None and dimensions > size:
            raise InvalidRequestError(f"this model's vectors have {size} dimensions", param="dimensions")
        # The mean and the sum have one direction.
        pooled = pooled[:, :dimensions]
        scaled = pooled / mx.maximum(mx.linalg.norm(pooled, axis=1, keepdims=True), 1e-12)
        return [row.astype("<f4").tobytes() for row in np.array(scaled)]
