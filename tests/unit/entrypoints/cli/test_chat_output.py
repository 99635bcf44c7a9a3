"""How `semanticd chat` prints an answer: its Markdown on a terminal, the text as it is elsewhere."""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator

import pytest

from semanticd.control.messages import Event
from semanticd.control.results import MessageRow, read
from semanticd.entrypoints.cli.chat import PrintedAnswer, message_text, messages, print_tokens

ANSWER = "# Plan\nUse **this** and `that`.\n```py\nx = 1\n```\n\x1b[2J"


def printed(monkeypatch: pytest.MonkeyPatch, *, is_terminal: bool, num_lost: int = 0) -> None:
    """Print the answer a character at a time; of the last ones only the reply knows."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal, raising=False)
    answer = PrintedAnswer()
    for character in ANSWER[: len(ANSWER) - num_lost]:
        answer.add(character)
    answer.complete(ANSWER)


@pytest.mark.parametrize("num_lost", [0, 30])
def test_a_terminal_shows_markdown_and_no_sequence_of_the_models(
    num_lost: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    printed(monkeypatch, is_terminal=True, num_lost=num_lost)
    shown = capsys.readouterr().out
    assert re.sub(r"\x1b\[\d*m", "", shown) == "Plan\nUse this and that.\n```py\nx = 1\n```\n\\x1b[2J"
    assert "\x1b[1mthis\x1b[0m and \x1b[36mthat\x1b[0m" in shown


def test_without_colours_what_is_important_is_bold(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    printed(monkeypatch, is_terminal=True)
    shown = capsys.readouterr().out
    assert "\x1b[1mthis\x1b[0m and that." in shown


def test_elsewhere_the_text_is_as_the_model_wrote_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed(monkeypatch, is_terminal=False)
    assert capsys.readouterr().out == ANSWER.replace("\x1b", "\\x1b")


@pytest.mark.parametrize(("text", "shown"), [("She s", "She s\n"), ("She.\n", "She.\n"), ("", "")])
def test_an_answer_that_breaks_off_leaves_its_line_to_what_is_said_of_it(
    text: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = PrintedAnswer()
    answer.add(text)
    answer.break_off()
    assert capsys.readouterr().out == shown


def test_a_messages_parts_are_its_text() -> None:
    parts = [{"type": "text", "text": "see "}, {"type": "tool_call", "name": "look"}, {"type": "image"}]
    row = read(MessageRow, {"role": "assistant", "content": parts})
    assert message_text(row) == "see [tool_call look][image]"


def test_a_client_kept_conversation_is_shown_by_roles() -> None:
    rows = [
        read(
            MessageRow, {"role": "transcript", "content": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_st"}
        ),
        read(
            MessageRow, {"role": "transcript", "content": "art|>user\nHi?<|im_end|>\n<|im_start|>assistant\n"}
        ),
        read(MessageRow, {"role": "transcript", "content": "Ho.<|im_end|>\n"}),
    ]
    found = [(message.role, message.text) for message in messages(rows)]
    assert found == [("system", "Be brief."), ("user", "Hi?"), ("assistant", "Ho.")]
    kept = [read(MessageRow, {"role": "user", "content": "<|im_start|>"})]
    assert [(message.role, message.text) for message in messages(kept)] == [("user", "<|im_start|>")]


async def test_what_a_client_asks_the_agent_meanwhile_is_not_printed_as_the_answer(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def events() -> AsyncIterator[Event]:
        for request, text in (("req_1", "no "), ("say-1", "So "), ("req_1", "no "), ("say-1", "be it.")):
            yield Event("token", 1, {"agent": "a", "request": request, "text": text, "num_tokens": 1})

    await print_tokens(events(), PrintedAnswer())
    assert capsys.readouterr().out == "So be it."
