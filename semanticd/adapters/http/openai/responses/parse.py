"""From a responses request to a `GenerationRequest`: pure, and refusing what this server cannot do.

Items that one assistant turn is made of (thinking, text, calls) become one message again, as the model wrote them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from semanticd.adapters.http.openai.responses import wire
from semanticd.adapters.http.openai.responses.tools import (
    ToolBox,
    flat_name_of,
    read_arguments,
    read_choice,
    read_tools,
)
from semanticd.domain.chat import (
    ChatPrompt,
    Message,
    Part,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
    join_texts,
)
from semanticd.domain.errors import InvalidRequestError, UnsupportedError
from semanticd.domain.generation import GenerationRequest, OutputConstraint, Priority, SamplingParams
from semanticd.domain.ids import AgentId, RequestId

_TEXT_TYPES = ("input_text", "output_text", "text", "summary_text", "reasoning_text")
_IGNORED_ITEMS = ("web_search_call", "additional_tools", "configuration_update", "compaction_trigger")


@dataclass(frozen=True, slots=True)
class Parsed:
    """A request, and what its answer needs to know of it."""

    request: GenerationRequest
    messages: tuple[Message, ...]
    """The conversation without the instructions, to be stored with the answer."""
    tools: ToolBox


def parse(
    body: wire.ResponsesRequest,
    *,
    earlier: tuple[Message, ...],
    request_id: RequestId,
    agent_id: AgentId | None,
    priority: Priority,
) -> Parsed:
    """Return what the client asks for; `earlier` is the conversation up to the previous response.

    Raises:
        InvalidRequestError: the request contradicts itself.
        UnsupportedError: it asks for images, files, background work or foreign tools.
    """
    for name in ("background", "conversation", "prompt"):
        if getattr(body, name):
            raise UnsupportedError("this server does not offer it", param=name)
    items = (
        body.input if not isinstance(body.input, str) else [wire.InputItem(role="user", content=body.input)]
    )
    if not items and not earlier:
        raise InvalidRequestError("expected at least one item", param="input")
    box = read_tools([*(body.tools or []), *(tool for item in items for tool in item.tools or [])])
    messages = _join_assistant_turns([*earlier, *_messages(items)])
    instructions = [Message.of("system", body.instructions)] if body.instructions else []
    effort = body.reasoning.effort if body.reasoning else None
    options: dict[str, Any] = {}
    if effort:
        options = {"reasoning_effort": effort, "enable_thinking": effort not in ("none", "minimal")}
    request = GenerationRequest(
        request_id=request_id,
        model=body.model,
        prompt=ChatPrompt(
            messages=(*instructions, *messages),
            tools=box.specs,
            tool_choice=read_choice(body.tool_choice, box, parallel=body.parallel_tool_calls is not False),
            template_options=options,
        ),
        sampling=SamplingParams(
            max_tokens=body.max_output_tokens,
            temperature=1.0 if body.temperature is None else body.temperature,
            top_p=1.0 if body.top_p is None else body.top_p,
            logprobs=bool(body.top_logprobs),
            top_logprobs=body.top_logprobs or 0,
        ),
        agent_id=agent_id,
        priority=priority,
        constraint=_constraint(body.text),
    )
    return Parsed(request, messages, box)


def _constraint(text: wire.TextConfig | None) -> OutputConstraint | None:
    form = text.format if text else None
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return OutputConstraint(kind="json_object")
    if form.schema is None:
        raise InvalidRequestError("field required", param="text.format.schema")
    return OutputConstraint(kind="json_schema", schema=form.schema)


def _messages(items: Sequence[wire.InputItem]) -> list[Message]:
    messages: list[Message] = []
    for index, item in enumerate(items):
        if item.type in _IGNORED_ITEMS:
            continue
        messages.append(_message(item, f"input.{index}"))
    return messages


def _message(item: wire.InputItem, path: str) -> Message:
    kind = item.type or "message"
    if kind == "message":
        if item.role is None:
            raise InvalidRequestError("field required", param=f"{path}.role")
        role = item.role if item.role in ("user", "assistant") else "system"
        return Message(role, _parts(item.content, f"{path}.content"))
    if kind == "reasoning":
        text = "".join(part.text or "" for part in item.content or [] if isinstance(part, wire.InputContent))
        return Message("assistant", (ThinkingPart(text),) if text else ())
    if kind in ("function_call", "custom_tool_call"):
        if not item.call_id or not item.name:
            raise InvalidRequestError("call_id and name are required", param=path)
        arguments = (
            {"input": item.input or ""} if kind == "custom_tool_call" else read_arguments(item.arguments)
        )
        call = ToolCallPart(item.call_id, flat_name_of(item.name, item.namespace), arguments)
        return Message("assistant", (call,))
    if kind in ("function_call_output", "custom_tool_call_output"):
        if not item.call_id:
            raise InvalidRequestError("field required", param=f"{path}.call_id")
        return Message("tool", (ToolResultPart(item.call_id, _output(item.output, f"{path}.output")),))
    raise UnsupportedError(f"items of type {kind[:40]!r} are not supported", param=f"{path}.type")


def _parts(content: str | list[wire.InputContent] | None, path: str) -> tuple[Part, ...]:
    if content is None:
        raise InvalidRequestError("field required", param=path)
    if isinstance(content, str):
        return (TextPart(content),)
    return tuple(
        TextPart(_words(part.type, part.text, part.refusal, f"{path}.{i}")) for i, part in enumerate(content)
    )


def _words(kind: str, text: str | None, refusal: str | None, path: str) -> str:
    if kind in _TEXT_TYPES:
        if text is None:
            raise InvalidRequestError("field required", param=f"{path}.text")
        return text
    if kind == "refusal":
        return refusal or ""
    raise UnsupportedError(f"this server's models read text only, not {kind[:40]!r}", param=path)


def _output(output: Any, path: str) -> str:
    if isinstance(output, str):
        return output
    if isinstance(output, list) and all(isinstance(part, dict) for part in output):
        words = []
        for index, part in enumerate(output):
            text = part.get("text")
            kind = str(part.get("type"))
            words.append(_words(kind, text if isinstance(text, str) else None, None, f"{path}.{index}"))
        return join_texts(words)
    if output is None:
        return ""
    return json.dumps(output, ensure_ascii=False)


def _join_assistant_turns(messages: Sequence[Message]) -> tuple[Message, ...]:
    joined: list[Message] = []
    for message in messages:
        last = joined[-1] if joined else None
        if last is not None and message.role == last.role == "assistant" and not _ends_turn(last, message):
            joined[-1] = Message("assistant", (*last.parts, *message.parts))
        else:
            joined.append(message)
    return tuple(message for message in joined if message.parts)


def _ends_turn(last: Message, following: Message) -> bool:
    # Within a turn thinking comes before text, and text before calls.
    called = any(isinstance(part, ToolCallPart) for part in last.parts)
    return called and any(not isinstance(part, ToolCallPart) for part in following.parts)
