"""A Lark grammar rewritten for a JSON string takes a text as JSON writes it where the grammar takes the text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer

from semanticd.adapters.mlx.constraints.call_spelling import json_spelling
from semanticd.adapters.mlx.constraints.json_lark import inside_json_string
from semanticd.adapters.mlx.constraints.pattern_tree import UntranslatableError
from semanticd.adapters.mlx.constraints.tool_grammar import call_or_answer_grammar, tool_grammar
from semanticd.adapters.mlx.constraints.trial import Trial, TrialProcess
from semanticd.adapters.mlx.text.tokenizer import MlxTokenizer
from semanticd.domain.chat import ToolSpec
from semanticd.domain.errors import UnsupportedError
from semanticd.domain.generation import OutputConstraint
from tests.unit.adapters.mlx.constraints.test_compile import babble

CUSTOM: dict[str, Any] = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}
PATCH = r"""
start: begin hunk+ end
begin: "=== begin" LF   // as editors' patches look
end: "=== end" LF?
hunk: add | change
add: "=== add " name LF line+
change: "=== change " name LF ("@@" LF | ("+" | "-" | " ") /(.*)/ LF)+ eof?
name: /(.+)/
line: "+" /(.*)/ LF -> added
eof: "=== eof" LF
%import common.LF
"""
TEXT = '=== begin\n=== add a"b.py\n+x = "1"\n+\n+\té\\n\n=== change c\\d\n@@\n-a\n+b\x01\n=== eof\n=== end'
SUM = 'start: NUMBER (("+"|"-") NUMBER)*\n%import common (NUMBER, WS)\n%ignore WS'


@pytest.mark.parametrize(
    ("grammar", "taken", "refused"),
    [
        (PATCH, [TEXT, TEXT + "\n"], [TEXT[1:], TEXT.replace("-a", "*a"), "=== begin\n=== end", TEXT[:-3]]),
        (SUM, ["1+2", "1 +\n2.5e3\t- 4"], ["1+", "a", "1\\n+2"]),
        ('start: STRING ";"\nSTRING: /"[^"]*"/', ['"a\\b\nc";', '"";'], ["a;", '"a"b";']),
        ('start: /"([^"\\\\]|\\\\.)*"/', ['"a\\"b"', '"\\\\"', '"\n"'], ['"a"b"', '"\\"']),
        ('start: "SELECT"i WS NAME\nNAME: /[a-z]\\w*/i\nWS: /\\s+/', ["seLECT \n\tAb_1"], ["select1", " x"]),
        ('start: /.{2,4}/ LF\nLF: "\\n"', ["ab\n", '"\\\t"\n'], ["a\n", "abcde\n"]),
        ('start: A "." B?\nA: B+ | "\\"" C "\\""\nB: "x".."z"\nC: /[a-c\\n]/~2', ["xyz.", '"a\n".z'], ['"a".']),
        ("start: line+\nline: /[^\\n]*/ /\\n/", ['a\n\nb"\\\n', "\n"], ["a\nb", ""]),
        ('start: (/[A-Z]+/ "=" VAL "\\n")+\nVAL: /"(\\\\.|[^"\\n])*"|[0-9]+/', ['A="x\\"y"\nB=1\n'], ["A=x\n"]),
        ("start: /(.|\\n)*/", ["", 'a\n"\\', "\x00\x1f"], []),
        ("start: /(?s:.)/ /(?i)b/ /.*/s", ["\nB\n", "xb"], ["b", "\na"]),
        ('start: /\\p{Lu}[\\p{L}\\d]*/ "\\t" /\\P{L}/', ["Élan\t1", 'A1\t"'], ["a\t1", "A\tb"]),
        ('start: /a.*b/ "\\n"', ["ab\n", "axxb\n"], ["ax\n", "ab"]),
        ("start: /(ab?\\n){2,}/", ["a\nab\n", "a\na\na\n"], ["a\n", "b\na\n"]),
        ('start: ["-"] x~1..2\nx: ("a" | "\\\\")  # or both\n', ["-a\\", "\\"], ["", "a\\a"]),
        ('start: "\\u00e9\\t" /[\\x41-C\\]%\\/-]/', ["é\t]", "é\tB", "é\t%", "é\t/", "é\t-"], ["é\tD", "é\t\\"]),
    ],
)  # fmt: skip
def test_a_text_is_taken_inside_json_where_the_grammar_takes_it(
    tokenizer: MlxTokenizer, grammar: str, taken: list[str], refused: list[str]
) -> None:
    tables = tokenizer.constraints._make_tables  # noqa: SLF001 (the engine's own view of this tokenizer)
    made = tables(None)  # type: ignore[arg-type]
    rules = f'start: "\\"" text "\\""\ntext: %lark {{\n{inside_json_string(grammar)}}}\n'
    for text in (*taken, *refused):
        assert accepts(made, tokenizer, grammar, text) is (text in taken), text
        inside = json.dumps(text, ensure_ascii=False)
        assert accepts(made, tokenizer, rules, inside) is (text in taken), inside


def accepts(tables: LLTokenizer, tokenizer: MlxTokenizer, grammar: str, text: str) -> bool:
    matcher = LLMatcher(tables, LLMatcher.grammar_from_lark(grammar), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    ids = tokenizer.encode(text)
    return bool(matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting())


def tool(grammar: str, *, name: str = "patch") -> ToolSpec:
    return ToolSpec(name, "", CUSTOM, strict=True, input_grammar=grammar)


@pytest.mark.parametrize("seed", range(4))
def test_a_model_of_random_wishes_writes_an_input_of_the_grammar(tokenizer: MlxTokenizer, seed: int) -> None:
    grammar = 'start: (KEY "=" VALUE "\\n")~1..3\nKEY: /[A-Z]{1,3}/\nVALUE: /"[^"\\n]{0,3}"/ | /[0-9]/'
    form = tool_grammar([tool(grammar)], spelling=json_spelling("<c>", "</c>"), parallel=False)
    text, ended = babble(tokenizer, form, seed=seed)
    assert ended
    written = json.loads(text.removeprefix("<c>").removesuffix("</c>"))["arguments"]
    tables = tokenizer.constraints._make_tables(None)  # type: ignore[arg-type]  # noqa: SLF001
    assert list(written) == ["input"]
    assert accepts(tables, tokenizer, grammar, written["input"])


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        ("start: nowhere", "nowhere, which it does not define"),
        ('begin: "a"', "no rule called start"),
        ('start: ("a"', "ends in the middle"),
        ("start: )", "is not expected|should begin"),
        ("anything at all", "should begin|is expected"),
        ('start: "a"\nstart: "b"', "defined twice"),
        ("start: A\nA: B\nB: A", "without an end"),
        ("start: A\nA: start", "names the rule start"),
        (
            'start: T20\nT0: "a" "b"\n' + "\n".join(f"T{n}: T{n - 1} T{n - 1}" for n in range(1, 21)),
            "too often",
        ),
        ("start: " + "(" * 5000 + '"a"' + ")" * 5000, "nested too deeply"),
        ('start: "\\q"', "escape that is not known"),
        ("start: 'a'", "cannot be read"),
    ],
)
def test_a_grammar_that_is_none_is_refused_with_the_tool_and_the_reason(
    tokenizer: MlxTokenizer, grammar: str, reason: str
) -> None:
    with pytest.raises(UnsupportedError, match=f"the grammar of the tool 'patch' .*({reason})") as refused:
        tool_grammar([tool(grammar)], spelling=json_spelling("<c>", "</c>"), parallel=False)
    assert refused.value.param == "tools"


@pytest.mark.parametrize(
    "grammar",
    [
        "start: /a(?=b)b/",
        "start: /^a$/",
        "start: /a.*?b/",
        "start: /[a&&b]/",
        "start: /\\p{Greek}/",
        'start: %json {"type": "string"}',
        "start: <|im_end|>",
        'start: A\nA.2: "a"',
        "start: x{y}",
        'start[max_tokens=3]: "a"',
        "start: NAME\n%import python.NAME",
        "start: /" + "(" * 100 + "a" + ")" * 100 + "/",
        'start: "a"\n%ignore /(x\\n)+/',
    ],
)
def test_what_cannot_be_said_inside_json_is_told_and_named(tokenizer: MlxTokenizer, grammar: str) -> None:
    with pytest.raises((UntranslatableError, ValueError)):
        inside_json_string(grammar)
    try:
        form = tool_grammar([tool(grammar)], spelling=json_spelling("<c>", "</c>"), parallel=False)
    except UnsupportedError:
        assert "{y}" in grammar
        return
    assert form.not_enforced == ("lark",)
    with pytest.raises(UnsupportedError, match="cannot be enforced inside JSON"):
        tokenizer.compile_constraint(form)


@pytest.mark.parametrize(
    ("grammar", "answer"),
    [
        ('start: "a"', None),
        ("", OutputConstraint("lark", grammar='start: "a"')),
        ("", OutputConstraint("regex", grammar="a+")),
    ],
)
def test_a_grammar_and_a_pattern_beside_calls_are_tried_before_they_are_compiled(
    tokenizer: MlxTokenizer, monkeypatch: pytest.MonkeyPatch, grammar: str, answer: OutputConstraint | None
) -> None:
    monkeypatch.setattr(TrialProcess, "attempt", lambda self, grammar: Trial("refused by the trial", 0))
    markup: dict[str, Any] = {"spelling": json_spelling("<c>", "</c>"), "parallel": False}
    if answer is None:
        form = tool_grammar([tool(grammar)], **markup)
    else:
        form = call_or_answer_grammar([tool(grammar)], answer, **markup)
    with pytest.raises(UnsupportedError, match="refused by the trial"):
        tokenizer.compile_constraint(form)
