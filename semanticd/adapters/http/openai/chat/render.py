"""From generation results and events to OpenAI chat completions and their chunks."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from msgspec import UNSET, UnsetType

from semanticd.adapters.http.core import errors
from semanticd.adapters.http.core.sse import COMMENT_PING, DONE, frame
from semanticd.adapters.http.openai.chat import wire
from semanticd.adapters.http.openai.usage import render_usage, total
from semanticd.domain.chat import ToolCallPart
from semanticd.domain.errors import SemanticError
from semanticd.domain.generation import (
    Choice,
    Finished,
    FinishReason,
    GenerationEvent,
    GenerationResult,
    Started,
    TextDelta,
    ThinkingDelta,
    TokenLogprob,
    ToolCallBroken,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)

FINISH_REASONS = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.STOP_SEQUENCE: "stop",
    FinishReason.TOOL_CALLS: "tool_calls",
}


def render_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """Return the chat form of log-probabilities."""
    return {
        "content": [
            {
                **_logprob(token.text, token.logprob),
                "top_logprobs": [_logprob(text, logprob) for _, text, logprob in token.top],
            }
            for token in tokens
        ],
        "refusal": None,
    }


def _logprob(text: str, logprob: float) -> dict[str, Any]:
    # JSON knows no infinity; the original service sends -9999 for "practically never".
    shown = logprob if math.isfinite(logprob) else -9999.0
    return {"token": text, "logprob": shown, "bytes": list(text.encode("utf-8", "replace"))}


def render_call(call: ToolCallPart) -> dict[str, Any]:
    """Return a tool call with its arguments as JSON text, or as much of it as there is."""
    arguments = json.dumps(dict(call.arguments), ensure_ascii=False) if call.cut is None else call.cut
    return {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def render(
    result: GenerationResult,
    *,
    completion_id: str,
    created: int,
    logprobs: bool,
    service_tier: str | UnsetType = UNSET,
    metadata: dict[str, str] | UnsetType = UNSET,
) -> wire.ChatCompletion:
    """Return the whole completion; the last two are shown where the client asked for a tier or sent metadata."""
    return wire.ChatCompletion(
        id=completion_id,
        object="chat.completion",
        created=created,
        model=result.model,
        choices=[_choice(index, choice, logprobs=logprobs) for index, choice in enumerate(result.choices)],
        usage=render_usage(result.usage),
        service_tier=service_tier,
        metadata=metadata,
    )


def _choice(index: int, choice: Choice, *, logprobs: bool) -> wire.ChatChoice:
    calls = [render_call(call) for call in choice.tool_calls]
    return wire.ChatChoice(
        index=index,
        message=wire.AnswerMessage(
            role="assistant",
            content=None if calls and not choice.text else choice.text,
            refusal=None,
            tool_calls=calls or None,
            reasoning_content=choice.thinking or None,
        ),
        logprobs=render_logprobs(choice.logprobs) if logprobs else None,
        finish_reason=FINISH_REASONS[choice.reason],
    )


class ChatStream:
    """Renders a completion's chunks; clients join repeated strings, so role, id and name are sent once."""

    ping = COMMENT_PING

    def __init__(
        self,
        *,
        completion_id: str,
        created: int,
        num_choices: int,
        include_usage: bool,
        logprobs: bool,
        service_tier: str | UnsetType = UNSET,
    ) -> None:
        self._head: dict[str, Any] = {
            "id": completion_id,
            "object": "chat.completion.chunk",
            "created": created,
            "model": "",
        }
        if service_tier is not UNSET:
            self._head["service_tier"] = service_tier
        self._completion_id = completion_id
        self._num_choices = num_choices
        self._include_usage = include_usage
        self._logprobs = logprobs
        self._started = False
        self._usages: dict[int, Usage] = {}

    def render(self, event: GenerationEvent) -> bytes:
        """Return the frames for one event."""
        if isinstance(event, Started):
            return self._start(event)
        if isinstance(event, TextDelta):
            return self._text(event)
        if isinstance(event, ThinkingDelta):
            return self._chunk(event.choice, {"reasoning_content": event.text})
        if isinstance(event, ToolCallStarted):
            function = {"name": event.name, "arguments": ""}
            call = {"index": event.index, "id": event.call_id, "type": "function", "function": function}
            return self._chunk(event.choice, {"tool_calls": [call]})
        if isinstance(event, ToolCallDelta):
            call = {"index": event.index, "function": {"arguments": event.arguments}}
            return self._chunk(event.choice, {"tool_calls": [call]})
        if isinstance(event, ToolCallBroken):
            # Its beginning was sent; the end says by its reason that no call is to be answered.
            return b""
        return self._end(event)

    def finish(self) -> bytes:
        """Return the usage chunk, if asked for, and the end mark."""
        if not self._include_usage:
            return DONE
        return frame({**self._head, "choices": [], "usage": render_usage(total(self._usages))}) + DONE

    def fail(self, error: SemanticError) -> bytes:
        """Return a chunk with a top-level error, which SDKs raise."""
        return frame(errors.body(error, "openai", request_id="")) + DONE

    def _start(self, event: Started) -> bytes:
        if self._started:
            return b""
        self._started = True
        self._head["model"] = event.model
        # Clients expect choice 0 in the first chunk, whichever choice begins first.
        return b"".join(
            # An empty text would be a part of the answer to some clients, where only calls follow.
            self._chunk(choice, {"role": "assistant", "content": None, "refusal": None})
            for choice in range(self._num_choices)
        )

    def _text(self, event: TextDelta) -> bytes:
        logprobs = render_logprobs(event.logprobs) if self._logprobs and event.logprobs else None
        if not event.text and logprobs is None:
            return b""
        return self._chunk(event.choice, {"content": event.text}, logprobs=logprobs)

    def _end(self, event: Finished) -> bytes:
        self._usages[event.choice] = event.usage
        return self._chunk(event.choice, {}, finish_reason=FINISH_REASONS[event.reason])

    def _chunk(
        self,
        choice: int,
        delta: dict[str, Any],
        *,
        finish_reason: str | None = None,
        logprobs: dict[str, Any] | None = None,
    ) -> bytes:
        content = {"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        chunk: dict[str, Any] = {**self._head, "choices": [content]}
        if self._include_usage:
            chunk["usage"] = None
        return frame(chunk)
