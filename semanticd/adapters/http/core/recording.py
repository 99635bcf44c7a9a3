"""The recorded facts of a generation: its body, its first token's time, the costs of its prompts.

Nothing here runs while recording is off: an exchange without a `Recording` is not observed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from semanticd.adapters.http.core.passing_stream import PassingStream
from semanticd.application.ports.request_traces import RecordedRequest
from semanticd.domain.generation import (
    Finished,
    GenerationEvent,
    GenerationResult,
    Started,
    Usage,
)

if TYPE_CHECKING:
    from semanticd.application.generation.service import GenerationStream

DIALECTS: Mapping[str, str] = {
    "/v1/messages": "anthropic",
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/responses": "responses",
    "/v1/agents/{agent_id}/generate": "agents",
}
"""The routes that are recorded, and their dialects' names in a trace. Ollama's are left out: nothing replays them."""

HEADERS = frozenset(
    [
        "content-type",
        "user-agent",
        "anthropic-version",
        "anthropic-beta",
        "openai-beta",
        "x-priority",
        "session-id",
        "x-session-id",
        "x-session-affinity",
        "x-parent-session-id",
        "x-codex-parent-thread-id",
        "x-claude-code-session-id",
        "x-claude-code-agent-id",
    ]
)
"""Headers that affect the answer or identify the client; no others are recorded."""


@dataclass(slots=True)
class Recording:
    """Notes on one exchange."""

    dialect: str
    began_at: float
    """Wall clock, in seconds."""
    begun: float
    """The clock of `monotonic`, in seconds."""
    monotonic: Callable[[], float]
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    first_s: float | None = None
    usages: list[Usage] = field(default_factory=list)

    @classmethod
    def of(
        cls, scope: Mapping[str, Any], template: str, *, began_at: float, monotonic: Callable[[], float]
    ) -> Recording | None:
        """Return notes on a request; None where its route generates nothing."""
        dialect = DIALECTS.get(template)
        if dialect is None or scope["method"] != "POST":
            return None
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        return cls(
            dialect,
            began_at,
            monotonic(),
            monotonic,
            query=scope["query_string"].decode("latin-1"),
            headers={name: value for name, value in headers.items() if name in HEADERS},
        )

    def see_first(self) -> None:
        """Note the moment of the answer's first text, thinking or call."""
        if self.first_s is None:
            self.first_s = self.monotonic() - self.begun

    def request(self, request_id: str, path: str, *, agent_id: str | None, status: int) -> RecordedRequest:
        """Return all of it, at the exchange's end."""
        return RecordedRequest(
            request_id=request_id,
            dialect=self.dialect,
            path=path,
            query=self.query,
            headers=self.headers,
            body=self.body,
            began_at=self.began_at,
            seconds=self.monotonic() - self.begun,
            status=status,
            first_s=self.first_s,
            agent_id=agent_id,
            usages=tuple(self.usages),
        )


class ObservedStream(PassingStream):
    """A `GenerationStream` whose events are noted as they pass."""

    def __init__(self, stream: GenerationStream, recording: Recording) -> None:
        super().__init__(stream)
        self._recording = recording

    async def __aiter__(self) -> AsyncIterator[GenerationEvent]:
        """Pass the events on; the choices of a prompt share its cost, and have their tokens added up."""
        cost: Usage | None = None
        async for event in self._stream:
            if isinstance(event, Finished):
                if cost is not None:
                    self._recording.usages.remove(cost)
                num_before = cost.completion_tokens if cost is not None else 0
                cost = replace(event.usage, completion_tokens=event.usage.completion_tokens + num_before)
                self._recording.usages.append(cost)
            elif not isinstance(event, Started):
                self._recording.see_first()
            yield event

    async def result(self) -> GenerationResult:
        """Collect all events; an answer that is sent whole has no first word of its own."""
        result = await self._stream.result()
        self._recording.usages.append(result.usage)
        return result
