"""Reads calls out of whole texts, in the forms that a stream of JSON pieces cannot follow.

Every function returns the calls as maps of `name` and `arguments`, or raises where the text is not a call; names are
checked by the caller. `tools` are the tools in the templates' form.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Call = dict[str, Any]
Tools = Sequence[Mapping[str, Any]]

_SEPARATORS = " \t\r\n,;"
_BUILTIN = ".call"
"""Llama 3.1 calls the tools that it was trained with as `brave_search.call(query="…")`."""
_FENCE = re.compile(r"\A\s*```(?:json|python|tool_code|py)?[ \t]*\n?(.*?)\n?[ \t]*(?:```)?\s*\Z", re.DOTALL)
_DSML = "｜DSML｜"
_DSML_CALL = re.compile(rf'<{_DSML}invoke name="([^"]+)">(.*?)</{_DSML}invoke>', re.DOTALL)
_DSML_ARGUMENT = re.compile(
    rf'<{_DSML}parameter name="([^"]+)"(?: string="(true|false)")?>(.*?)</{_DSML}parameter>', re.DOTALL
)


def json_calls(text: str, tools: Tools = ()) -> list[Call]:
    """Read one call, several after one another, or a list; Python's spelling of the same values is accepted."""
    try:
        values = list(_json_values(text))
    except ValueError:
        value = ast.literal_eval(text.strip())
        values = value if isinstance(value, list) else [value]
    if not values:
        raise ValueError("there is no call")
    return [_unwrapped(value) for value in values]


def _json_values(text: str) -> Iterator[Any]:
    decoder, at = json.JSONDecoder(strict=False), 0
    while at < len(text):
        if text[at] in _SEPARATORS:
            at += 1
            continue
        value, at = decoder.raw_decode(text, at)
        yield from value if isinstance(value, list) else [value]


def _unwrapped(value: Any) -> Call:
    """Return the call inside `{"type": "function", "function": {…}}`, or the value."""
    inner = value["function"] if isinstance(value.get("function"), dict) else value
    return dict(inner)


def python_calls(text: str, tools: Tools = ()) -> list[Call]:
    """Read calls written as Python: `look(at="sky")`, one a line, in a list, or printed.

    Positional arguments get the names of the tool's parameters, in their order.
    """
    fenced = _FENCE.match(text)
    tree = ast.parse(fenced[1].strip() if fenced else text.strip())
    calls: list[Call] = []
    for statement in tree.body:
        if not isinstance(statement, (ast.Expr, ast.Assign)):
            raise TypeError("a statement is not a call")
        calls += [_python_call(node, tools) for node in _called(statement.value)]
    if not calls:
        raise ValueError("there is no call")
    return calls


def _called(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, (ast.List, ast.Tuple)):
        return node.elts
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
        return node.args
    return [node]


def _python_call(node: ast.expr, tools: Tools) -> Call:
    if not isinstance(node, ast.Call):
        raise TypeError("an expression is not a call")
    name = _tool_name(ast.unparse(node.func), tools)
    arguments = dict(zip(_parameters(name, tools), map(_value, node.args), strict=False))
    if len(arguments) < len(node.args):
        raise ValueError("a positional argument has no name")
    for keyword in node.keywords:
        if keyword.arg is None:
            raise ValueError("arguments are unpacked")
        arguments[keyword.arg] = _value(keyword.value)
    return {"name": name, "arguments": arguments}


def _tool_name(written: str, tools: Tools) -> str:
    """Return the tool's name: some models write the module that they imagine it in, or `.call` after it."""
    names = names_of(tools)
    for name in (written, written.removesuffix(_BUILTIN), written.rpartition(".")[2]):
        if name in names:
            return name
    return written


def _parameters(name: str, tools: Tools) -> list[str]:
    for tool in tools:
        if tool["function"]["name"] == name:
            properties = (tool["function"].get("parameters") or {}).get("properties")
            return list(properties) if isinstance(properties, Mapping) else []
    return []


def _value(node: ast.expr) -> Any:
    """Return a literal's value; JSON's names of constants, which models mix in, are understood."""
    return ast.literal_eval(_JsonConstants().visit(node))


class _JsonConstants(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.expr:
        constants = {"true": True, "false": False, "null": None}
        return ast.Constant(constants[node.id]) if node.id in constants else node


def fenced_json_calls(text: str, tools: Tools = ()) -> list[Call]:
    """Read calls in JSON that may stand in a fence of code."""
    fenced = _FENCE.match(text)
    return json_calls(fenced[1] if fenced else text, tools)


def json_or_python_calls(text: str, tools: Tools = ()) -> list[Call]:
    """Read calls in either form."""
    try:
        return json_calls(text, tools)
    except Exception:  # noqa: BLE001 (what it is not can fail in many ways)
        return python_calls(text, tools)


def function_tag_call(text: str, tools: Tools = ()) -> list[Call]:
    """Read what stands between `<function=` and `</function>`: `look>{"at": "sky"}`, as Llama 3.1 may write it."""
    name, found, arguments = text.partition(">")
    if not found:
        raise ValueError("there is no call")
    return [
        {"name": name.strip().strip('"'), "arguments": json.loads(arguments.strip() or "{}", strict=False)}
    ]


def dsml_calls(text: str, tools: Tools = ()) -> list[Call]:
    """Read the calls of DeepSeek V3.2: an element for each call and each argument, which says whether it is text."""
    calls = []
    for name, body in _DSML_CALL.findall(text):
        arguments = {
            key: value if is_text != "false" else json.loads(value, strict=False)
            for key, is_text, value in _DSML_ARGUMENT.findall(body)
        }
        calls.append({"name": name, "arguments": arguments})
    if not calls or len(calls) != text.count(f"<{_DSML}invoke"):
        raise ValueError("there is no whole call")
    return calls


def names_of(tools: Tools) -> frozenset[str]:
    """Return the tools' names."""
    return frozenset(str(tool["function"]["name"]) for tool in tools)
