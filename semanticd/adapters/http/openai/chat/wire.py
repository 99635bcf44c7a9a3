"""The OpenAI chat dialect's wire types. Unknown fields are ignored, explicit nulls stand for absence."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from semanticd.adapters.http.openai.sampling import Effort, Sampled, TokenLimit, Verbosity
from semanticd.adapters.http.openai.usage import CompletionUsage


class TextContent(Struct, tag_field="type", tag="text"):
    """Plain text."""

    text: str


class RefusalContent(Struct, tag_field="type", tag="refusal"):
    """An earlier refusal, sent back."""

    refusal: str


class ImageContent(Struct, tag_field="type", tag="image_url"):
    """An image; refused where the user asks about it, replaced by words elsewhere."""

    image_url: Any = None


class AudioContent(Struct, tag_field="type", tag="input_audio"):
    """Audio; see `ImageContent`."""

    input_audio: Any = None


class FileContent(Struct, tag_field="type", tag="file"):
    """A file; see `ImageContent`."""

    file: Any = None


Content = TextContent | RefusalContent | ImageContent | AudioContent | FileContent


class FunctionCall(Struct):
    """A function's name and its arguments: JSON text, or the object itself."""

    name: str
    arguments: str | dict[str, Any] | None = None


class ToolCall(Struct):
    """A call that the model made; some clients send no `id`."""

    id: str | None = None
    function: FunctionCall | None = None
    type: str | None = None


class ChatMessage(Struct):
    """One message of any role."""

    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    content: str | list[Content] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: Any = None
    """The same, as other servers and their clients call it."""
    function_call: FunctionCall | None = None
    """The one call of an assistant, in the form before `tool_calls`."""
    refusal: str | None = None


class Function(Struct):
    """A function the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Struct):
    """A tool; only functions are offered here."""

    type: str
    function: Function | None = None


class FunctionName(Struct):
    """A function by name."""

    name: str


class AllowedTool(Struct):
    """One of the tools that `allowed_tools` leaves."""

    type: str
    function: FunctionName | None = None
    name: str | None = None


class AllowedTools(Struct):
    """Tools the model may choose from, and whether it must."""

    mode: Literal["auto", "required"]
    tools: list[AllowedTool]


class ToolChoiceObject(Struct):
    """A named function, or a set of allowed tools."""

    type: str
    function: FunctionName | None = None
    allowed_tools: AllowedTools | None = None


class ChatRequest(Sampled, kw_only=True):
    """Body of `POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    max_tokens: TokenLimit | None = None
    max_completion_tokens: TokenLimit | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: list[Tool] | None = None
    tool_choice: str | ToolChoiceObject | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Effort | None = None
    verbosity: Verbosity | None = None
    continue_final_message: bool | None = None
    """Whether an assistant's text that stands last is continued (the default), as vLLM calls it."""
    chat_template_kwargs: dict[str, Any] | None = None
    modalities: list[str] | None = None
    functions: list[Any] | None = None
    web_search_options: Any = None
    """Asks OpenAI to search the web; left out here, and the answer says so."""
    metadata: Any = None
    """The client's own words on the completion. Some send what OpenAI would refuse: that is not sent back."""


class AnswerMessage(Struct, omit_defaults=True):
    """The assistant's message in an answer."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    tool_calls: list[dict[str, Any]] | None = None
    reasoning_content: str | None = None


class ChatChoice(Struct):
    """One complete answer."""

    index: int
    message: AnswerMessage
    logprobs: dict[str, Any] | None
    finish_reason: str


class ChatCompletion(Struct):
    """Answer of `POST /v1/chat/completions`."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: CompletionUsage
    system_fingerprint: str | None = None
    service_tier: str | UnsetType = UNSET
    metadata: dict[str, str] | UnsetType = UNSET
    """Both are there where the request has them."""
