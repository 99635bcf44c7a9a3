"""The form an answer must have, in the many fields by which chat and plain completions are asked for one.

OpenAI's own is `response_format`. vLLM's clients send `guided_*` or `structured_outputs`, llama.cpp's `grammar` and
`json_schema` at the top level. Whichever it is, it is enforced; two forms at once contradict each other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from msgspec import Struct

from semanticd.domain.errors import InvalidRequestError, UnsupportedError
from semanticd.domain.generation import OutputConstraint
from semanticd.domain.json_text import parse_json_text


class JsonSchema(Struct):
    """A named schema for the answer."""

    name: str = ""
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class ResponseFormat(Struct):
    """The form that the answer must have; some clients put a schema alongside `json_object`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    schema: dict[str, Any] | None = None


class StructuredOutputs(Struct):
    """vLLM's way to say it: one of these fields."""

    json: dict[str, Any] | str | None = None
    json_object: bool | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    structural_tag: Any = None


class Formed(Struct, kw_only=True):
    """The common fields of chat and plain completions for structured output."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    grammar: str | None = None
    """A grammar as llama.cpp reads it (GBNF), or in Lark's notation."""
    json_schema: dict[str, Any] | None = None
    """A schema, as llama.cpp's own endpoint takes it."""


def constraint_of(body: Formed) -> OutputConstraint | None:
    """Return the form that is asked for, or None.

    Raises:
        InvalidRequestError: a field holds no form, or there are several.
        UnsupportedError: a structural tag.
    """
    found = {
        "response_format": _of_response_format(body.response_format),
        "guided_json": _of_schema(body.guided_json, "guided_json"),
        "guided_regex": _of_regex(body.guided_regex),
        "guided_choice": _of_choice(body.guided_choice, "guided_choice"),
        "guided_grammar": _of_grammar(body.guided_grammar),
        "grammar": _of_grammar(body.grammar),
        "json_schema": _of_schema(body.json_schema, "json_schema"),
        **_of_structured_outputs(body.structured_outputs),
    }
    asked = {
        name: replace(constraint, param=name) for name, constraint in found.items() if constraint is not None
    }
    if len(asked) > 1:
        first, *others = asked
        raise InvalidRequestError(f"contradicts {first}: request one output format only", param=others[0])
    return next(iter(asked.values()), None)


def _of_response_format(form: ResponseFormat | None) -> OutputConstraint | None:
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        if form.schema is None:
            return OutputConstraint(kind="json_object")
        return OutputConstraint(kind="json_schema", schema=form.schema)
    if form.json_schema is None or form.json_schema.schema is None:
        raise InvalidRequestError("field required", param="response_format.json_schema.schema")
    return OutputConstraint(kind="json_schema", schema=form.json_schema.schema)


def _of_structured_outputs(asked: StructuredOutputs | None) -> Mapping[str, OutputConstraint | None]:
    if asked is None:
        return {}
    if asked.structural_tag is not None:
        raise UnsupportedError(
            "structural tags are not supported; send tools or a grammar",
            param="structured_outputs.structural_tag",
        )
    name = "structured_outputs"
    return {
        f"{name}.json": _of_schema(asked.json, f"{name}.json"),
        f"{name}.json_object": OutputConstraint(kind="json_object") if asked.json_object else None,
        f"{name}.regex": _of_regex(asked.regex),
        f"{name}.choice": _of_choice(asked.choice, f"{name}.choice"),
        f"{name}.grammar": _of_grammar(asked.grammar),
    }


def _of_schema(given: dict[str, Any] | str | None, param: str) -> OutputConstraint | None:
    if given is None:
        return None
    schema: Any = given
    if isinstance(given, str):
        try:
            schema = parse_json_text(given)
        except ValueError:
            raise InvalidRequestError("expected a JSON schema, or its JSON text", param=param) from None
    if not isinstance(schema, dict):
        raise InvalidRequestError("expected a JSON schema of type object", param=param)
    return OutputConstraint(kind="json_schema", schema=schema)


def _of_regex(pattern: str | None) -> OutputConstraint | None:
    return OutputConstraint(kind="regex", grammar=pattern) if pattern else None


def _of_choice(choices: list[str] | None, param: str) -> OutputConstraint | None:
    if choices is None:
        return None
    if not choices or not all(choices):
        raise InvalidRequestError("expected one or more texts that are not empty", param=param)
    words = " | ".join(json.dumps(choice, ensure_ascii=False) for choice in dict.fromkeys(choices))
    return OutputConstraint(kind="lark", grammar=f"start: {words}\n")


def _of_grammar(grammar: str | None) -> OutputConstraint | None:
    return OutputConstraint(kind="lark", grammar=grammar) if grammar else None
