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


class EndsOtherwise(CharTokenizer):
    """A template that ends the last answer of all in another way than those before it."""

    def render(self, prompt: ChatPrompt, *, add_generation_prompt: bool = True) -> str:
        """End a conversation with a marker of its own."""
        text = super().render(prompt, add_generation_prompt=add_generation_prompt)
        return (
            text if add_generation_prompt or prompt.messages[-1].role == "user" else text[:-7] + "<|tools|>"
        )


def turn_start(prompt: ChatPrompt, tokenizer: CharTokenizer | None = None, *, cut_at: int = 0) -> str | None:
    """Return the prompt's text before what was said since the last answer, or None."""
    tokenizer = tokenizer or CharTokenizer()
    text = tokenizer.render(prompt)
    segments = tuple(
        Segment(part, tuple(tokenizer.encode(part))) for part in (text[:cut_at], text[cut_at:]) if part
    )
    cut = PromptBoundaries.turn_start(tokenizer, prompt, text, segments)
    if cut is None:
        return None
    ids = [token_id for segment in segments for token_id in segment.token_ids]
    assert tokenizer.decode(ids[: cut.num_tokens]) == text[: cut.num_chars]
    return text[: cut.num_chars]


ASKED = (Message.of("user", "hello"), Message.of("assistant", "well"), Message.of("user", "and on"))


@pytest.mark.parametrize("cut_at", [0, 5, 30, 43])
@pytest.mark.parametrize("tokenizer", [CharTokenizer, EndsOtherwise])
def test_a_turn_starts_where_the_last_answer_ends(tokenizer: type[CharTokenizer], cut_at: int) -> None:
    expected = "<|user|>hello<|end|><|assistant|>well"
    assert turn_start(ChatPrompt(ASKED), tokenizer(), cut_at=cut_at) == expected
    begun = ChatPrompt((*ASKED, Message.of("assistant", "so")))
    assert turn_start(begun, tokenizer(), cut_at=cut_at) == expected


def test_a_turn_of_a_tools_result_starts_where_the_call_ends() -> None:
    call = Message("assistant", (ToolCallPart("1", "look", {}),))
    result = Message("tool", (ToolResultPart("1", "nothing"),))
    expected = "<|user|>hello<|end|><|assistant|>call:look {}"
    assert turn_start(ChatPrompt((ASKED[0], call, result, result))) == expected


@pytest.mark.parametrize("messages", [ASKED[:1], ASKED[:2]])
def test_without_an_answer_and_a_question_since_no_start_is_known(messages: tuple[Message, ...]) -> None:
    assert turn_start(ChatPrompt(messages)) is None


def test_a_start_within_a_token_is_not_one() -> None:
    tokenizer = CharTokenizer()
    text = tokenizer.render(ChatPrompt(ASKED))
    spelt_otherwise = Segment(text, tuple(reversed(tokenizer.encode(text))))
    assert PromptBoundaries.turn_start(tokenizer, ChatPrompt(ASKED), text, (spelt_otherwise,)) is None
