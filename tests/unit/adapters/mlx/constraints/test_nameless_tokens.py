"""A form that holds the text of a control token is spelled with ordinary tokens, and its answer is read as it is."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from llguidance import LLTokenizer
from tokenizers import Tokenizer

from semanticd.adapters.mlx.constraints.nameless_tokens import with_nameless_tokens
from semanticd.adapters.mlx.text.tokenizer import MlxTokenizer
from semanticd.adapters.mlx.text.tool_families import family_of
from semanticd.domain.chat import ChatPrompt, Message, ToolChoice, ToolSpec
from semanticd.domain.errors import UnsupportedError
from semanticd.domain.generation import OutputConstraint, TextDelta, ToolCallDelta, ToolCallStarted
from tests.unit.adapters.mlx.conftest import MakeTokenizer
from tests.unit.adapters.mlx.constraints.test_compile import babble
from tests.unit.adapters.mlx.text.test_tool_families import FAMILIES

VALUES = {
    "alone": "<|im_end|>",
    "short": "a <|im_end|> b",
    "long": "word " * 80 + "<|im_end|> and a tail",
    "others": "a<|im_start|>b<|endoftext|>c",
}


def schema_of(place: str, value: str) -> dict[str, Any]:
    name = "at"
    inner: dict[str, Any] = {"const": value}
    if place == "enum":
        inner = {"enum": [value]}
    elif place == "pattern":
        inner = {"type": "string", "pattern": f"^{re.escape(value)}$"}
    elif place == "list":
        inner = {"type": "array", "items": {"const": value}, "minItems": 2, "maxItems": 2}
    elif place == "property":
        name, inner = value, {"type": "boolean"}
    return {"type": "object", "properties": {name: inner}, "required": [name], "additionalProperties": False}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("place", ["enum", "const", "pattern", "list", "property"])
def test_a_schema_with_a_control_tokens_text_is_answered(
    tokenizer: MlxTokenizer, place: str, value: str
) -> None:
    form = OutputConstraint("json_schema", schema=schema_of(place, value), max_tokens=1200)
    text, ended = babble(tokenizer, form, most=1200)
    assert ended
    [(key, said)] = json.loads(text).items()
    assert value in (key, said) or said == [value, value]


@pytest.mark.parametrize(
    ("kind", "grammar"),
    [
        ("regex", re.escape("a <|im_end|> b")),
        ("lark", 'start: "a " END " b"\nEND: "<|im_end|>"'),
        ("lark", "start: /a <\\|im_end\\|> b/"),
        ("lark", 'start: "a <|im_end|> b"'),
        ("lark", 'root ::= "a <|im_end|> b"'),
    ],
)
def test_a_grammar_with_a_control_tokens_text_is_answered(
    tokenizer: MlxTokenizer, kind: Any, grammar: str
) -> None:
    assert babble(tokenizer, OutputConstraint(kind, grammar=grammar)) == ("a <|im_end|> b", True)


def test_a_control_token_is_still_named_by_its_id(tokenizer: MlxTokenizer) -> None:
    [start] = tokenizer.encode("<|im_start|>")
    form = OutputConstraint("lark", grammar=f'start: "a" <[{start}]> "<|im_start|>"')
    text, ended = babble(tokenizer, form)
    assert ended
    assert text == "a<|im_start|><|im_start|>"


@pytest.mark.parametrize("token", ["<|im_end|>", "<|tool|>", "<nothing>"])
def test_a_grammar_that_names_a_token_is_refused_with_the_way_to_name_it(
    tokenizer: MlxTokenizer, token: str
) -> None:
    form = OutputConstraint("lark", grammar=f'start: "a" {token}')
    reason = f"it names the token {token}; name tokens by id, as <[42]>, or quote their text"
    with pytest.raises(UnsupportedError, match=re.escape(reason)):
        tokenizer.constraints.compile(form)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_call_with_a_control_tokens_text_is_read_as_it_was_asked_for(
    make_tokenizer: MakeTokenizer, family: str
) -> None:
    markers = family_of(hint=family, inferred=None, template="", vocabulary=()).markers
    tokens = tuple(dict.fromkeys(marker for marker in markers if "```" not in marker))
    tokenizer = make_tokenizer(tokens=tokens, special=True, tool_parser=family)
    for token in (*tokens, "<|im_end|>"):
        value = f'say "{token}", then {token}.'
        tool = ToolSpec("look", "Looks.", schema_of("enum", value))
        prompt = ChatPrompt((Message.of("user", "?"),), (tool,), ToolChoice("required"))
        form = tokenizer.tool_constraint(prompt)
        assert form is not None
        text, ended = babble(tokenizer, form)
        assert ended
        parser = tokenizer.output_parser(prompt)
        events = [event for character in text for event in parser.feed(character)] + parser.finish()
        assert [e.name for e in events if isinstance(e, ToolCallStarted)] == ["look"], token
        arguments = "".join(e.arguments for e in events if isinstance(e, ToolCallDelta))
        assert json.loads(arguments) == {"at": value}
        assert not [e for e in events if isinstance(e, TextDelta)]


# The tokenizer's file.

WORD = "a<s>b</s>c<unk>d"


def file_of(model: dict[str, Any], *added: tuple[int, str, bool]) -> str:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return json.dumps(
        {
            "version": "1.0",
            "added_tokens": [{"id": i, "content": text, "special": s, **flags} for i, text, s in added],
            "decoder": {"type": "ByteFallback"},
            "model": model,
        }
    )


LETTERS = [*'<s>/abcdunk{"}', "<u"]
BPE: dict[str, Any] = {
    "type": "BPE",
    "unk_token": "<unk>",
    "byte_fallback": True,
    "ignore_merges": True,
    "vocab": {
        text: i for i, text in enumerate(dict.fromkeys(["<unk>", "<s>", "</s>", *LETTERS, "<s", "nk", "nk>"]))
    },
    "merges": [["<", "s"], ["<s", ">"], ["n", "k"], ["nk", ">"]],
}
FILES = {
    "in the vocabulary": file_of(BPE, (0, "<unk>", True), (1, "<s>", True), (2, "</s>", False)),
    "older merges": file_of(
        {**BPE, "merges": [" ".join(merge) for merge in BPE["merges"]]},
        (0, "<unk>", True),
        (1, "<s>", True),
        (2, "</s>", False),
    ),
    "unigram": file_of(
        {
            "type": "Unigram",
            "unk_id": 0,
            "byte_fallback": True,
            "vocab": [[text, -1.0 - i / 10] for text, i in BPE["vocab"].items()],
        },
        (0, "<unk>", True),
        (1, "<s>", True),
        (2, "</s>", False),
    ),
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_every_token_keeps_its_id_and_no_control_token_is_found_in_text(content: str) -> None:
    before, after = (Tokenizer.from_str(text) for text in (content, with_nameless_tokens(content)))
    assert any(i in before.encode(WORD).ids for i in (0, 1, 2))
    assert before.get_vocab_size() == after.get_vocab_size()
    for token, token_id in before.get_vocab().items():
        assert token_id < 3 or after.token_to_id(token) == token_id
    tables = LLTokenizer(with_nameless_tokens(content), eos_token=2)
    assert [i for i in range(tables.vocab_size) if tables.is_special_token(i)] == [0, 1, 2]
    ids = tables.tokenize_str(WORD)
    assert not {0, 1, 2} & set(ids)
    assert tables.decode_bytes(ids) == WORD.encode()
