"""OpenAI's count of tokens, in the form that chat and plain completions share."""

from __future__ import annotations

from msgspec import Struct

from semanticd.domain.generation import Usage


class PromptTokensDetails(Struct):
    """Breakdown of the prompt tokens: read from the cache."""

    cached_tokens: int = 0
    audio_tokens: int = 0


class CompletionTokensDetails(Struct):
    """Breakdown of the answer's tokens: thinking."""

    reasoning_tokens: int = 0
    audio_tokens: int = 0


class CompletionUsage(Struct):
    """Tokens in and out."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


def render_usage(usage: Usage) -> CompletionUsage:
    """Return OpenAI's count of tokens."""
    return CompletionUsage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=usage.cache.cached_tokens),
        completion_tokens_details=CompletionTokensDetails(reasoning_tokens=usage.reasoning_tokens),
    )


def total(usages: dict[int, Usage]) -> Usage:
    """Return the usage of all choices: the prompt counts once, the answers add up."""
    if not usages:
        return Usage()
    first = usages[min(usages)]
    return Usage(
        prompt_tokens=first.prompt_tokens,
        completion_tokens=sum(usage.completion_tokens for usage in usages.values()),
        reasoning_tokens=sum(usage.reasoning_tokens for usage in usages.values()),
        cache=first.cache,
        timings=first.timings,
        stored_tokens=first.stored_tokens,
    )
