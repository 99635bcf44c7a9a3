"""Answering one request: resolve the model, find the agent, render, tokenize, submit, and follow the events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from semanticd.domain.chat import Prompt
from semanticd.domain.generation import GenerationEvent, GenerationRequest, GenerationResult
from semanticd.domain.ids import AgentId, ModelId, RequestId


class GenerationStream(Protocol):
    """One request's events, in order; closing it early cancels the request."""

    request_id: RequestId
    model_id: ModelId
    agent_id: AgentId

    def __aiter__(self) -> AsyncIterator[GenerationEvent]:
        """Iterate once over the events; raises the domain error that ended the request early."""

    async def result(self) -> GenerationResult:
        """Collect all events into one result."""

    async def aclose(self) -> None:
        """Cancel what is not finished; idempotent."""


class Generator(Protocol):
    """What the HTTP dialects need; `GenerateService` below is the real one."""

    async def open(self, request: GenerationRequest) -> GenerationStream:
        """Admit a request; raises a domain error (unknown model, too long, queue full, ...) before any event."""

    async def count_tokens(self, model: str, prompt: Prompt) -> int:
        """Return the prompt's length in tokens."""
