"""The Direct Agent API: wire types and their translation. Nulls stand for absence."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from semanticd.adapters.http.core import errors
from semanticd.adapters.http.core.arguments import read_arguments
from semanticd.adapters.http.core.body import check_metadata
from semanticd.adapters.http.core.sse import COMMENT_PING, frame
from semanticd.domain.agent import AgentConfig
from semanticd.domain.agent_bounds import MAX_TTL_S, MIN_TTL_S
from semanticd.domain.chat import (
    ChatPrompt,
    Message,
    Part,
    TextPart,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
    ToolSpec,
)
from semanticd.domain.errors import InvalidRequestError, SemanticError
from semanticd.domain.generation import (
    Finished,
    GenerationEvent,
    GenerationRequest,
    GenerationResult,
    OutputConstraint,
    Priority,
    SamplingParams,
    Started,
    TextDelta,
    ThinkingDelta,
    ToolCallBroken,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from semanticd.domain.ids import AgentId, RequestId

MAX = 2**31 - 1
Seconds = Annotated[float, Meta(ge=MIN_TTL_S, le=MAX_TTL_S)]


class AgentTool(Struct):
    """A tool the agent may call; `parameters`, or `input_schema` as in Messages, is a JSON schema of type object."""

    name: Annotated[str, Meta(min_length=1)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None


class CreateAgent(Struct):
    """Body of `POST /v1/agents`; everything is optional."""

    id: str | None = None
    model: str | None = None
    system: str | None = None
    tools: list[AgentTool] | None = None
    ttl: Seconds | None = None
    """Seconds without use after which the agent is deleted."""
    ttl_s: Seconds | None = None
    """The same, by the name that it has in the agent's facts."""
    pin: bool | None = None
    priority: Priority | None = None
    metadata: dict[str, str] | None = None


class Call(Struct):
    """A call that the model made."""

    id: str
    name: str
    arguments: dict[str, Any] | str | None = None


class AgentMessage(Struct):
    """One message; a `tool` message answers the call `tool_call_id`."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None
    is_error: bool | None = None


class AnswerFormat(Struct):
    """The form that the answer must have."""

    type: Literal["text", "json_object", "json_schema", "regex"]
    schema: dict[str, Any] | None = None
    pattern: str | None = None


class Generate(Struct):
    """Body of `POST /v1/agents/{id}/generate`: a prompt, or new messages that follow those kept here.

    Neither: the question that stands last in the conversation is answered.
    """

    prompt: str | None = None
    messages: list[AgentMessage] | None = None
    model: str | None = None
    stream: bool | None = None
    max_tokens: Annotated[int, Meta(ge=-1, le=MAX)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=MAX)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=100)] | None = None
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    stop: list[str] | None = None
    tool_choice: Literal["auto", "none", "required"] | None = None
    format: AnswerFormat | None = None


class Fork(Struct):
    """Body of `POST /v1/agents/{id}/fork`."""

    id: str | None = None


class Rewind(Struct):
    """Body of `POST /v1/agents/{id}/rewind`."""

    turns: Annotated[int, Meta(ge=1, le=MAX)] = 1


class Pin(Struct):
    """Body of `POST /v1/agents/{id}/pin`; without a time (`ttl` or `ttl_s`) the pin stays."""

    ttl: Seconds | None = None
    ttl_s: Seconds | None = None


class AgentList(Struct):
    """Answer of `GET /v1/agents`."""

    data: list[dict[str, Any]]
    has_more: bool
    next: str | None = None
    requests: list[dict[str, Any]] = []
    """With the first page: requests that run or wait, of agents too that are listed once their first turn has ended."""


class Generated(Struct):
    """Answer of `POST /v1/agents/{id}/generate`."""

    agent_id: str
    request_id: str
    model: str
    text: str
    thinking: str
    tool_calls: list[Call]
    finish_reason: str
    stop_sequence: str | None
    usage: dict[str, Any]
    unsaved: bool = False
    """Whether the turn is in memory only: the disk refused it, or is not done in time."""


def parse_create(body: CreateAgent) -> AgentConfig:
    """Return the settings that the client fixes for the agent's life."""
    check_metadata(body.metadata)
    tools = body.tools or []
    if len({tool.name for tool in tools}) != len(tools):
        raise InvalidRequestError("tool names must be unique", param="tools")
    return AgentConfig(
        model=body.model,
        system=body.system,
        tools=tuple(_tool(tool, index) for index, tool in enumerate(tools)),
        ttl_s=body.ttl_s or body.ttl,
        priority=body.priority or "interactive",
        metadata=body.metadata or {},
    )


def _tool(tool: AgentTool, index: int) -> ToolSpec:
    schema = tool.input_schema if tool.parameters is None else tool.parameters
    if tool.input_schema is not None and schema != tool.input_schema:
        raise InvalidRequestError(
            "contradicts `input_schema`: send the schema once", param=f"tools.{index}.parameters"
        )
    return ToolSpec(tool.name, tool.description or "", schema or {"type": "object"}, bool(tool.strict))


def parse_generate(
    body: Generate, *, agent_id: AgentId, request_id: RequestId, priority: Priority
) -> GenerationRequest:
    """Return the request; its prompt holds the new messages only, if any: the agent's own come before them."""
    if body.max_tokens == 0:
        raise InvalidRequestError("expected a number >= 1, or -1 for no limit of its own", param="max_tokens")
    if body.prompt is not None and body.messages is not None:
        raise InvalidRequestError("send either prompt or messages", param="prompt")
    if body.prompt == "":
        raise InvalidRequestError("expected some text", param="prompt")
    messages: tuple[Message, ...] = ()
    if body.prompt is not None:
        messages = (Message.of("user", body.prompt),)
    elif body.messages is not None:
        if not body.messages:
            raise InvalidRequestError("expected at least one message", param="messages")
        messages = tuple(
            _message(message, f"messages.{index}") for index, message in enumerate(body.messages)
        )
    return GenerationRequest(
        request_id=request_id,
        model=body.model or "",
        prompt=ChatPrompt(messages, tool_choice=ToolChoice(body.tool_choice or "auto")),
        sampling=SamplingParams.of(
            max_tokens=None if body.max_tokens == -1 else body.max_tokens,
            temperature=body.temperature,
            top_p=body.top_p,
            top_k=0 if body.top_k == -1 else body.top_k,
            min_p=body.min_p,
            repetition_penalty=body.repetition_penalty,
            seed=body.seed,
            stop=tuple(stop for stop in body.stop or [] if stop),
        ),
        agent_id=agent_id,
        priority=priority,
        constraint=_constraint(body.format),
        conversation=True,
    )


def _message(message: AgentMessage, path: str) -> Message:
    if message.role == "tool":
        if not message.tool_call_id:
            raise InvalidRequestError("field required", param=f"{path}.tool_call_id")
        return Message(
            "tool", (ToolResultPart(message.tool_call_id, message.content or "", bool(message.is_error)),)
        )
    parts: list[Part] = [TextPart(message.content)] if message.content else []
    if message.tool_calls:
        if message.role != "assistant":
            raise InvalidRequestError("only assistant messages call tools", param=f"{path}.tool_calls")
        parts += [
            ToolCallPart(call.id, call.name, read_arguments(call.arguments)) for call in message.tool_calls
        ]
    if not parts:
        raise InvalidRequestError(
            "field required" if message.content is None else "expected some text", param=f"{path}.content"
        )
    return Message(message.role, tuple(parts))


def _constraint(form: AnswerFormat | None) -> OutputConstraint | None:
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return OutputConstraint(kind="json_object", param="format")
    if form.type == "regex":
        if not form.pattern:
            raise InvalidRequestError("field required", param="format.pattern")
        return OutputConstraint(kind="regex", grammar=form.pattern, param="format.pattern")
    if form.schema is None:
        raise InvalidRequestError("field required", param="format.schema")
    return OutputConstraint(kind="json_schema", schema=form.schema, param="format.schema")


def render_usage(usage: Usage) -> dict[str, Any]:
    """Return tokens, savings of the cache, the miss if there was one, and durations in milliseconds."""
    cache, timings = usage.cache, usage.timings
    shown: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "cache": {
            "reused_hot_tokens": cache.reused_hot_tokens,
            "restored_warm_tokens": cache.restored_warm_tokens,
            "computed_tokens": cache.computed_tokens,
            "tier": cache.tier,
            "miss": None,
            "canonicalized": list(cache.canonicalized),
        },
        "timings": {
            name: round(getattr(timings, name), 3) if math.isfinite(getattr(timings, name)) else None
            for name in ("queue_ms", "restore_ms", "prefill_ms", "ttft_ms", "decode_ms", "total_ms")
        },
    }
    if cache.miss is not None:
        miss = cache.miss
        shown["cache"]["miss"] = {
            "position": miss.position,
            "cause": miss.cause,
            "expected": miss.expected,
            "found": miss.found,
        }
    return shown


def render(result: GenerationResult) -> Generated:
    """Return the whole answer."""
    choice = result.choices[0]
    return Generated(
        agent_id=result.agent_id,
        request_id=result.request_id,
        model=result.model,
        text=choice.text,
        thinking=choice.thinking,
        tool_calls=[
            Call(call.call_id, call.name, dict(call.arguments) if call.cut is None else call.cut)
            for call in choice.tool_calls
        ],
        finish_reason=choice.reason.value,
        stop_sequence=choice.stop_sequence,
        usage=render_usage(result.usage),
        unsaved=result.usage.is_unsaved,
    )


class AgentStream:
    """Renders events: started, text, thinking, tool_call, tool_arguments, finished and error."""

    ping = COMMENT_PING

    def render(self, event: GenerationEvent) -> bytes:
        """Return the frame for one event."""
        if isinstance(event, Started):
            started = {"request_id": event.request_id, "agent_id": event.agent_id, "model": event.model}
            return frame(started, event="started")
        if isinstance(event, TextDelta):
            return frame({"text": event.text}, event="text") if event.text else b""
        if isinstance(event, ThinkingDelta):
            return frame({"text": event.text}, event="thinking")
        if isinstance(event, ToolCallStarted):
            return frame({"index": event.index, "id": event.call_id, "name": event.name}, event="tool_call")
        if isinstance(event, ToolCallDelta):
            return frame({"index": event.index, "arguments": event.arguments}, event="tool_arguments")
        if isinstance(event, ToolCallBroken):
            # Its beginning was sent; the end says by its reason that no call is to be answered.
            return b""
        return self._finished(event)

    def _finished(self, event: Finished) -> bytes:
        end = {
            "finish_reason": event.reason.value,
            "stop_sequence": event.stop_sequence,
            "usage": render_usage(event.usage),
            "unsaved": event.usage.is_unsaved,
        }
        return frame(end, event="finished")

    def finish(self) -> bytes:
        """Nothing follows `finished`."""
        return b""

    def fail(self, error: SemanticError) -> bytes:
        """Return the error event."""
        return frame(errors.body(error, "openai", request_id=""), event="error")
