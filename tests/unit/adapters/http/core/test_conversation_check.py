"""What the vendors refuse in a conversation is noted, and refused where that is wanted."""

from __future__ import annotations

import pytest

from semanticd.adapters.http.core.adjustments import Adjustments
from semanticd.adapters.http.core.conversation_check import check_conversation
from semanticd.domain.chat import Message, TextPart, ToolCallPart, ToolResultPart
from semanticd.domain.errors import InvalidRequestError

ASK = Message.of("user", "go")
CALL = Message("assistant", (ToolCallPart("c1", "f", {}),))
CALLS = Message("assistant", (ToolCallPart("c1", "f", {}), ToolCallPart("c2", "f", {})))
ONE = Message("tool", (ToolResultPart("c1", "x"),))
TWO = Message("tool", (ToolResultPart("c2", "x"),))
DONE = Message.of("assistant", "done")


@pytest.mark.parametrize(
    "messages",
    [
        (ASK, CALL, ONE, DONE),
        (ASK, CALLS, ONE, TWO, ASK),
        (ASK, CALLS, Message("tool", (*TWO.parts, *ONE.parts)), DONE),
        (ASK, CALL, Message.of("system", "be brief"), ONE),
        (Message.of("system", "s"), ASK),
    ],
)
def test_a_whole_conversation_passes_strictly(messages: tuple[Message, ...]) -> None:
    seen = Adjustments()
    check_conversation(messages, seen, strict=True, param="messages")
    assert seen.words == ()


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ((ASK, ONE, DONE), ("orphan_tool_result=1",)),
        ((ASK, CALL, DONE), ("missing_tool_result=1",)),
        ((ASK, CALLS, ONE, ASK), ("missing_tool_result=1",)),
        ((ASK, CALL), ("missing_tool_result=1",)),
        ((ASK, CALL, ONE, ONE, DONE), ("duplicate_tool_result=1",)),
        ((ASK, Message("user", (TextPart(" "),))), ("empty_content=1",)),
        ((ASK, Message("assistant", ())), ("empty_content=1",)),
    ],
)
def test_a_broken_conversation_is_noted_or_refused(
    messages: tuple[Message, ...], words: tuple[str, ...]
) -> None:
    seen = Adjustments()
    check_conversation(messages, seen, strict=False, param="messages")
    assert seen.words == words
    with pytest.raises(InvalidRequestError) as caught:
        check_conversation(messages, seen, strict=True, param="messages")
    assert caught.value.param == "messages"
