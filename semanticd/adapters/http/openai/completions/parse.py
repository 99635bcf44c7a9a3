"""From a plain-completions request to one `GenerationRequest` per prompt."""

from __future__ import annotations

from typing import Any

from semanticd.adapters.http.core.adjustments import Adjustments
from semanticd.adapters.http.openai.completions import wire
from semanticd.adapters.http.openai.constraint import constraint_of
from semanticd.adapters.http.openai.sampling import retention_s, sampling_of
from semanticd.domain.chat import Prompt, TextPrompt, TokenPrompt
from semanticd.domain.errors import InvalidRequestError, UnsupportedError
from semanticd.domain.generation import GenerationRequest, Priority
from semanticd.domain.ids import AgentId, RequestId

DEFAULT_MAX_TOKENS = 16
MAX_TOKEN_ID = 2**31 - 1


def parse(
    body: wire.CompletionRequest,
    *,
    request_id: RequestId,
    agent_id: AgentId | None,
    priority: Priority,
    max_prompts: int,
    adjustments: Adjustments | None = None,
) -> list[GenerationRequest]:
    """Return a request for each prompt, in order.

    Raises:
        InvalidRequestError: the prompt has none of the four forms, or there are too many.
        UnsupportedError: it asks for a suffix or for the best of several completions.
    """
    if body.suffix:
        raise UnsupportedError("this server completes at the end only", param="suffix")
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise UnsupportedError("this server does not choose among completions; leave it out", param="best_of")
    prompts = _prompts(body.prompt)
    if len(prompts) > max_prompts:
        raise InvalidRequestError(f"expected at most {max_prompts} prompts", param="prompt")
    sampling = sampling_of(
        body,
        max_tokens=_max_tokens(body.max_tokens),
        logprobs=body.logprobs is not None,
        top_logprobs=body.logprobs or 0,
    )
    constraint = constraint_of(body)
    return [
        GenerationRequest(
            request_id=request_id if len(prompts) == 1 else RequestId(f"{request_id}-{index}"),
            model=body.model,
            prompt=prompt,
            sampling=sampling,
            agent_id=agent_id,
            share=request_id,
            priority=priority,
            num_choices=body.n or 1,
            cache_ttl_s=retention_s(body.prompt_cache_retention),
            echo=bool(body.echo),
            parse_output=False,
            constraint=constraint,
            adjustments=adjustments.words if adjustments else (),
        )
        for index, prompt in enumerate(prompts)
    ]


def _max_tokens(given: int | None) -> int | None:
    if given is None:
        return DEFAULT_MAX_TOKENS
    return None if given == -1 else given


def _prompts(prompt: str | list[Any]) -> list[Prompt]:
    if isinstance(prompt, str):
        return [TextPrompt(prompt)]
    if not prompt:
        raise InvalidRequestError("expected at least one prompt", param="prompt")
    if isinstance(prompt[0], int):
        return [_tokens(prompt, "prompt")]
    prompts: list[Prompt] = []
    for index, one in enumerate(prompt):
        if isinstance(one, str):
            prompts.append(TextPrompt(one))
        elif isinstance(one, list):
            prompts.append(_tokens(one, f"prompt.{index}"))
        else:
            raise InvalidRequestError("expected text or a list of token ids", param=f"prompt.{index}")
    return prompts


def _tokens(ids: list[Any], path: str) -> TokenPrompt:
    for index, token in enumerate(ids):
        if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token <= MAX_TOKEN_ID:
            raise InvalidRequestError("expected a token id", param=f"{path}.{index}")
    if not ids:
        raise InvalidRequestError("expected at least one token id", param=path)
    return TokenPrompt(tuple(ids))
