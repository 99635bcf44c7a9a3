"""The Ollama dialect's wire types. Unknown fields are ignored, explicit nulls stand for absence."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

Think = bool | Literal["low", "medium", "high"]
INT32 = 2**31 - 1
INT64 = 2**63 - 1
KeepAlive = Annotated[float, Meta(ge=-INT64, le=INT64)] | str
"""Seconds, or Go's nanoseconds; not heeded."""


class Options(Struct, kw_only=True):
    """`options` of sampling. Options of a loaded model (`num_ctx`, `num_gpu`, …) are not read."""

    num_predict: Annotated[int, Meta(ge=-INT32, le=INT32)] | None = None
    """Longest answer in tokens; below 1: what fits."""
    temperature: Annotated[float, Meta(ge=0, le=100)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=INT32)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repeat_penalty: Annotated[float, Meta(gt=0, le=100)] | None = None
    repeat_last_n: Annotated[int, Meta(ge=-INT32, le=INT32)] | None = None
    """Last tokens that penalties look at; 0: no penalties; below 0: as where it is left out."""
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    seed: Annotated[int, Meta(ge=-INT64, le=INT64)] | None = None
    stop: list[str] | str | None = None


class FunctionCall(Struct):
    """A function's name and its arguments as an object."""

    name: str
    arguments: dict[str, Any] | str | None = None


class ToolCall(Struct):
    """A call that the model made; newer servers give it an id."""

    function: FunctionCall
    id: str | None = None


class ChatMessage(Struct):
    """One message of any role."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: list[Any] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class Function(Struct):
    """A function the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Struct):
    """A tool; only functions are offered."""

    function: Function
    type: str | None = None


class Asked(Struct, kw_only=True):
    """The common fields of both requests."""

    model: str
    stream: bool | None = None
    """None: it streams."""
    format: Any = None
    """Nothing, `json`, or a JSON schema."""
    options: Options | None = None
    think: Think | None = None
    keep_alive: KeepAlive | None = None


class ChatRequest(Asked, kw_only=True):
    """Body of `POST /api/chat`; without messages it asks only that the model be loaded."""

    messages: list[ChatMessage] | None = None
    tools: list[Tool] | None = None


class GenerateRequest(Asked, kw_only=True):
    """Body of `POST /api/generate`; without a prompt it asks only that the model be loaded."""

    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: list[Any] | None = None
    raw: bool | None = None
    images: list[Any] | None = None


class EmbedRequest(Struct, kw_only=True):
    """Body of `POST /api/embed`; without a text it asks only that the model be loaded."""

    model: str
    input: str | list[str] | None = None
    truncate: bool | None = None
    """Whether texts that are too long are cut (the default)."""
    dimensions: Annotated[int, Meta(ge=1, le=INT32)] | None = None
    options: Options | None = None
    keep_alive: KeepAlive | None = None


class EmbeddingsRequest(Struct, kw_only=True):
    """Body of `POST /api/embeddings`, the form before `/api/embed`."""

    model: str
    prompt: str | None = None
    options: Options | None = None
    keep_alive: KeepAlive | None = None


class ModelRequest(Struct):
    """A model by name, under its new or its old key."""

    model: str | None = None
    name: str | None = None
    stream: bool | None = None
    verbose: bool | None = None
