"""A stand-in for a model: answers coding programs with calls and texts from a script, and writes their requests down.

Imported by record.py in the same folder. Three dialects (Messages, Chat Completions, Responses), streamed or whole. A
marker in the newest prompt chooses the part of the script; each request that offers tools takes its next step. What
asks for something else (a title, a summary) gets a sentence.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DIALECTS = {"/v1/messages": "anthropic", "/v1/chat/completions": "chat", "/v1/responses": "responses"}
HEADERS = [
    "content-type",
    "anthropic-version",
    "anthropic-beta",
    "x-session-id",
    "session-id",
    "x-parent-session-id",
    "x-claude-code-session-id",
    "x-claude-code-agent-id",
]
MARKER = re.compile(r"\bSTEP-[A-Z]+\b")
WANTS_TEXT = "Respond with TEXT ONLY"
"""The text by which Claude Code asks for a summary, next to a tool's result."""
SAID = "All of that is done now."


@dataclass(frozen=True)
class Call:
    """A tool called with arguments; `namespace` is for Codex's groups of tools."""

    tool: str
    arguments: Mapping[str, Any]
    namespace: str = ""


@dataclass
class Script:
    """Steps by marker, and the requests that came."""

    steps: Mapping[str, Sequence[Call]]
    swells: tuple[str, int] = ("", 0)
    """A marker, and how many tokens its first request is said to have had: the program then compacts by itself."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    taken: dict[str, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self, body: Mapping[str, Any]) -> Call | None:
        """Return the call that answers a request; None for a sentence."""
        turns = body.get("messages") or body.get("input") or []
        if not body.get("tools") or not isinstance(turns, list):
            return None
        markers = [marker for turn in turns if turn.get("role") == "user" for marker in _markers(turn)]
        asked = next(
            (turn for turn in reversed(turns) if turn.get("role") not in ("system", "developer")), {}
        )
        words = json.dumps(asked)
        if not markers or WANTS_TEXT in words or not (_is_result(asked) or MARKER.search(words)):
            return None
        with self.lock:
            number = self.taken.get(markers[-1], 0)
            steps = self.steps.get(markers[-1], ())
            if number >= len(steps):
                return None
            self.taken[markers[-1]] = number + 1
            return steps[number]

    def num_tokens(self, body: Mapping[str, Any], num_bytes: int) -> int:
        """Return how many tokens a prompt is said to have."""
        marker, swollen = self.swells
        newest = json.dumps((body.get("messages") or body.get("input") or [])[-2:])
        return swollen if marker and marker in newest and self.taken.get(marker) == 1 else num_bytes // 4


def _markers(turn: Mapping[str, Any]) -> list[str]:
    """Return the markers in what a user said; a tool's result may quote another's."""
    content = turn.get("content")
    parts = content if isinstance(content, list) else [{"text": content}]
    return [marker for part in parts for marker in MARKER.findall(str(part.get("text") or ""))]


def _is_result(turn: Mapping[str, Any]) -> bool:
    if turn.get("role") == "tool" or str(turn.get("type", "")).endswith("_call_output"):
        return True
    content = turn.get("content")
    return isinstance(content, list) and any(part.get("type") == "tool_result" for part in content)


_numbers = itertools.count(1)


def _id(prefix: str) -> str:
    return f"{prefix}{next(_numbers):06}"


def _sse(events: Iterator[tuple[str, Any]]) -> bytes:
    out = []
    for name, data in events:
        head = f"event: {name}\n" if name else ""
        out.append(f"{head}data: {data if isinstance(data, str) else json.dumps(data)}\n\n")
    return "".join(out).encode()


def messages(
    body: Mapping[str, Any], call: Call | None, num_tokens: int
) -> tuple[Any, Iterator[tuple[str, Any]]]:
    """Return a Messages answer, whole and as events."""
    usage = {"input_tokens": num_tokens, "output_tokens": 8}
    block = (
        {"type": "text", "text": SAID}
        if call is None
        else {"type": "tool_use", "id": _id("toolu_"), "name": call.tool, "input": dict(call.arguments)}
    )
    stop = "end_turn" if call is None else "tool_use"
    whole = {
        "id": _id("msg_"),
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [block],
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": usage,
    }

    def events() -> Iterator[tuple[str, Any]]:
        begun = {**whole, "content": [], "stop_reason": None}
        yield "message_start", {"type": "message_start", "message": begun}
        empty = {**block, "text": ""} if call is None else {**block, "input": {}}
        yield "content_block_start", {"type": "content_block_start", "index": 0, "content_block": empty}
        delta = (
            {"type": "text_delta", "text": SAID}
            if call is None
            else {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
        )
        yield "content_block_delta", {"type": "content_block_delta", "index": 0, "delta": delta}
        yield "content_block_stop", {"type": "content_block_stop", "index": 0}
        end = {"stop_reason": stop, "stop_sequence": None}
        yield "message_delta", {"type": "message_delta", "delta": end, "usage": usage}
        yield "message_stop", {"type": "message_stop"}

    return whole, events()


def chat(
    body: Mapping[str, Any], call: Call | None, num_tokens: int
) -> tuple[Any, Iterator[tuple[str, Any]]]:
    """Return a chat completion, whole and as chunks."""
    made = (
        []
        if call is None
        else [
            {
                "index": 0,
                "id": _id("call_"),
                "type": "function",
                "function": {"name": call.tool, "arguments": json.dumps(call.arguments)},
            }
        ]
    )
    finish = "stop" if call is None else "tool_calls"
    usage = {"prompt_tokens": num_tokens, "completion_tokens": 8, "total_tokens": num_tokens + 8}
    head = {"id": _id("chatcmpl-"), "created": 1, "model": body["model"]}
    message = (
        {"role": "assistant", "content": SAID} if call is None else {"role": "assistant", "tool_calls": made}
    )
    whole = {
        **head,
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": usage,
    }

    def events() -> Iterator[tuple[str, Any]]:
        chunk = {**head, "object": "chat.completion.chunk"}
        yield "", {**chunk, "choices": [{"index": 0, "delta": message, "finish_reason": None}]}
        yield "", {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}
        yield "", {**chunk, "choices": [], "usage": usage}
        yield "", "[DONE]"

    return whole, events()


def responses(
    body: Mapping[str, Any], call: Call | None, num_tokens: int
) -> tuple[Any, Iterator[tuple[str, Any]]]:
    """Return a response, whole and as events."""
    part = {"type": "output_text", "text": SAID, "annotations": []}
    item: dict[str, Any] = {"type": "message", "id": _id("msg_"), "role": "assistant", "content": [part]}
    if call is not None:
        item = {
            "type": "function_call",
            "id": _id("fc_"),
            "call_id": _id("call_"),
            "name": call.tool,
            "arguments": json.dumps(call.arguments),
        }
        if call.namespace:
            item["namespace"] = call.namespace
    item["status"] = "completed"
    usage = {
        "input_tokens": num_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 8,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": num_tokens + 8,
    }
    whole = {
        "id": _id("resp_"),
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": body["model"],
        "output": [item],
        "usage": usage,
    }

    def events() -> Iterator[tuple[str, Any]]:
        begun = {**whole, "status": "in_progress", "output": [], "usage": None}
        steps: list[tuple[str, dict[str, Any]]] = [
            ("response.created", {"response": begun}),
            ("response.output_item.added", {"output_index": 0, "item": {**item, "status": "in_progress"}}),
        ]
        if call is None:
            delta = {"output_index": 0, "content_index": 0, "item_id": item["id"], "delta": SAID}
            steps.append(("response.output_text.delta", delta))
        steps.append(("response.output_item.done", {"output_index": 0, "item": item}))
        steps.append(("response.completed", {"response": whole}))
        for number, (name, data) in enumerate(steps):
            yield name, {"type": name, "sequence_number": number, **data}

    return whole, events()


ANSWERS = {"anthropic": messages, "chat": chat, "responses": responses}


@contextmanager
def serving(script: Script) -> Iterator[str]:
    """Serve the script on a port of its own; yields the URL."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self, status: int, content: bytes, kind: str = "application/json") -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def do_GET(self) -> None:
            models = {
                "object": "list",
                "data": [{"id": "tiny", "object": "model", "created": 1, "owned_by": "x"}],
            }
            self._answer(200, json.dumps(models).encode())

        do_HEAD = do_GET  # noqa: N815

        def do_POST(self) -> None:
            at = time.time()
            raw = self.rfile.read(int(self.headers.get("content-length") or 0))
            path, _, query = self.path.partition("?")
            if path.endswith("count_tokens"):
                self._answer(200, json.dumps({"input_tokens": len(raw) // 4}).encode())
                return
            dialect = DIALECTS.get(path)
            if dialect is None or self.headers.get("content-encoding"):
                self._answer(404, json.dumps({"error": {"message": f"no {path} here"}}).encode())
                return
            body = json.loads(raw)
            call = script.next(body)
            whole, events = ANSWERS[dialect](body, call, script.num_tokens(body, len(raw)))
            if body.get("stream"):
                self._answer(200, _sse(events), "text/event-stream")
            else:
                self._answer(200, json.dumps(whole).encode())
            headers = {name: self.headers[name] for name in HEADERS if self.headers.get(name)}
            row = {
                "at": at,
                "dialect": dialect,
                "path": path,
                "query": query,
                "headers": headers,
                "body": body,
            }
            with script.lock:
                script.rows.append({**row, "answer": {"status": 200, "seconds": round(time.time() - at, 4)}})

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
