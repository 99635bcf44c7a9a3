"""Tool call formats of the families of models: a table, one row per family.

A row says how calls are read out of an answer (its forms), how a call is spelled where we write one (a forced call, or
a call of the past for a template that knows none), and by what a tokenizer shows that its model is of the family.
Families that mlx-lm has a parser for are read by it (`mlx_lm.tool_parsers`); a row of the same name may let their JSON
arguments stream. Source of the forms: the families' published chat templates.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
import re
from collections.abc import Callable, Container
from dataclasses import dataclass, replace
from typing import Any

from mlx_lm import tool_parsers

from semanticd.adapters.mlx.constraints.call_spelling import CallSpelling, json_spelling
from semanticd.adapters.mlx.text.call_guard import Language
from semanticd.adapters.mlx.text.element_call import CallElements
from semanticd.adapters.mlx.text.json_call import AFTER_JSON_CALL, JSON_CALL, JSON_HEAD, CallHead
from semanticd.adapters.mlx.text.whole_calls import (
    dsml_calls,
    fenced_json_calls,
    function_tag_call,
    json_calls,
    json_or_python_calls,
    python_calls,
)

Parse = Callable[[str, Any], Any]


@dataclass(frozen=True, slots=True)
class CallForm:
    """One way to write calls in an answer: between two markers, or bare at the answer's beginning."""

    start: str
    """The marker before a block of calls; of a `bare` form, the character that it begins with."""
    end: str | None = None
    """The marker after it; None: the answer's end, or where the brackets of a bare form close."""
    parse: Parse | None = None
    """Reads a whole block; JSON is tried too."""
    head: CallHead | None = JSON_HEAD
    """Lets JSON arguments stream; None: blocks are read whole."""
    elements: CallElements | None = None
    """Lets calls that are written as elements stream; their values are converted by `parse`."""
    guard: Language | None = None
    """The marker means other things too: only calls of offered tools, in this language, count; the rest is text."""
    bare: bool = False


@dataclass(frozen=True, slots=True)
class ToolFamily:
    """A row of the table."""

    name: str
    forms: tuple[CallForm, ...]
    spelling: CallSpelling
    inner: tuple[str, ...] = ()
    """Control tokens inside of blocks, which the forms' parsers must see."""
    writes_history: bool = False
    """Calls of the past are written by us: the family's templates lose some, or raise on their arguments."""

    @property
    def markers(self) -> tuple[str, ...]:
        """The control tokens that have to reach the parser."""
        marked = [form for form in self.forms if not form.bare]
        return (*(m for form in marked for m in (form.start, form.end) if m), *self.inner)


_BARE_JSON = CallForm("{", parse=json_calls, guard="json", bare=True)
_BARE_LIST = CallForm("[", parse=json_or_python_calls, guard="either", bare=True)
_TOOL_CALL = CallForm("<tool_call>", "</tool_call>", json_calls)

# Control tokens of DeepSeek and Kimi.
_CALLS, _CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_CALL, _CALL_END, _SEP = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"
_K_CALLS, _K_CALLS_END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
_K_CALL, _K_CALL_END, _K_ARGUMENTS = (
    "<|tool_call_begin|>",
    "<|tool_call_end|>",
    "<|tool_call_argument_begin|>",
)

_DEEPSEEK = CallForm(
    _CALLS,
    _CALLS_END,
    head=CallHead.of(
        rf"{_CALL}\s*(?:function\s*{_SEP})?\s*(?P<name>[^\s<>{{}}`]+)\s*(?:{_SEP})?\s*(?:```(?:json)?)?",
        after=rf"\s*(?:```)?\s*(?:{_CALL_END})?",
    ),
)
_DEEPSEEK_V3 = CallSpelling(
    _CALLS, f"{_CALL}function{_SEP}", "\n```json\n", f"\n```{_CALL_END}", _CALLS_END, joint="\n"
)

_DSML = CallElements(
    re.compile(r'<｜DSML｜invoke name="(?P<name>[^"]+)">'),
    "</｜DSML｜invoke>",
    re.compile(r'<｜DSML｜parameter name="(?P<name>[^"]+)"(?: string="(?P<string>true|false)")?>'),
    "</｜DSML｜parameter>",
    space="none",
)

_LIBRARY_ELEMENTS = {
    "qwen3_coder": CallElements(
        re.compile(r"<function=\s*(?P<name>[^\s<>]+)\s*>"),
        "</function>",
        re.compile(r"<parameter=\s*(?P<name>[^\s<>]+)>"),
        "</parameter>",
        space="line",
        nulls=True,
    ),
    "glm47": CallElements(
        re.compile(r"(?<![^\s<>])(?P<name>[^\s<>]+)\s*(?=<arg_key>)"),
        None,
        re.compile(r"<arg_key>\s*(?P<name>[^<]*?)\s*</arg_key>(?:\\n|\s)*<arg_value>", re.DOTALL),
        "</arg_value>",
        space="all",
    ),
    "minimax_m2": CallElements(
        re.compile(r"<invoke name=\s*[\"']?(?P<name>[^\"'<>]+?)[\"']?\s*>"),
        "</invoke>",
        re.compile(r"<parameter name=\s*[\"']?(?P<name>[^\"'<>]+?)[\"']?\s*>"),
        "</parameter>",
        space="all",
        nulls=True,
    ),
}
"""Families of mlx-lm whose calls stream."""

_ROWS = (
    # Hermes, Qwen 2.5 and 3, SmolLM 3, and what our own description of tools asks for. Qwen 2.5 Coder and others
    # forget the markers or take others.
    ToolFamily(
        "json",
        (
            _TOOL_CALL,
            _BARE_JSON,
            CallForm("<tools>", "</tools>", json_calls, guard="json"),
            CallForm("<function_call>", "</function_call>", json_calls, guard="json"),
        ),
        json_spelling("<tool_call>", "</tool_call>"),
    ),
    # Llama 3.1 to 3.3 write JSON, behind <|python_tag|> or without; 3.2 and 4 write Python where a prompt asks for it.
    ToolFamily(
        "llama",
        (
            CallForm("<|python_tag|>", parse=json_or_python_calls),
            CallForm("<|python_start|>", "<|python_end|>", json_or_python_calls),
            CallForm("<function=", "</function>", function_tag_call, head=None, guard="tag"),
            _BARE_JSON,
            _BARE_LIST,
        ),
        json_spelling("", "", arguments="parameters"),
    ),
    ToolFamily(
        "deepseek_v3",
        (_DEEPSEEK, _TOOL_CALL),
        _DEEPSEEK_V3,
        inner=(_CALL, _CALL_END, _SEP),
        writes_history=True,
    ),
    ToolFamily(
        "deepseek_v31",
        (_DEEPSEEK, _TOOL_CALL),
        replace(_DEEPSEEK_V3, before=_CALL, between=_SEP, after=_CALL_END, joint=""),
        inner=(_CALL, _CALL_END, _SEP),
        writes_history=True,
    ),
    ToolFamily(
        "deepseek_v32",
        (
            CallForm("<｜DSML｜function_calls>", "</｜DSML｜function_calls>", dsml_calls, elements=_DSML),
            CallForm("<｜DSML｜tool_calls>", "</｜DSML｜tool_calls>", dsml_calls, elements=_DSML),
        ),
        json_spelling("<｜DSML｜function_calls>", "</｜DSML｜function_calls>"),
    ),
    # Gemma 3 was not trained on markers: it writes Python in a fence, or JSON, besides what our description asks for.
    ToolFamily(
        "gemma3",
        (
            _TOOL_CALL,
            CallForm("```tool_code", "```", python_calls, head=None, guard="python"),
            CallForm("```json", "```", fenced_json_calls, guard="json"),
            _BARE_JSON,
            _BARE_LIST,
        ),
        json_spelling("<tool_call>", "</tool_call>"),
    ),
    # Nemotron Nano 2; Nemotron 3 writes what Qwen 3 Coder does.
    ToolFamily(
        "nemotron",
        (CallForm("<TOOLCALL>", "</TOOLCALL>", json_calls),),
        CallSpelling("<TOOLCALL>", '[{"name": "', '", "arguments": ', "}]", "</TOOLCALL>"),
    ),
    ToolFamily(
        "granite",
        (CallForm("<|tool_call|>", None, json_calls), _TOOL_CALL),
        json_spelling("<|tool_call|>", ""),
    ),
    ToolFamily(
        "phi4_mini",
        (CallForm("<|tool_call|>", "<|/tool_call|>", json_calls), _BARE_JSON),
        CallSpelling("<|tool_call|>", '[{"name": "', '", "arguments": ', "}]", "<|/tool_call|>"),
    ),
    # mlx-lm has the next two; between its markers they have control tokens of their own, and JSON that can stream.
    ToolFamily(
        "mistral",
        (
            CallForm(
                "[TOOL_CALLS]",
                head=CallHead.of(
                    rf"{JSON_CALL}|(?<![\w.-])(?P<name>[\w.-]+)\s*(?:\[CALL_ID\]\s*\w+\s*)?\[ARGS\]",
                    before=r"\s*(?:\[\s*)?",
                    after=rf"(?:{AFTER_JSON_CALL})?\s*(?:\[TOOL_CALLS\]\s*)?",
                ),
            ),
        ),
        json_spelling("[TOOL_CALLS]", ""),
        inner=("[ARGS]", "[CALL_ID]"),
    ),
    ToolFamily(
        "kimi_k2",
        (
            CallForm(
                _K_CALLS,
                _K_CALLS_END,
                head=CallHead.of(
                    r"<\|tool_call_begin\|>\s*(?:functions\.)?(?P<name>[^\s<>|:]+)(?::\d+)?\s*"
                    r"<\|tool_call_argument_begin\|>",
                    after=r"\s*(?:<\|tool_call_end\|>)?",
                ),
            ),
        ),
        CallSpelling(
            _K_CALLS, f"{_K_CALL}functions.", f":0{_K_ARGUMENTS}", _K_CALL_END, _K_CALLS_END, joint=""
        ),
        inner=(_K_CALL, _K_CALL_END, _K_ARGUMENTS),
    ),
)

_FAMILIES = {family.name: family for family in _ROWS}
_ALIASES = {"json_tools": "json", "hermes": "json", "llama3_json": "llama", "deepseek_r1": "deepseek_v3"}

_SIGNS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("deepseek_v32", (), ("｜DSML｜",)),
    ("deepseek_v3", (_CALLS, "```json"), ()),
    ("deepseek_v31", (_CALLS,), ()),
    ("nemotron", ("<TOOLCALL>",), ()),
    ("phi4_mini", ("<|/tool_call|>",), ()),
    ("granite", ("<|tool_call|>",), ()),
    ("llama", ('"parameters"',), ("<|python_tag|>",)),
    ("llama", (), ("<|python_start|>",)),
    ("gemma3", ("<start_of_turn>",), ()),
)
"""Texts of a family's template and tokens of its vocabulary; the first row with all of them present applies."""


def family_of(
    *, hint: str | None, inferred: str | None, template: str, vocabulary: Container[str]
) -> ToolFamily:
    """Return a model's family: named by its entry, found by mlx-lm, or shown by its files; else `json`.

    Raises:
        ValueError: The entry names a family that is not known.
    """
    name = hint or inferred or next(_found(template, vocabulary), "json")
    return _named(_ALIASES.get(name, name))


def _found(template: str, vocabulary: Container[str]) -> Any:
    for name, written, tokens in _SIGNS:
        if all(text in template for text in written) and all(token in vocabulary for token in tokens):
            yield name


@functools.cache
def _named(name: str) -> ToolFamily:
    known = sorted(
        {*_FAMILIES, *_ALIASES, *(module.name for module in pkgutil.iter_modules(tool_parsers.__path__))}
    )
    if name not in known:
        raise ValueError(f"{name!r} is not a tool parser; known: {', '.join(known)}")
    row = _FAMILIES.get(name)
    try:
        library = importlib.import_module(f"{tool_parsers.__name__}.{name}")
    except ModuleNotFoundError:
        assert row is not None
        return row
    if row is not None:
        forms = tuple(replace(form, parse=library.parse_tool_call) for form in row.forms)
        return replace(row, forms=forms)
    start, end = library.tool_call_start, library.tool_call_end or ""
    return ToolFamily(
        name,
        (CallForm(start, end or None, library.parse_tool_call, elements=_LIBRARY_ELEMENTS.get(name)),),
        json_spelling(start, end),
    )
