"""From generation results and events to Anthropic messages and their stream of events."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import Any

from msgspec import UNSET

from semanticd.adapters.http.anthropic import wire
from semanticd.adapters.http.core import errors
from semanticd.adapters.http.core.arguments import written_arguments
from semanticd.adapters.http.core.sse import frame
from semanticd.domain.errors import SemanticError
from semanticd.domain.generation import (
    CacheReport,
    Choice,
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

Diagnose = Callable[[CacheReport], dict[str, Any] | None]

STOP_REASONS = {
    FinishReason.STOP: "end_turn",
    FinishReason.LENGTH: "max_tokens",
    FinishReason.STOP_SEQUENCE: "stop_sequence",
    FinishReason.TOOL_CALLS: "tool_use",
}

_FIVE_MINUTES_S = 300.0
_NO_EDITS: dict[str, Any] = {"applied_edits": []}


def signature_of(thinking: str) -> str:
    """Return an opaque signature, which clients require of a thinking block and send back unread."""
    return base64.b64encode(hashlib.sha256(thinking.encode()).digest()).decode("ascii")


def render_usage(usage: Usage, *, kept_for_s: float | None) -> wire.Usage:
    """Return Anthropic's count of the prompt in three parts.

    `kept_for_s` is how long the client asked to keep a prefix, in seconds; None: it did not ask.
    """
    cached = usage.cache.cached_tokens
    computed = max(usage.prompt_tokens - cached, 0)
    kept = min(usage.stored_tokens, computed) if kept_for_s is not None else 0
    for_an_hour = kept if kept_for_s is not None and kept_for_s > _FIVE_MINUTES_S else 0
    return wire.Usage(
        input_tokens=computed - kept,
        output_tokens=usage.completion_tokens,
        cache_creation_input_tokens=kept,
        cache_read_input_tokens=cached,
        cache_creation=wire.CacheCreation(
            ephemeral_5m_input_tokens=kept - for_an_hour, ephemeral_1h_input_tokens=for_an_hour
        ),
        output_tokens_details=wire.OutputTokensDetails(usage.reasoning_tokens),
    )


def stop_reason(reason: FinishReason, usage: Usage, *, max_tokens: int) -> str:
    """Return Anthropic's word for an answer's end; one that ended before `max_tokens` has filled the context."""
    if reason is FinishReason.LENGTH and usage.completion_tokens < max_tokens:
        return "model_context_window_exceeded"
    return STOP_REASONS[reason]


def render(
    result: GenerationResult,
    *,
    message_id: str,
    kept_for_s: float | None,
    max_tokens: int,
    diagnose: Diagnose = lambda cache: None,
    manages_context: bool = False,
) -> wire.Message:
    """Return the whole message; `diagnose` adds the cause of a cache miss, if requested.

    Where the client `manages_context`, the answer says that nothing was taken out of its prompt.
    """
    choice = result.choices[0]
    return wire.Message(
        id=message_id,
        type="message",
        role="assistant",
        model=result.model,
        content=_content(choice),
        stop_reason=stop_reason(choice.reason, result.usage, max_tokens=max_tokens),
        stop_sequence=choice.stop_sequence,
        usage=render_usage(result.usage, kept_for_s=kept_for_s),
        diagnostics=diagnose(result.usage.cache),
        context_management=_NO_EDITS if manages_context else UNSET,
    )


def _content(choice: Choice) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = []
    if choice.thinking:
        content.append(
            {"type": "thinking", "thinking": choice.thinking, "signature": signature_of(choice.thinking)}
        )
    if choice.text:
        content.append({"type": "text", "text": choice.text})
    content.extend(
        {"type": "tool_use", "id": call.call_id, "name": call.name, "input": written_arguments(call)}
        for call in choice.tool_calls
    )
    return content


class MessageStream:
    """Renders one message's events; content blocks follow one another, each opened, filled and closed."""

    ping = frame({"type": "ping"}, event="ping")

    def __init__(
        self,
        *,
        message_id: str,
        request_id: str,
        kept_for_s: float | None,
        max_tokens: int,
        diagnose: Diagnose = lambda cache: None,
        manages_context: bool = False,
    ) -> None:
        """Begin a message with its ids; see `render` for `diagnose` and `manages_context`."""
        self._context = {"context_management": _NO_EDITS} if manages_context else {}
        self._max_tokens = max_tokens
        self._diagnose = diagnose
        self._message_id = message_id
        self._request_id = request_id
        self._kept_for_s = kept_for_s
        self._index = -1
        self._open: str | None = None
        self._thinking: list[str] = []
        self._call_is_empty = False

    def render(self, event: GenerationEvent) -> bytes:
        """Return the frames for one event."""
        if isinstance(event, Started):
            return self._start(event.model, event.cache)
        if isinstance(event, TextDelta):
            return self._delta("text", {"type": "text_delta", "text": event.text}) if event.text else b""
        if isinstance(event, ThinkingDelta):
            self._thinking.append(event.text)
            return self._delta("thinking", {"type": "thinking_delta", "thinking": event.text})
        if isinstance(event, ToolCallStarted):
            self._call_is_empty = True
            block = {"type": "tool_use", "id": event.call_id, "name": event.name, "input": {}}
            return self._close() + self._begin(f"tool_use {event.index}", block)
        if isinstance(event, ToolCallDelta):
            return self._arguments(event.arguments) if event.arguments else b""
        if isinstance(event, ToolCallBroken):
            # Its beginning was sent; the end says by its reason that no call is to be answered.
            return b""
        return self._finish(event)

    def finish(self) -> bytes:
        """Nothing follows `message_stop`."""
        return b""

    def fail(self, error: SemanticError) -> bytes:
        """Return the error event."""
        return frame(errors.body(error, "anthropic", request_id=self._request_id), event="error")

    def _start(self, model: str, cache: CacheReport) -> bytes:
        # All that is computed is going to be kept: a client that adds up what it reads must not count it twice.
        usage = Usage(prompt_tokens=cache.prompt_tokens, cache=cache, stored_tokens=cache.prompt_tokens)
        message = wire.Message(
            id=self._message_id,
            type="message",
            role="assistant",
            model=model,
            content=[],
            stop_reason=None,
            stop_sequence=None,
            usage=render_usage(usage, kept_for_s=self._kept_for_s),
            diagnostics=self._diagnose(cache),
            context_management=self._context.get("context_management", UNSET),
        )
        return frame({"type": "message_start", "message": message}, event="message_start")

    def _delta(self, kind: str, delta: dict[str, Any]) -> bytes:
        frames = b""
        if self._open != kind:
            empty = {"type": kind, kind: ""} if kind == "text" else {"type": kind, kind: "", "signature": ""}
            frames = self._close() + self._begin(kind, empty)
        return frames + self._block_event("content_block_delta", delta=delta)

    def _arguments(self, piece: str) -> bytes:
        self._call_is_empty = False
        return self._block_event(
            "content_block_delta", delta={"type": "input_json_delta", "partial_json": piece}
        )

    def _begin(self, kind: str, block: dict[str, Any]) -> bytes:
        self._open = kind
        self._index += 1
        return self._block_event("content_block_start", content_block=block)

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        frames = b""
        if self._open == "thinking":
            signature = signature_of("".join(self._thinking))
            frames = self._block_event(
                "content_block_delta", delta={"type": "signature_delta", "signature": signature}
            )
            self._thinking.clear()
        elif self._open.startswith("tool_use") and self._call_is_empty:
            # Some clients parse the joined pieces unconditionally: an empty text is not JSON.
            frames = self._arguments("{}")
        self._open = None
        return frames + self._block_event("content_block_stop")

    def _block_event(self, name: str, **fields: Any) -> bytes:
        return frame({"type": name, "index": self._index, **fields}, event=name)

    def _finish(self, event: Finished) -> bytes:
        usage = render_usage(event.usage, kept_for_s=self._kept_for_s)
        reason = stop_reason(event.reason, event.usage, max_tokens=self._max_tokens)
        delta = {"stop_reason": reason, "stop_sequence": event.stop_sequence}
        return (
            self._close()
            + frame(
                {"type": "message_delta", "delta": delta, "usage": usage, **self._context},
                event="message_delta",
            )
            + frame({"type": "message_stop"}, event="message_stop")
        )
