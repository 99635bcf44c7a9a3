"""From a responses request to a `GenerationRequest`: pure; refuses features that this server does not have.

Items that one assistant turn is made of (thinking, text, calls) become one message again, as the model wrote them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from semanticd.adapters.http.core.adjustments import Adjustments, Speaker, asked_now
from semanticd.adapters.http.core.arguments import read_arguments
from semanticd.adapters.http.core.body import check_metadata, to_wire
from semanticd.adapters.http.openai.constraint import constraint_of
from semanticd.adapters.http.openai.responses import wire
from semanticd.adapters.http.openai.responses.reasoning import unseal
from semanticd.adapters.http.openai.responses.tools import (
    ToolBox,
    flat_name_of,
    read_choice,
    read_tools,
)
from semanticd.adapters.http.openai.sampling import retention_s, token_limit
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
_IGNORED_ITEMS = ("additional_tools", "configuration_update", "compaction_trigger")
_COMPACTIONS = ("compaction", "compaction_summary")
_FOREIGN_ITEMS = (
    "web_search_call",
    "file_search_call",
    "image_generation_call",
    "code_interpreter_call",
    "tool_search_call",
    "tool_search_output",
    "mcp_call",
    "mcp_list_tools",
    "mcp_approval_request",
    "mcp_approval_response",
    "program",
    "program_output",
)
"""Items that ran at OpenAI or between it and an MCP server; rendered as text."""
_FOREIGN_CALLS = {
    "local_shell_call": "local_shell",
    "shell_call": "shell",
    "apply_patch_call": "apply_patch",
    "computer_call": "computer",
}
"""Calls of OpenAI's own tools that a client ran: read as calls of a function of this name."""
_FOREIGN_FIELDS = (
    "name",
    "server_label",
    "action",
    "queries",
    "code",
    "arguments",
    "input",
    "results",
    "outputs",
    "output",
    "error",
    "approve",
    "reason",
)
_KINDS = {
    "input_image": "image",
    "computer_screenshot": "image",
    "input_file": "file",
    "input_audio": "audio",
}

LookUp = Callable[[str], Mapping[str, Any] | None]
"""Returns an earlier response's output item by its id, or None."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """A request with the facts that its answer needs."""

    request: GenerationRequest
    items: tuple[wire.InputItem, ...]
    """The request's own items, with what references stand for, to be stored with the answer."""
    messages: tuple[Message, ...]
    """The conversation without the instructions."""
    said: tuple[Message, ...]
    """The user's own messages in it, without summaries of earlier ones."""
    tools: ToolBox


def parse(
    body: wire.ResponsesRequest,
    *,
    earlier: Sequence[wire.InputItem],
    request_id: RequestId,
    agent_id: AgentId | None,
    priority: Priority,
    adjustments: Adjustments | None = None,
    look_up: LookUp = lambda item_id: None,
    key: bytes = b"",
) -> Parsed:
    """Return what the client asks for; `earlier` is the conversation up to the previous response.

    `look_up` finds what an `item_reference` stands for; `key` opens thinking that was sealed here.

    Raises:
        InvalidRequestError: the request contradicts itself.
        UnsupportedError: it asks for images, files, background work or foreign tools.
    """
    for name in ("background", "conversation", "prompt"):
        if getattr(body, name):
            raise UnsupportedError("not supported by this server", param=name)
    check_metadata(body.metadata)
    items = items_of(body)
    if not items and not earlier:
        raise InvalidRequestError("expected at least one item", param="input")
    adjustments = adjustments or Adjustments()
    offered = [*(body.tools or []), *(tool for item in items for tool in item.tools or [])]
    box = read_tools(offered, adjustments)
    own = tuple(_resolved(item, f"input.{index}", look_up) for index, item in enumerate(items))
    reader = _Reader(adjustments, key)
    messages = _join_assistant_turns(reader.read([*earlier, *own], first=len(earlier)))
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
        sampling=SamplingParams.of(
            max_tokens=token_limit(body.max_output_tokens, "max_output_tokens"),
            temperature=body.temperature,
            top_p=body.top_p,
            presence_penalty=body.presence_penalty,
            frequency_penalty=body.frequency_penalty,
            logprobs=bool(body.top_logprobs) or "message.output_text.logprobs" in (body.include or ()),
            top_logprobs=body.top_logprobs or 0,
        ),
        agent_id=agent_id,
        priority=priority,
        constraint=_constraint(body),
        cache_ttl_s=retention_s(body.prompt_cache_retention),
        adjustments=adjustments.words,
    )
    return Parsed(request, own, messages, tuple(reader.said), box)


def items_of(body: wire.ResponsesRequest) -> list[wire.InputItem]:
    """Return a request's own items; text is a user's message."""
    if not isinstance(body.input, str):
        return body.input
    return [wire.InputItem(role="user", content=body.input)]


def _constraint(body: wire.ResponsesRequest) -> OutputConstraint | None:
    form = body.text.format if body.text else None
    elsewhere = constraint_of(body)
    if form is None or form.type == "text":
        return elsewhere
    if elsewhere is not None:
        raise InvalidRequestError(
            "contradicts another field: request one output format only", param="text.format"
        )
    if form.type == "json_object":
        return OutputConstraint(kind="json_object", param="text.format")
    if form.schema is None:
        raise InvalidRequestError("field required", param="text.format.schema")
    return OutputConstraint(kind="json_schema", schema=form.schema, param="text.format.schema")


def _speaker(item: wire.InputItem) -> Speaker:
    kind = item.type or "message"
    if kind == "message":
        return item.role if item.role in ("user", "assistant") else "system"
    return "tool" if kind.endswith("_output") else "assistant"


def _resolved(item: wire.InputItem, path: str, look_up: LookUp) -> wire.InputItem:
    if not is_reference(item):
        return item
    found = look_up(item.id or "")
    if found is None:
        raise InvalidRequestError(
            f"Item with id '{(item.id or '')[:80]}' not found: this server keeps the latest responses, and those "
            "with store: false not at all; an id that you chose is known in the conversation of previous_response_id "
            "only. Send the item itself.",
            param=f"{path}.id",
        )
    return to_wire(found, wire.InputItem)


def is_reference(item: wire.InputItem) -> bool:
    """Return whether an item refers to an earlier item; its type is optional."""
    return item.type == "item_reference" or (
        item.type is None and item.role is None and item.content is None and item.id is not None
    )


class _Reader:
    """Reads the items of one request."""

    def __init__(self, adjustments: Adjustments, key: bytes) -> None:
        self._key = key
        self._adjustments = adjustments
        self._asked = False
        self.said: list[Message] = []
        """The user's own messages among those that were read."""

    def read(self, items: Sequence[wire.InputItem], *, first: int) -> list[Message]:
        """Return a message for each item with content; those from `first` on are the request's own."""
        asked = asked_now([_speaker(item) for item in items])
        messages: list[Message] = []
        for index, item in enumerate(items):
            self._asked = index == asked
            if item.type not in _IGNORED_ITEMS:
                messages.append(self._message(item, f"input.{max(index - first, 0)}"))
        return messages

    def _message(self, item: wire.InputItem, path: str) -> Message:
        kind = item.type or "message"
        if kind == "message":
            if item.role is None:
                raise InvalidRequestError("field required", param=f"{path}.role")
            role = item.role if item.role in ("user", "assistant") else "system"
            parts = self._parts(item.content, f"{path}.content")
            if not parts and role != "assistant":
                # It is a message all the same: an empty one, which is noted.
                parts = (TextPart(""),)
            message = Message(role, parts)
            if role == "user":
                self.said.append(message)
            return message
        if kind == "reasoning":
            text = self._thinking(item)
            return Message("assistant", (ThinkingPart(text),) if text else ())
        if kind in ("function_call", "custom_tool_call", *_FOREIGN_CALLS):
            return Message("assistant", (_call(item, kind, path),))
        if kind in ("function_call_output", "custom_tool_call_output") or (
            kind.removesuffix("_output") in _FOREIGN_CALLS
        ):
            call_id = item.call_id or (item.id if kind == "local_shell_call_output" else None)
            if not call_id:
                raise InvalidRequestError("field required", param=f"{path}.call_id")
            return Message("tool", (ToolResultPart(call_id, self._output(item.output, f"{path}.output")),))
        if kind in _COMPACTIONS:
            summary = unseal(item.encrypted_content, self._key) if item.encrypted_content else None
            if summary is not None:
                return Message.of("user", summary)
        if kind in (*_COMPACTIONS, *_FOREIGN_ITEMS):
            return Message("assistant", self._foreign(item, kind))
        raise UnsupportedError(f"items of type {kind[:40]!r} are not supported", param=f"{path}.type")

    def _thinking(self, item: wire.InputItem) -> str:
        """Return an item's thinking: as it stands there, as it was sealed here, or at least its summary."""
        content = [] if isinstance(item.content, str) else item.content or []
        said = "".join(part.text or "" for part in content)
        sealed = unseal(item.encrypted_content, self._key) if item.encrypted_content else None
        return said or sealed or "\n\n".join(part.text or "" for part in item.summary or [])

    def _foreign(self, item: wire.InputItem, kind: str) -> tuple[Part, ...]:
        fields = {name: getattr(item, name) for name in _FOREIGN_FIELDS if getattr(item, name) is not None}
        if kind in _COMPACTIONS:
            return (TextPart(self._adjustments.omit("compaction", path="", asked=False)),)
        return (TextPart(self._adjustments.describe(kind, fields)),) if fields else ()

    def _parts(self, content: str | list[wire.InputContent] | None, path: str) -> tuple[Part, ...]:
        if content is None:
            raise InvalidRequestError("field required", param=path)
        if isinstance(content, str):
            return (TextPart(content),)
        return tuple(
            TextPart(self._words(part, f"{path}.{index}", asked=self._asked))
            for index, part in enumerate(content)
        )

    def _words(self, part: wire.InputContent, path: str, *, asked: bool) -> str:
        if part.type in _TEXT_TYPES:
            if part.text is None:
                raise InvalidRequestError("field required", param=f"{path}.text")
            return part.text
        if part.type == "refusal":
            return part.refusal or ""
        kind = _KINDS.get(part.type, part.type[:40])
        return self._adjustments.omit(kind, name=part.filename or "", path=path, asked=asked)

    def _output(self, output: Any, path: str) -> str:
        if output is None or isinstance(output, str):
            return output or ""
        parts = output if isinstance(output, list) else [output]
        if parts and all(isinstance(part, dict) and isinstance(part.get("type"), str) for part in parts):
            return join_texts(
                [
                    self._words(to_wire(part, wire.InputContent, prefix=f"{path}.{index}"), path, asked=False)
                    for index, part in enumerate(parts)
                ]
            )
        return json.dumps(output, ensure_ascii=False)


def _call(item: wire.InputItem, kind: str, path: str) -> ToolCallPart:
    call_id = item.call_id or (item.id if kind in _FOREIGN_CALLS else None)
    if kind in _FOREIGN_CALLS:
        if not call_id:
            raise InvalidRequestError("call_id is required", param=path)
        return ToolCallPart(call_id, _FOREIGN_CALLS[kind], read_arguments(item.action or item.operation))
    if not call_id or not item.name:
        raise InvalidRequestError("call_id and name are required", param=path)
    custom = kind == "custom_tool_call"
    arguments = {"input": item.input or ""} if custom else read_arguments(item.arguments)
    return ToolCallPart(call_id, flat_name_of(item.name, item.namespace), arguments)


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
