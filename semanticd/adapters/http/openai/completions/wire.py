"""The OpenAI plain-completions dialect's wire types. Unknown fields are ignored, nulls stand for absence."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from semanticd.adapters.http.openai.sampling import MAX_TOKENS, NumChoices, Sampled
from semanticd.adapters.http.openai.usage import CompletionUsage


class CompletionRequest(Sampled, kw_only=True):
    """Body of `POST /v1/completions`; the prompt is text, token ids, or a list of either."""

    prompt: str | list[Any]
    max_tokens: Annotated[int, Meta(ge=-1, le=MAX_TOKENS)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    suffix: str | None = None
    best_of: NumChoices | None = None


class CompletionChoice(Struct):
    """One completion of one prompt."""

    index: int
    text: str
    logprobs: dict[str, Any] | None
    finish_reason: str | None


class Completion(Struct):
    """Answer of `POST /v1/completions`, also the form of its chunks."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: CompletionUsage | None = None
