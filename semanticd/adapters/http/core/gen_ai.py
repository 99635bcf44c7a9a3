"""A generation in OpenTelemetry's GenAI conventions: attributes of its span in addition to our own names.

The names are those of github.com/open-telemetry/semantic-conventions-genai, which are in development: they change there
and then here. No text of a prompt or an answer is among them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from semanticd.adapters.http.core.passing_stream import PassingStream
from semanticd.application.ports.telemetry import GEN_AI_PROVIDER, Attribute
from semanticd.domain.generation import Finished, GenerationEvent, GenerationResult, Usage
from semanticd.domain.ids import RequestId

if TYPE_CHECKING:
    from semanticd.application.generation.service import GenerationStream


@dataclass(slots=True)
class GenAiFacts:
    """The attributes of one generation; the rest is set when its answer ends."""

    operation: str
    request_model: str
    response_model: str
    conversation_id: str
    request_id: RequestId
    reasons: list[str] = field(default_factory=list)
    usage: Usage | None = None
    num_output: int = 0
    num_reasoning: int = 0

    def finished(self, reason: str, usage: Usage) -> None:
        """Take the end of one choice."""
        self.reasons.append(reason)
        self.usage = self.usage or usage
        self.num_output += usage.completion_tokens
        self.num_reasoning += usage.reasoning_tokens

    def attributes(self) -> dict[str, Attribute]:
        """Return the span's attributes; `__` in a name stands for a dot."""
        found: dict[str, Attribute] = {
            "gen_ai__operation__name": self.operation,
            "gen_ai__provider__name": GEN_AI_PROVIDER,
            "gen_ai__request__model": self.request_model,
            "gen_ai__response__model": self.response_model,
            "gen_ai__response__id": self.request_id,
            "gen_ai__conversation__id": self.conversation_id,
        }
        if self.usage is None:
            return found
        cache = self.usage.cache
        return {
            **found,
            "gen_ai__response__finish_reasons": tuple(self.reasons),
            "gen_ai__response__time_to_first_chunk": self.usage.timings.ttft_ms / 1000,
            "gen_ai__usage__input_tokens": self.usage.prompt_tokens,
            "gen_ai__usage__cache_read__input_tokens": cache.reused_hot_tokens + cache.restored_warm_tokens,
            "gen_ai__usage__cache_creation__input_tokens": self.usage.stored_tokens,
            "gen_ai__usage__output_tokens": self.num_output,
            "gen_ai__usage__reasoning__output_tokens": self.num_reasoning,
        }


class TracedStream(PassingStream):
    """A `GenerationStream` whose ends are noted as they pass."""

    def __init__(self, stream: GenerationStream, facts: GenAiFacts) -> None:
        super().__init__(stream)
        self._facts = facts

    async def __aiter__(self) -> AsyncIterator[GenerationEvent]:
        async for event in self._stream:
            if isinstance(event, Finished):
                self._facts.finished(event.reason.value, event.usage)
            yield event

    async def result(self) -> GenerationResult:
        """Collect all events."""
        result = await self._stream.result()
        self._facts.usage = result.usage
        self._facts.num_output = result.usage.completion_tokens
        self._facts.num_reasoning = result.usage.reasoning_tokens
        self._facts.reasons = [choice.reason.value for choice in result.choices]
        return result
