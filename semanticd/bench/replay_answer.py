"""The cost of one replayed request, read from the answer of any dialect and server.

Ours says hot, warm and computed tokens in `X-Semantic-Cache`; others say cached tokens in `usage`, llama.cpp also in
`timings`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_WORD = re.compile(r"(\w+)=(\S+)")


@dataclass(slots=True)
class Cost:
    """Tokens of one prompt; `hot` and `warm` are None where the server only says how many were cached."""

    prompt: int = 0
    cached: int = 0
    hot: int | None = None
    warm: int | None = None
    miss: str | None = None
    """Cause of the prompt's divergence from the cache, as the server reports it."""


class AnswerReader:
    """Reads an answer event by event; `first_at` is the clock's reading at its first text, thinking or call.

    The first token of an empty answer is the one that ends it.
    """

    def __init__(self, headers: Mapping[str, str]) -> None:
        """Begin with the answer's headers."""
        self.first_at: float | None = None
        self.error: str | None = None
        self._own = dict(_WORD.findall(headers.get("x-semantic-cache") or ""))
        self._usage: dict[str, Any] = {}
        self._timings: Mapping[str, Any] = {}

    def line(self, line: str, now: float) -> None:
        """Take a line of a stream."""
        if not line.startswith("data:"):
            return
        data = line[5:].strip()
        if data and data != "[DONE]":
            self.event(json.loads(data), now)

    def event(self, event: Mapping[str, Any], now: float) -> None:
        """Take one event, or a whole answer."""
        if event.get("type") == "error":
            self.error = str(event.get("error") or event.get("message") or event)
        for holder in (event, event.get("message"), event.get("response")):
            if isinstance(holder, Mapping):
                if holder.get("error"):
                    self.error = str(holder["error"])
                # Anthropic's counts come in two events, the first of which has the prompt.
                found = {
                    name: value for name, value in (holder.get("usage") or {}).items() if value is not None
                }
                self._usage.update(found)
                self._timings = holder.get("timings") or self._timings
        if self.first_at is None and (_says_something(event) or _ends(event)):
            self.first_at = now

    def cost(self) -> Cost:
        """Return the known costs of the prompt."""
        usage = self._usage
        if "input_tokens" in usage and "input_tokens_details" not in usage:
            read = int(usage.get("cache_read_input_tokens") or 0)
            created = int(usage.get("cache_creation_input_tokens") or 0)
            cost = Cost(int(usage["input_tokens"]) + read + created, read)
        else:
            details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
            prompt = usage.get("prompt_tokens") or usage.get("input_tokens") or 0
            cost = Cost(int(prompt), int(details.get("cached_tokens") or 0))
        if not cost.cached and self._timings.get("cache_n"):
            cost.cached = int(self._timings["cache_n"])
        if self._own:
            cost.hot, cost.warm = int(self._own.get("hot", 0)), int(self._own.get("warm", 0))
            cost.cached = cost.hot + cost.warm
            cost.prompt = cost.cached + int(self._own.get("computed", 0))
            cost.miss = self._own.get("miss", "").partition("@")[0] or None
        return cost


def _says_something(event: Mapping[str, Any]) -> bool:
    kind = str(event.get("type") or "")
    if kind.endswith(".delta") or kind == "content_block_delta":
        return True
    if kind == "content_block_start":
        return bool((event.get("content_block") or {}).get("type") == "tool_use")
    for choice in event.get("choices") or ():
        said = choice.get("delta") or choice.get("message") or choice
        if any(
            said.get(name) for name in ("content", "tool_calls", "reasoning_content", "reasoning", "text")
        ):
            return True
    return kind in ("message", "response.output_item.added") or event.get("object") == "response"


def _ends(event: Mapping[str, Any]) -> bool:
    kind = str(event.get("type") or "")
    if kind in ("message_delta", "response.completed", "response.incomplete"):
        return True
    return any(choice.get("finish_reason") for choice in event.get("choices") or ())
