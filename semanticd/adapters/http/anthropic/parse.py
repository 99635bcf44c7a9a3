"""From an Anthropic request to a `GenerationRequest`: pure; refuses features that this server does not have."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from semanticd.adapters.http.anthropic import wire
from semanticd.adapters.http.anthropic.client_tools import client_tool
from semanticd.adapters.http.core.adjustments import Adjustments, Speaker, asked_now
from semanticd.adapters.http.core.arguments import read_arguments
from semanticd.domain.chat import (
    ChatPrompt,
    Message,
    Part,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
    ToolSpec,
)
from semanticd.domain.errors import InvalidRequestError, UnsupportedError
from semanticd.domain.generation import GenerationRequest, OutputConstraint, Priority, SamplingParams
from semanticd.domain.ids import AgentId, RequestId

STRICT_SINCE = "2026-10-21"
"""From this API version on, sampling parameters are refused."""

_TTL_S = {"5m": 300.0, "1h": 3600.0}


def parse(
    body: wire.MessagesRequest,
    *,
    request_id: RequestId,
    agent_id: AgentId | None,
    priority: Priority,
    version: str | None,
    adjustments: Adjustments | None = None,
) -> GenerationRequest:
    """Return the client's request.

    Raises:
        InvalidRequestError: the request contradicts itself or the API version.
        UnsupportedError: it asks for images, server tools or the like.
    """
    adjustments = adjustments or Adjustments()
    conversation = read_conversation(body, version=version, adjustments=adjustments)
    if body.thinking and body.thinking.budget_tokens and body.thinking.budget_tokens >= body.max_tokens:
        raise InvalidRequestError("must be less than max_tokens", param="thinking.budget_tokens")
    return GenerationRequest(
        request_id=request_id,
        model=body.model,
        prompt=conversation.prompt,
        sampling=SamplingParams.of(
            max_tokens=body.max_tokens,
            temperature=body.temperature,
            top_p=body.top_p,
            top_k=0 if body.top_k == -1 else body.top_k,
            stop=_stop_sequences(body.stop_sequences or []),
        ),
        agent_id=agent_id,
        priority=priority,
        constraint=_constraint(body),
        cache_breakpoints=conversation.breakpoints,
        cache_ttl_s=conversation.ttl_s,
        thinking_budget=body.thinking.budget_tokens if body.thinking else None,
        adjustments=adjustments.words,
    )


def _stop_sequences(sequences: list[str]) -> tuple[str, ...]:
    for index, sequence in enumerate(sequences):
        if not sequence.strip():
            raise InvalidRequestError(
                "each stop sequence must contain non-whitespace", param=f"stop_sequences.{index}"
            )
    return tuple(sequences)


def _constraint(body: wire.Conversation) -> OutputConstraint | None:
    form, param = (body.output_config.format if body.output_config else None), "output_config.format.schema"
    if form is None:
        form, param = body.output_format, "output_format.schema"
    return None if form is None else OutputConstraint(kind="json_schema", schema=form.schema, param=param)


@dataclass(frozen=True, slots=True)
class ConversationRead:
    """A prompt, and where in it the client asked for the prefix to be kept."""

    prompt: ChatPrompt
    breakpoints: tuple[int, ...] = ()
    ttl_s: float | None = None


@dataclass(slots=True)
class _Breakpoints:
    """Collects `cache_control` marks while messages are made."""

    indices: set[int] = field(default_factory=set)
    ttl_s: float | None = None

    def mark(self, index: int, control: wire.CacheControl | None) -> None:
        """Note a mark after the message at `index`."""
        if control is None:
            return
        self.indices.add(max(index, 0))
        self.ttl_s = max(self.ttl_s or 0.0, _TTL_S[control.ttl or "5m"])


def read_conversation(
    body: wire.Conversation, *, version: str | None, adjustments: Adjustments | None = None
) -> ConversationRead:
    """Return the conversation that both creating and counting look at."""
    _refuse(body, version)
    reader = _Reader(
        version, adjustments or Adjustments(), asked=asked_now([_speaker(m) for m in body.messages])
    )
    marks = _Breakpoints()
    messages: list[Message] = []
    system = _system(body.system, marks)
    if system is not None:
        messages.append(system)
    for index, message in enumerate(body.messages):
        messages.extend(reader.read(message, index, len(messages), marks=marks))
    for tool in body.tools or []:
        marks.mark(0, tool.cache_control)
    marks.mark(len(messages) - 1, body.cache_control)
    tools = _tools(body.tools or [])
    prompt = ChatPrompt(
        messages=tuple(messages),
        tools=tools,
        tool_choice=_tool_choice(body.tool_choice, tools),
        template_options=_template_options(body),
    )
    return ConversationRead(prompt, tuple(sorted(marks.indices)), marks.ttl_s)


def _refuse(body: wire.Conversation, version: str | None) -> None:
    if body.mcp_servers:
        raise UnsupportedError(
            "this server connects to no MCP servers; offer their tools as tools", param="mcp_servers"
        )
    if version is not None and version >= STRICT_SINCE:
        for name in ("temperature", "top_p", "top_k"):
            if getattr(body, name) is not None:
                raise InvalidRequestError(
                    f"not accepted by version {version}; send anthropic-version 2023-06-01 to set it",
                    param=name,
                )
    if body.top_p == 0:
        raise InvalidRequestError("expected a number > 0 and <= 1", param="top_p")


def _template_options(body: wire.Conversation) -> dict[str, Any]:
    kind = body.thinking.type if body.thinking else "disabled"
    if kind not in ("enabled", "disabled", "adaptive", "between_tools"):
        raise InvalidRequestError(
            f"expected enabled, disabled or adaptive, got {kind[:40]!r}", param="thinking.type"
        )
    if kind == "enabled" and body.thinking and body.thinking.budget_tokens is None:
        raise InvalidRequestError("field required", param="thinking.budget_tokens")
    options: dict[str, Any] = {"enable_thinking": kind in ("enabled", "adaptive")}
    if body.output_config and body.output_config.effort:
        options["reasoning_effort"] = body.output_config.effort
    return options


def _system(system: str | list[wire.TextBlock] | None, marks: _Breakpoints) -> Message | None:
    if not system:
        return None
    if isinstance(system, str):
        return Message.of("system", system)
    for block in system:
        marks.mark(0, block.cache_control)
    return Message("system", tuple(TextPart(block.text) for block in system))


def _speaker(message: wire.InputMessage) -> Speaker:
    if message.role == "user" and not isinstance(message.content, str):
        answers = any(isinstance(block, wire.ToolResultBlock) for block in message.content)
        return "tool" if answers else "user"
    return message.role


class _Reader:
    """Reads the messages of one request; `asked` is the index of the one with the user's current question."""

    def __init__(self, version: str | None, adjustments: Adjustments, *, asked: int | None) -> None:
        self._version = version
        self._adjustments = adjustments
        self._asked = asked

    def read(
        self, message: wire.InputMessage, index: int, position: int, *, marks: _Breakpoints
    ) -> list[Message]:
        """Return one or more messages: tool results leave a user turn for messages of their own, in order."""
        if isinstance(message.content, str):
            return [Message.of(message.role, message.content)]
        made: list[tuple[str, list[Part]]] = []
        for number, block in enumerate(message.content):
            path = f"messages.{index}.content.{number}"
            part = self._part(block, path, role=message.role, asked=index == self._asked)
            role = "tool" if isinstance(part, ToolResultPart) else message.role
            if not made or made[-1][0] != role:
                made.append((role, []))
            if part is not None:
                made[-1][1].append(part)
            if not isinstance(block, (wire.RedactedThinkingBlock,)):
                marks.mark(position + len(made) - 1, block.cache_control)
        if not made:
            made.append((message.role, [TextPart("")]))
        return [Message(role, tuple(parts)) for role, parts in made]  # type: ignore[arg-type]

    def _part(self, block: wire.ContentBlock, path: str, *, role: str, asked: bool) -> Part | None:
        if isinstance(block, wire.TextBlock):
            return TextPart(block.text)
        if isinstance(block, wire.ToolResultBlock):
            if role != "user":
                raise InvalidRequestError("tool_result blocks belong into user messages", param=path)
            return ToolResultPart(
                block.tool_use_id, self._result_text(block.content, path), bool(block.is_error)
            )
        if isinstance(block, (wire.ToolUseBlock, wire.ThinkingBlock, wire.RedactedThinkingBlock)):
            if role != "assistant":
                raise InvalidRequestError(
                    "only assistant messages hold tool_use and thinking blocks", param=path
                )
            if isinstance(block, wire.ToolUseBlock):
                return ToolCallPart(block.id, block.name, read_arguments(block.input))
            if isinstance(block, wire.ThinkingBlock):
                return ThinkingPart(block.thinking, block.signature or "")
            return None
        if (
            isinstance(block, wire.DocumentBlock)
            and role == "assistant"
            and (self._version or "") >= STRICT_SINCE
        ):
            raise InvalidRequestError(
                f"version {self._version} accepts no document blocks in assistant messages", param=path
            )
        if isinstance(block, wire.ForeignBlock):
            return TextPart(self._foreign_text(block))
        return TextPart(self._text_of(block, path, asked=asked))

    def _foreign_text(self, block: wire.ForeignBlock) -> str:
        if isinstance(block, wire.Compaction) and isinstance(block.content, str):
            return block.content
        fields = msgspec.to_builtins(block)
        kind = fields.pop("type")
        for plumbing in ("cache_control", "tool_use_id"):
            fields.pop(plumbing)
        return self._adjustments.describe(kind, fields)

    def _result_text(self, content: str | list[wire.ResultContent] | None, path: str) -> str:
        if content is None or isinstance(content, str):
            return content or ""
        return "\n".join(
            self._text_of(block, f"{path}.content.{number}", asked=False)
            for number, block in enumerate(content)
        )

    def _text_of(self, block: wire.ResultContent, path: str, *, asked: bool) -> str:
        """Return a block's text.

        Raises:
            UnsupportedError: The model cannot read the block, and the request is strict about it.
        """
        if isinstance(block, wire.TextBlock):
            return block.text
        if isinstance(block, wire.ToolReferenceBlock):
            return block.tool_name
        if isinstance(block, wire.SearchResultBlock):
            return "\n".join([block.title, block.source, *(inner.text for inner in block.content)]).strip()
        if isinstance(block, wire.DocumentBlock):
            text = _document_text(block)
            if text is None:
                return self._adjustments.omit(
                    "document", name=block.title or "", path=f"{path}.source", asked=asked
                )
            return "\n".join(part for part in (block.title, block.context, text) if part)
        return self._adjustments.omit("image", path=path, asked=asked)


def _document_text(block: wire.DocumentBlock) -> str | None:
    source = block.source if isinstance(block.source, dict) else {}
    kind = source.get("type")
    if kind == "text" and isinstance(source.get("data"), str):
        return str(source["data"])
    if kind == "content":
        inner = source.get("content")
        if isinstance(inner, str):
            return inner
        if isinstance(inner, list) and all(
            isinstance(part, dict) and part.get("type") == "text" for part in inner
        ):
            return "\n".join(str(part.get("text", "")) for part in inner)
    return None


def _tools(tools: list[wire.Tool]) -> tuple[ToolSpec, ...]:
    specs: list[ToolSpec] = []
    names: set[str] = set()
    for index, tool in enumerate(tools):
        path = f"tools.{index}"
        spec = _custom_tool(tool, path) if tool.type in (None, "custom") else _named_tool(tool, path)
        if spec.name in names:
            raise InvalidRequestError("tool names must be unique", param=f"{path}.name")
        names.add(spec.name)
        specs.append(spec)
    return tuple(specs)


def _custom_tool(tool: wire.Tool, path: str) -> ToolSpec:
    if not tool.name:
        raise InvalidRequestError("field required", param=f"{path}.name")
    if tool.input_schema is None:
        raise InvalidRequestError("field required", param=f"{path}.input_schema")
    return ToolSpec(tool.name, tool.description or "", tool.input_schema, bool(tool.strict))


def _named_tool(tool: wire.Tool, path: str) -> ToolSpec:
    spec = client_tool(tool.type or "", tool.name)
    if spec is None:
        needs = "needs images" if str(tool.type).startswith("computer_") else "runs at Anthropic"
        raise UnsupportedError(
            f"a tool of type {str(tool.type)[:40]!r} {needs}; this server offers custom tools and those that clients "
            "run (bash, text_editor, memory)",
            param=f"{path}.type",
        )
    return spec


def _tool_choice(choice: wire.ToolChoice | None, specs: tuple[ToolSpec, ...]) -> ToolChoice:
    if choice is None:
        return ToolChoice()
    parallel = not choice.disable_parallel_tool_use
    if choice.type == "none":
        return ToolChoice("none", parallel=parallel)
    if choice.type == "auto":
        return ToolChoice("auto", parallel=parallel)
    if not specs:
        raise InvalidRequestError(f"type {choice.type!r} needs tools to choose from", param="tool_choice")
    if choice.type == "any":
        return ToolChoice("required", parallel=parallel)
    if choice.name not in {tool.name for tool in specs}:
        raise InvalidRequestError(f"there is no tool named {choice.name!r}", param="tool_choice.name")
    return ToolChoice("required", (str(choice.name),), parallel)
