"""Where a model may choose whether to call, what was promised of its calls holds, and its text is free."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import pytest

from semanticd.adapters.mlx.text.tokenizer import MlxTokenizer
from semanticd.domain.chat import ChatPrompt, Message, ToolChoice, ToolSpec
from semanticd.domain.generation import OutputConstraint
from tests.unit.adapters.mlx.conftest import MakeTokenizer

STRICT = ToolSpec(
    "look",
    "",
    {"type": "object", "properties": {"at": {"enum": ["sky", "sea"]}}, "required": ["at"]},
    strict=True,
)
EITHER = ToolChoice()
LOOSE = ToolSpec("rest", "", {"type": "object", "uniqueItems": True})


def call(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def prompt(*tools: ToolSpec, choice: ToolChoice = EITHER) -> ChatPrompt:
    return ChatPrompt((Message.of("user", "?"),), tools, choice)


def accepted(tokenizer: MlxTokenizer, constraint: OutputConstraint, text: str) -> bool:
    """Return whether the form lets a model say exactly this and end its turn."""
    process = tokenizer.constraints.processor(constraint, num_context=1)
    ids = [0]
    for token_id in [*tokenizer.encode(text), min(tokenizer.eos_token_ids)]:
        row = process(mx.array(ids), mx.zeros((1, tokenizer.vocab_size)))
        if row[0, token_id].item() == -float("inf"):
            return False
        ids.append(token_id)
    return True


@pytest.fixture(scope="module", params=[(), ("<tool_call>", "</tool_call>")], ids=["spelled", "tokens"])
def tokenizer(request: pytest.FixtureRequest, make_tokenizer: MakeTokenizer) -> MlxTokenizer:
    """A family whose markers are plain text, and one whose markers are tokens."""
    return make_tokenizer(tokens=request.param)


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("", True),
        ("Nothing to call.\nReally, a < b.", True),
        (call("look", '{"at": "sky"}'), True),
        ("I look.\n" + call("look", '{"at": "sea"}') + "\n" + call("look", '{"at": "sky"}') + "\ndone", True),
        ("I look.\n" + call("look", '{"at": "sun"}'), False),
        (call("look", "{}"), False),
        (call("swim", "{}"), False),
        (call("rest", '{"whatever": [1, 1]}'), True),
        ("The marker <tool_call> alone.", False),
    ],
)
def test_calls_of_strict_tools_follow_their_schemas_and_text_is_free(
    tokenizer: MlxTokenizer, text: str, fits: bool
) -> None:
    constraint = tokenizer.tool_constraint(prompt(STRICT, LOOSE))
    assert constraint is not None
    assert accepted(tokenizer, constraint, text) is fits


def test_a_choice_that_limits_names_lets_only_those_be_called(tokenizer: MlxTokenizer) -> None:
    constraint = tokenizer.tool_constraint(prompt(STRICT, LOOSE, choice=ToolChoice("auto", ("rest",))))
    assert constraint is not None
    assert accepted(tokenizer, constraint, call("rest", "{}"))
    assert accepted(tokenizer, constraint, "No.")
    assert not accepted(tokenizer, constraint, call("look", '{"at": "sky"}'))


def test_one_call_at_a_time_when_the_client_wants_no_more(tokenizer: MlxTokenizer) -> None:
    constraint = tokenizer.tool_constraint(prompt(STRICT, choice=ToolChoice(parallel=False)))
    assert constraint is not None
    one = call("look", '{"at": "sky"}')
    assert accepted(tokenizer, constraint, one)
    assert accepted(tokenizer, constraint, "Yes: " + one)
    assert not accepted(tokenizer, constraint, one + "\n" + one)
    assert not accepted(tokenizer, constraint, "The marker <tool_call> alone.")


def test_tools_that_are_not_strict_cost_nothing(tokenizer: MlxTokenizer) -> None:
    assert tokenizer.tool_constraint(prompt(LOOSE)) is None


def test_one_call_at_a_time_holds_for_tools_that_are_not_strict(tokenizer: MlxTokenizer) -> None:
    constraint = tokenizer.tool_constraint(prompt(LOOSE, choice=ToolChoice(parallel=False)))
    assert constraint is not None
    one = call("rest", '{"whatever": 1}')
    assert accepted(tokenizer, constraint, "Yes: " + one)
    assert accepted(tokenizer, constraint, "No.")
    assert not accepted(tokenizer, constraint, one + "\n" + one)


def test_no_call_is_made_where_none_is_allowed(tokenizer: MlxTokenizer) -> None:
    constraint = tokenizer.tool_constraint(prompt(STRICT, LOOSE, choice=ToolChoice("none")))
    assert constraint is not None
    assert accepted(tokenizer, constraint, "Nothing to call.\nReally, a < b.")
    assert accepted(tokenizer, constraint, "")
    assert not accepted(tokenizer, constraint, call("rest", "{}"))
    assert not accepted(tokenizer, constraint, "I look.\n" + call("rest", "{}"))


SCHEMA = OutputConstraint(
    "json_schema",
    schema={"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
)
ANSWERS = [
    (SCHEMA, '{"n": 3}', '{"n": "3"}'),
    (OutputConstraint("json_object"), '{"m": [1]}', "[1]"),
    (OutputConstraint("regex", grammar="a/[bc]+"), "a/bcb", "a/d"),
    (OutputConstraint("lark", grammar='start: "yes" | B\nB: /x+/'), "xxx", "no"),
    (OutputConstraint("lark", grammar='root ::= "yes" | [x]+'), "xxx", "no"),
]


@pytest.mark.parametrize(("form", "right", "wrong"), ANSWERS)
def test_with_tools_and_a_form_the_answer_is_a_call_or_has_the_form(
    tokenizer: MlxTokenizer, form: OutputConstraint, right: str, wrong: str
) -> None:
    constraint = tokenizer.tool_constraint(prompt(STRICT, LOOSE), form)
    assert constraint is not None
    assert accepted(tokenizer, constraint, right)
    assert not accepted(tokenizer, constraint, wrong)
    assert accepted(tokenizer, constraint, call("look", '{"at": "sea"}'))
    assert accepted(tokenizer, constraint, call("rest", '{"a": 1}') + "\n" + call("look", '{"at": "sky"}'))
    assert not accepted(tokenizer, constraint, call("look", "{}"))
    assert not accepted(tokenizer, constraint, "Let me see.")


def test_a_form_keeps_required_and_forbidden_calls(
    tokenizer: MlxTokenizer,
) -> None:
    required = tokenizer.tool_constraint(prompt(STRICT, choice=ToolChoice("required")), SCHEMA)
    assert required is not None
    assert accepted(tokenizer, required, call("look", '{"at": "sea"}'))
    assert not accepted(tokenizer, required, '{"n": 3}')
    assert tokenizer.tool_constraint(prompt(STRICT, choice=ToolChoice("none")), SCHEMA) == SCHEMA
    assert tokenizer.tool_constraint(prompt(), SCHEMA) == SCHEMA


def test_text_is_cut_by_its_room_and_not_ended_early(tokenizer: MlxTokenizer) -> None:
    constraint = tokenizer.tool_constraint(prompt(STRICT))
    assert constraint is not None
    text = "a b c d e f g h"
    room = len(tokenizer.encode(text)) + 1
    assert accepted(tokenizer, replace(constraint, max_tokens=room), text)


def test_text_before_a_call_comes_back_without_the_line_break_that_the_template_writes(
    tokenizer: MlxTokenizer,
) -> None:
    parser = tokenizer.output_parser(prompt(STRICT))
    events = [*parser.feed("I look.\n"), *parser.feed(call("look", '{"at": "sky"}')), *parser.finish()]
    assert "".join(getattr(event, "text", "") for event in events) == "I look."
    assert parser.num_tool_calls == 1
