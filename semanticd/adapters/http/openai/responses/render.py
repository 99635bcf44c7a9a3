"""From generation results to response objects and their items."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from semanticd.adapters.http.core.request_context import make_id
from semanticd.adapters.http.openai.responses import wire
from semanticd.adapters.http.openai.responses.reasoning import ReasoningForm
from semanticd.adapters.http.openai.responses.tools import CustomInput, ToolBehind, ToolBox
from semanticd.adapters.http.openai.sampling import tier_used
from semanticd.domain.chat import ToolCallPart
from semanticd.domain.generation import (
    CacheReport,
    Choice,
    FinishReason,
    GenerationResult,
    Priority,
    TokenLogprob,
    Usage,
)
from semanticd.domain.json_text import parse_json_text
from semanticd.domain.whole_text import whole_characters

_PLAIN = ReasoningForm()

Diagnose = Callable[[CacheReport], "dict[str, Any] | UnsetType"]

_MISSES = {
    "model_changed": "model_changed",
    "tools_changed": "tools_changed",
    "tools_reordered": "tools_changed",
    "system_changed": "input_changed",
    "date_changed": "input_changed",
    "history_changed": "input_changed",
    "thinking_dropped": "input_changed",
}
"""Our causes of a miss in the words of the dialect; of others it has none."""


def diagnosis(cache: CacheReport, *, found: bool, same_key: bool) -> dict[str, Any]:
    """Return why a prompt left the cache, compared with a response that was `found` or not, of the `same_key` or not.

    A miss is reported against the last prompt of the same conversation.
    """
    if not found:
        return {"type": "comparison_response_not_found"}
    if cache.miss is None:
        return {"type": "cache_hit"}
    reason = _MISSES.get(cache.miss.cause) if same_key else "prompt_cache_key_changed"
    if reason is None:
        return {"type": "unavailable"}
    return {
        "type": "cache_miss",
        "reason": reason,
        "cache_missed_tokens": cache.computed_tokens,
        "comparison_reusable_tokens": cache.cached_tokens,
    }


def begin(
    body: wire.ResponsesRequest, *, response_id: str, created: int, model: str, priority: Priority
) -> wire.Response:
    """Return the response before any output, repeating the request's fields.

    The tier is the one that the request is processed in, as its `priority` has it.
    """
    return wire.Response(
        id=response_id,
        created_at=created,
        status="in_progress",
        instructions=body.instructions,
        max_output_tokens=None if body.max_output_tokens == -1 else body.max_output_tokens,
        max_tool_calls=body.max_tool_calls,
        model=model,
        output=[],
        parallel_tool_calls=body.parallel_tool_calls is not False,
        previous_response_id=body.previous_response_id,
        prompt_cache_key=body.prompt_cache_key,
        prompt_cache_options=_cache_options(body.prompt_cache_options),
        # An older spelling, which no answer's type knows.
        prompt_cache_retention=(body.prompt_cache_retention or UNSET)
        if body.prompt_cache_retention != "in-memory"
        else "in_memory",
        reasoning={
            "effort": body.reasoning.effort if body.reasoning else None,
            "summary": summary_of(body),
        },
        frequency_penalty=body.frequency_penalty or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        safety_identifier=body.safety_identifier,
        service_tier=tier_used(body.service_tier, priority),
        truncation=body.truncation or "disabled",
        store=body.store is not False,
        temperature=1.0 if body.temperature is None else body.temperature,
        text=_text_config(body.text),
        tool_choice=_shown(body.tool_choice) if body.tool_choice is not None else "auto",
        tools=[_tool(tool) for tool in body.tools or []],
        top_logprobs=body.top_logprobs or 0,
        top_p=1.0 if body.top_p is None else body.top_p,
        user=body.user,
        metadata=body.metadata or {},
    )


def _cache_options(options: wire.PromptCacheOptions | None) -> dict[str, Any] | UnsetType:
    if options is None:
        return UNSET
    shown: dict[str, Any] = {"mode": options.mode or "implicit", "ttl": options.ttl or "30m"}
    if options.comparison_response_id:
        shown["comparison_response_id"] = options.comparison_response_id
    return shown


def summary_of(body: wire.ResponsesRequest) -> str | None:
    """Return which kind of summary of the thinking is asked for, if any."""
    return (body.reasoning.summary or body.reasoning.generate_summary) if body.reasoning else None


def _text_config(config: wire.TextConfig | None) -> dict[str, Any]:
    form = config.format if config else None
    shown: dict[str, Any] = {"type": form.type if form else "text"}
    if form is not None and form.type == "json_schema":
        shown |= {"name": form.name or "", "description": form.description, "schema": form.schema}
        shown["strict"] = bool(form.strict)
    verbosity = config.verbosity if config else None
    return {"format": shown, **({"verbosity": verbosity} if verbosity else {})}


def _tool(tool: wire.Tool) -> dict[str, Any]:
    """Return a tool as it was sent; of a function all fields are shown, also those that were left out."""
    shown: dict[str, Any] = _shown(tool)
    if tool.type == "function":
        shown |= {"description": tool.description, "parameters": tool.parameters, "strict": bool(tool.strict)}
    if tool.tools is not None:
        shown["tools"] = [_tool(inner) for inner in tool.tools]
    return shown


def _shown(value: Any) -> Any:
    """Return the client's fields, without those it omitted."""
    if isinstance(value, msgspec.Struct):
        value = msgspec.to_builtins(value)
    if isinstance(value, dict):
        return {key: _shown(inner) for key, inner in value.items() if inner is not None}
    return [_shown(inner) for inner in value] if isinstance(value, list) else value


def finish(
    response: wire.Response,
    output: list[dict[str, Any]],
    *,
    reason: FinishReason,
    usage: Usage,
    completed: int,
    diagnose: Diagnose = lambda cache: UNSET,
) -> wire.Response:
    """Return the response with its output and its end."""
    cut = reason is FinishReason.LENGTH
    return msgspec.structs.replace(
        response,
        status="incomplete" if cut else "completed",
        incomplete_details={"reason": "max_output_tokens"} if cut else None,
        completed_at=None if cut else completed,
        output=output,
        usage=render_usage(usage),
        prompt_cache_diagnostics=diagnose(usage.cache),
    )


def render_usage(usage: Usage) -> wire.ResponseUsage:
    """Return the count of tokens."""
    return wire.ResponseUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=wire.InputTokensDetails(usage.cache.cached_tokens, usage.stored_tokens),
        output_tokens=usage.completion_tokens,
        output_tokens_details=wire.OutputTokensDetails(usage.reasoning_tokens),
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
    )


def render(
    result: GenerationResult,
    response: wire.Response,
    *,
    tools: ToolBox,
    completed: int,
    reasoning: ReasoningForm = _PLAIN,
    diagnose: Diagnose = lambda cache: UNSET,
) -> wire.Response:
    """Return the whole response."""
    choice = result.choices[0]
    begun = msgspec.structs.replace(response, model=result.model)
    output = items_of(choice, tools, reasoning)
    return finish(
        begun, output, reason=choice.reason, usage=result.usage, completed=completed, diagnose=diagnose
    )


def items_of(choice: Choice, tools: ToolBox, reasoning: ReasoningForm = _PLAIN) -> list[dict[str, Any]]:
    """Return an answer's items: thinking, then text, then calls."""
    status = "incomplete" if choice.reason is FinishReason.LENGTH else "completed"
    items: list[dict[str, Any]] = []
    if choice.thinking:
        items.append(reasoning.item(make_id("rs_"), choice.thinking))
    if choice.text or not choice.tool_calls:
        part = text_part(choice.text, choice.logprobs)
        items.append(message_item(make_id("msg_"), [part], status=status))
    for call in choice.tool_calls:
        behind = tools.behind(call.name)
        item_id = make_id(call_prefix(behind))
        items.append(call_item(item_id, call.call_id, behind, render_arguments(call), status=status))
    return items


def render_arguments(call: ToolCallPart) -> str:
    """Return a call's arguments as JSON text, or as much of it as there is."""
    return json.dumps(dict(call.arguments), ensure_ascii=False) if call.cut is None else call.cut


def text_part(text: str, logprobs: Sequence[TokenLogprob] = ()) -> dict[str, Any]:
    """Return a part of a message's content."""
    return {
        "type": "output_text",
        "text": text,
        "annotations": [],
        "logprobs": [render_logprob(token) for token in logprobs],
    }


def render_logprob(token: TokenLogprob) -> dict[str, Any]:
    """Return a token's log-probability with its rivals."""
    rivals = [_logprob(text, logprob) for _, text, logprob in token.top]
    return {**_logprob(token.text, token.logprob), "top_logprobs": rivals}


def _logprob(text: str, logprob: float) -> dict[str, Any]:
    # JSON knows no infinity; the original service sends -9999 for "practically never".
    shown = logprob if math.isfinite(logprob) else -9999.0
    return {"token": text, "logprob": shown, "bytes": list(text.encode("utf-8", "replace"))}


def message_item(item_id: str, content: list[dict[str, Any]], *, status: str) -> dict[str, Any]:
    """Return the assistant's message."""
    return {"type": "message", "id": item_id, "role": "assistant", "status": status, "content": content}


def call_prefix(behind: ToolBehind) -> str:
    """Return how the ids of such calls begin."""
    return "ctc_" if behind.kind == "custom" else "fc_"


def call_item(
    item_id: str, call_id: str, behind: ToolBehind, arguments: str, *, status: str
) -> dict[str, Any]:
    """Return a call of a function or a custom tool, under the names that the client gave them."""
    item: dict[str, Any] = {"id": item_id, "call_id": call_id, "name": behind.name}
    if behind.namespace is not None:
        item["namespace"] = behind.namespace
    if behind.kind == "custom":
        return {"type": "custom_tool_call", **item, "input": custom_input(arguments)}
    return {"type": "function_call", **item, "arguments": arguments, "status": status}


def custom_input(arguments: str) -> str:
    """Return a custom tool's input from the one-field object that the model wrote."""
    try:
        parsed = parse_json_text(arguments or "{}")
    except ValueError:
        # It was cut: what there is of the text inside is the input so far.
        return CustomInput().feed(arguments) or whole_characters(arguments)
    text = parsed.get("input", "") if isinstance(parsed, dict) else parsed
    return whole_characters(text if isinstance(text, str) else json.dumps(text, ensure_ascii=False))
