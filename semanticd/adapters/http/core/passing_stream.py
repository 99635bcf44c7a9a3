"""A generation stream that stands before another one: what observers of streams have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from semanticd.application.generation.service import GenerationStream


class PassingStream:
    """Says of itself what the stream behind it says; events and results are the observer's to pass on."""

    def __init__(self, stream: GenerationStream) -> None:
        self._stream = stream
        self.request_id = stream.request_id
        self.model_id = stream.model_id
        self.agent_id = stream.agent_id

    @property
    def adjustments(self) -> tuple[str, ...]:
        """What was changed in the request."""
        return self._stream.adjustments

    async def aclose(self) -> None:
        """Cancel what is not finished."""
        await self._stream.aclose()
