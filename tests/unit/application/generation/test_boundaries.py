from __future__ import annotations

from dataclasses import replace

import pytest

from semanticd.application.generation.boundaries import PromptBoundaries
from semanticd.application.ports.inference import LoadedModel
from semanticd.domain.chat import ChatPrompt, Message, ToolCallPart, ToolResultPart
from semanticd.domain.errors import InvalidRequestError
from semanticd.domain.transcript import Segment
from tests.fakes.model_runner import HashRunner, loaded_model
from tests.fakes.tokenizer import CharTokenizer, PairTokenizer

SYSTEM = Message.of("system", "Be brief, and say nothing twice.")
FIRST = Message.of("user", "What is the name of this place here?")
ANSWER = Message.of("assistant", "It has none.")
SECOND = Message.of("user", "And of that other one over there?")


class Refusing(CharTokenizer):
    """Its template refuses a conversation without a user, and leaves the last answer's thinking in."""

    def render(self, prompt: ChatPrompt, *, add_generation_prompt: bool = True) -> str:
        """Render as the others do."""
        if all(message.role != "user" for message in prompt.messages):
            raise InvalidRequestError("no user query found")
        return super().render(prompt, add_generation_prompt=add_generation_prompt)


def points(prompt: ChatPrompt, tokenizer: CharTokenizer | None = None, *, cut_at: int = 0) -> list[str]:
    """Return the prompt's text up to each boundary; its first segment ends at a character."""
    tokenizer = tokenizer or CharTokenizer()
    model: LoadedModel = loaded_model(HashRunner(has_state=True), tokenizer=tokenizer)
    text = tokenizer.render(prompt)
    pieces = [piece for piece in (text[:cut_at], text[cut_at:]) if piece]
    segments = tuple(Segment(piece, tuple(tokenizer.encode(piece))) for piece in pieces)
    ids = [token for segment in segments for token in segment.token_ids]
    boundaries = PromptBoundaries()
    found, _ = boundaries.find(model, prompt, text, segments)
    assert found == boundaries.find(model, prompt, text, segments)[0], "it remembers heads"
    return [tokenizer.decode(ids[:at]) for at in found]


HEAD = "<|system|>Be brief, and say nothing twice.<|end|><|user|>"
LAST = f"{HEAD}{FIRST.text}<|end|><|assistant|>{ANSWER.text}<|end|><|user|>"
END = f"{LAST}{SECOND.text}<|end|>"


@pytest.mark.parametrize("tokenizer", [CharTokenizer(), Refusing(), PairTokenizer()])
@pytest.mark.parametrize("cut_at", [0, 50, 110])
def test_head_last_message_and_end_are_found_whatever_was_known_before(
    tokenizer: CharTokenizer, cut_at: int
) -> None:
    found = points(ChatPrompt((SYSTEM, FIRST, ANSWER, SECOND)), tokenizer, cut_at=cut_at)
    assert len(found) == 3
    for text, expected in zip(found, (HEAD, LAST, END), strict=True):
        # Where a token spans the boundary, it is left to what follows.
        assert len(expected) - 2 <= len(text) <= len(expected)
        assert expected.startswith(text)


def test_a_first_message_has_nothing_before_it_but_the_head() -> None:
    assert points(ChatPrompt((SYSTEM, FIRST))) == [HEAD, f"{HEAD}{FIRST.text}<|end|>"]


def test_system_text_after_the_first_user_message_is_no_part_of_the_head() -> None:
    later = Message.of("system", "Answer in French.")
    assert points(ChatPrompt((SYSTEM, FIRST, later)))[0] == HEAD


def test_a_short_head_is_not_worth_a_snapshot() -> None:
    assert points(ChatPrompt((FIRST,))) == [f"<|user|>{FIRST.text}<|end|>"]


def test_what_comes_before_a_tools_result_is_a_boundary() -> None:
    call = Message("assistant", (ToolCallPart("1", "look", {"at": "sky"}),))
    result = Message("tool", (ToolResultPart("1", "It is blue, and there are clouds."),))
    found = points(ChatPrompt((SYSTEM, FIRST, call, result)))
    assert len(found) == 3
    assert found[1].endswith("<|tool|>")
    assert found[2].endswith("clouds.<|end|>")


def test_an_answer_that_the_client_began_is_left_to_the_answer() -> None:
    begun = ChatPrompt((SYSTEM, FIRST, Message.of("assistant", "It is called the")))
    assert points(begun)[-1] == f"{HEAD}{FIRST.text}<|end|>"


def test_a_text_of_control_characters_is_found_by_its_tokens() -> None:
    odd = replace(SECOND, parts=Message.of("user", "  <|end|> \n\n x").parts)
    assert len(points(ChatPrompt((SYSTEM, FIRST, ANSWER, odd)), PairTokenizer())) == 3
