"""What Open Responses (document version 2026-04-24) says of a response object and of the events of a stream, as data.

Only what its OpenAPI document states as required names and their types, in a notation of our own, so that every answer
can be held against it: `FIELDS` maps a shape to its required fields. A type is one of the plain words of `_PLAIN`, a
value in quotation marks, a shape's name, `[type]` for a list, `?` at its end for "or null", and `|` between choices.
`OPTIONAL` holds fields that may be missing, with the type that they have where they are there.

Of the `schema` of a form the document says null, while its requests take an object: any value is taken here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_PLAIN = {
    "str": lambda value: isinstance(value, str),
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "num": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "bool": lambda value: isinstance(value, bool),
    "obj": lambda value: isinstance(value, dict),
    "any": lambda value: True,
}
_STATUS = "'in_progress'|'completed'|'incomplete'"
_PART = "Text|OutputText|InputText|SummaryText|ReasoningText|Refusal|InputImage|InputFile"
_CHOICE = "'none'|'auto'|'required'"
_ITEM = "Message|FunctionCall|FunctionCallOutput|ReasoningItem|Compaction"


def _fields(text: str) -> dict[str, str]:
    return dict(pair.split(": ") for pair in text.split("; "))


FIELDS: dict[str, dict[str, str]] = {
    "Response": _fields(
        "id: str; object: 'response'; created_at: int; completed_at: int?; status: str; "
        "incomplete_details: Incomplete?; model: str; previous_response_id: str?; instructions: str?; output: [Item]; "
        "error: Error?; tools: [Tool]; tool_choice: ToolChoice; truncation: 'auto'|'disabled'; "
        "parallel_tool_calls: bool; text: TextField; top_p: num; presence_penalty: num; frequency_penalty: num; "
        "top_logprobs: int; "
        "temperature: num; reasoning: Reasoning?; usage: Usage?; max_output_tokens: int?; max_tool_calls: int?; "
        "store: bool; background: bool; service_tier: str; metadata: any; safety_identifier: str?; "
        "prompt_cache_key: str?"
    ),
    "Incomplete": _fields("reason: str"),
    "Error": _fields("code: str; message: str"),
    "Tool": _fields("type: 'function'; name: str; description: str?; parameters: obj?; strict: bool?"),
    "NamedChoice": _fields("type: 'function'"),
    "AllowedChoice": _fields(f"type: 'allowed_tools'; tools: [NamedChoice]; mode: {_CHOICE}"),
    "TextField": _fields("format: TextFormat|JsonObject|JsonSchema"),
    "TextFormat": _fields("type: 'text'"),
    "JsonObject": _fields("type: 'json_object'"),
    "JsonSchema": _fields("type: 'json_schema'; name: str; description: str?; schema: any; strict: bool"),
    "Reasoning": _fields(
        "effort: 'none'|'low'|'medium'|'high'|'xhigh'?; summary: 'concise'|'detailed'|'auto'?"
    ),
    "Usage": _fields(
        "input_tokens: int; output_tokens: int; total_tokens: int; input_tokens_details: InputDetails; "
        "output_tokens_details: OutputDetails"
    ),
    "InputDetails": _fields("cached_tokens: int"),
    "OutputDetails": _fields("reasoning_tokens: int"),
    "Message": _fields(
        f"type: 'message'; id: str; status: {_STATUS}; role: 'user'|'assistant'|'system'|'developer'; content: [Part]"
    ),
    "FunctionCall": _fields(
        f"type: 'function_call'; id: str; call_id: str; name: str; arguments: str; status: {_STATUS}"
    ),
    "FunctionCallOutput": _fields(
        f"type: 'function_call_output'; id: str; call_id: str; output: str|[Part]; status: {_STATUS}"
    ),
    "ReasoningItem": _fields("type: 'reasoning'; id: str; summary: [Part]"),
    "Compaction": _fields("type: 'compaction'; id: str; encrypted_content: str"),
    "Text": _fields("type: 'text'; text: str"),
    "InputText": _fields("type: 'input_text'; text: str"),
    "OutputText": _fields("type: 'output_text'; text: str; annotations: [any]"),
    "SummaryText": _fields("type: 'summary_text'; text: str"),
    "ReasoningText": _fields("type: 'reasoning_text'; text: str"),
    "Refusal": _fields("type: 'refusal'; refusal: str"),
    "InputImage": _fields("type: 'input_image'; image_url: str?; detail: 'low'|'high'|'auto'"),
    "InputFile": _fields("type: 'input_file'"),
    "LogProb": _fields("token: str; logprob: num; bytes: [int]; top_logprobs: [TopLogProb]"),
    "TopLogProb": _fields("token: str; logprob: num; bytes: [int]"),
    "Compacted": _fields(
        "id: str; object: 'response.compaction'; output: [Item]; created_at: int; usage: Usage"
    ),
    "ErrorPayload": _fields("type: str; code: str?; message: str; param: str?"),
}
OPTIONAL: dict[str, dict[str, str]] = {
    "OutputText": _fields("logprobs: [LogProb]"),
    "ReasoningItem": _fields("content: [Part]; encrypted_content: str"),
    "Message": _fields("phase: 'commentary'|'final_answer'"),
    "NamedChoice": _fields("name: str"),
    "TextField": _fields("verbosity: 'low'|'medium'|'high'"),
}
_NAMES = {"Item": _ITEM, "Part": _PART, "ToolChoice": f"NamedChoice|AllowedChoice|{_CHOICE}"}
"""Types that are choices themselves."""

_IN_ITEM = "item_id: str; output_index: int"
_LOGPROBS = {"logprobs": "[LogProb]"}
EVENTS: dict[str, dict[str, str]] = {
    **{
        f"response.{state}": _fields("response: Response")
        for state in ("created", "queued", "in_progress", "completed", "failed", "incomplete")
    },
    **{
        f"response.output_item.{state}": _fields("output_index: int; item: Item?")
        for state in ("added", "done")
    },
    **{
        f"response.content_part.{state}": _fields(f"{_IN_ITEM}; content_index: int; part: Part")
        for state in ("added", "done")
    },
    **{
        f"response.reasoning_summary_part.{state}": _fields(f"{_IN_ITEM}; summary_index: int; part: Part")
        for state in ("added", "done")
    },
    "response.output_text.delta": _fields(f"{_IN_ITEM}; content_index: int; delta: str"),
    "response.output_text.done": _fields(f"{_IN_ITEM}; content_index: int; text: str"),
    "response.refusal.delta": _fields(f"{_IN_ITEM}; content_index: int; delta: str"),
    "response.refusal.done": _fields(f"{_IN_ITEM}; content_index: int; refusal: str"),
    "response.reasoning.delta": _fields(f"{_IN_ITEM}; content_index: int; delta: str"),
    "response.reasoning.done": _fields(f"{_IN_ITEM}; content_index: int; text: str"),
    "response.reasoning_summary_text.delta": _fields(f"{_IN_ITEM}; summary_index: int; delta: str"),
    "response.reasoning_summary_text.done": _fields(f"{_IN_ITEM}; summary_index: int; text: str"),
    "response.output_text.annotation.added": _fields(
        f"{_IN_ITEM}; content_index: int; annotation_index: int; annotation: obj?"
    ),
    "response.function_call_arguments.delta": _fields(f"{_IN_ITEM}; delta: str"),
    "response.function_call_arguments.done": _fields(f"{_IN_ITEM}; arguments: str"),
    "error": _fields("error: ErrorPayload"),
}
"""The fields of each event, besides `type` and `sequence_number`."""


def faults(value: Any, kind: str, where: str = "") -> list[str]:
    """Return what of a value is not as the type says, each with its place."""
    kind = _NAMES.get(kind, kind)
    if kind.endswith("?"):
        return [] if value is None else faults(value, kind[:-1], where)
    if "|" in kind:
        return _choice_faults(value, kind, where)
    if kind.startswith("["):
        if not isinstance(value, list):
            return [f"{where}: no list: {value!r}"]
        return [fault for at, one in enumerate(value) for fault in faults(one, kind[1:-1], f"{where}[{at}]")]
    if kind.startswith("'"):
        return [] if value == kind[1:-1] else [f"{where}: {value!r} is not {kind}"]
    if kind in _PLAIN:
        return [] if _PLAIN[kind](value) else [f"{where}: {value!r} is no {kind}"]
    if not isinstance(value, dict):
        return [f"{where}: {value!r} is no {kind}"]
    return list(_field_faults(value, kind, where))


def event_faults(event: dict[str, Any]) -> list[str]:
    """Return what of one event of a stream is not as the document says."""
    fields = EVENTS.get(str(event.get("type")))
    if fields is None:
        return [f"{event.get('type')}: no event of Open Responses"]
    wanted = {"sequence_number": "int", **fields}
    missing = [f"{event['type']}: {name} is missing" for name in wanted if name not in event]
    there = {**wanted, **({} if "output_text" not in event["type"] else _LOGPROBS)}
    return missing + [
        fault
        for name, kind in there.items()
        if name in event
        for fault in faults(event[name], kind, f"{event['type']}.{name}")
    ]


def _choice_faults(value: Any, kind: str, where: str) -> list[str]:
    found = [faults(value, one, where) for one in kind.split("|")]
    if not all(found):
        return []
    # Of a union of objects, the faults of the one whose `type` it has tell more than all of them.
    named = [one for one in found if not any(fault.startswith(f"{where}.type:") for fault in one)]
    return min(named or found, key=len)


def _field_faults(value: dict[str, Any], kind: str, where: str) -> Iterator[str]:
    for name, field in FIELDS[kind].items():
        if name not in value:
            yield f"{where}.{name}: missing"
        else:
            yield from faults(value[name], field, f"{where}.{name}")
    for name, field in OPTIONAL.get(kind, {}).items():
        if name in value:
            yield from faults(value[name], field, f"{where}.{name}")
