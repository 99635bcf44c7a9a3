"""From generation results and events to plain completions and their chunks."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from semanticd.adapters.http.core import errors
from semanticd.adapters.http.core.sse import COMMENT_PING, DONE, frame
from semanticd.adapters.http.openai.completions import wire
from semanticd.adapters.http.openai.usage import render_usage, total
from semanticd.domain.errors import SemanticError
from semanticd.domain.generation import (
    Finished,
    FinishReason,
    GenerationEvent,
    GenerationResult,
    Started,
    TextDelta,
    TokenLogprob,
    Usage,
)

if TYPE_CHECKING:
    from semanticd.application.generation.service import GenerationStream

FINISH_REASONS = {FinishReason.LENGTH: "length"}


def render(
    results: Sequence[GenerationResult], *, completion_id: str, created: int, logprobs: bool
) -> wire.Completion:
    """Return the completions of all prompts, numbered one after another."""
    choices: list[wire.CompletionChoice] = []
    for result in results:
        for choice in result.choices:
            choices.append(
                wire.CompletionChoice(
                    index=len(choices),
                    text=choice.text,
                    logprobs=render_logprobs(choice.logprobs, offset=0) if logprobs else None,
                    finish_reason=FINISH_REASONS.get(choice.reason, "stop"),
                )
            )
    return wire.Completion(
        id=completion_id,
        object="text_completion",
        created=created,
        model=results[0].model,
        choices=choices,
        usage=render_usage(total_of_prompts([result.usage for result in results])),
    )


def total_of_prompts(usages: Sequence[Usage]) -> Usage:
    """Return the sum over prompts, each of which counts."""
    first = usages[0]
    if len(usages) == 1:
        return first
    cache = replace(
        first.cache,
        prompt_tokens=sum(usage.cache.prompt_tokens for usage in usages),
        reused_hot_tokens=sum(usage.cache.reused_hot_tokens for usage in usages),
        restored_warm_tokens=sum(usage.cache.restored_warm_tokens for usage in usages),
        computed_tokens=sum(usage.cache.computed_tokens for usage in usages),
    )
    return Usage(
        prompt_tokens=sum(usage.prompt_tokens for usage in usages),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        reasoning_tokens=sum(usage.reasoning_tokens for usage in usages),
        cache=cache,
        timings=first.timings,
        stored_tokens=sum(usage.stored_tokens for usage in usages),
    )


def render_logprobs(tokens: Sequence[TokenLogprob], *, offset: int) -> dict[str, Any]:
    """Return the plain form: parallel lists; a prompt's first token has no probability, hence null."""
    shown: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for token in tokens:
        unknown = math.isnan(token.logprob)
        shown["tokens"].append(token.text)
        shown["token_logprobs"].append(None if unknown else _finite(token.logprob))
        shown["top_logprobs"].append(None if unknown else _rivals(token))
        shown["text_offset"].append(offset)
        offset += len(token.text)
    return shown


def _finite(logprob: float) -> float:
    # JSON knows no infinity; the original service sends -9999 for "practically never".
    return logprob if math.isfinite(logprob) else -9999.0


def _rivals(token: TokenLogprob) -> dict[str, float]:
    # Different tokens may have the same text: the likelier one is shown. The token itself is always there.
    rivals: dict[str, float] = {}
    for text, logprob in [*((text, logprob) for _, text, logprob in token.top), (token.text, token.logprob)]:
        rivals[text] = max(_finite(logprob), rivals.get(text, -math.inf))
    return rivals


class PromptsStream:
    """Several prompts' streams as one, a prompt at a time; choices are numbered on."""

    def __init__(self, streams: Sequence[GenerationStream], *, num_choices: int) -> None:
        """Join streams that each answer one prompt with `num_choices` choices."""
        self._streams = streams
        self._num_choices = num_choices
        self.request_id = streams[0].request_id
        self.model_id = streams[0].model_id
        self.agent_id = streams[0].agent_id

    @property
    def adjustments(self) -> tuple[str, ...]:
        """The changes to the requests; equal ones are listed once."""
        return tuple(dict.fromkeys(word for stream in self._streams for word in stream.adjustments))

    async def __aiter__(self) -> AsyncIterator[GenerationEvent]:
        for index, stream in enumerate(self._streams):
            async for event in stream:
                yield replace(event, choice=event.choice + index * self._num_choices)

    async def result(self) -> GenerationResult:
        """Not used: prompts that do not stream are collected one by one."""
        return await self._streams[0].result()

    async def aclose(self) -> None:
        """Cancel the unfinished part."""
        for stream in self._streams:
            await stream.aclose()


class CompletionStream:
    """Renders a completion's chunks."""

    ping = COMMENT_PING

    def __init__(
        self, *, completion_id: str, created: int, num_choices: int, include_usage: bool, logprobs: bool
    ) -> None:
        """Begin a completion with its id and date; `num_choices` is per prompt."""
        self._head: dict[str, Any] = {
            "id": completion_id,
            "object": "text_completion",
            "created": created,
            "model": "",
        }
        self._num_choices = num_choices
        self._include_usage = include_usage
        self._logprobs = logprobs
        self._usages: dict[int, Usage] = {}
        self._offsets: dict[int, int] = {}

    def render(self, event: GenerationEvent) -> bytes:
        """Return the frames for one event; there are neither thinking nor calls in plain text."""
        if isinstance(event, Started):
            self._head["model"] = event.model
        elif isinstance(event, TextDelta) and (event.text or event.logprobs):
            offset = self._offsets.get(event.choice, 0)
            self._offsets[event.choice] = offset + len(event.text)
            shown = render_logprobs(event.logprobs, offset=offset) if self._logprobs else None
            return self._chunk(event.choice, event.text, shown, None)
        elif isinstance(event, Finished):
            self._usages[event.choice] = event.usage
            return self._chunk(event.choice, "", None, FINISH_REASONS.get(event.reason, "stop"))
        return b""

    def finish(self) -> bytes:
        """Return the usage chunk, if asked for, and the end mark."""
        if not self._include_usage:
            return DONE
        prompts: dict[int, dict[int, Usage]] = {}
        for choice, usage in self._usages.items():
            prompts.setdefault(choice // self._num_choices, {})[choice] = usage
        usage = total_of_prompts([total(usages) for usages in prompts.values()] or [Usage()])
        return frame({**self._head, "choices": [], "usage": render_usage(usage)}) + DONE

    def fail(self, error: SemanticError) -> bytes:
        """Return a chunk with a top-level error, which SDKs raise."""
        return frame(errors.body(error, "openai", request_id="")) + DONE

    def _chunk(self, choice: int, text: str, logprobs: dict[str, Any] | None, finish: str | None) -> bytes:
        content = wire.CompletionChoice(choice, text, logprobs, finish)
        chunk: dict[str, Any] = {**self._head, "choices": [content]}
        if self._include_usage:
            chunk["usage"] = None
        return frame(chunk)
