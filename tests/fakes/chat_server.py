"""A small OpenAI-compatible server that counts words as tokens and remembers conversations by their text."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@dataclass
class ChatServer:
    """An ASGI app; its fields say how it behaves and what it saw."""

    status: int = 200
    sends_usage: bool = True
    answers: bool = True
    max_answer: int = 10_000
    token_s: float = 0.0
    prefill_s: float = 0.0
    held: str = ""
    """Prefix of the agents whose prompts are computed until their client disconnects; empty: none."""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    agents: list[str] = field(default_factory=list)
    num_dropped: int = 0
    seen: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)

    def forget(self) -> None:
        """Lose all caches, as a restart does."""
        self.seen.clear()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer `/v1/models` and `/v1/chat/completions`."""
        content = b""
        while True:
            message = await receive()
            content += message.get("body", b"")
            if not message.get("more_body"):
                break
        if scope["method"] == "DELETE":
            self.deleted.append(scope["path"])
            await self._json(send, 200, {})
        elif scope["path"] == "/v1/models" and self.status != 401:
            await self._json(send, 200, {"data": [{"id": "words"}]})
        elif self.status != 200:
            await self._json(send, self.status, {"error": {"message": "the fake refuses"}})
        else:
            headers = {name.decode(): value.decode() for name, value in scope["headers"]}
            agent = headers.get("x-session-id", "")
            self.agents.append(agent)
            is_held = bool(self.held) and agent.startswith(self.held)
            await self._chat(json.loads(content), receive, send, is_held=is_held)

    async def _chat(self, body: dict[str, Any], receive: Receive, send: Send, *, is_held: bool) -> None:
        self.bodies.append(body)
        prompt = "\n".join(message["content"] for message in body["messages"])
        num_prompt = len(prompt.split())
        cached = max((len(seen.split()) for seen in self.seen if prompt.startswith(seen)), default=0)
        gone = asyncio.create_task(self._gone(receive))
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"text/event-stream")],
            }
        )
        await self._event(send, {"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        prefill_s = self.prefill_s * (num_prompt - cached)
        await asyncio.wait([gone], timeout=None if is_held else prefill_s)
        num_answer = min(body["max_tokens"], self.max_answer) if self.answers else 0
        for _ in range(num_answer):
            if gone.done():
                self.num_dropped += 1
                return
            await asyncio.sleep(self.token_s)
            await self._event(send, {"choices": [{"delta": {"content": "word "}}]})
        self.seen.append(prompt)
        if self.sends_usage:
            usage = {
                "prompt_tokens": num_prompt,
                "completion_tokens": num_answer,
                "prompt_tokens_details": {"cached_tokens": cached},
            }
            await self._event(send, {"choices": [], "usage": usage})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})
        gone.cancel()

    @staticmethod
    async def _gone(receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    @staticmethod
    async def _event(send: Send, event: dict[str, Any]) -> None:
        data = f"data: {json.dumps(event)}\n\n".encode()
        await send({"type": "http.response.body", "body": data, "more_body": True})

    @staticmethod
    async def _json(send: Send, status: int, content: dict[str, Any]) -> None:
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(content).encode()})
