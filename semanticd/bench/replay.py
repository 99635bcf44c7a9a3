"""Plays recorded requests against a server, several agents at a time, and reports what each found in the cache.

Requests are sent as recorded, except the model's name, the length of answers and the agent. By default the
agents take turns, one request at a time, so that a replay gives the same figures each time.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from semanticd.bench.as_chat import PATH as CHAT_PATH
from semanticd.bench.as_chat import as_chat
from semanticd.bench.errors import BenchError
from semanticd.bench.prompt_tokens import PromptTokens, SeenPrompts
from semanticd.bench.replay_answer import AnswerReader
from semanticd.bench.trace_file import Trace, TracedRequest

_LIMITS = {
    "anthropic": "max_tokens",
    "chat": "max_tokens",
    "completions": "max_tokens",
    "responses": "max_output_tokens",
}
"""The dialects that can be replayed, and the field that bounds an answer."""
_OTHER_LIMITS = ("max_completion_tokens",)
_KEPT_HEADERS = (
    "anthropic-version",
    "anthropic-beta",
    "x-claude-code-agent-id",
    "x-parent-session-id",
    "x-codex-parent-thread-id",
    "x-priority",
)
_READY_WITHIN_S = 180.0
_REASON_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class ReplaySettings:
    """Options of a replay; counts begin at 1."""

    model: str
    num_agents: int
    restart_at: frozenset[int] = frozenset()
    """Numbers of requests, over all agents, before which the server is restarted."""
    evict_at: frozenset[int] = frozenset()
    """The same for moving all agents out of RAM."""
    max_tokens: int = 16
    concurrent: bool = False
    """Whether agents ask at the same time instead of taking turns."""
    speed: float = 0.0
    """Pauses between an agent's requests are the recorded ones divided by this; 0: none."""
    as_chat: bool = False
    """Whether every request is asked as a chat completion."""
    seed: str = "replay"
    """Part of the agents' names, so that two replays do not meet."""


@dataclass(frozen=True, slots=True)
class Played:
    """One request that was played; tokens, seconds. `reusable` is None where no tokenizer was at hand."""

    agent: str
    trace: str
    number: int
    """Its place among all requests of the replay, from 1."""
    path: str
    status: int
    prompt: int = 0
    reusable: int | None = None
    reused: int = 0
    hot: int | None = None
    warm: int | None = None
    miss: str | None = None
    ttft_s: float | None = None
    seconds: float = 0.0
    refusal: str | None = None

    @property
    def recomputed(self) -> int:
        """Tokens that were computed again though they could have been reused."""
        return max((self.reusable or 0) - self.reused, 0)


@dataclass(slots=True)
class _Player:
    """One agent: its trace, and how far it is."""

    name: str
    trace: Trace
    done: int = 0


@dataclass(slots=True)
class Replay:
    """A replay of some traces; `tell` gets its progress."""

    http: httpx.AsyncClient
    base_url: str
    traces: Sequence[Trace]
    settings: ReplaySettings
    tokens: PromptTokens | None
    tell: Callable[[str], None]
    restart: Callable[[], Awaitable[None]] | None = None
    played: list[Played] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    _seen: SeenPrompts = field(default_factory=SeenPrompts)
    _agents_before: frozenset[str] = frozenset()
    _num_begun: int = 0
    _num_running: int = 0
    _held: bool = False
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def num_requests(self) -> int:
        """Number of requests that the replay sends."""
        return sum(len(player.trace.requests) for player in self._players())

    async def run(self) -> None:
        """Play everything.

        Raises:
            BenchError: The server cannot be reached, or a restart failed.
        """
        if self.settings.evict_at:
            self._agents_before = frozenset(await self._agents())
        players = self._players()
        if self.settings.concurrent:
            await asyncio.gather(*(self._play_all(player) for player in players))
            return
        while any(player.done < len(player.trace.requests) for player in players):
            for player in players:
                if player.done < len(player.trace.requests):
                    await self._play_next(player)

    def _players(self) -> list[_Player]:
        traces, num = self.traces, self.settings.num_agents
        return [
            _Player(f"{traces[index % len(traces)].name}-{index + 1}", traces[index % len(traces)])
            for index in range(num)
        ]

    async def _play_all(self, player: _Player) -> None:
        requests = player.trace.requests
        while player.done < len(requests):
            if player.done and self.settings.speed:
                pause = requests[player.done].at - requests[player.done - 1].at
                await asyncio.sleep(max(pause, 0.0) / self.settings.speed)
            await self._play_next(player)

    async def _play_next(self, player: _Player) -> None:
        request = player.trace.requests[player.done]
        player.done += 1
        number = await self._enter()
        try:
            played = await self._play(player, request, number)
        finally:
            async with self._changed:
                self._num_running -= 1
                self._changed.notify_all()
        self.played.append(played)
        self.tell(_told(played, player, self.num_requests))

    async def _enter(self) -> int:
        """Number a request, and interrupt before it where that is wanted: what runs ends first, nothing else begins."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._held)
            self._num_begun += 1
            number = self._num_begun
            wanted = number in self.settings.restart_at or number in self.settings.evict_at
            if wanted:
                self._held = True
                await self._changed.wait_for(lambda: not self._num_running)
                try:
                    await self._interrupt(number)
                finally:
                    self._held = False
                    self._changed.notify_all()
            self._num_running += 1
            return number

    async def _interrupt(self, number: int) -> None:
        if number in self.settings.evict_at:
            ids = [one for one in await self._agents() if one not in self._agents_before]
            for agent in ids:
                await self._post(f"/v1/agents/{agent}/evict")
            self.tell(f"before request {number}: {len(ids)} agents moved out of RAM")
            self.events.append({"before": number, "what": "evict", "num_agents": len(ids)})
        if number in self.settings.restart_at and self.restart is not None:
            began = time.perf_counter()
            await self.restart()
            await self._ready()
            took = time.perf_counter() - began
            self.tell(f"before request {number}: restarted in {took:.1f} s")
            self.events.append({"before": number, "what": "restart", "seconds": round(took, 2)})

    async def _agents(self) -> list[str]:
        try:
            answer = await self.http.get(f"{self.base_url}/v1/agents", params={"limit": 1000})
            return [str(one["id"]) for one in answer.json()["data"]] if answer.status_code == 200 else []
        except (httpx.TransportError, ValueError, KeyError):
            return []

    async def _post(self, path: str) -> None:
        try:
            answer = await self.http.post(f"{self.base_url}{path}")
        except httpx.TransportError as error:
            raise BenchError(
                f"{self.base_url}{path} failed ({error!r}); see whether the server runs"
            ) from error
        if answer.status_code >= 400:
            raise BenchError(f"{path} answered {answer.status_code}: {answer.text[:_REASON_CHARACTERS]}")

    async def _ready(self) -> None:
        deadline = time.monotonic() + _READY_WITHIN_S
        while time.monotonic() < deadline:
            try:
                if (await self.http.get(f"{self.base_url}/v1/models")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.1)
        raise BenchError(f"{self.base_url} did not answer within {_READY_WITHIN_S:.0f} s after the restart")

    # One request.

    async def _play(self, player: _Player, request: TracedRequest, number: int) -> Played:
        if request.dialect not in _LIMITS or not isinstance(request.body, dict):
            why = f"the dialect {request.dialect} needs a conversation that the server keeps"
            return Played(player.name, player.trace.name, number, request.path, 0, refusal=why)
        try:
            path, body = self._prepared(request)
        except BenchError as error:
            return Played(player.name, player.trace.name, number, request.path, 0, refusal=str(error))
        headers = self._headers(player, request)
        dialect = "chat" if self.settings.as_chat else request.dialect
        ids: Sequence[int] | None = None
        if self.tokens is not None and dialect != "completions":
            try:
                ids = await self.tokens.ids(dialect, path, body, headers)
            except BenchError as error:
                self.tell(f"request {number}: its tokens are not known: {error}")
        reusable = None if ids is None else self._seen.reusable(ids)
        played = await self._ask(player, number, path, body, headers=headers, reusable=reusable)
        if ids is not None and played.status == 200:
            self._seen.add(ids)
        return played

    def _prepared(self, request: TracedRequest) -> tuple[str, dict[str, Any]]:
        dialect, path, body = request.dialect, request.path, dict(request.body)
        if self.settings.as_chat and dialect != "chat":
            dialect, path, body = "chat", CHAT_PATH, as_chat(dialect, body)
        for name in _OTHER_LIMITS:
            body.pop(name, None)
        body["model"] = self.settings.model
        body[_LIMITS[dialect]] = self.settings.max_tokens
        thinking = body.get("thinking")
        if isinstance(thinking, dict) and thinking.get("budget_tokens"):
            body["thinking"] = {**thinking, "budget_tokens": max(self.settings.max_tokens - 1, 1)}
        body["stream"] = True
        if dialect in ("chat", "completions"):
            body["stream_options"] = {"include_usage": True}
        return path, body

    def _headers(self, player: _Player, request: TracedRequest) -> dict[str, str]:
        headers = {name: request.headers[name] for name in _KEPT_HEADERS if name in request.headers}
        who = _who(request)
        if who is not None:
            digest = hashlib.sha256(who.encode("utf-8", "surrogatepass")).hexdigest()[:12]
            headers["x-session-id"] = f"{self.settings.seed}-{player.name}-{digest}".replace("/", "-")
        return headers

    async def _ask(
        self,
        player: _Player,
        number: int,
        path: str,
        body: Mapping[str, Any],
        *,
        headers: Mapping[str, str],
        reusable: int | None,
    ) -> Played:
        began = time.perf_counter()
        content = json.dumps(body).encode("utf-8")
        sent = {**headers, "content-type": "application/json"}
        try:
            async with self.http.stream(
                "POST", f"{self.base_url}{path}", content=content, headers=sent
            ) as answer:
                if answer.status_code != 200:
                    text = (await answer.aread()).decode("utf-8", "replace")[:_REASON_CHARACTERS]
                    return Played(
                        player.name, player.trace.name, number, path, answer.status_code, refusal=text
                    )
                reader = AnswerReader(answer.headers)
                async for line in answer.aiter_lines():
                    reader.line(line, time.perf_counter())
        except httpx.TimeoutException as error:
            raise BenchError(f"{self.base_url}{path} sent nothing for too long; raise --timeout") from error
        except httpx.TransportError as error:
            raise BenchError(
                f"request {number} to {self.base_url}{path} failed ({error!r}); see whether the server runs"
            ) from error
        except ValueError as error:
            raise BenchError(f"{self.base_url}{path} sent a stream that cannot be read: {error}") from error
        cost = reader.cost()
        return Played(
            player.name,
            player.trace.name,
            number,
            path,
            200 if reader.error is None else 500,
            prompt=cost.prompt,
            reusable=reusable,
            reused=cost.cached,
            hot=cost.hot,
            warm=cost.warm,
            miss=cost.miss,
            ttft_s=None if reader.first_at is None else reader.first_at - began,
            seconds=time.perf_counter() - began,
            refusal=reader.error,
        )


def _who(request: TracedRequest) -> str | None:
    """Return what names the conversation's owner in a request, in the order in which semanticd reads it."""
    body = request.body
    metadata = body.get("metadata")
    user = metadata.get("user_id") if isinstance(metadata, dict) else None
    headers = (request.headers.get(name) for name in ("x-session-id", "x-session-affinity"))
    names = (*headers, body.get("prompt_cache_key"), body.get("user"), user)
    return next((str(name) for name in names if name), None)


def _told(played: Played, player: _Player, num_requests: int) -> str:
    where = f"{played.number}/{num_requests} {player.name} {player.done}/{len(player.trace.requests)}"
    if played.refusal is not None:
        return f"{where}: refused with {played.status}: {played.refusal}"
    reusable = "" if played.reusable is None else f"{played.reusable} reusable, "
    miss = f", miss: {played.miss}" if played.recomputed and played.miss else ""
    ttft = "" if played.ttft_s is None else f", {played.ttft_s:.2f} s"
    return f"{where}: {played.prompt} tokens, {reusable}{played.reused} reused{ttft}{miss}"
