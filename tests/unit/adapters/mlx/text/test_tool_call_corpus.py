"""Every form of calls in `tests/data/tool_calls` is read for what it is, in one piece, by bytes, and by tokens."""

from __future__ import annotations

import codecs
import functools
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from semanticd.adapters.mlx.text.harmony import MARKERS, HarmonyParser
from semanticd.adapters.mlx.text.output_parser import Markup, MlxOutputParser
from semanticd.adapters.mlx.text.tool_families import ToolFamily, family_of
from semanticd.application.ports.inference import OutputParser
from semanticd.domain.chat import ChatPrompt, Message, ToolSpec
from semanticd.domain.generation import (
    GenerationEvent,
    TextDelta,
    ThinkingDelta,
    ToolCallBroken,
    ToolCallDelta,
    ToolCallStarted,
)
from tests.unit.adapters.mlx.conftest import MakeTokenizer

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CORPUS = Path(__file__).parents[4] / "data" / "tool_calls"
STRING, INTEGER = {"type": "string"}, {"type": "integer"}
TOOLS = (
    ToolSpec("look", "", {"type": "object", "properties": {"at": STRING, "n": INTEGER}}),
    ToolSpec("write", "", {"type": "object", "properties": {"path": STRING, "text": STRING}}),
    ToolSpec("rest", "", {"type": "object", "properties": {}}),
    ToolSpec("function", "", {"type": "object", "properties": {"at": STRING}}),
)
PROMPT = ChatPrompt((Message.of("user", "?"),), TOOLS)
HARMONY_TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endfor %}"
    "<|start|>assistant{# <|channel|> #}"
)


@dataclass(frozen=True)
class Case:
    """One answer and what it says."""

    family: str
    name: str
    answer: str
    calls: tuple[str, ...]
    text: str = ""
    thinking: str = ""
    cut: bool = False
    failures: int = 0


@dataclass
class Seen:
    """What a client puts together of an answer."""

    calls: list[str]
    text: str
    thinking: str
    failures: int


def cases() -> list[Any]:
    found = []
    for path in sorted(CORPUS.glob("*.toml")):
        for entry in tomllib.loads(path.read_text(encoding="utf-8"))["case"]:
            case = Case(family=path.stem, **{**entry, "calls": tuple(entry["calls"])})
            found.append(pytest.param(case, id=f"{case.family}: {case.name}"))
    return found


def row(name: str) -> ToolFamily:
    return family_of(hint=name, inferred=None, template="", vocabulary=())


def parser_of(family: str) -> OutputParser:
    if family == "harmony":
        return HarmonyParser(names=[tool.name for tool in TOOLS])
    tools = [
        {
            "type": "function",
            "function": {"name": tool.name, "description": "", "parameters": tool.parameters},
        }
        for tool in TOOLS
    ]
    return MlxOutputParser(Markup("<think>", "</think>", row(family).forms), tools=tools)


def read(parser: OutputParser, pieces: Iterable[str], *, cut: bool) -> Seen:
    events: list[GenerationEvent] = []
    for piece in pieces:
        events += parser.feed(piece)
    events += parser.finish(cut=cut)
    seen = Seen([], "", "", parser.num_parse_failures)
    for event in events:
        if isinstance(event, ToolCallStarted):
            seen.calls.append(f"{event.name} ")
        elif isinstance(event, ToolCallDelta):
            assert event.index == len(seen.calls) - 1
            seen.calls[-1] += event.arguments
        elif isinstance(event, ThinkingDelta):
            seen.thinking += event.text
        elif not isinstance(event, ToolCallBroken):
            assert isinstance(event, TextDelta)
            seen.text += event.text
    return seen


def check(case: Case, seen: Seen) -> None:
    assert [valued(call) for call in seen.calls] == [valued(call) for call in case.calls]
    assert (seen.text, seen.thinking, seen.failures) == (case.text, case.thinking, case.failures)


def valued(call: str) -> tuple[str, Any]:
    """Return a call's name and the value of its arguments; the text of cut ones."""
    name, _, arguments = call.partition(" ")
    try:
        return name, json.loads(arguments)
    except ValueError:
        return name, arguments


def in_one_piece(text: str) -> list[str]:
    return [text]


def by_bytes(text: str) -> list[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    return [decoder.decode(bytes([byte])) for byte in text.encode()]


@pytest.mark.parametrize("pieces", [in_one_piece, by_bytes])
@pytest.mark.parametrize("case", cases())
def test_calls_and_visible_text_are_what_the_answer_says(
    case: Case, pieces: Callable[[str], list[str]]
) -> None:
    check(case, read(parser_of(case.family), pieces(case.answer), cut=case.cut))


@pytest.mark.parametrize("case", cases())
def test_an_answer_cut_in_two_anywhere_says_the_same(case: Case) -> None:
    for at in range(1, len(case.answer)):
        check(case, read(parser_of(case.family), (case.answer[:at], case.answer[at:]), cut=case.cut))


@pytest.fixture(scope="module")
def tokenizer_of(make_tokenizer: MakeTokenizer) -> Callable[[str], Any]:
    """A tokenizer in which a family's control tokens are special tokens, as its models have them."""

    @functools.cache
    def make(family: str) -> Any:
        if family == "harmony":
            return make_tokenizer(HARMONY_TEMPLATE, tokens=MARKERS, special=True)
        fences = ("```json", "```tool_code", "```")
        tokens = dict.fromkeys(marker for marker in row(family).markers if marker not in fences)
        return make_tokenizer(tokens=(*tokens, "<think>", "</think>"), special=True, tool_parser=family)

    return make


@pytest.mark.parametrize("case", cases())
def test_the_tokens_of_an_answer_say_the_same(case: Case, tokenizer_of: Callable[[str], Any]) -> None:
    tokenizer = tokenizer_of(case.family)
    decoder = tokenizer.stream_decoder()
    pieces = [decoder.add(token_id) for token_id in tokenizer.encode(case.answer)]
    check(case, read(tokenizer.output_parser(PROMPT), [*pieces, decoder.finish()], cut=case.cut))


def test_the_corpus_has_every_row_of_the_table_and_broken_forms_of_most() -> None:
    found = [parameter.values[0] for parameter in cases()]
    assert len(found) >= 180
    assert len({case.family for case in found}) >= 15
    assert sum(case.cut for case in found) >= 12
    assert sum(case.failures > 0 for case in found) >= 15
