"""Recorded requests as Chat Completions, for servers that speak no other dialect.

Only the parts of a prompt are carried over: messages, calls with their results, tools. Thinking, cache marks and
built-in tools are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from semanticd.bench.errors import BenchError

PATH = "/v1/chat/completions"


def as_chat(dialect: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of a chat completion that asks the same.

    Raises:
        BenchError: The dialect has no messages.
    """
    if dialect == "chat":
        return dict(body)
    if dialect == "anthropic":
        messages = [*_system(body.get("system")), *_from_anthropic(body.get("messages") or ())]
        tools = [_tool(tool, "input_schema") for tool in body.get("tools") or () if "input_schema" in tool]
    elif dialect == "responses":
        messages = [*_system(body.get("instructions")), *_from_items(body.get("input") or "")]
        tools = [_tool(tool, "parameters") for tool in _functions(body.get("tools") or ())]
    else:
        raise BenchError(f"a request of the dialect {dialect} cannot be asked as a chat")
    made: dict[str, Any] = {
        "model": body.get("model"),
        "messages": messages,
        "stream": body.get("stream", False),
    }
    return {**made, "tools": tools} if tools else made


def text_of(content: Any) -> str:
    """Return the text of a content that is a text or a list of parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(str(part.get("text") or "") for part in parts if isinstance(part, Mapping))


def _system(content: Any) -> list[dict[str, Any]]:
    text = text_of(content)
    return [{"role": "system", "content": text}] if text else []


def _from_anthropic(turns: Any) -> Iterator[dict[str, Any]]:
    for turn in turns:
        content = turn.get("content")
        parts = content if isinstance(content, list) else [{"type": "text", "text": content or ""}]
        results = [part for part in parts if part.get("type") == "tool_result"]
        for part in results:
            yield {
                "role": "tool",
                "tool_call_id": part.get("tool_use_id"),
                "content": text_of(part.get("content")),
            }
        text = text_of([part for part in parts if part.get("type") == "text"])
        calls = [
            _call(part.get("id"), part.get("name"), json.dumps(part.get("input") or {}))
            for part in parts
            if part.get("type") == "tool_use"
        ]
        if text or calls or not results:
            yield _turn(str(turn.get("role")), text, calls)


def _from_items(items: Any) -> Iterator[dict[str, Any]]:
    if isinstance(items, str):
        yield {"role": "user", "content": items}
        return
    for item in items:
        kind = str(item.get("type") or "message")
        if kind == "message":
            role = "system" if item.get("role") == "developer" else str(item.get("role"))
            yield _turn(role, text_of(item.get("content")), [])
        elif kind.endswith("_call_output"):
            output = item.get("output")
            text = output if isinstance(output, str) else text_of(output)
            yield {"role": "tool", "tool_call_id": item.get("call_id"), "content": text}
        elif kind.endswith("_call"):
            arguments = item.get("arguments") or json.dumps({"input": item.get("input") or ""})
            yield _turn("assistant", "", [_call(item.get("call_id"), item.get("name") or kind, arguments)])


def _turn(role: str, text: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    return {"role": role, "content": text, **({"tool_calls": calls} if calls else {})}


def _call(call_id: Any, name: Any, arguments: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _functions(tools: Any) -> Iterator[Mapping[str, Any]]:
    for tool in tools:
        if tool.get("type") == "function":
            yield tool
        # A namespace holds tools of its own.
        yield from _functions(tool.get("tools") or ())


def _tool(tool: Mapping[str, Any], schema: str) -> dict[str, Any]:
    function = {
        "name": tool.get("name"),
        "description": tool.get("description") or "",
        "parameters": tool.get(schema) or {"type": "object"},
    }
    return {"type": "function", "function": function}
