"""From vectors to OpenAI's answer: pure."""

from __future__ import annotations

from semanticd.adapters.http.core.vectors import as_base64, as_numbers
from semanticd.adapters.http.openai.embeddings import wire
from semanticd.application.generation.embedding import Embeddings


def render(made: Embeddings, *, packed: bool) -> wire.EmbeddingsAnswer:
    """Return the answer; `packed` vectors are base64."""
    return wire.EmbeddingsAnswer(
        object="list",
        data=[
            wire.Embedding("embedding", index, as_base64(vector) if packed else as_numbers(vector))
            for index, vector in enumerate(made.vectors)
        ],
        model=str(made.model_id),
        usage=wire.EmbeddingsUsage(made.num_tokens, made.num_tokens),
    )
