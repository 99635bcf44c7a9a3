"""The responses dialect's stream: items are added, filled and done one after another, every event numbered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import UNSET

from semanticd.adapters.http.core import errors
from semanticd.adapters.http.core.request_context import make_id
from semanticd.adapters.http.core.sse import COMMENT_PING, frame
from semanticd.adapters.http.openai.responses import wire
from semanticd.adapters.http.openai.responses.reasoning import ReasoningForm
from semanticd.adapters.http.openai.responses.render import (
    Diagnose,
    call_item,
    call_prefix,
    custom_input,
    finish,
    message_item,
    render_logprob,
    text_part,
)
from semanticd.adapters.http.openai.responses.tools import CustomInput, ToolBehind, ToolBox
from semanticd.domain.errors import OverloadedError, SemanticError
from semanticd.domain.generation import (
    Finished,
    FinishReason,
    GenerationEvent,
    Started,
    TextDelta,
    ThinkingDelta,
    TokenLogprob,
    ToolCallBroken,
    ToolCallDelta,
    ToolCallStarted,
)


class ResponseStream:
    """Renders one response's events; `response` and `output` are whole once the stream is finished."""

    ping = COMMENT_PING

    def __init__(
        self,
        response: wire.Response,
        *,
        tools: ToolBox,
        wall: Callable[[], float],
        on_complete: Callable[[wire.Response], None],
        reasoning: ReasoningForm | None = None,
        diagnose: Diagnose = lambda cache: UNSET,
    ) -> None:
        """Begin with the response as it is before any output; `on_complete` gets the complete one."""
        self._diagnose = diagnose
        self.response = response
        self.output: list[dict[str, Any]] = []
        self._tools = tools
        self._wall = wall
        self._on_complete = on_complete
        self._reasoning = reasoning or ReasoningForm()
        self._sequence = 0
        self._kind: str | None = None
        self._item_id = ""
        self._text: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._call_id = ""
        self._behind = ToolBehind("function", "")
        self._custom = CustomInput()

    def render(self, event: GenerationEvent) -> bytes:
        """Return the frames for one event."""
        if isinstance(event, Started):
            self.response = msgspec.structs.replace(self.response, model=event.model)
            return self._lifecycle("response.created") + self._lifecycle("response.in_progress")
        if isinstance(event, TextDelta):
            return self._on_text(event) if event.text or event.logprobs else b""
        if isinstance(event, ThinkingDelta):
            opened = b"" if self._kind == "reasoning" else self._close("completed") + self._open_reasoning()
            self._text.append(event.text)
            return opened + self._thinking_delta(event.text)
        if isinstance(event, ToolCallStarted):
            return self._close("completed") + self._open_call(event)
        if isinstance(event, ToolCallDelta):
            self._text.append(event.arguments)
            if self._behind.kind == "custom":
                return self._custom_delta(self._custom.feed(event.arguments))
            return self._item_event("response.function_call_arguments.delta", delta=event.arguments)
        if isinstance(event, ToolCallBroken):
            # Its beginning was sent; its status says that it is not to be answered.
            return self._close("incomplete")
        return self._finish(event)

    def _custom_delta(self, text: str) -> bytes:
        return self._item_event("response.custom_tool_call_input.delta", delta=text) if text else b""

    def finish(self) -> bytes:
        """Nothing follows the completed response."""
        return b""

    def fail(self, error: SemanticError) -> bytes:
        """Return the failed response, which is the last event: clients end at it, and at an `error` before it."""
        code = "rate_limit_exceeded" if isinstance(error, OverloadedError) else "server_error"
        shown = errors.body(error, "openai", request_id="")["error"]
        failed = {"code": code, "message": shown["message"]}
        self.response = msgspec.structs.replace(
            self.response, status="failed", error=failed, output=self.output
        )
        return self._lifecycle("response.failed")

    def _event(self, name: str, /, **fields: Any) -> bytes:
        numbered = {"type": name, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return frame(numbered, event=name)

    def _lifecycle(self, name: str) -> bytes:
        return self._event(name, response=self.response)

    def _item_event(self, name: str, /, **fields: Any) -> bytes:
        return self._event(name, item_id=self._item_id, output_index=len(self.output), **fields)

    def _added(self, item: dict[str, Any]) -> bytes:
        return self._event("response.output_item.added", output_index=len(self.output), item=item)

    def _on_text(self, event: TextDelta) -> bytes:
        opened = b"" if self._kind == "message" else self._close("completed") + self._open_message()
        self._text.append(event.text)
        self._logprobs.extend(event.logprobs)
        logprobs = [render_logprob(token) for token in event.logprobs]
        return opened + self._item_event(
            "response.output_text.delta", content_index=0, delta=event.text, logprobs=logprobs
        )

    def _open(self, kind: str, prefix: str) -> None:
        self._kind = kind
        self._item_id = make_id(prefix)
        self._text.clear()
        self._logprobs.clear()

    def _open_message(self) -> bytes:
        self._open("message", "msg_")
        added = self._added(message_item(self._item_id, [], status="in_progress"))
        return added + self._item_event("response.content_part.added", content_index=0, part=text_part(""))

    def _open_reasoning(self) -> bytes:
        self._open("reasoning", "rs_")
        added = self._added(self._reasoning.item(self._item_id, ""))
        if self._reasoning.summarized:
            part = {"type": "summary_text", "text": ""}
            return added + self._item_event(
                "response.reasoning_summary_part.added", summary_index=0, part=part
            )
        part = {"type": "reasoning_text", "text": ""}
        return added + self._item_event("response.content_part.added", content_index=0, part=part)

    def _open_call(self, event: ToolCallStarted) -> bytes:
        self._behind = self._tools.behind(event.name)
        self._call_id = event.call_id
        self._custom = CustomInput()
        self._open("call", call_prefix(self._behind))
        return self._added(call_item(self._item_id, self._call_id, self._behind, "", status="in_progress"))

    def _close(self, status: str) -> bytes:
        """Finish the open item, if any, and put it into the output."""
        text = "".join(self._text)
        if self._kind == "message":
            part = text_part(text, self._logprobs)
            frames = self._item_event(
                "response.output_text.done", content_index=0, text=text, logprobs=part["logprobs"]
            ) + self._item_event("response.content_part.done", content_index=0, part=part)
            return frames + self._done(message_item(self._item_id, [part], status=status))
        if self._kind == "reasoning":
            return self._close_reasoning(text)
        if self._kind == "call":
            return self._close_call(text if status == "incomplete" else text or "{}", status)
        return b""

    def _thinking_delta(self, text: str) -> bytes:
        if self._reasoning.summarized:
            return self._item_event("response.reasoning_summary_text.delta", summary_index=0, delta=text)
        return self._item_event("response.reasoning_text.delta", content_index=0, delta=text)

    def _close_reasoning(self, text: str) -> bytes:
        if self._reasoning.summarized:
            part = {"type": "summary_text", "text": text}
            frames = self._item_event("response.reasoning_summary_text.done", summary_index=0, text=text)
            frames += self._item_event("response.reasoning_summary_part.done", summary_index=0, part=part)
        else:
            part = {"type": "reasoning_text", "text": text}
            frames = self._item_event("response.reasoning_text.done", content_index=0, text=text)
            frames += self._item_event("response.content_part.done", content_index=0, part=part)
        return frames + self._done(self._reasoning.item(self._item_id, text))

    def _close_call(self, arguments: str, status: str) -> bytes:
        if self._behind.kind == "custom":
            given = custom_input(arguments)
            # No input was emitted in a form other than the tool's own.
            told = self._custom.told
            given = given if given.startswith(told) else told
            frames = self._custom_delta(given[len(told) :])
            frames += self._item_event("response.custom_tool_call_input.done", input=given)
        else:
            frames = self._item_event(
                "response.function_call_arguments.done", arguments=arguments, name=self._behind.name
            )
        return frames + self._done(
            call_item(self._item_id, self._call_id, self._behind, arguments, status=status)
        )

    def _done(self, item: dict[str, Any]) -> bytes:
        frames = self._event("response.output_item.done", output_index=len(self.output), item=item)
        self.output.append(item)
        self._kind = None
        return frames

    def _finish(self, event: Finished) -> bytes:
        frames = b"" if self._kind or self.output else self._open_message()
        cut = event.reason is FinishReason.LENGTH
        frames += self._close("incomplete" if cut else "completed")
        self.response = finish(
            self.response,
            self.output,
            reason=event.reason,
            usage=event.usage,
            completed=int(self._wall()),
            diagnose=self._diagnose,
        )
        self._on_complete(self.response)
        return frames + self._lifecycle("response.incomplete" if cut else "response.completed")
