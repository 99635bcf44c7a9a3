"""A small server that answers three dialects, counts characters as tokens, and remembers what it has answered.

Like semanticd it says in a header what it reused, and it has a tokenizer to ask; both can be taken away, as with other
servers. `forget` is a restart that loses everything.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import httpx

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_FRAMES: dict[str, Callable[[int, int], list[dict[str, Any]]]] = {
    "/v1/messages": lambda prompt, cached: [
        {
            "type": "message_start",
            "message": {"usage": {"input_tokens": prompt - cached, "cache_read_input_tokens": cached}},
        },
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "yes"}},
        {"type": "message_delta", "usage": {"output_tokens": 1}},
    ],
    "/v1/chat/completions": lambda prompt, cached: [
        {"choices": [{"delta": {"content": "yes"}}]},
        {
            "choices": [],
            "usage": {"prompt_tokens": prompt, "prompt_tokens_details": {"cached_tokens": cached}},
        },
    ],
    "/v1/responses": lambda prompt, cached: [
        {"type": "response.output_text.delta", "delta": "yes"},
        {
            "type": "response.completed",
            "response": {
                "usage": {"input_tokens": prompt, "input_tokens_details": {"cached_tokens": cached}}
            },
        },
    ],
}


@dataclass
class CachingServer:
    """An ASGI app; its fields say what it can do and what it saw."""

    says_tiers: bool = True
    tells_tokens: bool = True
    loses: int = 0
    """Tokens of each reusable prompt that it computes again."""
    breaks: str = ""
    """A path; the connection breaks when it is asked."""
    breaks_from: int = 1
    """From which question on."""
    refuses: str = ""
    """A text; prompts that hold it are answered with 400."""
    seen: list[str] = field(default_factory=list)
    warm: list[str] = field(default_factory=list)
    asked: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list)
    evicted: list[str] = field(default_factory=list)

    def forget(self) -> None:
        """Lose what is in memory; what was seen is warm from then on."""
        self.warm, self.seen = [*self.warm, *self.seen], []

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        content = b""
        while True:
            message = await receive()
            content += message.get("body", b"")
            if not message.get("more_body"):
                break
        path = scope["path"]
        if self.breaks and self.breaks in path:
            self.breaks_from -= 1
            if self.breaks_from <= 0:
                raise httpx.ReadError("the connection broke")
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        if path == "/v1/models":
            await _json(send, 200, {"data": [{"id": "letters"}]})
        elif path == "/v1/agents":
            names = dict.fromkeys(sent["x-session-id"] for _, sent, _ in self.asked if "x-session-id" in sent)
            await _json(send, 200, {"data": [{"id": name} for name in names]})
        elif path.endswith("/evict"):
            self.evicted.append(path.split("/")[3])
            await _json(send, 200, {})
        elif path == "/v1/tokenize" and self.tells_tokens:
            asked = parse_qs(scope["query_string"].decode())["path"][0]
            assert asked in _FRAMES
            await _json(send, 200, {"tokens": [ord(letter) for letter in _prompt(json.loads(content))]})
        elif path in _FRAMES:
            await self._answer(path, headers, json.loads(content), send)
        else:
            await _json(send, 404, {"error": f"no {path} here"})

    async def _answer(self, path: str, headers: dict[str, str], body: dict[str, Any], send: Send) -> None:
        self.asked.append((path, headers, body))
        prompt = _prompt(body)
        if self.refuses and self.refuses in prompt:
            await _json(send, 400, {"error": "refused"})
            return
        hot, warm = (
            min(max((_common(prompt, one) for one in known), default=0), len(prompt) - 1)
            for known in (self.seen, self.warm)
        )
        cached = max(max(hot, warm) - self.loses, 0)
        hot = min(hot, cached)
        self.seen.append(prompt)
        own = f"hot={hot} warm={cached - hot} computed={len(prompt) - cached} tier=hot miss=evicted@3"
        sent = [(b"content-type", b"text/event-stream")]
        sent += [(b"x-semantic-cache", own.encode())] if self.says_tiers else []
        await send({"type": "http.response.start", "status": 200, "headers": sent})
        frames = [
            b"data: " + json.dumps(frame).encode() + b"\n\n" for frame in _FRAMES[path](len(prompt), cached)
        ]
        await send(
            {"type": "http.response.body", "body": b"".join([b": ping\n\n", *frames, b"data: [DONE]\n\n"])}
        )


def _common(left: str, right: str) -> int:
    return next(
        (at for at, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right))
    )


def _prompt(body: dict[str, Any]) -> str:
    turns = body.get("messages") or body.get("input") or ""
    turns = turns if isinstance(turns, list) else [{"role": "user", "content": turns}]
    return "".join(f"{turn.get('role')}:{json.dumps(turn.get('content'))}\n" for turn in turns)


async def _json(send: Send, status: int, value: Any) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(value).encode()})
