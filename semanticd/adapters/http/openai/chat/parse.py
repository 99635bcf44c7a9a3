"""From an OpenAI chat request to a `GenerationRequest`: pure; refuses features that this server does not have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from semanticd.adapters.http.core.adjustments import Adjustments, Speaker, asked_now
from semanticd.adapters.http.core.arguments import read_arguments
from semanticd.adapters.http.openai.chat import wire
from semanticd.adapters.http.openai.constraint import constraint_of
from semanticd.adapters.http.openai.sampling import retention_s, sampling_of, token_limit
from semanticd.domain.chat import (
    RESERVED_TEMPLATE_OPTIONS,
    ChatPrompt,
    Message,
    Part,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
    ToolSpec,
    join_texts,
)
from semanticd.domain.errors import InvalidRequestError, UnsupportedError
from semanticd.domain.generation import GenerationRequest, Priority
from semanticd.domain.ids import AgentId, RequestId


def parse(
    body: wire.ChatRequest,
    *,
    request_id: RequestId,
    agent_id: AgentId | None,
    priority: Priority,
    adjustments: Adjustments | None = None,
) -> GenerationRequest:
    """Return the client's request.

    Raises:
        InvalidRequestError: the request contradicts itself.
        UnsupportedError: it asks for images, audio, or tools that are not functions.
    """
    if body.functions:
        raise UnsupportedError("functions were replaced by tools; send tools", param="functions")
    if body.modalities and body.modalities != ["text"]:
        raise UnsupportedError("this server answers in text only", param="modalities")
    if body.top_logprobs and not body.logprobs:
        raise InvalidRequestError("needs logprobs to be true", param="top_logprobs")
    adjustments = adjustments or Adjustments()
    if body.web_search_options is not None:
        adjustments.note("web_search_omitted")
    tools = read_tools(body.tools or [])
    messages = _Reader(adjustments).read(body.messages)
    return GenerationRequest(
        request_id=request_id,
        model=body.model,
        prompt=ChatPrompt(
            messages=messages,
            tools=tools,
            tool_choice=_tool_choice(body.tool_choice, tools, parallel=body.parallel_tool_calls is not False),
            continues=body.continue_final_message is not False,
            template_options=_template_options(body),
        ),
        sampling=sampling_of(
            body,
            max_tokens=token_limit(body.max_completion_tokens, "max_completion_tokens")
            or token_limit(body.max_tokens, "max_tokens"),
            logprobs=bool(body.logprobs),
            top_logprobs=body.top_logprobs or 0,
        ),
        agent_id=agent_id,
        priority=priority,
        constraint=constraint_of(body),
        num_choices=body.n or 1,
        cache_ttl_s=retention_s(body.prompt_cache_retention),
        adjustments=adjustments.words,
    )


def _template_options(body: wire.ChatRequest) -> dict[str, Any]:
    options: dict[str, Any] = dict(body.chat_template_kwargs or {})
    reserved = sorted(options.keys() & RESERVED_TEMPLATE_OPTIONS)
    if reserved:
        raise InvalidRequestError(
            "is not an option of the chat template: it follows from the request's own fields (messages, tools, "
            "continue_final_message)",
            param=f"chat_template_kwargs.{reserved[0]}",
        )
    if body.reasoning_effort is not None:
        options["reasoning_effort"] = body.reasoning_effort
        options.setdefault("enable_thinking", body.reasoning_effort not in ("none", "minimal"))
    return options


def _speaker(message: wire.ChatMessage) -> Speaker:
    if message.role in ("user", "assistant"):
        return message.role
    return "tool" if message.role in ("tool", "function") else "system"


class _Reader:
    """Reads the messages of one request."""

    def __init__(self, adjustments: Adjustments) -> None:
        self._adjustments = adjustments
        self._asked = False

    def read(self, messages: Sequence[wire.ChatMessage]) -> tuple[Message, ...]:
        """Return the conversation."""
        asked = asked_now([_speaker(message) for message in messages])
        made = []
        for index, message in enumerate(messages):
            self._asked = index == asked
            made.append(self._message(message, f"messages.{index}"))
        return tuple(made)

    def _message(self, message: wire.ChatMessage, path: str) -> Message:
        if message.role in ("tool", "function"):
            call_id = message.tool_call_id or message.name
            if not call_id:
                raise InvalidRequestError("field required", param=f"{path}.tool_call_id")
            text = join_texts([part.text for part in self._parts(message.content or "", path)])
            return Message("tool", (ToolResultPart(call_id, text),))
        if message.role == "assistant":
            return Message("assistant", tuple(self._assistant_parts(message, path)))
        if message.content is None:
            raise InvalidRequestError("field required", param=f"{path}.content")
        return Message("user" if message.role == "user" else "system", self._parts(message.content, path))

    def _assistant_parts(self, message: wire.ChatMessage, path: str) -> list[Part]:
        parts: list[Part] = []
        thinking = message.reasoning_content or message.reasoning
        if thinking and isinstance(thinking, str):
            parts.append(ThinkingPart(thinking))
        parts.extend(self._parts(message.content or message.refusal or "", path))
        for number, call in enumerate(message.tool_calls or []):
            if call.function is None:
                raise UnsupportedError(
                    "only function calls are supported", param=f"{path}.tool_calls.{number}"
                )
            parts.append(
                ToolCallPart(
                    call.id or call.function.name, call.function.name, read_arguments(call.function.arguments)
                )
            )
        if message.function_call is not None and not message.tool_calls:
            # A result in the old form names the function instead of the call.
            name = message.function_call.name
            parts.append(ToolCallPart(name, name, read_arguments(message.function_call.arguments)))
        return parts

    def _parts(self, content: str | list[wire.Content], path: str) -> tuple[TextPart, ...]:
        if isinstance(content, str):
            return (TextPart(content),) if content else ()
        return tuple(
            TextPart(self._words(part, f"{path}.content.{number}")) for number, part in enumerate(content)
        )

    def _words(self, part: wire.Content, path: str) -> str:
        if isinstance(part, wire.TextContent):
            return part.text
        if isinstance(part, wire.RefusalContent):
            return part.refusal
        name = ""
        if isinstance(part, wire.FileContent):
            kind = "file"
            name = str(part.file.get("filename") or "") if isinstance(part.file, dict) else ""
        else:
            kind = "image" if isinstance(part, wire.ImageContent) else "audio"
        return self._adjustments.omit(kind, name=name, path=path, asked=self._asked)


def read_tools(tools: list[wire.Tool]) -> tuple[ToolSpec, ...]:
    """Return the tools offered.

    Raises:
        InvalidRequestError: Two tools have one name.
        UnsupportedError: A tool is not a function.
    """
    specs: list[ToolSpec] = []
    names: set[str] = set()
    for index, tool in enumerate(tools):
        if tool.type != "function":
            raise UnsupportedError(
                f"tools of type {tool.type!r} are not supported", param=f"tools.{index}.type"
            )
        function = tool.function
        if function is None or not function.name:
            raise InvalidRequestError("field required", param=f"tools.{index}.function.name")
        if function.name in names:
            raise InvalidRequestError("tool names must be unique", param=f"tools.{index}.function.name")
        names.add(function.name)
        parameters = function.parameters or {"type": "object", "properties": {}}
        specs.append(ToolSpec(function.name, function.description or "", parameters, bool(function.strict)))
    return tuple(specs)


def _tool_choice(
    choice: str | wire.ToolChoiceObject | None, tools: tuple[ToolSpec, ...], *, parallel: bool
) -> ToolChoice:
    if choice is None or choice == "auto":
        return ToolChoice("auto", parallel=parallel)
    if choice == "none":
        return ToolChoice("none", parallel=parallel)
    if choice == "required":
        return checked_choice(ToolChoice("required", parallel=parallel), tools)
    if isinstance(choice, str):
        raise InvalidRequestError("expected none, auto, required or an object", param="tool_choice")
    if choice.type == "function" and choice.function is not None:
        return checked_choice(ToolChoice("required", (choice.function.name,), parallel), tools)
    if choice.type == "allowed_tools" and choice.allowed_tools is not None:
        allowed = choice.allowed_tools
        names = tuple(tool.function.name if tool.function else tool.name or "" for tool in allowed.tools)
        return checked_choice(ToolChoice(allowed.mode, names, parallel), tools)
    raise UnsupportedError("expected a function or allowed_tools", param="tool_choice.type")


def checked_choice(choice: ToolChoice, tools: tuple[ToolSpec, ...]) -> ToolChoice:
    """Return the choice if the tools that it names, or at least any tools, are offered."""
    if choice.mode == "required" and not tools:
        raise InvalidRequestError("needs tools to choose from", param="tool_choice")
    offered = {tool.name for tool in tools}
    for name in choice.names:
        if name not in offered:
            raise InvalidRequestError(f"there is no tool named {name[:80]!r}", param="tool_choice")
    return choice
