"""Writes the form of a tool call as a grammar: a family's spelling around JSON that follows the tool's schema.

The JSON is spaced as the chat templates write it, so that the call, sent back in the next turn, is found in the cache.
Lark with llguidance's extensions (`%json`, `<[token id]>`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal

from llguidance.gbnf_to_lark import GbnfToLarkError, gbnf_to_lark, is_lark_syntax

from semanticd.adapters.mlx.constraints.call_spelling import CallSpelling
from semanticd.adapters.mlx.constraints.json_lark import inside_json_string
from semanticd.adapters.mlx.constraints.pattern_tree import UntranslatableError
from semanticd.domain.chat import ToolSpec
from semanticd.domain.errors import UnsupportedError
from semanticd.domain.generation import OutputConstraint

SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}

_MAX_CALLS = 8
_SLASH = "\\/"
_NOTHING: Mapping[str, Any] = {"type": "object", "properties": {}}
_ANYTHING: Mapping[str, Any] = {"type": "object"}
_COMBINED = frozenset(
    ("allOf", "anyOf", "oneOf", "not", "if", "$ref", "patternProperties", "minProperties", "dependentSchemas")
)
"""Schema words that may allow other keys than those in `properties`."""

_UNLIKE_A_CALL = ' & ~/\\s*\\{\\s*"(name|type|function)"(.|\\n)*/'
"""Restricts text to what does not begin as a bare call does."""

_VALUES = ("const", "default", "enum", "example", "examples")
"""Keywords whose values are data, not schemas."""
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
"""There the keys are names, not the words of a schema."""


def tool_grammar(
    tools: Sequence[ToolSpec],
    *,
    spelling: CallSpelling,
    parallel: bool,
    special: Mapping[str, int] | None = None,
) -> OutputConstraint:
    """Return the form of one call (or several) of one of these tools, as a family spells it.

    `special` are the special tokens by text: in a grammar they are named by id, for as text they are never matched.
    There are as many calls as tools at most, and never more than eight: a weak model would repeat itself endlessly.
    """
    ids = special or {}
    most = min(len(tools), _MAX_CALLS) if parallel and spelling.end else 1
    several = spelling.joint is None and most > 1
    rules = [
        f'start: one ("\\n" one){{0,{most - 1}}}' if several else "start: one",
        f"one: {_spelled(spelling.start, ids)} {_after_start(spelling, ids, most)}",
        *_calls(tools, spelling, ids),
    ]
    return _form("tool_call", rules, tools)


def optional_tool_grammar(
    tools: Sequence[ToolSpec],
    *,
    spelling: CallSpelling,
    parallel: bool,
    special: Mapping[str, int] | None = None,
    thinking: Sequence[str] = (),
) -> OutputConstraint:
    """Return the form of text in which calls, if there are any, are calls of these tools.

    Calls of strict tools follow their schemas; others were promised nothing. `thinking` are the markers of
    thinking, which may stand in the text.
    """
    ids, start = special or {}, spelling.start
    body = _after_start(spelling, ids, _MAX_CALLS if parallel else 1)
    passing = "".join(f" | {_literal(marker, ids)}" for marker in thinking if marker in ids)
    offered = [tool if tool.strict else replace(tool, parameters=_ANYTHING) for tool in tools]
    if not start:
        # A call is an answer that begins like one; whatever else begins otherwise.
        rules = [
            f"start: {body} | text",
            f"text: (TEXT{passing})*",
            f"TEXT: /(.|\\n)+/{_UNLIKE_A_CALL}",
            *_calls(offered, spelling, ids),
        ]
        return _form("optional_call", rules, tools)
    # A marker that is not a token of its own is found by the lexer: the shortest text that ends with it.
    opened = f"text {_literal(start, ids)}" if start in ids else f"ANYTHING {_literal(start, ids)}"
    rules = [
        # After the last call there is no text: in it the lexer would no longer look for a marker.
        f"start: (opened {body})* text" if parallel and spelling.end else f"start: text | opened {body}",
        f"opened{'' if start in ids else '[lazy]'}: {opened}",
        f"text: (TEXT{passing})*",
        "TEXT: /(.|\\n)+/",
        "ANYTHING: /(.|\\n)*/",
        *_calls(offered, spelling, ids),
    ]
    return _form("optional_call", rules, tools)


def call_or_answer_grammar(
    tools: Sequence[ToolSpec],
    answer: OutputConstraint,
    *,
    spelling: CallSpelling,
    parallel: bool,
    special: Mapping[str, int] | None = None,
) -> OutputConstraint:
    """Return the form of either calls of these tools or an answer that has a form of its own.

    Calls of strict tools follow their schemas; others were promised nothing.
    """
    offered = [tool if tool.strict else replace(tool, parameters=_ANYTHING) for tool in tools]
    calls = tool_grammar(offered, spelling=spelling, parallel=parallel, special=special)
    rules = (calls.grammar or "").removeprefix("start:")
    return replace(calls, grammar=f"start: calls | {_answer(answer)}calls:{rules}")


def no_call_grammar(
    *, start: str, special: Mapping[str, int] | None = None, thinking: Sequence[str] = ()
) -> OutputConstraint:
    """Return the form of text without the marker that begins a call; thinking may stand in it.

    Without a marker, text must not begin as a call does.
    """
    ids = special or {}
    if not start:
        return _text_between([m for m in thinking if m in ids], ids, f"/(.|\\n)+/{_UNLIKE_A_CALL}")
    # As text a marker that is a token is never matched; another one must not be spelled.
    spelled = "" if start in ids else f" & ~/(.|\\n)*{_pattern(start)}(.|\\n)*/"
    return _text_between([marker for marker in thinking if marker in ids], ids, f"/(.|\\n)+/{spelled}")


def channel_no_call_grammar(special: Mapping[str, int], markers: Sequence[str]) -> OutputConstraint:
    """Return the form of messages as gpt-oss writes them, none of which is for a function."""
    known = [marker for marker in markers if marker in special]
    return _text_between(known, special, "/(.|\\n)+/ & ~/(.|\\n)*to=functions(.|\\n)*/")


def _text_between(markers: Sequence[str], special: Mapping[str, int], text: str) -> OutputConstraint:
    # Between two markers there is one text: of two, the second could begin in the middle of what is forbidden.
    between = " | ".join(_literal(marker, special) for marker in markers)
    start = f"start: TEXT? (({between}) TEXT?)*" if between else "start: TEXT?"
    return OutputConstraint("optional_call", grammar=f"{start}\nTEXT: {text}\n")


def _answer(answer: OutputConstraint) -> str:
    """Return what stands for an answer's form in a rule, and the rules for it."""
    if answer.kind in ("json_object", "json_schema"):
        schema = (
            {"type": "object"} if answer.kind == "json_object" else closed(enforceable(answer.schema or {}))
        )
        return f"answer\nanswer: %json {json.dumps({**schema, 'x-guidance': SPACING})}\n"
    if answer.kind == "regex":
        return f"ANSWER\nANSWER: /{(answer.grammar or '').replace('/', _SLASH)}/\n"
    return f"answer\nanswer: %lark {{\n{as_lark(answer.grammar or '')}\n}}\n"


def as_lark(grammar: str) -> str:
    """Return a grammar in Lark's notation; llama.cpp's (GBNF), known by its `::=`, is translated.

    Raises:
        ValueError: it is neither.
    """
    if is_lark_syntax(grammar):
        return grammar
    try:
        return gbnf_to_lark(grammar)
    except GbnfToLarkError as error:
        raise ValueError(str(error)) from None


def _pattern(text: str) -> str:
    return re.escape(text).replace("/", _SLASH)


def channel_tool_grammar(
    tools: Sequence[ToolSpec], special: Mapping[str, int], *, answer: OutputConstraint | None = None
) -> OutputConstraint:
    """Return the form of one call of one of these tools as gpt-oss makes it, spelled as its template spells it.

    The form has room for one call: its end ends the turn. With `answer` an answer of that form may come instead.
    """
    channel, message = _literal("<|channel|>", special), _literal("<|message|>", special)
    rules = ["start: " + " | ".join(f"call_{number}" for number in range(len(tools)))]
    if answer is not None:
        rules[0] += f" | {_answer(answer).rstrip()}"
    for number, tool in enumerate(tools):
        recipient = json.dumps(f" to=functions.{tool.name}", ensure_ascii=False)
        rules.append(f'call_{number}: {recipient} {channel} "commentary json" {message} arguments_{number}')
        rules += _arguments_rules(number, tool)
    return _form("tool_call", rules, tools)


def _after_start(spelling: CallSpelling, ids: Mapping[str, int], most: int) -> str:
    """Return the grammar after a block's start, with up to `most` calls if a block may hold several."""
    more = ""
    if spelling.joint is not None and most > 1:
        more = f"({_spelled(spelling.joint, ids)} call){{0,{most - 1}}}"
    return f"call {more} {_spelled(spelling.end, ids)}"


def _calls(tools: Sequence[ToolSpec], spelling: CallSpelling, ids: Mapping[str, int]) -> list[str]:
    rules = ["call: " + " | ".join(f"call_{number}" for number in range(len(tools)))]
    for number, tool in enumerate(tools):
        # Each schema is a document of its own: its references start at its own root.
        # A name is text, also where it looks like a control token.
        name = json.dumps(spelling.name(tool.name), ensure_ascii=False)
        before, between = _spelled(spelling.before, ids), _spelled(spelling.between, ids)
        after = _spelled(spelling.after, ids)
        rules.append(f"call_{number}: {before} {name} {between} arguments_{number} {after}")
        rules += _arguments_rules(number, tool)
    return rules


def _form(
    kind: Literal["tool_call", "optional_call"], rules: Sequence[str], tools: Sequence[ToolSpec]
) -> OutputConstraint:
    """Return the form of these rules; it lists the parts of the tools that are not enforced."""
    is_told_only = any(tool.input_grammar and _input_rules(tool) is None for tool in tools)
    return OutputConstraint(
        kind, grammar="\n".join(rules) + "\n", not_enforced=("lark",) if is_told_only else ()
    )


def _arguments_rules(number: int, tool: ToolSpec) -> list[str]:
    """Return the rules of a tool's arguments: JSON by its schema, or with one string that has a grammar of its own."""
    inner = _input_rules(tool) if tool.input_grammar and tool.strict else None
    if inner is None:
        return [f"arguments_{number}: %json {json.dumps(_arguments(tool))}"]
    before, after = json.dumps('{"input": "'), json.dumps('"}')
    return [f"arguments_{number}: {before} input_{number} {after}", f"input_{number}: %lark {{\n{inner}}}"]


def _input_rules(tool: ToolSpec) -> str | None:
    """Return a tool's grammar for text inside a JSON string; None where it cannot be said there.

    Raises:
        UnsupportedError: It is not a grammar.
    """
    try:
        return _rewritten(tool.input_grammar)
    except (ValueError, RecursionError) as error:
        raise UnsupportedError(
            f"the grammar of the tool {tool.name[:80]!r} cannot be enforced: {error}", param="tools"
        ) from error


@lru_cache(maxsize=64)
def _rewritten(grammar: str) -> str | None:
    try:
        return inside_json_string(grammar)
    except UntranslatableError:
        return None


def _arguments(tool: ToolSpec) -> dict[str, Any]:
    return {"type": "object", **closed(enforceable(tool.parameters or _NOTHING)), "x-guidance": SPACING}


def enforceable(schema: Any) -> Any:
    """Return the schema without `propertyNames` that say only that names are strings, which they always are.

    The grammar engine knows no `propertyNames` and would refuse them; generators of schemas write these for every map.
    """
    if isinstance(schema, list):
        return [enforceable(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        key: _part(key, value)
        for key, value in schema.items()
        if key != "propertyNames" or value not in (True, {}, {"type": "string"})
    }


def _part(key: str, value: Any) -> Any:
    if key in _VALUES:
        return value
    if key in _MAPS and isinstance(value, Mapping):
        return {name: enforceable(part) for name, part in value.items()}
    return enforceable(value)


def _spelled(text: str, special: Mapping[str, int]) -> str:
    """Return text as a grammar writes it, the special tokens in it by their ids."""
    if not special:
        return _literal(text, special)
    tokens = "|".join(re.escape(token) for token in sorted(special, key=len, reverse=True) if token)
    return " ".join(_literal(part, special) for part in re.split(f"({tokens})", text) if part)


def _literal(marker: str, special: Mapping[str, int]) -> str:
    if not marker:
        return ""
    return f"<[{special[marker]}]>" if marker in special else json.dumps(marker, ensure_ascii=False)


def closed(schema: Any) -> Any:
    """Close objects that leave open whether they may have other keys: a model would only invent some.

    The answer still follows the schema as given.
    """
    if not isinstance(schema, Mapping):
        return schema
    made = dict(schema)
    properties = made.get("properties")
    if isinstance(properties, Mapping) and not _COMBINED & made.keys():
        made["properties"] = {key: closed(value) for key, value in properties.items()}
        if set(made.get("required") or ()) <= properties.keys():
            made.setdefault("additionalProperties", False)
    if isinstance(made.get("items"), Mapping):
        made["items"] = closed(made["items"])
    return made
