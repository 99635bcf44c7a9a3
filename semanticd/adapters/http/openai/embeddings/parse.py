"""From an OpenAI embeddings request to an `EmbeddingRequest`: pure."""

from __future__ import annotations

from typing import Any

from semanticd.adapters.http.openai.embeddings import wire
from semanticd.application.generation.embedding import EmbeddingRequest, Text
from semanticd.domain.errors import InvalidRequestError
from semanticd.domain.ids import RequestId
from semanticd.domain.limits import LIMITS

_EXPECTED = "expected a text, a list of texts, a list of token ids, or a list of such lists"


def parse(body: wire.EmbeddingsRequest, *, request_id: RequestId) -> EmbeddingRequest:
    """Return the texts or token ids to embed.

    Raises:
        InvalidRequestError: The input has another form or too many texts.
    """
    return EmbeddingRequest(
        request_id=request_id,
        model=body.model,
        texts=_texts(body.input),
        dimensions=body.dimensions,
    )


def _texts(given: Any) -> tuple[Text, ...]:
    if isinstance(given, str):
        return (given,)
    if not isinstance(given, list) or not given:
        raise InvalidRequestError(_EXPECTED, param="input")
    if _is_id(given[0]):
        return (_ids(given, "input"),)
    if len(given) > LIMITS.embedding_inputs:
        raise InvalidRequestError(f"expected at most {LIMITS.embedding_inputs} texts", param="input")
    return tuple(
        one if isinstance(one, str) else _ids(one, f"input.{index}") for index, one in enumerate(given)
    )


def _ids(given: Any, param: str) -> tuple[int, ...]:
    if not isinstance(given, list) or not all(map(_is_id, given)):
        raise InvalidRequestError(_EXPECTED, param=param)
    return tuple(given)


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
