"""A streaming client of the OpenAI chat API that notes when each piece of an answer arrives.

Token counts are the server's (`usage`); times are this process's clock in seconds. Every failure is a `BenchError`.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from typing_extensions import Self

from semanticd.bench.errors import BenchError
from semanticd.bench.statistics import gaps

Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer; `piece_times` and `began_at` are readings of the same clock."""

    text: str
    began_at: float
    piece_times: tuple[float, ...]
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int

    @property
    def ttft_s(self) -> float:
        """Time from the request to the first piece of text."""
        return self.piece_times[0] - self.began_at

    @property
    def total_s(self) -> float:
        """Time from the request to the last piece of text."""
        return self.piece_times[-1] - self.began_at

    @property
    def gaps_s(self) -> list[float]:
        """Times between pieces."""
        return gaps(self.piece_times)

    @property
    def tokens_per_s(self) -> float:
        """Decode rate: tokens after the first over the time after the first."""
        took = self.piece_times[-1] - self.piece_times[0]
        return (self.completion_tokens - 1) / took if took > 0 else 0.0


class OpenStream:
    """A running request; iterate over `pieces`, then read `answer`."""

    def __init__(self, response: httpx.Response, began_at: float) -> None:
        self._response = response
        self.began_at = began_at
        self.piece_times: list[float] = []
        self._texts: list[str] = []
        self._usage: dict[str, Any] = {}

    async def pieces(self) -> AsyncIterator[float]:
        """Yield the moment of each piece of text."""
        async for line in self._response.aiter_lines():
            if not line.startswith("data:"):
                continue
            data = line[5:].strip()
            if data == "[DONE]":
                return
            event = json.loads(data)
            if event.get("error"):
                raise BenchError(f"the server broke the answer off: {event['error']}; see its log")
            self._usage = event.get("usage") or self._usage
            for choice in event.get("choices") or ():
                delta = choice.get("delta") or {}
                text = delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning")
                if text:
                    self._texts.append(text)
                    self.piece_times.append(time.perf_counter())
                    yield self.piece_times[-1]

    def answer(self) -> Answer:
        """Return the complete answer.

        Raises:
            BenchError: The answer was empty, or its tokens were not counted.
        """
        if not self.piece_times:
            raise BenchError(
                "the server answered without any text; if the model ends its turn at once, forbid its end token "
                "with --stop-token-id"
            )
        if not self._usage:
            raise BenchError(
                "the server sent no `usage` with its stream although stream_options.include_usage asked for it, so "
                "tokens cannot be counted; use a server that reports it"
            )
        details = self._usage.get("prompt_tokens_details") or {}
        return Answer(
            text="".join(self._texts),
            began_at=self.began_at,
            piece_times=tuple(self.piece_times),
            prompt_tokens=int(self._usage.get("prompt_tokens") or 0),
            completion_tokens=int(self._usage.get("completion_tokens") or 0),
            cached_tokens=int(details.get("cached_tokens") or 0),
        )


def open_http(*, api_key: str | None, timeout_s: float) -> httpx.AsyncClient:
    """Return a client with a connection of its own for each request, as different programs have."""
    return httpx.AsyncClient(
        headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
        timeout=httpx.Timeout(timeout_s, connect=10.0),
        limits=httpx.Limits(max_keepalive_connections=0),
        # The benchmark speaks to a server of its own; a proxy of the environment would be measured too.
        trust_env=False,
    )


class ChatClient:
    """Asks one server; one connection per request, as different programs would."""

    def __init__(
        self,
        base_url: str,
        *,
        model: str,
        api_key: str | None = None,
        stop_token_ids: Sequence[int] = (),
        timeout_s: float = 600.0,
    ) -> None:
        """`stop_token_ids` are forbidden, so that an answer has the wanted length."""
        self.base_url = base_url.rstrip("/").removesuffix("/v1")
        self.model = model
        self._agents: set[str] = set()
        self._bias = {str(token): -100 for token in stop_token_ids}
        self._timeout_s = timeout_s
        self._http = open_http(api_key=api_key, timeout_s=timeout_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._http.aclose()

    async def ask(self, messages: Messages, *, max_tokens: int, agent: str) -> Answer:
        """Return a whole answer."""
        async with self.stream(messages, max_tokens=max_tokens, agent=agent) as stream:
            async for _ in stream.pieces():
                pass
        return stream.answer()

    @asynccontextmanager
    async def stream(self, messages: Messages, *, max_tokens: int, agent: str) -> AsyncIterator[OpenStream]:
        """Open a streamed request; leaving early drops the connection, as a client does that gives up."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": list(messages),
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self._bias:
            body["logit_bias"] = self._bias
        url = f"{self.base_url}/v1/chat/completions"
        # Labels are paths; servers that name sessions take plain names only.
        agent = agent.replace("/", "-")
        self._agents.add(agent)
        body["user"] = agent
        began_at = time.perf_counter()
        try:
            async with self._http.stream("POST", url, json=body, headers={"X-Session-ID": agent}) as response:
                if response.status_code != 200:
                    raise BenchError(await self._refusal(url, response))
                yield OpenStream(response, began_at)
        except httpx.ConnectError as error:
            raise BenchError(
                f"nothing answers at {self.base_url} ({error}); start the server, or give its address with --base-url"
            ) from error
        except httpx.TimeoutException as error:
            raise BenchError(
                f"{url} sent nothing for {self._timeout_s:.0f} s; give it longer with --timeout, or measure "
                "with shorter prompts (--lengths)"
            ) from error
        except httpx.TransportError as error:
            raise BenchError(f"{url} closed the connection ({error}); see the server's log") from error

    async def forget_agents(self) -> None:
        """Delete the agents that were made here, if the server keeps agents."""
        for agent in sorted(self._agents):
            try:
                answer = await self._http.delete(f"{self.base_url}/v1/agents/{agent}", timeout=30)
            except httpx.TransportError:
                return
            if answer.status_code >= 400 and b"agent_not_found" not in answer.content:
                return
        self._agents.clear()

    async def models(self) -> list[str]:
        """Return the names that the server lists.

        Raises:
            BenchError: The server lists no models.
        """
        url = f"{self.base_url}/v1/models"
        try:
            response = await self._http.get(url, timeout=30)
            if response.status_code != 200:
                raise BenchError(await self._refusal(url, response))
            rows = response.json()["data"]
            return [str(row["id"]) for row in rows]
        except httpx.TransportError as error:
            raise BenchError(
                f"nothing answers at {self.base_url} ({error}); start the server, or give its address with --base-url"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise BenchError(f"{url} answered no list of models; name the model with --model") from error

    async def _refusal(self, url: str, response: httpx.Response) -> str:
        detail = (await response.aread()).decode(errors="replace")[:300]
        advice = {
            401: "give the server's key with --api-key or OPENAI_API_KEY",
            403: "give a valid key with --api-key",
            404: "name a model that it serves with --model, and check --base-url",
            429: "it limits its callers: lift the limit, or run fewer --streams",
        }.get(response.status_code, "see the server's log")
        return f"{url} answered {response.status_code} for model {self.model!r} ({detail}); {advice}"
