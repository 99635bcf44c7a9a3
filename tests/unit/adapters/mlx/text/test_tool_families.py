"""A model's family is known by its files, and what we write in its spelling is what its parser reads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from semanticd.adapters.mlx.text.tokenizer import MlxTokenizer
from semanticd.adapters.mlx.text.tool_families import family_of
from semanticd.adapters.models.registry import ModelRegistry
from semanticd.domain.chat import ChatPrompt, Message, ToolCallPart, ToolChoice, ToolResultPart, ToolSpec
from semanticd.domain.generation import TextDelta, ToolCallDelta, ToolCallStarted
from tests.unit.adapters.mlx.conftest import MakeTokenizer

SCHEMA = {"type": "object", "properties": {"at": {"enum": ["sky", "sea"]}}, "required": ["at"]}
TOOLS = (ToolSpec("look", "Looks.", SCHEMA, strict=True), ToolSpec("rest", "", {"type": "object"}))
FAMILIES = (
    "json", "llama", "deepseek_v3", "deepseek_v31", "deepseek_v32", "gemma3", "nemotron", "granite", "phi4_mini",
    "mistral", "kimi_k2", "qwen3_coder", "glm47", "pythonic",
)  # fmt: skip


def prompt(*messages: Message, choice: ToolChoice | None = None) -> ChatPrompt:
    return ChatPrompt(messages or (Message.of("user", "?"),), TOOLS, choice or ToolChoice())


@pytest.fixture(scope="module", params=FAMILIES)
def tokenizer(request: pytest.FixtureRequest, make_tokenizer: MakeTokenizer) -> MlxTokenizer:
    """A tokenizer with the family's control tokens."""
    markers = family_of(hint=request.param, inferred=None, template="", vocabulary=()).markers
    tokens = tuple(dict.fromkeys(marker for marker in markers if "```" not in marker))
    return make_tokenizer(tokens=tokens, special=True, tool_parser=request.param)


def accepts(tokenizer: MlxTokenizer, choice: ToolChoice, text: str) -> bool:
    """Return whether the form of the choice lets a model say exactly this and end its turn."""
    constraint = tokenizer.tool_constraint(prompt(choice=choice))
    assert constraint is not None
    process = tokenizer.constraints.processor(constraint, num_context=1)
    ids = [0]
    for token_id in [*tokenizer.encode(text), min(tokenizer.eos_token_ids)]:
        row = process(mx.array(ids), mx.zeros((1, tokenizer.vocab_size)))
        if row[0, token_id].item() == -float("inf"):
            return False
        ids.append(token_id)
    return True


def spelled(tokenizer: MlxTokenizer, family: str, *calls: tuple[str, str]) -> str:
    return family_of(hint=family, inferred=None, template="", vocabulary=()).spelling.written(calls)


@pytest.mark.parametrize("mode", ["required", "auto"])
def test_a_form_lets_through_the_familys_own_spelling_and_no_other_arguments(
    request: pytest.FixtureRequest, tokenizer: MlxTokenizer, mode: Any
) -> None:
    family = request.node.callspec.params["tokenizer"]
    good = spelled(tokenizer, family, ("look", '{"at": "sky"}'))
    bad = spelled(tokenizer, family, ("look", '{"at": "sun"}'))
    assert accepts(tokenizer, ToolChoice(mode), good)
    assert not accepts(tokenizer, ToolChoice(mode), bad)
    assert accepts(tokenizer, ToolChoice(mode), "No {need}.") is (mode == "auto")


def test_what_the_form_lets_through_is_read_as_the_call_that_it_is(
    request: pytest.FixtureRequest, tokenizer: MlxTokenizer
) -> None:
    family = request.node.callspec.params["tokenizer"]
    text = spelled(tokenizer, family, ("look", '{"at": "sky"}'))
    parser, decoder = tokenizer.output_parser(prompt()), tokenizer.stream_decoder()
    events = [e for i in tokenizer.encode(text) for e in parser.feed(decoder.add(i))] + parser.finish()
    assert [e.name for e in events if isinstance(e, ToolCallStarted)] == ["look"]
    assert "".join(e.arguments for e in events if isinstance(e, ToolCallDelta)) == '{"at": "sky"}'
    assert not [e for e in events if isinstance(e, TextDelta)]


def test_no_call_is_made_where_none_is_allowed(
    request: pytest.FixtureRequest, tokenizer: MlxTokenizer
) -> None:
    family, none = request.node.callspec.params["tokenizer"], ToolChoice("none")
    assert not accepts(tokenizer, none, spelled(tokenizer, family, ("look", '{"at": "sky"}')))
    assert accepts(tokenizer, none, 'Just {"name": "look"} text.')


CALLS, CALL, SEP = "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>"


@pytest.mark.parametrize(
    ("template", "vocabulary", "family"),
    [
        ("", (), "json"),
        ("<tool_call>", (), "json"),
        ('{{ \'{"name": "\' + name }} "parameters": ', ("<|python_tag|>",), "llama"),
        ('{"name": "', ("<|python_tag|>",), "json"),
        ("", ("<|python_start|>",), "llama"),
        (f"{CALLS}{CALL}function{SEP}\n```json", (), "deepseek_v3"),
        (f"{CALLS}{CALL}{SEP}", (), "deepseek_v31"),
        ("", ("｜DSML｜",), "deepseek_v32"),
        ("<start_of_turn>user", (), "gemma3"),
        ("<TOOLCALL>[", (), "nemotron"),
    ],
)
def test_a_family_is_known_by_its_template_and_vocabulary(
    template: str, vocabulary: tuple[str, ...], family: str
) -> None:
    assert family_of(hint=None, inferred=None, template=template, vocabulary=vocabulary).name == family


def test_an_entry_names_the_family_where_it_knows_better() -> None:
    found = family_of(hint="hermes", inferred="mistral", template=CALLS, vocabulary=())
    assert found.name == "json"
    with pytest.raises(ValueError, match=r"'hermit' is not a tool parser; known: .*deepseek_v3.*qwen3_coder"):
        family_of(hint="hermit", inferred=None, template="", vocabulary=())


def test_every_parser_that_the_registry_names_is_known(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path, convert_gguf=lambda *paths, **options: None)
    named = {entry.name: entry.tool_parser for entry in registry.entries() if entry.tool_parser}
    assert len(named) >= 12
    for name in named.values():
        assert family_of(hint=name, inferred=None, template="", vocabulary=()).forms


# Conversations with calls.

ASK, CALLED, SEEN = (
    Message.of("user", "look"),
    Message(
        "assistant", (ToolCallPart("toolu_1", "look", {"at": "sky"}), ToolCallPart("toolu_2", "rest", {}))
    ),
    Message("user", (ToolResultPart("toolu_1", "clouds"), ToolResultPart("toolu_2", "rested"))),
)
DEEPSEEK = (
    "{% for m in messages %}{% if m['role'] == 'tool' %}<｜tool▁output▁begin｜>{{ m['content'] }}<｜tool▁output▁end｜>"
    "{% elif m['role'] == 'assistant' and m['content'] is none %}"
    f"{CALLS}{{{{ '{CALL}' + m['tool_calls'][0]['function']['arguments'] }}}}"
    "{% else %}<{{ m['role'] }}>{{ m['content'] }}{% endif %}{% endfor %}"
)


def test_deepseeks_calls_stay_in_the_conversation_as_it_makes_them(make_tokenizer: MakeTokenizer) -> None:
    tokenizer = make_tokenizer(DEEPSEEK)
    text = tokenizer.render(prompt(ASK, CALLED, SEEN))
    made = (
        f'<assistant>{CALLS}{CALL}look{SEP}{{"at": "sky"}}<｜tool▁call▁end｜>'
        f"{CALL}rest{SEP}{{}}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    )
    assert made + "<｜tool▁output▁begin｜>clouds<｜tool▁output▁end｜>" in text
    # Its template knows no tools: the description shows the call in the family's own spelling.
    assert f"{CALL}the tool's name{SEP}{{…}}" in text
    assert "<tool_response>" not in text


def test_a_template_that_puts_arguments_together_with_text_gets_them_as_json(
    make_tokenizer: MakeTokenizer,
) -> None:
    template = (
        "{{ tools | tojson }}{% for m in messages %}<{{ m.role }}>{{ m.content }}"
        "{% for c in m.tool_calls or [] %}{{ '[' + c.function.name + c.function.arguments + ']' }}{% endfor %}"
        "{% endfor %}"
    )
    text = make_tokenizer(template).render(prompt(ASK, CALLED, SEEN))
    assert '[look{"at": "sky"}][rest{}]' in text


def test_kimis_calls_are_numbered_through_the_conversation(make_tokenizer: MakeTokenizer) -> None:
    template = (
        "{{ tools | tojson }}{% for m in messages %}{% for c in m.tool_calls or [] %}"
        "<|tool_call_begin|>{{ c.id }}<|tool_call_argument_begin|>{{ c.function.arguments | tojson }}"
        "{% endfor %}{% if m.role == 'tool' %}## Return of {{ m.tool_call_id }}{% endif %}{% endfor %}"
    )
    later = Message("assistant", (ToolCallPart("call_x", "look", {"at": "sea"}),))
    text = make_tokenizer(template).render(prompt(ASK, CALLED, SEEN, later))
    for number, name in enumerate(["look", "rest", "look"]):
        assert f"<|tool_call_begin|>functions.{name}:{number}<|tool_call_argument_begin|>" in text
    assert "## Return of functions.look:0" in text
    assert "## Return of functions.rest:1" in text


def test_a_call_id_that_a_client_uses_again_stands_for_the_latest_call(make_tokenizer: MakeTokenizer) -> None:
    template = (
        "{{ tools | tojson }}{% for m in messages %}<{{ m.role }}>{% for c in m.tool_calls or [] %}"
        "<|tool_call_begin|>{{ c.id }}<|tool_call_argument_begin|>{{ c.function.arguments | tojson }}"
        "{% endfor %}{% if m.role == 'tool' %}{{ m.tool_call_id }} {{ m.name }} {{ m.content }}{% endif %}"
        "{% endfor %}"
    )
    tokenizer = make_tokenizer(template)

    def turn(*names: str) -> tuple[Message, Message]:
        calls = tuple(ToolCallPart("call_0", name, {}) for name in names)
        return Message("assistant", calls), Message(
            "user", tuple(ToolResultPart("call_0", f"of {name}") for name in names)
        )

    first = tokenizer.render(prompt(ASK, *turn("look")), add_generation_prompt=False)
    both = tokenizer.render(prompt(ASK, *turn("look"), *turn("rest", "look")), add_generation_prompt=False)
    assert both.startswith(first), "what was said before is found in the cache"
    for number, name in enumerate(["look", "rest", "look"]):
        assert f"<|tool_call_begin|>functions.{name}:{number}<|tool_call_argument_begin|>" in both
        assert f"functions.{name}:{number} {name} of {name}" in both


def test_a_llama_call_comes_back_in_the_next_turn_as_it_was_made(make_tokenizer: MakeTokenizer) -> None:
    template = (
        "{{ tools | tojson }}{% for m in messages %}<{{ m.role }}>"
        "{% if m.tool_calls %}{% if m.tool_calls | length != 1 %}{{ raise_exception('one call at a time') }}{% endif %}"
        '{{ \'{"name": "\' + m.tool_calls[0].function.name + \'", "parameters": \' }}'
        "{{ m.tool_calls[0].function.arguments | tojson }}{{ '}' }}{% else %}{{ m.content }}{% endif %}"
        "{% endfor %}"
    )
    tokenizer = make_tokenizer(template, tokens=("<|python_tag|>",), special=True)
    one = replace(CALLED, parts=CALLED.parts[:1])
    text = '{"name": "look", "parameters": {"at": "sky"}}'
    assert tokenizer.render(prompt(ASK, one)).endswith(f"<assistant>{text}")
    assert accepts(tokenizer, ToolChoice("required"), text)
    # Two calls are written one below the other, for the template refuses them.
    both = tokenizer.render(prompt(ASK, CALLED))
    assert text + "\n" + '{"name": "rest", "parameters": {}}' in both
    assert json.loads(both.splitlines()[-1]) == {"name": "rest", "parameters": {}}
