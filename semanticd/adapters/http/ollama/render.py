"""From the generator's events to Ollama's answers: a line of JSON for each piece, and one document where none streams.

Durations are in nanoseconds. `prompt_eval_count` counts the whole prompt: clients measure their context by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, Literal

import msgspec

from semanticd.adapters.http.core import errors
from semanticd.adapters.http.core.arguments import complete_members, written_arguments
from semanticd.domain.errors import SemanticError
from semanticd.domain.generation import (
    Finished,
    FinishReason,
    GenerationEvent,
    GenerationResult,
    Started,
    TextDelta,
    ThinkingDelta,
    ToolCallBroken,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)

Shape = Literal["chat", "generate"]

_NS_PER_MS = 1_000_000
_REASONS = {FinishReason.LENGTH: "length"}
_encoder = msgspec.json.Encoder()


def line(data: Mapping[str, Any]) -> bytes:
    """Return one line of a stream."""
    return _encoder.encode(data) + b"\n"


def timestamp(seconds: float) -> str:
    """Return seconds since the epoch as Ollama writes a time."""
    return (
        datetime.fromtimestamp(seconds, tz=timezone.utc)
        .isoformat(timespec="microseconds")
        .replace("+00:00", "Z")
    )


def measured(usage: Usage) -> dict[str, int]:
    """Return the tokens and times of an answer's last line."""
    timings = usage.timings
    return {
        "total_duration": int((timings.total_ms or timings.ttft_ms + timings.decode_ms) * _NS_PER_MS),
        "load_duration": int(timings.restore_ms * _NS_PER_MS),
        "prompt_eval_count": usage.prompt_tokens,
        "prompt_eval_duration": int(timings.prefill_ms * _NS_PER_MS),
        "eval_count": usage.completion_tokens,
        "eval_duration": int(timings.decode_ms * _NS_PER_MS),
    }


def call_of(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tool call; Ollama gives its arguments as an object."""
    return {"function": {"name": name, "arguments": dict(arguments)}}


def piece(
    shape: Shape, text: str = "", *, thinking: str = "", calls: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """Return the part of a line that holds a piece of the answer."""
    if shape == "generate":
        return {"response": text, **({"thinking": thinking} if thinking else {})}
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if thinking:
        message["thinking"] = thinking
    if calls:
        message["tool_calls"] = calls
    return {"message": message}


def render(result: GenerationResult, shape: Shape, *, created_at: float) -> dict[str, Any]:
    """Return a whole answer."""
    choice = result.choices[0]
    calls = [call_of(call.name, written_arguments(call)) for call in choice.tool_calls]
    return {
        "model": result.model,
        "created_at": timestamp(created_at),
        **piece(shape, choice.text, thinking=choice.thinking, calls=calls),
        "done": True,
        "done_reason": _REASONS.get(choice.reason, "stop"),
        **measured(result.usage),
    }


def loaded(model: str, shape: Shape, *, created_at: float) -> dict[str, Any]:
    """Return the answer to a request that asks for nothing but the model."""
    return {
        "model": model,
        "created_at": timestamp(created_at),
        **piece(shape),
        "done": True,
        "done_reason": "load",
    }


class OllamaStream:
    """A stream of lines; a tool call is sent once its arguments are whole."""

    # White space before a document is allowed, so that a client that parses lines sees nothing of it.
    ping = b" "

    def __init__(self, shape: Shape, *, created_at: float) -> None:
        """Answer in one of the two shapes."""
        self._shape: Shape = shape
        self._created_at = timestamp(created_at)
        self._model = ""
        self._calls: dict[int, tuple[str, list[str]]] = {}
        self._last: dict[str, Any] | None = None

    def render(self, event: GenerationEvent) -> bytes:
        """Return the lines for one event."""
        if isinstance(event, Started):
            self._model = event.model
            return b""
        if isinstance(event, TextDelta):
            return self._line(piece(self._shape, event.text)) if event.text else b""
        if isinstance(event, ThinkingDelta):
            return self._line(piece(self._shape, thinking=event.text))
        if isinstance(event, ToolCallStarted):
            self._calls[event.index] = (event.name, [])
            return b""
        if isinstance(event, ToolCallDelta):
            self._calls[event.index][1].append(event.arguments)
            return b""
        if isinstance(event, ToolCallBroken):
            del self._calls[event.index]
            return self._line(piece(self._shape, event.text)) if event.text else b""
        return self._end(event)

    def finish(self) -> bytes:
        """Return nothing: the last line is marked as the last."""
        return b""

    def fail(self, error: SemanticError) -> bytes:
        """Return the line that ends the stream with an error, which clients raise."""
        return line(errors.body(error, "ollama", request_id=""))

    def _end(self, event: Finished) -> bytes:
        calls = [call_of(name, complete_members("".join(parts))) for name, parts in self._calls.values()]
        before = self._line(piece(self._shape, calls=calls)) if calls else b""
        last = {
            **piece(self._shape),
            "done": True,
            "done_reason": _REASONS.get(event.reason, "stop"),
            **measured(event.usage),
        }
        return before + line({"model": self._model, "created_at": self._created_at, **last})

    def _line(self, data: Mapping[str, Any]) -> bytes:
        return line({"model": self._model, "created_at": self._created_at, **data, "done": False})
