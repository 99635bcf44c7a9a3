"""The header of coding agents is dropped; nothing that a user wrote is."""

from __future__ import annotations

import pytest

from semanticd.domain.chat import Message, TextPart
from semanticd.domain.volatile_header import without_volatile_header

HEADER = "x-anthropic-billing-header: cc_version=2.1; cc_entrypoint=cli; cch=1a2b3"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (HEADER, ()),
        (f"{HEADER};", ()),
        (f"{HEADER};\n", ()),
        ("x-anthropic-billing-header: 1a2b3", ()),
        (f"{HEADER};\nYou help.", ("You help.",)),
        (f"{HEADER}\nYou help.\nBe brief.", ("You help.\nBe brief.",)),
        (f"You help.\n{HEADER};\nBe brief.", ("You help.\nBe brief.",)),
        (f"You help.\n{HEADER};", ("You help.\n",)),
        (f"{HEADER};You are an agent.\nYou help.", ("You are an agent.\nYou help.",)),
        (
            "x-anthropic-billing-header: is sent by agents.",
            ("x-anthropic-billing-header: is sent by agents.",),
        ),
        (f"Send {HEADER};", (f"Send {HEADER};",)),
        ("", ("",)),
    ],
)
def test_only_the_header_is_taken_away(text: str, left: tuple[str, ...]) -> None:
    message = without_volatile_header(Message.of("system", text))
    assert message.parts == tuple(TextPart(text) for text in left)


def test_each_part_is_read_for_itself() -> None:
    parts = (TextPart("You help."), TextPart(HEADER), TextPart("Be brief."))
    assert without_volatile_header(Message("system", parts)).parts == (parts[0], parts[2])


def test_other_messages_and_system_texts_without_it_are_the_same_objects() -> None:
    for message in (Message.of("user", HEADER), Message.of("assistant", HEADER), Message.of("system", "hi")):
        assert without_volatile_header(message) is message
