"""Server-sent events: frames, pings in silence, errors after the first byte."""

from __future__ import annotations

import asyncio

import pytest

from semanticd.adapters.http.core.sse import COMMENT_PING, EventStream, frame
from semanticd.domain.chat import TextPrompt
from semanticd.domain.errors import EngineError, SemanticError
from semanticd.domain.generation import Finished, FinishReason, GenerationEvent, GenerationRequest, TextDelta
from semanticd.domain.ids import RequestId
from tests.fakes.asgi_client import until
from tests.fakes.generator import USAGE, Script, ScriptedGenerator, ScriptedStream

REQUEST = GenerationRequest(RequestId("r"), "tiny", TextPrompt("hi"))


class Plain:
    """A dialect of bare words."""

    ping = b"ping"

    def render(self, event: GenerationEvent) -> bytes:
        return event.text.encode() if isinstance(event, TextDelta) else b""

    def finish(self) -> bytes:
        return b"end"

    def fail(self, error: SemanticError) -> bytes:
        return f"failed: {error.message}".encode()


async def opened(script: Script) -> ScriptedStream:
    return await ScriptedGenerator(script).open(REQUEST)


async def collected(script: Script, *, ping_interval_s: float = 10.0) -> tuple[list[bytes], ScriptedStream]:
    stream = await opened(script)
    events = EventStream(stream, ping_interval_s=ping_interval_s)
    return [chunk async for chunk in events.frames(Plain(), on_error=lambda _: None)], stream


def test_a_frame_is_a_name_a_line_of_json_and_an_empty_line() -> None:
    assert frame({"a": "é\n"}, event="x") == 'event: x\ndata: {"a":"é\\n"}\n\n'.encode()
    assert frame([1]) == b"data: [1]\n\n"


async def test_events_come_in_order_and_the_stream_is_closed() -> None:
    frames, stream = await collected(["Hello", " wörld"])
    assert frames == [b"Hello", " wörld".encode(), b"end"]
    assert stream.closed


async def test_silence_is_answered_with_pings_until_the_next_event() -> None:
    release = asyncio.Event()
    events = EventStream(await opened([release, "late"]), ping_interval_s=0.001)
    seen: list[bytes] = []
    async for chunk in events.frames(Plain(), on_error=lambda _: None):
        seen.append(chunk)
        if seen.count(b"ping") == 3:
            release.set()
    assert seen[:3] == [b"ping"] * 3
    assert [chunk for chunk in seen if chunk != b"ping"] == [b"late", b"end"]


async def test_events_that_show_nothing_are_silence() -> None:
    turns = 0

    class Silent(Plain):
        def render(self, event: GenerationEvent) -> bytes:
            return b"" if isinstance(event, TextDelta) else super().render(event)

    def script(request: GenerationRequest) -> Script:
        return ["x"] * 10_000

    stream = await ScriptedGenerator(script).open(REQUEST)
    events = EventStream(stream, ping_interval_s=0.0005)
    async for chunk in events.frames(Silent(), on_error=lambda _: None):
        turns += chunk == b"ping"
    assert turns > 1


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (EngineError("the step failed"), b"failed: the step failed"),
        (ValueError("secret"), b"failed: answering"),
    ],
)
async def test_an_error_after_the_first_byte_is_the_dialects_last_event(
    error: Exception, words: bytes
) -> None:
    shown: list[BaseException] = []
    events = EventStream(await opened(["some", error]), ping_interval_s=10)
    frames = [chunk async for chunk in events.frames(Plain(), on_error=shown.append)]
    assert frames[0] == b"some"
    assert frames[-1].startswith(words)
    assert b"secret" not in b"".join(frames)
    assert shown == [error]


async def test_a_cancelled_answer_ends_with_an_error_and_not_with_a_stop() -> None:
    frames, _ = await collected(["half", Finished(FinishReason.CANCELLED, USAGE)])
    assert frames[0] == b"half"
    assert frames[-1].startswith(b"failed: the request was cancelled")


async def test_an_error_before_the_first_event_is_raised_so_that_it_becomes_a_status() -> None:
    stream = await opened([EngineError("no room")])
    with pytest.raises(EngineError, match="no room"):
        await EventStream(stream, ping_interval_s=10).first()


async def test_closing_while_waiting_cancels_the_generation() -> None:
    stream = await opened([asyncio.Event()])
    events = EventStream(stream, ping_interval_s=10)
    frames = events.frames(Plain(), on_error=lambda _: None)
    waiting = asyncio.ensure_future(frames.__anext__())
    await until(lambda: stream.waiting)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await events.aclose()
    await events.aclose()
    assert stream.closed
    assert not stream.exhausted


def test_a_ping_is_a_comment_that_every_client_skips() -> None:
    assert COMMENT_PING.startswith(b":")
    assert COMMENT_PING.endswith(b"\n\n")
