"""The Anthropic dialect's wire types. Unknown fields are ignored, explicit nulls stand for absence."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

MAX_TOKENS = 2**31 - 1

TokenLimit = Annotated[int, Meta(ge=0, le=MAX_TOKENS)]
UnitInterval = Annotated[float, Meta(ge=0, le=1)]


class CacheControl(Struct):
    """Asks to keep the prefix that ends here."""

    type: Literal["ephemeral"] = "ephemeral"
    ttl: Literal["5m", "1h"] | None = None


class TextBlock(Struct, tag_field="type", tag="text"):
    """Plain text."""

    text: str
    cache_control: CacheControl | None = None


class ImageBlock(Struct, tag_field="type", tag="image"):
    """An image; refused where the user asks about it, replaced by words elsewhere."""

    source: Any = None
    cache_control: CacheControl | None = None


class DocumentBlock(Struct, tag_field="type", tag="document"):
    """A document; accepted only if it is text."""

    source: Any = None
    title: str | None = None
    context: str | None = None
    cache_control: CacheControl | None = None


class SearchResultBlock(Struct, tag_field="type", tag="search_result"):
    """A search result that the client found."""

    source: str = ""
    title: str = ""
    content: list[TextBlock] = []
    cache_control: CacheControl | None = None


class ToolReferenceBlock(Struct, tag_field="type", tag="tool_reference"):
    """A tool's name inside a tool result."""

    tool_name: str = ""


class ToolUseBlock(Struct, tag_field="type", tag="tool_use"):
    """A call that the model made; `input` may be the JSON text of an object."""

    id: str
    name: str
    input: dict[str, Any] | str | None = None
    cache_control: CacheControl | None = None


ResultContent = TextBlock | ImageBlock | DocumentBlock | SearchResultBlock | ToolReferenceBlock


class ToolResultBlock(Struct, tag_field="type", tag="tool_result"):
    """The result of a tool."""

    tool_use_id: str
    content: str | list[ResultContent] | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None


class ThinkingBlock(Struct, tag_field="type", tag="thinking"):
    """The model's earlier thinking, sent back."""

    thinking: str = ""
    signature: str | None = None
    cache_control: CacheControl | None = None


class RedactedThinkingBlock(Struct, tag_field="type", tag="redacted_thinking"):
    """Thinking that cannot be read; dropped."""

    data: str | None = None


class ForeignBlock(Struct):
    """A server-side tool's entry in the history; described in words."""

    name: str | None = None
    server_name: str | None = None
    input: Any = None
    content: Any = None
    tool_use_id: str | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None


class ServerToolUse(ForeignBlock, tag_field="type", tag="server_tool_use"):
    """A call of a tool that runs at Anthropic."""


class WebSearchResult(ForeignBlock, tag_field="type", tag="web_search_tool_result"):
    """The results of a web search."""


class WebFetchResult(ForeignBlock, tag_field="type", tag="web_fetch_tool_result"):
    """The content of a fetched page."""


class CodeExecutionResult(ForeignBlock, tag_field="type", tag="code_execution_tool_result"):
    """The output of code that ran at Anthropic."""


class BashExecutionResult(ForeignBlock, tag_field="type", tag="bash_code_execution_tool_result"):
    """The output of a command that ran at Anthropic."""


class EditorExecutionResult(ForeignBlock, tag_field="type", tag="text_editor_code_execution_tool_result"):
    """The result of an edit at Anthropic."""


class ToolSearchResult(ForeignBlock, tag_field="type", tag="tool_search_tool_result"):
    """Tools that a search found."""


class McpToolUse(ForeignBlock, tag_field="type", tag="mcp_tool_use"):
    """A call of a tool of an MCP server that Anthropic was connected to."""


class McpToolResult(ForeignBlock, tag_field="type", tag="mcp_tool_result"):
    """The result of such a tool."""


class ContainerUpload(ForeignBlock, tag_field="type", tag="container_upload"):
    """A file in a container at Anthropic."""


class Compaction(ForeignBlock, tag_field="type", tag="compaction"):
    """A summary that stands for the conversation before it."""


ContentBlock = (
    TextBlock
    | ImageBlock
    | DocumentBlock
    | SearchResultBlock
    | ToolUseBlock
    | ToolResultBlock
    | ThinkingBlock
    | RedactedThinkingBlock
    | ServerToolUse
    | WebSearchResult
    | WebFetchResult
    | CodeExecutionResult
    | BashExecutionResult
    | EditorExecutionResult
    | ToolSearchResult
    | McpToolUse
    | McpToolResult
    | ContainerUpload
    | Compaction
)


class InputMessage(Struct):
    """One turn of the conversation; `system` may stand in the middle of it."""

    role: Literal["user", "assistant", "system"]
    content: str | list[ContentBlock]


class Tool(Struct):
    """A client tool; server tools (any other type) are refused."""

    name: str = ""
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None
    cache_control: CacheControl | None = None


class ToolChoice(Struct):
    """Constraint on tool use: whether a tool must be called, and which."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Struct):
    """Thinking mode and its token budget."""

    type: str
    budget_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKENS)] | None = None


class OutputFormat(Struct):
    """A schema the answer must follow."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(Struct):
    """Effort and form of the answer."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class Metadata(Struct):
    """The client's user."""

    user_id: str | None = None


class Diagnostics(Struct):
    """Asks why a prompt left the cache, compared with an earlier message."""

    previous_message_id: str | None = None


class Conversation(Struct):
    """The common fields of counting tokens and creating a message."""

    model: str
    messages: Annotated[list[InputMessage], Meta(min_length=1)]
    system: str | list[TextBlock] | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    """The old place of `output_config.format`."""
    context_management: Any = None
    """Asks Anthropic to take old thoughts or tool results out of long prompts. Nothing is: the answer says so."""
    cache_control: CacheControl | None = None
    mcp_servers: list[Any] | None = None
    temperature: UnitInterval | None = None
    top_p: UnitInterval | None = None
    top_k: Annotated[int, Meta(ge=-1, le=MAX_TOKENS)] | None = None


class CountTokensRequest(Conversation):
    """Body of `POST /v1/messages/count_tokens`."""


class MessagesRequest(Conversation, kw_only=True):
    """Body of `POST /v1/messages`."""

    max_tokens: TokenLimit
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    diagnostics: Diagnostics | None = None


class CountTokensResponse(Struct):
    """Answer of `POST /v1/messages/count_tokens`."""

    input_tokens: int
    context_management: dict[str, Any] | UnsetType = UNSET


class CacheCreation(Struct):
    """The lifetimes of newly cached tokens."""

    ephemeral_5m_input_tokens: int = 0
    ephemeral_1h_input_tokens: int = 0


class OutputTokensDetails(Struct):
    """Breakdown of the output tokens: thinking."""

    thinking_tokens: int = 0


class Usage(Struct):
    """Input is the sum of three: read from the cache, kept in it on request, and the rest."""

    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation: CacheCreation = field(default_factory=CacheCreation)
    output_tokens_details: OutputTokensDetails = field(default_factory=OutputTokensDetails)
    service_tier: str = "standard"


class Message(Struct):
    """Answer of `POST /v1/messages`."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: str | None
    stop_sequence: str | None
    usage: Usage
    diagnostics: dict[str, Any] | None = None
    context_management: dict[str, Any] | UnsetType = UNSET
    """There where the request has it."""
