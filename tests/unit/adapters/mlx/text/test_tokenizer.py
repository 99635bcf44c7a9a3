"""Equal conversations render equally, a longer one begins like the shorter, and every template gets its tools."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semanticd.adapters.mlx.text.tokenizer import MlxTokenizer
from semanticd.domain.chat import (
    ChatPrompt,
    Message,
    TextPart,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
    ToolSpec,
)
from semanticd.domain.errors import InvalidRequestError
from semanticd.domain.generation import OutputConstraint, TextDelta, ThinkingDelta, ToolCallDelta
from semanticd.domain.stop_matcher import StopMatcher
from tests.unit.adapters.mlx.conftest import MakeTokenizer

TOOL = ToolSpec(
    "look", "looks", {"type": "object", "properties": {"n": {"type": "integer"}, "at": {"type": "string"}}}
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STRICT = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system text') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}" + CHATML
)
THINKING = CHATML.replace("assistant\n{%", "assistant\n<think>\n{%")


def user(text: str) -> Message:
    return Message.of("user", text)


def conversation(*, result: str = "blue") -> tuple[Message, ...]:
    return (
        Message.of("system", "Be kind."),
        user("What colour?"),
        Message("assistant", (TextPart("I look."), ToolCallPart("c1", "look", {"at": "sky"}))),
        Message("tool", (ToolResultPart("c1", result),)),
        Message.of("assistant", "It is blue."),
        user("Sure?"),
    )


@pytest.fixture(scope="module")
def plain(make_tokenizer: MakeTokenizer) -> MlxTokenizer:
    return make_tokenizer(CHATML)


@pytest.fixture(scope="module")
def strict(make_tokenizer: MakeTokenizer) -> MlxTokenizer:
    return make_tokenizer(STRICT)


@pytest.mark.parametrize("template", [None, CHATML, STRICT])
@pytest.mark.parametrize("tools", [(), (TOOL,)])
def test_a_longer_conversation_begins_like_the_shorter(
    make_tokenizer: MakeTokenizer, template: str | None, tools: tuple[ToolSpec, ...]
) -> None:
    tokenizer = make_tokenizer(template)
    messages = conversation()
    texts = [
        tokenizer.render(ChatPrompt(messages[:num], tools), add_generation_prompt=False)
        for num in (2, 3, 5, 6)
    ]
    for shorter, longer in pairwise(texts):
        assert longer.startswith(shorter)
    assert tokenizer.render(ChatPrompt(messages, tools)).startswith(texts[-1])


@settings(max_examples=30)
@given(text=st.text(st.characters(codec="utf-8"), max_size=40))
def test_text_survives_being_encoded(tokenizer: MlxTokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_in_a_prompt_are_one_token(tokenizer: MlxTokenizer) -> None:
    assert len(tokenizer.encode("<|im_end|>")) == 1
    assert tokenizer.encode("<|im_end|>")[0] in tokenizer.eos_token_ids


def test_a_template_that_knows_no_tools_gets_them_in_the_system_text(plain: MlxTokenizer) -> None:
    text = plain.render(ChatPrompt(conversation(), (TOOL,)))
    system, _, rest = text.partition("<|im_end|>")
    assert system.startswith("<|im_start|>system\nBe kind.\n\n")
    assert '"name": "look"' in system
    assert 'I look.\n<tool_call>\n{"name": "look", "arguments": {"at": "sky"}}\n</tool_call>' in rest
    assert "<|im_start|>user\n<tool_response>\nblue\n</tool_response>" in rest
    free, forbidden = (ChatPrompt((user("Hi"),), (TOOL,), ToolChoice(mode)) for mode in ("auto", "none"))
    assert plain.render(forbidden) == plain.render(free)


def test_a_tool_that_failed_says_so(plain: MlxTokenizer, tokenizer: MlxTokenizer) -> None:
    failed = replace(conversation()[3], parts=(ToolResultPart("c1", "no sky", is_error=True),))
    for one in (plain, tokenizer):
        assert "Error: no sky" in one.render(ChatPrompt((*conversation()[:3], failed), (TOOL,)))


def test_a_strict_template_gets_system_text_and_neighbours_merged(strict: MlxTokenizer) -> None:
    text = strict.render(ChatPrompt((*conversation()[:2], user("Quick!")), (TOOL,)))
    assert text.startswith("<|im_start|>user\nBe kind.")
    assert "What colour?\n\nQuick!" in text
    assert "system" not in re.findall(r"<\|im_start\|>(\w+)", text)


def test_a_conversation_that_no_form_saves_is_refused_with_the_templates_words(
    make_tokenizer: MakeTokenizer,
) -> None:
    grumpy = make_tokenizer("{{ raise_exception('never') }}")
    with pytest.raises(InvalidRequestError, match="never"):
        grumpy.render(ChatPrompt((user("Hi"),)))


def test_what_changes_from_prompt_to_prompt_is_left_out(make_tokenizer: MakeTokenizer) -> None:
    def rendered(tokenizer: MlxTokenizer, mark: str, parameters: dict[str, Any]) -> str:
        system = f"x-anthropic-billing-header: v=1; cch={mark};\nYou help."
        tool = ToolSpec("look", "looks", parameters)
        return tokenizer.render(ChatPrompt((Message.of("system", system), user("Hi")), (tool,)))

    one: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "string"}, "b": {}}}
    other: dict[str, Any] = {"properties": {"b": {}, "a": {"type": "string"}}, "type": "object"}
    tidy, exact = make_tokenizer(), make_tokenizer(canonicalize=False)
    assert rendered(tidy, "1a2b", one) == rendered(tidy, "3c4d", other)
    assert rendered(exact, "1a2b", one) != rendered(exact, "3c4d", one)
    assert rendered(exact, "1a2b", one) != rendered(exact, "1a2b", other)


def test_the_tool_choice_is_enforced_only_when_a_call_is_required(tokenizer: MlxTokenizer) -> None:
    prompt = ChatPrompt((user("Hi"),), (TOOL, ToolSpec("rest")))
    assert tokenizer.tool_constraint(prompt) is None
    assert tokenizer.tool_constraint(replace(prompt, tools=(), tool_choice=ToolChoice("none"))) is None
    named = tokenizer.tool_constraint(replace(prompt, tool_choice=ToolChoice("required", ("rest",))))
    assert named is not None
    assert "look" not in str(named.grammar)
    with pytest.raises(InvalidRequestError, match="swim"):
        tokenizer.tool_constraint(replace(prompt, tool_choice=ToolChoice("required", ("swim",))))


CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "sky"}}\n</tool_call>'


@pytest.mark.parametrize("mode", ["auto", "required", "none"])
def test_calls_are_read_unless_the_client_wants_none(tokenizer: MlxTokenizer, mode: Any) -> None:
    parser = tokenizer.output_parser(ChatPrompt((user("Hi"),), (TOOL,), ToolChoice(mode)))
    events = [*parser.feed(CALL), *parser.finish()]
    assert parser.num_tool_calls == (mode != "none")
    calls = "".join(event.arguments for event in events if isinstance(event, ToolCallDelta))
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert (calls, text) == (("", CALL) if mode == "none" else ('{"at": "sky"}', ""))


def test_a_call_renders_as_it_was_made_so_that_the_next_turn_finds_it(tokenizer: MlxTokenizer) -> None:
    asked = ChatPrompt(conversation()[:2], (TOOL,))
    made = tokenizer.render(asked) + "I look.\n" + CALL
    assert tokenizer.render(ChatPrompt(conversation()[:4], (TOOL,))).startswith(made)


def test_whether_a_model_thinks_is_told_by_its_template(make_tokenizer: MakeTokenizer) -> None:
    assert not make_tokenizer(CHATML).thinks
    assert make_tokenizer(THINKING, tokens=("<think>", "</think>")).thinks


def test_an_answer_to_a_prompt_that_opens_thinking_begins_with_thinking(
    make_tokenizer: MakeTokenizer,
) -> None:
    tokenizer = make_tokenizer(THINKING, tokens=("<think>", "</think>"))
    prompt = ChatPrompt((user("Hi"),))
    parser = tokenizer.output_parser(prompt)
    assert [*parser.feed("Hm.</think>\n\nHi!"), *parser.finish()] == [ThinkingDelta("Hm."), TextDelta("Hi!")]
    bounded = tokenizer.with_thinking(prompt, None, budget=5, max_tokens=100)
    assert bounded == OutputConstraint("any", thinking_budget=5, begins_thinking=True)
    form = OutputConstraint("json_object")
    after = tokenizer.with_thinking(prompt, form, budget=None, max_tokens=100)
    assert after == replace(form, thinking_budget=50, begins_thinking=True)
    text = OutputConstraint("optional_call", grammar="start: /a*/")
    free = tokenizer.with_thinking(prompt, text, budget=None, max_tokens=100)
    assert free == replace(text, thinking_budget=100, begins_thinking=True)


@pytest.mark.parametrize("opens", [False, True])
@pytest.mark.parametrize("mode", ["auto", "required", "none"])
def test_stop_strings_stop_what_the_client_sees_and_neither_thinking_nor_a_call(
    make_tokenizer: MakeTokenizer, mode: Any, opens: bool
) -> None:
    tokenizer = make_tokenizer(THINKING if opens else CHATML, tokens=("<think>", "</think>"))
    prompt = ChatPrompt((user("Hi"),), (TOOL,), ToolChoice(mode))
    thinking = ("" if opens else "<think>") + "STOP, I think.</think>"
    call = CALL.replace("sky", "STOP")
    matcher = StopMatcher(tokenizer.visible_stops(prompt, ("STOP",), formed=False))
    results = [matcher.feed(character) for character in f"{thinking}So {call} and STOP here"]
    stopped_at = next(at for at, result in enumerate(results) if result.matched)
    said = "".join(result.text for result in results[: stopped_at + 1])
    # Where no call is read, what looks like one is text.
    assert said == (thinking + "So " + (call.split("STOP")[0] if mode == "none" else f"{call} and "))


def test_a_model_that_does_not_think_has_no_bound(tokenizer: MlxTokenizer) -> None:
    assert tokenizer.with_thinking(ChatPrompt((user("Hi"),)), None, budget=5, max_tokens=9) is None
