"""From an Ollama request to a `GenerationRequest`: pure; refuses features that this server does not have."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any

from semanticd.adapters.http.core.adjustments import Adjustments, Speaker, asked_now
from semanticd.adapters.http.core.arguments import read_arguments
from semanticd.adapters.http.ollama import wire
from semanticd.domain.chat import (
    ChatPrompt,
    Message,
    Part,
    Prompt,
    TextPart,
    TextPrompt,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
    ToolSpec,
)
from semanticd.domain.errors import InvalidRequestError, UnsupportedError
from semanticd.domain.generation import GenerationRequest, OutputConstraint, Priority, SamplingParams
from semanticd.domain.ids import AgentId, RequestId
from semanticd.domain.limits import LIMITS

_LATEST = ":latest"


def model_name(name: str | None) -> str:
    """Return the name without the tag that Ollama adds to names without one.

    Raises:
        InvalidRequestError: There is no name.
    """
    if not name:
        raise InvalidRequestError("field required", param="model")
    return name.removesuffix(_LATEST)


def only_loads(body: wire.ChatRequest | wire.GenerateRequest) -> bool:
    """Return whether the request has no prompt: clients send it to load or unload a model."""
    return not body.messages if isinstance(body, wire.ChatRequest) else not body.prompt


def texts_of(given: str | list[str] | None) -> tuple[str, ...]:
    """Return the texts that vectors are wanted of; none where a client asks so that the model be loaded."""
    texts = (given,) if isinstance(given, str) else tuple(given or ())
    if len(texts) > LIMITS.embedding_inputs:
        raise InvalidRequestError(f"expected at most {LIMITS.embedding_inputs} texts", param="input")
    return () if texts == ("",) else texts


def parse(
    body: wire.ChatRequest | wire.GenerateRequest,
    *,
    request_id: RequestId,
    agent_id: AgentId | None,
    priority: Priority,
) -> GenerationRequest:
    """Return the client's request.

    Raises:
        InvalidRequestError: the request contradicts itself.
        UnsupportedError: it asks about images, or for an insertion between two texts.
    """
    adjustments = Adjustments()
    prompt = (
        _conversation(body, adjustments) if isinstance(body, wire.ChatRequest) else _single(body, adjustments)
    )
    if body.keep_alive is not None:
        # The operator decides which models stay in memory.
        adjustments.note("keep_alive_ignored")
    return GenerationRequest(
        request_id=request_id,
        model=model_name(body.model),
        prompt=prompt,
        sampling=_sampling(body.options or wire.Options()),
        agent_id=agent_id,
        priority=priority,
        constraint=_constraint(body.format),
        parse_output=not isinstance(prompt, TextPrompt),
        adjustments=adjustments.words,
    )


def _conversation(body: wire.ChatRequest, adjustments: Adjustments) -> ChatPrompt:
    return ChatPrompt(
        messages=_Reader(adjustments).read(body.messages or []),
        tools=_tools(body.tools or []),
        template_options=_template_options(body.think),
    )


def _single(body: wire.GenerateRequest, adjustments: Adjustments) -> Prompt:
    if body.suffix:
        raise UnsupportedError("texts are continued, not filled in between two; leave it out", param="suffix")
    if body.images:
        adjustments.omit("image", path="images", asked=True)
    if body.context:
        adjustments.note("context_ignored")
    if body.template:
        adjustments.note("template_ignored")
    if body.raw:
        return TextPrompt(body.prompt or "")
    messages = [Message.of("system", body.system)] if body.system else []
    messages.append(Message.of("user", body.prompt or ""))
    return ChatPrompt(tuple(messages), template_options=_template_options(body.think))


def _template_options(think: wire.Think | None) -> dict[str, Any]:
    if think is None:
        return {}
    if isinstance(think, bool):
        return {"enable_thinking": think}
    return {"enable_thinking": True, "reasoning_effort": think}


class _Reader:
    """Reads the messages of one request; results of tools find their calls by name or by order, as they have no ids."""

    def __init__(self, adjustments: Adjustments) -> None:
        self._adjustments = adjustments
        self._asked = False
        self._num_calls = 0
        self._open = _OpenCalls()

    def read(self, messages: Sequence[wire.ChatMessage]) -> tuple[Message, ...]:
        """Return the conversation."""
        speakers: list[Speaker] = [message.role for message in messages]
        asked = asked_now(speakers)
        made = []
        for index, message in enumerate(messages):
            self._asked = index == asked
            made.append(self._message(message, f"messages.{index}"))
        return tuple(made)

    def _message(self, message: wire.ChatMessage, path: str) -> Message:
        content = message.content or ""
        if message.role == "tool":
            return Message("tool", (ToolResultPart(self._call_of(message), content),))
        parts: list[Part] = []
        if message.role == "assistant" and message.thinking:
            parts.append(ThinkingPart(message.thinking))
        parts += [
            TextPart(self._adjustments.omit("image", path=f"{path}.images.{number}", asked=self._asked))
            for number, _ in enumerate(message.images or [])
        ]
        if content:
            parts.append(TextPart(content))
        if message.role == "assistant":
            parts += self._calls(message.tool_calls or [])
        return Message(message.role, tuple(parts))

    def _calls(self, calls: Sequence[wire.ToolCall]) -> list[Part]:
        made: list[Part] = []
        for call in calls:
            self._num_calls += 1
            call_id = call.id or f"call_{self._num_calls}"
            self._open.add(call_id, call.function.name)
            made.append(ToolCallPart(call_id, call.function.name, read_arguments(call.function.arguments)))
        return made

    def _call_of(self, message: wire.ChatMessage) -> str:
        found = self._open.take(message.tool_call_id, message.tool_name)
        return found or message.tool_call_id or message.tool_name or "call"


class _OpenCalls:
    """Calls without a result yet; the cost of each does not depend on their number."""

    def __init__(self) -> None:
        self._ids: dict[int, str] = {}
        """The calls' ids by their numbers."""
        self._in_order: deque[int] = deque()
        self._by_id: defaultdict[str, deque[int]] = defaultdict(deque)
        self._by_name: defaultdict[str, deque[int]] = defaultdict(deque)
        self._num_calls = 0

    def add(self, call_id: str, name: str) -> None:
        """Note a call."""
        self._num_calls += 1
        self._ids[self._num_calls] = call_id
        self._in_order.append(self._num_calls)
        self._by_id[call_id].append(self._num_calls)
        self._by_name[name].append(self._num_calls)

    def take(self, call_id: str | None, name: str | None) -> str | None:
        """Close the first call of this id, else of this name, else of all; returns its id, None where none is open."""
        for numbers in (
            self._by_id.get(call_id) if call_id else None,
            self._by_name.get(name) if name else None,
            self._in_order,
        ):
            number = self._first(numbers)
            if number is not None:
                return self._ids.pop(number)
        return None

    def _first(self, numbers: deque[int] | None) -> int | None:
        while numbers:
            if numbers[0] in self._ids:
                return numbers[0]
            numbers.popleft()  # closed in another way
        return None


def _tools(tools: Sequence[wire.Tool]) -> tuple[ToolSpec, ...]:
    specs: dict[str, ToolSpec] = {}
    for index, tool in enumerate(tools):
        function = tool.function
        if tool.type not in (None, "function"):
            raise UnsupportedError(
                f"tools of type {tool.type[:40]!r} are not supported", param=f"tools.{index}.type"
            )
        if not function.name:
            raise InvalidRequestError("field required", param=f"tools.{index}.function.name")
        if function.name in specs:
            raise InvalidRequestError("tool names must be unique", param=f"tools.{index}.function.name")
        parameters = function.parameters or {"type": "object", "properties": {}}
        specs[function.name] = ToolSpec(function.name, function.description or "", parameters)
    return tuple(specs.values())


def _sampling(options: wire.Options) -> SamplingParams:
    stop = [options.stop] if isinstance(options.stop, str) else options.stop
    longest, window = options.num_predict, options.repeat_last_n
    penalized = window != 0
    return SamplingParams.of(
        max_tokens=longest if longest is not None and longest > 0 else None,
        temperature=options.temperature,
        top_p=options.top_p or None,
        top_k=options.top_k,
        min_p=options.min_p,
        repetition_penalty=options.repeat_penalty if penalized else 1.0,
        penalty_window=window if window is not None and window > 0 else None,
        presence_penalty=options.presence_penalty if penalized else 0.0,
        frequency_penalty=options.frequency_penalty if penalized else 0.0,
        seed=options.seed if options.seed is not None and options.seed >= 0 else None,
        stop=tuple(stop) if stop else None,
    )


def _constraint(form: Any) -> OutputConstraint | None:
    if form is None or form == "":
        return None
    if form == "json":
        return OutputConstraint("json_object", param="format")
    if isinstance(form, dict):
        return OutputConstraint("json_schema", schema=form, param="format")
    raise InvalidRequestError("expected `json` or a JSON schema", param="format")
