"""Stands between a client program and a daemon, and makes the model call one tool with arguments that the test knows.

A model of random weights calls no tool by itself. So the first turn is made to require one, whose schema allows one
value only; everything else passes as it is. The engine is the real one: constrained decoding makes the call.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

_HOP = {"connection", "content-length", "host", "transfer-encoding", "accept-encoding", "content-encoding"}
_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_ANSWER = {"const": "The tool said it."}
"""What the model may answer when it has the result: a program may take an answer that was cut for a failure."""
_FORMS: Mapping[str, Any] = {
    "/v1/messages": {"output_config": {"format": {"type": "json_schema", "schema": _ANSWER}}},
    "/v1/chat/completions": {
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": _ANSWER}}
    },
    "/v1/responses": {"text": {"format": {"type": "json_schema", "name": "answer", "schema": _ANSWER}}},
}
_FORCED: Mapping[str, Any] = {
    "/v1/messages": lambda name: {"type": "tool", "name": name},
    "/v1/chat/completions": lambda name: {"type": "function", "function": {"name": name}},
    "/v1/responses": lambda name: {"type": "function", "name": name},
}


class Steering:
    """Which tool is called, and what was seen: `results` are the bodies that brought the tool's result back."""

    def __init__(self, tool: str, arguments: Mapping[str, Any]) -> None:
        """Have `tool` called with exactly these arguments."""
        self.tool = tool
        self.schema = {
            "type": "object",
            "properties": {name: {"const": value} for name, value in arguments.items()},
            "required": list(arguments),
            "additionalProperties": False,
        }
        self.results: list[dict[str, Any]] = []
        self.url = ""

    def steer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Return the body to pass on."""
        for name in _LIMITS:
            if body.get(name):
                body[name] = min(body[name], 1000)
        if path in _FORCED and not any(body.get(name) for name in _LIMITS):
            body["max_output_tokens" if path == "/v1/responses" else "max_tokens"] = 1000
        own = next((tool for tool in body.get("tools") or () if _name(tool) == self.tool), None)
        if own is None or path not in _FORCED:
            return body
        where = own.get("function", own)
        where["input_schema" if "input_schema" in where else "parameters"] = self.schema
        if _has_result(body):
            self.results.append(json.loads(json.dumps(body)))
            body |= _FORMS[path]
        else:
            body["tool_choice"] = _FORCED[path](self.tool)
            body.pop("thinking", None)
        return body


def _name(tool: Mapping[str, Any]) -> str:
    return str(tool.get("function", tool).get("name", ""))


def _has_result(body: Mapping[str, Any]) -> bool:
    turns = body.get("messages") or body.get("input") or ()
    return any(
        turn.get("role") == "tool"
        or turn.get("type") == "function_call_output"
        or any(part.get("type") == "tool_result" for part in _parts(turn))
        for turn in turns
        if isinstance(turn, dict)
    )


def _parts(turn: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = turn.get("content")
    return [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []


@contextmanager
def steering(upstream: str, tool: str, arguments: Mapping[str, Any]) -> Iterator[Steering]:
    """Serve the proxy on a port of its own while the block runs."""
    steered = Steering(tool, arguments)

    class Handler(BaseHTTPRequestHandler):
        def _pass_on(self) -> None:
            raw = self.rfile.read(int(self.headers.get("content-length") or 0))
            path = self.path.partition("?")[0]
            if self.command == "POST" and raw:
                raw = json.dumps(steered.steer(path, json.loads(raw))).encode()
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
            with (
                httpx.Client(timeout=600) as http,
                http.stream(self.command, upstream + self.path, content=raw, headers=headers) as answer,
            ):
                self.send_response(answer.status_code)
                for name, value in answer.headers.items():
                    if name.lower() not in _HOP:
                        self.send_header(name, value)
                # Its end is the end of the connection: HTTP/1.0 needs no length.
                self.end_headers()
                for chunk in answer.iter_bytes():
                    self.wfile.write(chunk)
                    self.wfile.flush()

        do_GET = do_POST = do_HEAD = do_DELETE = _pass_on  # noqa: N815

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    steered.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield steered
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
