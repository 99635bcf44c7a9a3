"""Tools of the responses dialect, under the one flat name that a model calls them by.

A function in a namespace is called `namespace__name`; a custom tool takes one string, `input`. Tools that run at
OpenAI (web search and the like) cannot be called here and are left out, which the answer says: agents send them without
need.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from semanticd.adapters.http.core.adjustments import Adjustments
from semanticd.adapters.http.openai.responses import wire
from semanticd.domain.chat import ToolChoice, ToolSpec
from semanticd.domain.errors import InvalidRequestError, UnsupportedError
from semanticd.domain.limits import LIMITS
from semanticd.domain.whole_text import whole_characters

HOSTED = ("web_search", "file_search", "code_interpreter", "image_generation", "tool_search", "local_shell")
"""Prefixes of the types of OpenAI's own tools; a version or `_preview` may follow."""

_INPUT_HEAD = re.compile(r'\s*\{\s*"input"\s*:\s*"')
_STRING_PART = re.compile(
    r'(?:[^"\\]|\\["\\/bfnrt]|\\u(?![dD][89aAbB])[0-9a-fA-F]{4}|\\u[dD][89aAbB][0-9a-fA-F]{2}\\u[0-9a-fA-F]{4})*'
)
"""As much of a JSON string as can be read: whole characters and escapes."""


_CUSTOM_PARAMETERS = {
    "type": "object",
    "properties": {"input": {"type": "string", "description": "The tool's whole input."}},
    "required": ["input"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class ToolBehind:
    """The tool behind a flat name."""

    kind: Literal["function", "custom"]
    name: str
    namespace: str | None = None


@dataclass(frozen=True, slots=True)
class ToolBox:
    """The tools on offer."""

    specs: tuple[ToolSpec, ...] = ()
    by_flat_name: dict[str, ToolBehind] = field(default_factory=dict)

    def behind(self, flat_name: str) -> ToolBehind:
        """Return the tool of a model's call; an unknown name is a function's."""
        return self.by_flat_name.get(flat_name, ToolBehind("function", flat_name))


class CustomInput:
    """Follows the one-field object that a model writes for a custom tool, and gives the text in it as it comes."""

    def __init__(self) -> None:
        self.told = ""
        """All of the text that was given."""
        self._raw = ""
        self._begins: int | None = None
        self._ended = False

    def feed(self, piece: str) -> str:
        """Take more of the object; return the added text."""
        if self._ended:
            return ""
        self._raw += piece
        if self._begins is None:
            found = _INPUT_HEAD.match(self._raw)
            if found is None:
                return ""
            self._begins = found.end()
        # An escape that is not whole, or half of a pair of them, waits for its rest.
        whole = _STRING_PART.match(self._raw, self._begins)
        end = whole.end() if whole is not None else self._begins
        self._ended = self._raw[end : end + 1] == '"'
        try:
            text = whole_characters(json.loads(f'"{self._raw[self._begins : end]}"', strict=False))
        except ValueError:
            self._ended = True
            return ""
        self._begins = end
        self.told += text
        return text


def flat_name_of(name: str, namespace: str | None) -> str:
    """Return the name that the model knows a tool by."""
    return f"{namespace}__{name}" if namespace else name


def read_tools(tools: Sequence[wire.Tool], adjustments: Adjustments) -> ToolBox:
    """Return the tools on offer; those that run at OpenAI are left out, and noted among the `adjustments`.

    Raises:
        InvalidRequestError: a tool without a name, or two of the same.
        UnsupportedError: a tool that this server can neither call nor ignore.
    """
    specs: list[ToolSpec] = []
    by_flat_name: dict[str, ToolBehind] = {}
    todo: deque[tuple[wire.Tool, str | None, str]] = deque(
        (tool, None, f"tools.{index}") for index, tool in enumerate(tools)
    )
    while todo:
        tool, namespace, path = todo.popleft()
        hosted = _hosted(tool.type)
        if hosted is not None:
            adjustments.note(f"{hosted}_omitted")
            continue
        if tool.type == "namespace":
            inner = [(one, tool.name, f"{path}.tools.{index}") for index, one in enumerate(tool.tools or [])]
            todo.extendleft(reversed(inner))
            continue
        spec, behind = _read_tool(tool, namespace, path)
        if spec.name in by_flat_name:
            raise InvalidRequestError("tool names must be unique", param=f"{path}.name")
        by_flat_name[spec.name] = behind
        specs.append(spec)
    return ToolBox(tuple(specs), by_flat_name)


def _hosted(kind: str) -> str | None:
    """Return which of OpenAI's own tools a type is, without its version; None: none."""
    return next((name for name in HOSTED if kind == name or kind.startswith(f"{name}_")), None)


def _read_tool(tool: wire.Tool, namespace: str | None, path: str) -> tuple[ToolSpec, ToolBehind]:
    if tool.type not in ("function", "custom"):
        raise UnsupportedError(f"tools of type {tool.type[:40]!r} are not supported", param=f"{path}.type")
    if not tool.name:
        raise InvalidRequestError("field required", param=f"{path}.name")
    flat = flat_name_of(tool.name, namespace)
    description = tool.description or ""
    if tool.type == "custom":
        return _custom_spec(tool, flat, path), ToolBehind("custom", tool.name, namespace)
    parameters = tool.parameters or {"type": "object", "properties": {}}
    spec = ToolSpec(flat, description, parameters, bool(tool.strict))
    return spec, ToolBehind("function", tool.name, namespace)


def _custom_spec(tool: wire.Tool, flat: str, path: str) -> ToolSpec:
    """Return a custom tool as a function of one string; its grammar or regular expression is enforced in it."""
    form = tool.format if isinstance(tool.format, dict) else {}
    if form.get("type") != "grammar":
        return ToolSpec(flat, tool.description or "", _CUSTOM_PARAMETERS)
    syntax, definition = form.get("syntax"), form.get("definition")
    if syntax not in ("lark", "regex") or not isinstance(definition, str) or not definition:
        raise InvalidRequestError("expected a definition in the syntax lark or regex", param=f"{path}.format")
    if len(definition) > LIMITS.form_bytes:
        raise InvalidRequestError(
            f"expected at most {LIMITS.form_bytes} characters", param=f"{path}.format.definition"
        )
    described = {
        "type": "string",
        "description": f"The tool's whole input, of the form ({syntax}):\n{definition}",
    }
    pattern = {"pattern": f"^(?:{definition})$"} if syntax == "regex" else {}
    parameters = {**_CUSTOM_PARAMETERS, "properties": {"input": {**described, **pattern}}}
    grammar = definition if syntax == "lark" else ""
    return ToolSpec(flat, tool.description or "", parameters, strict=True, input_grammar=grammar)


def read_choice(choice: str | wire.ToolChoice | None, box: ToolBox, *, parallel: bool) -> ToolChoice:
    """Return whether and which tools may or must be called.

    Raises:
        InvalidRequestError: The choice names a tool that is not offered.
    """
    if choice is None or choice == "auto":
        return ToolChoice("auto", parallel=parallel)
    if choice == "none":
        return ToolChoice("none", parallel=parallel)
    if choice == "required":
        return _checked(ToolChoice("required", parallel=parallel), box)
    if isinstance(choice, str):
        raise InvalidRequestError("expected none, auto, required or an object", param="tool_choice")
    if choice.type in ("function", "custom"):
        return _checked(ToolChoice("required", (_flat(choice.name, box),), parallel), box)
    if choice.type == "allowed_tools":
        names = tuple(
            _flat(tool.name, box) for tool in choice.tools or [] if tool.type in ("function", "custom")
        )
        return _checked(ToolChoice(choice.mode or "auto", names, parallel), box)
    raise UnsupportedError("expected a function, a custom tool or allowed_tools", param="tool_choice.type")


def _flat(name: str | None, box: ToolBox) -> str:
    for flat, behind in box.by_flat_name.items():
        if name in (flat, behind.name):
            return flat
    raise InvalidRequestError(f"there is no tool named {str(name)[:80]!r}", param="tool_choice")


def _checked(choice: ToolChoice, box: ToolBox) -> ToolChoice:
    if choice.mode == "required" and not box.specs:
        raise InvalidRequestError("needs tools to choose from", param="tool_choice")
    return choice
