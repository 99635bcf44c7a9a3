"""The OpenAI embeddings dialect's wire types. Unknown fields are ignored, explicit nulls stand for absence."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from semanticd.adapters.http.openai.sampling import MAX_TOKENS


class EmbeddingsRequest(Struct, kw_only=True):
    """Body of `POST /v1/embeddings`."""

    model: str
    input: Any
    """A text, texts, a text's token ids, or those of several."""
    dimensions: Annotated[int, Meta(ge=1, le=MAX_TOKENS)] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None


class Embedding(Struct):
    """The vector of one text."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(Struct):
    """Tokens of all texts."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(Struct):
    """Answer of `POST /v1/embeddings`."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingsUsage
