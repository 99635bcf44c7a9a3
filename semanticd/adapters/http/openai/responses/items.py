"""Items as they are stored and listed: with an id each, in the form in which the original service shows them.

Content that cannot be read here (an image's data) is not stored. Items that the client sent without an id get one
derived from their content and that of the items before them, so that a conversation that is sent again is stored
once. An id that the client chose is valid in that conversation only: another client may choose the same one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from semanticd.adapters.http.openai.responses import wire
from semanticd.application.ports.response_archive import StoredItem
from semanticd.domain.errors import InvalidRequestError

_ID_PREFIXES = {
    "message": "msg_",
    "reasoning": "rs_",
    "function_call": "fc_",
    "function_call_output": "fco_",
    "custom_tool_call": "ctc_",
    "custom_tool_call_output": "ctco_",
    "compaction": "cmp_",
}
_UNREAD_PARTS = ("input_image", "computer_screenshot", "input_file", "input_audio")
_DATA = ("image_url", "file_data", "file_url", "input_audio", "data")
"""Fields of such parts that hold what they show, often as megabytes of text."""
_WITH_STATUS = ("function_call", "function_call_output")
"""Types whose items always have a status, also where the client left it out."""
_ID_CHARACTERS = 24
MAX_PAGE = 100
DEFAULT_PAGE = 20


def input_items(items: Sequence[wire.InputItem], *, after: Sequence[StoredItem]) -> list[StoredItem]:
    """Return a request's own items as they are stored; `after` are those of the conversation before them."""
    stored: list[StoredItem] = []
    last = after[-1].item_id if after else ""
    for item in items:
        shown = _shown(item)
        is_chosen = item.id is not None
        if not is_chosen:
            digest = hashlib.sha256(
                f"{last}\0".encode() + msgspec.json.encode(shown, order="sorted")
            ).hexdigest()
            shown["id"] = _ID_PREFIXES.get(shown["type"], "item_") + digest[:_ID_CHARACTERS]
        last = shown["id"]
        if shown["type"] in _WITH_STATUS:
            shown.setdefault("status", "completed")
        stored.append(StoredItem(last, msgspec.json.encode(shown), is_referable=not is_chosen))
    return stored


def output_items(output: Iterable[Mapping[str, Any]]) -> list[StoredItem]:
    """Return an answer's items as they are stored."""
    return [StoredItem(item["id"], msgspec.json.encode(item)) for item in output]


def read_items(items: Iterable[StoredItem]) -> list[wire.InputItem]:
    """Return stored items as a request could have sent them."""
    return [msgspec.json.decode(item.document, type=wire.InputItem) for item in items]


def _shown(item: wire.InputItem) -> dict[str, Any]:
    fields = msgspec.to_builtins(item)
    shown: dict[str, Any] = {key: value for key, value in fields.items() if value is not None}
    shown["type"] = item.type or "message"
    if shown["type"] == "message":
        shown |= {"role": item.role or "user", "status": "completed"}
        shown["content"] = _content(item.content, spoken=item.role == "assistant")
    elif isinstance(item.arguments, dict):
        shown["arguments"] = json.dumps(item.arguments, ensure_ascii=False)
    if item.output is not None:
        shown["output"] = _output(item.output)
    return shown


def _output(output: Any) -> Any:
    """Return a tool's result; of its parts, those that cannot be read here have no data."""
    if isinstance(output, list):
        return [_output(part) for part in output]
    if not isinstance(output, dict) or output.get("type") not in _UNREAD_PARTS:
        return output
    return {name: value for name, value in output.items() if name not in _DATA}


def _content(content: str | list[wire.InputContent] | None, *, spoken: bool) -> list[dict[str, Any]]:
    parts = content if isinstance(content, list) else [wire.InputContent("text", text=content or "")]
    return [_part(part, spoken=spoken) for part in parts]


def _part(part: wire.InputContent, *, spoken: bool) -> dict[str, Any]:
    if part.type == "refusal":
        return {"type": "refusal", "refusal": part.refusal or ""}
    if part.text is None:
        more: dict[str, Any] = {"detail": "auto", "image_url": None} if part.type == "input_image" else {}
        return {"type": part.type, **more, **({"filename": part.filename} if part.filename else {})}
    if spoken:
        return {"type": "output_text", "text": part.text, "annotations": [], "logprobs": []}
    return {"type": "input_text", "text": part.text}


def page(
    items: Sequence[StoredItem], *, limit: int, newest_first: bool, after: str | None, before: str | None
) -> dict[str, Any]:
    """Return one page of a list of items, as the original service lists them.

    Raises:
        InvalidRequestError: `after` or `before` is not the id of one of the items.
    """
    ordered = list(reversed(items)) if newest_first else list(items)
    positions = {item.item_id: position for position, item in enumerate(ordered)}
    for name, item_id in (("after", after), ("before", before)):
        if item_id is not None and item_id not in positions:
            raise InvalidRequestError(f"no item of this response has the id {item_id[:80]!r}", param=name)
    start = 0 if after is None else positions[after] + 1
    end = len(ordered) if before is None else positions[before]
    shown = ordered[start : min(start + limit, max(end, start))]
    return {
        "object": "list",
        "data": [msgspec.Raw(item.document) for item in shown],
        "first_id": shown[0].item_id if shown else None,
        "last_id": shown[-1].item_id if shown else None,
        "has_more": start + len(shown) < end,
    }
