"""Server-sent events for all dialects: framing, pings in silence, and errors after the first byte as events.

One task per awaited event follows a generation, so that silence can be noticed without cancelling the wait.
Nothing is raised out of `EventStream.frames`: the status is gone, only a dialect's error event is left.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from falcon.asgi import Response

from semanticd.adapters.http.core.errors import foreseen
from semanticd.adapters.http.core.request_context import RequestContext, show_cache
from semanticd.domain.errors import CancelledByCallerError, SemanticError
from semanticd.domain.generation import Finished, FinishReason, GenerationEvent, Started

if TYPE_CHECKING:
    from semanticd.application.generation.service import GenerationStream

COMMENT_PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"

_encoder = msgspec.json.Encoder()

_LINE_ENDS = ((b"\xc2\x85", b"\\u0085"), (b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))
"""Characters that JSON leaves alone, but that some clients' line readers take for the end of a line."""


def frame(data: Any, *, event: str | None = None) -> bytes:
    """Return one event with its data as a single line of JSON, preceded by its name if it has one."""
    head = b"" if event is None else b"event: " + event.encode("ascii") + b"\n"
    line = _encoder.encode(data)
    for character, escape in _LINE_ENDS:
        line = line.replace(character, escape)
    return head + b"data: " + line + b"\n\n"


class StreamRenderer(Protocol):
    """A dialect's stream: turns events into frames, in order; may return nothing for an event."""

    ping: bytes

    def render(self, event: GenerationEvent) -> bytes:
        """Return the frames for one event."""

    def finish(self) -> bytes:
        """Return the frames after the last event."""

    def fail(self, error: SemanticError) -> bytes:
        """Return the frames that end the stream with an error."""


class EventStream:
    """A generation's events with pings; closing it cancels an unfinished generation."""

    def __init__(self, stream: GenerationStream, *, ping_interval_s: float) -> None:
        """Follow a stream; silence of `ping_interval_s` seconds is answered with a ping."""
        self._stream = stream
        self._events = stream.__aiter__()
        self._ping_interval_s = ping_interval_s
        self._next: asyncio.Task[GenerationEvent | None] | None = None

    async def first(self) -> GenerationEvent | None:
        """Wait for the first event, at most one ping interval; it stays the next one of `frames`.

        Raises:
            SemanticError: the request failed before its first event, when a status can still be sent.
        """
        waiting = self._await_next()
        await asyncio.wait({waiting}, timeout=self._ping_interval_s)
        return waiting.result() if waiting.done() else None

    async def frames(
        self,
        renderer: StreamRenderer,
        *,
        on_error: Callable[[BaseException], None],
        before_end: Callable[[], Awaitable[object]] | None = None,
    ) -> AsyncIterator[bytes]:
        """Yield the answer's bytes until it is complete or failed; failures are shown to `on_error` first.

        `before_end` is awaited between the making of a choice's last frames and their sending.
        """
        clock = asyncio.get_running_loop().time
        sent_at = clock()
        try:
            while True:
                waiting = self._await_next()
                # Events that show nothing are silence too: what counts is when the client last heard of us.
                left_s = max(sent_at + self._ping_interval_s - clock(), 0)
                done, _ = await asyncio.wait({waiting}, timeout=left_s)
                if not done:
                    yield renderer.ping
                    sent_at = clock()
                    continue
                self._next = None
                event = waiting.result()
                if event is None:
                    break
                refuse_cancelled(event)
                frames = renderer.render(event)
                if before_end is not None and isinstance(event, Finished):
                    await before_end()
                if frames:
                    yield frames
                    sent_at = clock()
                elif clock() >= sent_at + self._ping_interval_s:
                    yield renderer.ping
                    sent_at = clock()
            yield renderer.finish()
        except Exception as error:  # noqa: BLE001 - the edge: whatever it is, the client must hear of it
            on_error(error)
            yield renderer.fail(foreseen(error))
        finally:
            await self.aclose()

    def _await_next(self) -> asyncio.Task[GenerationEvent | None]:
        if self._next is None:
            self._next = asyncio.create_task(self._pull())
        return self._next

    async def _pull(self) -> GenerationEvent | None:
        # A StopAsyncIteration cannot leave a task, so the end is None.
        try:
            return await self._events.__anext__()
        except StopAsyncIteration:
            return None

    async def aclose(self) -> None:
        """Stop waiting and cancel the generation; idempotent."""
        waiting, self._next = self._next, None
        if waiting is not None:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        await self._stream.aclose()


def refuse_cancelled(event: GenerationEvent) -> None:
    """Raise `CancelledByCallerError` for a cancelled choice: its text must not pass for a whole answer."""
    if isinstance(event, Finished) and event.reason in (FinishReason.CANCELLED, FinishReason.ERROR):
        raise CancelledByCallerError("the request was cancelled before its answer was complete")


async def respond(
    resp: Response,
    exchange: RequestContext,
    stream: GenerationStream,
    renderer: StreamRenderer,
    *,
    ping_interval_s: float,
    on_error: Callable[[BaseException], None],
    before_end: Callable[[], Awaitable[object]] | None = None,
) -> None:
    """Make the response a stream; what fails before its first event is raised and becomes a status."""
    events = EventStream(stream, ping_interval_s=ping_interval_s)
    exchange.on_end(events.aclose)
    first = await events.first()
    if isinstance(first, Started):
        show_cache(resp, first.cache)
    resp.content_type = "text/event-stream; charset=utf-8"
    resp.set_header("Cache-Control", "no-cache")
    resp.set_header("X-Accel-Buffering", "no")
    resp.stream = events.frames(renderer, on_error=on_error, before_end=before_end)
