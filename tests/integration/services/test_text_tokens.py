"""Texts to ids and back over a whole engine, which has no part in it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from semanticd.application.generation.text_tokens import TextToRead
from semanticd.domain.chat import ChatPrompt, Message
from semanticd.domain.errors import InvalidRequestError, PromptTooLongError, QueueFullError
from semanticd.domain.ids import AgentId
from semanticd.domain.limits import LIMITS
from tests.fakes.service_rig import ServiceRig
from tests.fakes.tokenizer import CharTokenizer

CHAT = ChatPrompt((Message.of("user", "hi"),))


async def test_a_text_becomes_ids_and_text_again() -> None:
    async with ServiceRig() as rig:
        read = await rig.tokens.encode("one", TextToRead("hi<|end|>", with_pieces=True))
        assert read.token_ids == tuple(CharTokenizer().encode("hi<|end|>"))
        assert read.pieces == (b"h", b"i", b"<|end|>")
        assert read.context_length == 4096
        assert await rig.tokens.decode("", read.token_ids) == "hi<|end|>"
        literal = await rig.tokens.encode("", TextToRead("<|end|>", parse_special=False))
        assert (len(literal.token_ids), literal.pieces) == (len("<|end|>"), None)


@pytest.mark.parametrize(("begins", "end"), [(True, "<|assistant|>"), (False, "")])
async def test_a_conversation_is_rendered_first(begins: bool, end: str) -> None:
    async with ServiceRig() as rig:
        read = await rig.tokens.encode("", TextToRead(CHAT, add_generation_prompt=begins))
        assert read.token_ids == tuple(CharTokenizer().encode(f"<|user|>hi<|end|>{end}"))
        assert not rig.engine.running()


async def test_what_is_far_beyond_the_context_or_no_token_is_refused() -> None:
    async with ServiceRig(context_length=64) as rig:
        long = "a" * (LIMITS.prompt_characters_per_token * 65)
        for text in (long, ChatPrompt((Message.of("user", long),))):
            with pytest.raises(PromptTooLongError):
                await rig.tokens.encode("", TextToRead(text))
        with pytest.raises(PromptTooLongError):
            await rig.tokens.decode("", [1] * 65)
        for bad in (-1, CharTokenizer().vocab_size, 2**63):
            with pytest.raises(InvalidRequestError, match="vocabulary") as refused:
                await rig.tokens.decode("", [bad])
            assert refused.value.param == "tokens"


async def test_a_place_is_taken_before_anything_is_read() -> None:
    async with ServiceRig(max_queue=1) as rig:
        stream = await rig.begin("hello", agent=AgentId("a"))
        for ask in (rig.tokens.encode("", TextToRead("a")), rig.tokens.decode("", [1])):
            with pytest.raises(QueueFullError):
                await ask
        await stream.aclose()


async def test_texts_that_are_read_slowly_hold_up_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, may_end = threading.Semaphore(0), threading.Event()

    def read_slowly(*_: object, **__: object) -> list[int]:
        begun.release()
        assert may_end.wait(60)
        return [1]

    monkeypatch.setattr(CharTokenizer, "text_ids", read_slowly)
    async with ServiceRig(max_queue=64) as rig:
        # More than the event loop has threads for such work.
        reads = [asyncio.ensure_future(rig.tokens.encode("", TextToRead("a"))) for _ in range(40)]
        try:
            assert await asyncio.to_thread(begun.acquire, timeout=60)
            answer = await asyncio.wait_for(rig.say("hello"), 60)
            assert answer.usage.completion_tokens
            assert not begun.acquire(blocking=False), "one at a time"
        finally:
            may_end.set()
        assert {read.token_ids for read in await asyncio.gather(*reads)} == {(1,)}
