"""The OpenAI responses dialect's wire types. Unknown fields are ignored, explicit nulls stand for absence."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from semanticd.adapters.http.openai.constraint import Formed
from semanticd.adapters.http.openai.sampling import (
    MAX_TOKENS,
    Effort,
    Penalty,
    Retention,
    ServiceTier,
    Temperature,
    TokenLimit,
    TopP,
    Verbosity,
)

Includable = Literal[
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
]


class Tool(Struct):
    """A tool: function, custom, a namespace of both, or one that runs at OpenAI."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    tools: list[Tool] | None = None
    format: Any = None
    """A custom tool's form of input."""


class ToolChoice(Struct):
    """A named tool, or a set of allowed ones."""

    type: str
    name: str | None = None
    mode: Literal["auto", "required"] | None = None
    tools: list[Tool] | None = None


class TextFormat(Struct):
    """The form that the answer must have."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class TextConfig(Struct):
    """Settings of the answer's text."""

    format: TextFormat | None = None
    verbosity: Verbosity | None = None


class Reasoning(Struct):
    """Settings of the thinking."""

    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None
    """The old name of `summary`."""


class InputContent(Struct):
    """A part of an input message."""

    type: str
    text: str | None = None
    refusal: str | None = None
    filename: str | None = None


class InputItem(Struct):
    """An item of the conversation; `type` may be missing for messages."""

    type: str | None = None
    id: str | None = None
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | list[InputContent] | None = None
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    arguments: str | dict[str, Any] | None = None
    input: str | None = None
    output: Any = None
    summary: list[InputContent] | None = None
    encrypted_content: str | None = None
    tools: list[Tool] | None = None
    action: Any = None
    """Action of a shell, computer or search call; like the fields below, only on calls that ran elsewhere."""
    operation: Any = None
    queries: Any = None
    results: Any = None
    code: str | None = None
    outputs: Any = None
    server_label: str | None = None
    error: Any = None
    approve: bool | None = None
    reason: str | None = None


class PromptCacheOptions(Struct):
    """Minimum retention of a prompt, and the response to compare it with."""

    mode: Literal["implicit", "explicit"] | None = None
    ttl: Literal["30m", "12h"] | None = None
    comparison_response_id: str | None = None


class ResponsesRequest(Formed, kw_only=True):
    """Body of `POST /v1/responses`."""

    model: str
    input: str | list[InputItem]
    instructions: str | None = None
    stream: bool | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    max_output_tokens: TokenLimit | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    tools: list[Tool] | None = None
    tool_choice: str | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: Annotated[int, Meta(ge=1, le=MAX_TOKENS)] | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: PromptCacheOptions | None = None
    prompt_cache_retention: Retention | None = None
    service_tier: ServiceTier | None = None
    truncation: Literal["auto", "disabled"] | None = None
    include: list[Includable] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    safety_identifier: str | None = None
    background: bool | None = None
    conversation: Any = None
    prompt: Any = None


class InputTokensRequest(ResponsesRequest, kw_only=True):
    """Body of `POST /v1/responses/input_tokens`: as for a response, but all of it may be left out."""

    model: str = ""
    input: str | list[InputItem] = field(default_factory=list)


class InputTokens(Struct):
    """Answer of `POST /v1/responses/input_tokens`."""

    input_tokens: int
    object: Literal["response.input_tokens"] = "response.input_tokens"


class CompactRequest(ResponsesRequest, kw_only=True):
    """Body of `POST /v1/responses/compact`: as for a response, whose conversation is summed up instead."""

    input: str | list[InputItem] = field(default_factory=list)


class InputTokensDetails(Struct):
    """Breakdown of the input tokens: read from the cache, and newly cached."""

    cached_tokens: int
    cache_write_tokens: int


class OutputTokensDetails(Struct):
    """Breakdown of the output tokens: thinking."""

    reasoning_tokens: int


class ResponseUsage(Struct):
    """Tokens in and out."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class CompactedResponse(Struct):
    """Answer of `POST /v1/responses/compact`: items that stand for the conversation from now on."""

    id: str
    created_at: int
    output: list[dict[str, Any]]
    usage: ResponseUsage
    object: Literal["response.compaction"] = "response.compaction"


class Response(Struct, kw_only=True):
    """Answer of `POST /v1/responses`, also inside lifecycle events."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    completed_at: int | None = None
    background: bool = False
    error: dict[str, Any] | None = None
    incomplete_details: dict[str, Any] | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    model: str
    output: list[dict[str, Any]]
    parallel_tool_calls: bool
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    previous_response_id: str | None = None
    prompt_cache_key: str | None = None
    reasoning: dict[str, Any]
    safety_identifier: str | None = None
    service_tier: str = "default"
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: Any
    tools: list[dict[str, Any]]
    top_logprobs: int = 0
    top_p: float
    truncation: Literal["auto", "disabled"] = "disabled"
    usage: ResponseUsage | None = None
    prompt_cache_options: dict[str, Any] | UnsetType = UNSET
    prompt_cache_diagnostics: dict[str, Any] | UnsetType = UNSET
    prompt_cache_retention: str | UnsetType = UNSET
    """The three are there where the request has them."""
    user: str | None = None
    metadata: dict[str, str]
