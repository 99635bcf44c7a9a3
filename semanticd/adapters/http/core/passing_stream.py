"""A generation stream that wraps another one: the base of observers of streams."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from semanticd.application.generation.service import GenerationStream


class PassingStream:
    """Returns the properties of the wrapped stream; the observer passes on events and results."""

    def __init__(self, stream: GenerationStream) -> None:
        self._stream = stream
        self.request_id = stream.request_id
        self.model_id = stream.model_id
        self.agent_id = stream.agent_id

    @property
    def adjustments(self) -> tuple[str, ...]:
        """The changes to the request."""
        return self._stream.adjustments

    async def aclose(self) -> None:
        """Cancel the unfinished part."""
        await self._stream.aclose()
