"""Equal conversations give equal text, a longer one begins with the shorter, and templates with opinions are obeyed."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from semanticd.adapters.mlx.text.tokenizer import MlxTokenizer
from semanticd.domain.chat import (
    ChatPrompt,
    Message,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
    ToolSpec,
)
from semanticd.domain.errors import InvalidRequestError, UnsupportedError
from semanticd.domain.prefix_index import common_prefix_length
from semanticd.domain.volatile_sections import with_sections_behind_tools

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WITH_TOOLS = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}{% if m.name %}:{{ m.name }}{% endif %}{{ '\n' + m.content }}"
    '{% for c in m.tool_calls %}{{ "\\n" }}<tool_call>\n{"name": "{{ c.function.name }}", "arguments": '
    "{{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% else %}<think>\n{% endif %}"
    "{% endif %}"
)
TOOLS_WITH_THE_QUESTION = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'user' and tools %}{{ tools | tojson }}\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STRICT_TURNS = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)
NINE_LETTERS = (
    "{% for m in messages %}{% for c in m.tool_calls %}{% if c.id | length != 9 %}"
    "{{ raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{% endif %}[{{ c.id }}]"
    "{% endfor %}{% if m.tool_call_id %}({{ m.tool_call_id }}){% endif %}{{ m.content }}{% endfor %}{# tools #}"
)
SPECIAL = ["<|im_start|>", "<|im_end|>", "<think>", "</think>"]

WEATHER = ToolSpec(
    "weather",
    "Tells the weather.",
    {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
    },
)


def tokenizer(template: str | None = CHATML, *, canonicalize: bool = True) -> MlxTokenizer:
    """Bytes as tokens and a few special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(
        models.BPE(vocab={symbol: number for number, symbol in enumerate(alphabet)}, merges=[])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(SPECIAL)
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", chat_template=template)
    return MlxTokenizer(TokenizerWrapper(fast), canonicalize=canonicalize)


def chat(*turns: tuple[str, str], **more: Any) -> ChatPrompt:
    return ChatPrompt(tuple(Message.of(role, text) for role, text in turns), **more)  # type: ignore[arg-type]


def test_the_next_turn_begins_with_this_turn_and_its_answer() -> None:
    model = tokenizer()
    for answer in ("Fine.", " two\n\nlines \n", "", "<b>"):
        first = model.render(chat(("user", "How are you?"))) + answer + "<|im_end|>"
        second = model.render(chat(("user", "How are you?"), ("assistant", answer), ("user", "And now?")))
        assert second.startswith(first)


def test_the_next_turn_begins_with_a_call_as_the_grammar_spells_it() -> None:
    prompt = chat(("user", "Rain?"), tools=(WEATHER,))
    answer = 'Let me see.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Köln", "days": 2}}\n</tool_call>'
    called = Message(
        "assistant", (TextPart("Let me see."), ToolCallPart("c1", "weather", {"city": "Köln", "days": 2}))
    )
    result = Message("tool", (ToolResultPart("c1", "dry"),))
    for template in (CHATML, WITH_TOOLS):
        model = tokenizer(template)
        second = model.render(ChatPrompt((*prompt.messages, called, result), tools=(WEATHER,)))
        assert second.startswith(model.render(prompt) + answer + "<|im_end|>"), template


def test_a_template_without_tools_gets_them_in_the_system_text_and_results_from_the_user() -> None:
    called = Message("assistant", (ToolCallPart("c1", "weather", {"city": "Rome"}),))
    result = Message("tool", (ToolResultPart("c1", "sunny"), ToolResultPart("c2", "no", is_error=True)))
    messages = (Message.of("system", "Be brief."), Message.of("user", "Rome?"), called, result)
    text = tokenizer().render(ChatPrompt(messages, tools=(WEATHER,)))
    assert text.startswith("<|im_start|>system\nBe brief.\n\nYou may call these tools.")
    assert '"name": "weather"' in text
    assert "<|im_start|>user\n<tool_response>\nsunny\n</tool_response><|im_end|>" in text
    assert "<tool_response>\nError: no\n</tool_response>" in text
    assert "<|im_start|>tool" not in text


def test_forbidden_tools_stay_in_the_prompt() -> None:
    free = chat(("user", "hi"), tools=(WEATHER,))
    forbidden = chat(("user", "hi"), tools=(WEATHER,), tool_choice=ToolChoice("none"))
    for template in (CHATML, WITH_TOOLS):
        assert "weather" in tokenizer(template).render(forbidden)
        assert tokenizer(template).render(forbidden) == tokenizer(template).render(free)


def test_a_template_with_tools_gets_arguments_as_objects_and_results_with_their_tool() -> None:
    called = Message("assistant", (ToolCallPart("c1", "weather", {"city": "Rome"}),))
    result = Message("tool", (ToolResultPart("c1", "sunny"),))
    text = tokenizer(WITH_TOOLS).render(
        ChatPrompt((Message.of("user", "?"), called, result), tools=(WEATHER,))
    )
    assert '{"name": "weather", "arguments": {"city": "Rome"}}' in text
    assert "<|im_start|>tool:weather\nsunny<|im_end|>" in text


def test_the_order_of_keys_in_a_schema_makes_no_difference() -> None:
    shuffled = ToolSpec(
        "weather",
        "Tells the weather.",
        {
            "required": ["city"],
            "properties": {"days": {"type": "integer"}, "city": {"type": "string"}},
            "type": "object",
        },
    )
    one, other = chat(("user", "?"), tools=(WEATHER,)), chat(("user", "?"), tools=(shuffled,))
    for template in (CHATML, WITH_TOOLS):
        assert tokenizer(template).render(one) == tokenizer(template).render(other)
        plain = tokenizer(template, canonicalize=False)
        assert plain.render(one) != plain.render(other)


def test_a_billing_header_that_changes_is_dropped_from_system_text_only() -> None:
    header = "x-anthropic-billing-header: cc_version=2.1; cch={};"
    one = chat(("system", header.format("1a") + "\nYou are an agent."), ("user", header.format("1a")))
    other = chat(("system", header.format("2b") + "\nYou are an agent."), ("user", header.format("1a")))
    model = tokenizer()
    assert model.render(one) == model.render(other)
    assert model.render(one).count("x-anthropic-billing-header") == 1
    assert tokenizer(canonicalize=False).render(one) != tokenizer(canonicalize=False).render(other)


@pytest.mark.parametrize("template", [CHATML, WITH_TOOLS, TOOLS_WITH_THE_QUESTION, STRICT_TURNS])
def test_sections_that_are_moved_stand_behind_the_tools_in_every_template(template: str) -> None:
    model = tokenizer(template)
    texts, sections = [], []
    for folder in ("one", "two"):
        sections.append(f"<env>\nWorking directory: /{folder}\n</env>")
        system = f"You help.\n{sections[-1]}\nBe brief."
        prompt = chat(("system", system), ("user", "hi"), tools=(WEATHER,))
        texts.append(model.render(with_sections_behind_tools(prompt)))
    for text, section in zip(texts, sections, strict=True):
        assert text.count(section) == 1
        assert text.count("You help.\nBe brief.") == text.count("hi<|im_end|>") == 1
    shared = texts[0][: common_prefix_length(*texts)]
    assert shared.endswith("<env>\nWorking directory: /")
    assert '"name": "weather"' in shared


def system_blocks(*texts: str) -> ChatPrompt:
    return ChatPrompt((Message("system", tuple(map(TextPart, texts))), Message.of("user", "hi")))


BILLING = "x-anthropic-billing-header: cc_version=2.1.197.99d; cc_entrypoint=cli; cch={};"


def test_a_header_block_without_a_line_break_takes_nothing_of_the_next_block_with_it() -> None:
    agent = ("You are an agent.", "\nYou help.\nBe brief.")
    model = tokenizer()
    for mark in ("1a", "2b"):
        assert model.render(system_blocks(BILLING.format(mark), *agent)) == model.render(
            system_blocks(*agent)
        )
    text = model.render(system_blocks(BILLING.format("1a"), "You are an agent."))
    assert "<|im_start|>system\nYou are an agent.<|im_end|>" in text


@pytest.mark.parametrize("place", range(4))
def test_a_header_is_dropped_wherever_its_block_stands(place: int) -> None:
    blocks = ["You are an agent.", "You help.", "Be brief."]
    blocks.insert(place, BILLING.format("1a"))
    model = tokenizer()
    text = model.render(system_blocks(*blocks))
    assert "<|im_start|>system\nYou are an agent.\nYou help.\nBe brief.<|im_end|>" in text
    assert model.canonical_changes(system_blocks(*blocks)) == ("volatile_header",)


def test_a_system_text_of_nothing_but_the_header_is_no_system_text() -> None:
    model = tokenizer()
    assert model.render(system_blocks(BILLING.format("1a"))) == model.render(chat(("user", "hi")))


def test_blocks_do_not_run_into_one_another_but_an_answer_stays_as_it_was_written() -> None:
    parts = (TextPart("one"), TextPart("two "), TextPart("three"), TextPart("\nfour"))
    assert Message("system", parts).text == "one\ntwo three\nfour"
    assert Message("user", parts).text == "one\ntwo three\nfour"
    assert Message("assistant", parts).text == "onetwo three\nfour"


def test_what_was_made_equal_is_named_and_nothing_is_where_that_is_switched_off() -> None:
    shuffled = ToolSpec("weather", "Tells.", {"type": "object", "properties": {"city": {"type": "string"}}})
    ordered = ToolSpec("weather", "Tells.", {"properties": {"city": {"type": "string"}}, "type": "object"})
    header = ("system", "x-anthropic-billing-header: cch=1a;\nYou are an agent.")
    model = tokenizer()
    assert model.canonical_changes(chat(("user", "hi"), tools=(ordered,))) == ()
    assert model.canonical_changes(chat(("user", header[1]), tools=(shuffled,))) == ("tool_key_order",)
    both = chat(header, ("user", "hi"), tools=(shuffled,))
    assert model.canonical_changes(both) == ("volatile_header", "tool_key_order")
    assert tokenizer(canonicalize=False).canonical_changes(both) == ()
    unused = chat(header, ("user", "hi"), tools=(shuffled,), tool_choice=ToolChoice("none"))
    assert model.canonical_changes(unused) == ("volatile_header", "tool_key_order")


def test_a_template_that_wants_strict_turns_gets_them_merged_and_nothing_is_lost() -> None:
    called = Message("assistant", (TextPart("Wait."), ToolCallPart("c1", "weather", {"city": "Rome"})))
    prompt = ChatPrompt(
        (
            Message.of("system", "Be brief."),
            Message.of("user", "Rome?"),
            Message.of("user", "Please."),
            called,
            Message("tool", (ToolResultPart("c1", "sunny"),)),
            Message.of("system", "Be polite."),
        ),
        tools=(WEATHER,),
    )
    text = tokenizer(STRICT_TURNS).render(prompt)
    said = [
        "Be brief.",
        "You may call these tools",
        "Rome?",
        "Please.",
        "Wait.",
        '{"city": "Rome"}',
        "sunny",
        "Be polite.",
    ]
    assert [word for word in said if word not in text] == []
    assert sorted(said, key=text.index) == said
    assert text.count("<|im_start|>user") == 2


def test_call_ids_are_made_to_fit_a_template_that_counts_their_letters() -> None:
    called = Message("assistant", (ToolCallPart("call_0123456789abcdef", "weather", {}),))
    result = Message("tool", (ToolResultPart("call_0123456789abcdef", "dry"),))
    text = tokenizer(NINE_LETTERS).render(ChatPrompt((Message.of("user", "?"), called, result)))
    begin = text.index("[") + 1
    assert f"({text[begin : begin + 9]})" in text


def test_options_reach_only_templates_that_know_them() -> None:
    prompt = chat(
        ("user", "?"), template_options={"enable_thinking": False, "reasoning_effort": "low", "messages2": 1}
    )
    assert tokenizer(THINKING).render(prompt).endswith("<think>\n\n</think>\n\n")
    assert tokenizer().render(prompt) == tokenizer().render(chat(("user", "?")))


def test_thinking_is_switched_by_the_name_that_the_template_has_for_it() -> None:
    model = tokenizer(
        "{% if not thinking is defined %}{% set thinking = false %}{% endif %}"
        "{% for m in messages %}{{ m.content }}{% endfor %}{{ '<think>' if thinking else '</think>' }}"
    )
    for wanted, ending in ((True, "<think>"), (False, "</think>")):
        assert model.render(chat(("user", "?"), template_options={"enable_thinking": wanted})).endswith(
            ending
        )
    assert model.render(chat(("user", "?"))).endswith("</think>")


def test_thinking_goes_where_the_template_knows_it_and_is_dropped_elsewhere() -> None:
    thought = Message("assistant", (ThinkingPart("hmm"), TextPart("Yes.")))
    prompt = ChatPrompt((Message.of("user", "?"), thought, Message.of("user", "!")))
    assert "<think>hmm</think>Yes." in tokenizer(THINKING).render(prompt)
    assert "hmm" not in tokenizer().render(prompt)


@pytest.mark.parametrize("template", [CHATML, WITH_TOOLS])
def test_an_answer_that_the_client_began_is_continued(template: str) -> None:
    model = tokenizer(template)
    asked = model.render(chat(("user", "Weather?")))
    for begun in ("The weather is", "The weather is ", "The weather is\n\n"):
        assert model.render(chat(("user", "Weather?"), ("assistant", begun))) == f"{asked}The weather is"
    assert model.render(chat(("user", "Weather?"), ("assistant", ""))) == asked
    closed = model.render(chat(("user", "Weather?"), ("assistant", "Fine."), continues=False))
    assert closed == f"{asked}Fine.<|im_end|>\n<|im_start|>assistant\n"


def test_a_call_that_stands_last_is_not_continued() -> None:
    called = Message("assistant", (TextPart("Wait."), ToolCallPart("c1", "weather", {})))
    text = tokenizer(WITH_TOOLS).render(ChatPrompt((Message.of("user", "?"), called), tools=(WEATHER,)))
    assert text.endswith("</tool_call><|im_end|>\n<|im_start|>assistant\n")


def test_a_continued_answer_is_past_its_thinking() -> None:
    begun = chat(("user", "?"), ("assistant", "It is"))
    model = tokenizer(THINKING)
    assert model.render(begun).endswith("<think>\n\n</think>\n\nIt is")
    parser = model.output_parser(begun)
    assert [type(event).__name__ for event in parser.feed(" fine.")] == ["TextDelta"]
    always = THINKING.replace("enable_thinking is defined and not enable_thinking", "false")
    assert tokenizer(always).render(begun).endswith("<think>\n\n</think>\n\nIt is")


def test_a_parser_knows_whether_the_prompt_ends_inside_thinking() -> None:
    model = tokenizer(THINKING)
    for options, thinks in (({}, True), ({"enable_thinking": False}, False)):
        parser = model.output_parser(chat(("user", "?"), template_options=options))
        kinds = [type(event).__name__ for event in [*parser.feed("a</think>b"), *parser.finish()]]
        assert ("ThinkingDelta" in kinds) is thinks


def test_a_conversation_that_no_form_fits_is_the_callers_mistake() -> None:
    refusing = tokenizer("{{ raise_exception('never') }}")
    with pytest.raises(InvalidRequestError, match="never"):
        refusing.render(chat(("user", "?")))


def test_a_model_without_a_template_says_what_to_use_instead() -> None:
    with pytest.raises(UnsupportedError, match="/v1/completions"):
        tokenizer(None).render(chat(("user", "?")))


def test_special_tokens_written_in_text_are_recognised_and_say_nothing_in_answers() -> None:
    model = tokenizer()
    ids = model.encode("<|im_start|>user\nhi<|im_end|>")
    assert model.decode(ids) == "<|im_start|>user\nhi<|im_end|>"
    assert len(ids) == len("user\nhi") + 2
    decoder = model.stream_decoder()
    assert "".join([*map(decoder.add, ids), decoder.finish()]) == "user\nhi"


def test_many_threads_render_and_encode_as_one_does() -> None:
    model = tokenizer(WITH_TOOLS)
    prompts = [chat(("user", f"question {n} ü€😀 " * 20), tools=(WEATHER,)) for n in range(8)]
    expected = [model.encode(model.render(prompt)) for prompt in prompts]
    seen: list[bool] = []

    def work(number: int) -> None:
        for _ in range(10):
            ids = model.encode(model.render(prompts[number]))
            seen.append(ids == expected[number] and model.decode(ids) == model.render(prompts[number]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True] * 80


def test_rendering_leaves_the_request_as_it_was() -> None:
    parameters = {"type": "object", "properties": {"b": {}, "a": {}}}
    before = json.dumps(parameters)
    tokenizer(WITH_TOOLS).render(chat(("user", "?"), tools=(ToolSpec("t", "", parameters),)))
    assert json.dumps(parameters) == before
