"""Takes the content out of a request and keeps its shape: lengths, equality, common beginnings.

Rule: a text becomes letters of the same number, 16 characters at a time, each group made by a keyed hash of everything
in the text up to its end. Equal texts stay equal, texts that begin alike continue beginning alike (in whole groups),
and nothing else is equal: a word that comes twice is hidden twice. The key lives in the process and is never written.
Words of a dialect's format (roles, types, schema words) are kept, everything else is content.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from semanticd.domain.json_text import parse_json_text

GROUP = 16
"""Characters that are hidden together."""

_LETTERS = "abcdefghijklmnopqrstuvwxyz      "
"""32, so that five bits choose one; some of them are spaces, or a text would be one word."""

_KEPT_VALUES = frozenset(
    [
        "role",
        "type",
        "model",
        "effort",
        "status",
        "format",
        "object",
        "media_type",
        "phase",
        "ttl",
        "verbosity",
        "service_tier",
        "truncation",
        "tool_choice",
        "include",
        "summary",
        "syntax",
    ]
)
"""Fields whose texts are words of the dialect, or the model's name."""
_SCHEMAS = frozenset(
    ["input_schema", "parameters", "schema", "output_schema", "json", "json_schema", "guided_json", "format"]
)
"""Fields that hold a schema, or its JSON as a text."""
_FORMS = frozenset(["text", "json_object", "json_schema", "regex", "grammar"])
"""Types of what stands in such a field around a schema."""
_KEPT_IN_SCHEMAS = frozenset(["type", "format", "$schema"])
_NAMED = frozenset(["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"])
_LISTED = frozenset(["required", "dependentRequired", "dependencies"])
_SPOKEN = frozenset(["default", "example", "examples", "enum", "const"])
"""Words of a schema whose values are content."""
_OPAQUE = frozenset(["input", "arguments", "metadata", "client_metadata"])
"""Objects whose names are content too."""
_WHO = "user_id"
"""Except the one that identifies the client."""
_BIASES = "logit_bias"
"""The object whose names are token ids."""
_TOKENS = frozenset(["prompt", "context"])
"""Fields in which a list of numbers is a text."""
_GRAMMARS = frozenset(["grammar", "guided_grammar"])
_ANY_TEXT = {"lark": "start: /(.|\\n)+/", "regex": "(.|\\n)+"}
"""Grammars that allow what a hidden one may have allowed."""
_PLAIN = re.compile("[A-Za-z_$][A-Za-z0-9_$-]{0,63}")


class Redaction:
    """Hides texts under one key: equal texts become equal in all requests of its life."""

    def __init__(self, key: bytes) -> None:
        """Keep the key, at least 16 random bytes."""
        self._key = key

    def body(self, raw: bytes) -> Any:
        """Return a request's parsed JSON without its content; a text where it is not JSON."""
        try:
            parsed = parse_json_text(raw)
        except ValueError:
            return self.text(raw.decode("utf-8", "replace"))
        return self._any(parsed, field="")

    def text(self, text: str) -> str:
        """Return a text's letters hidden, as many as there were."""
        return "".join(self._groups(text))

    def name(self, name: str) -> str:
        """Return a name hidden as a whole, as one word of its length."""
        hidden = "".join(self._groups(name, letters=_LETTERS[:26]))
        return hidden[: len(name)]

    def _groups(self, text: str, *, letters: str = _LETTERS) -> Iterator[str]:
        chain = b""
        for start in range(0, len(text), GROUP):
            part = text[start : start + GROUP]
            chain = hmac.digest(self._key, chain + part.encode("utf-8", "surrogatepass"), hashlib.sha256)
            yield "".join(letters[byte % len(letters)] for byte in chain[: len(part)])

    def _tokens(self, ids: Sequence[int]) -> list[int]:
        """Return as many token ids; those that begin alike continue beginning alike, as texts do."""
        hidden: list[int] = []
        chain = b""
        for start in range(0, len(ids), GROUP):
            part = ids[start : start + GROUP]
            chain = hmac.digest(self._key, chain + repr(part).encode(), hashlib.sha256)
            hidden += chain[: len(part)]
        return hidden

    def _any(self, value: Any, *, field: str) -> Any:
        if isinstance(value, str):
            return self._string(value, field)
        if isinstance(value, list):
            if field in _TOKENS and all(isinstance(one, int) for one in value):
                return self._tokens(value)
            # The items of a list called `input` are turns.
            kept = field if field in _KEPT_VALUES or field in _TOKENS else ""
            return [self._any(one, field=kept) for one in value]
        if not isinstance(value, dict):
            # Numbers and flags are settings.
            return value
        if field in _SCHEMAS and not _is_around_schema(value):
            return self._schema(value)
        if field == _BIASES:
            return {name if name.isdecimal() else self.name(name): one for name, one in value.items()}
        if field in _OPAQUE:
            return {
                name if name == _WHO else self.name(name): self._opaque(one) for name, one in value.items()
            }
        if "definition" in value and value.get("syntax") in _ANY_TEXT:
            value = {**value, "definition": _ANY_TEXT[value["syntax"]]}
            return {name: value[name] for name in ("type", "syntax", "definition") if name in value}
        return {self._field(name): self._any(one, field=name) for name, one in value.items()}

    def _field(self, name: str) -> str:
        return name if _PLAIN.fullmatch(name) else self.name(name)

    def _string(self, value: str, field: str) -> str:
        if field in _KEPT_VALUES:
            return value
        if field == "name" or field.endswith(("id", "_key")):
            return self.name(value)
        if field == "arguments":
            return self._arguments(value)
        if field in _GRAMMARS:
            return _ANY_TEXT["lark"]
        return self._schema_text(value) if field in _SCHEMAS else self.text(value)

    def _schema_text(self, value: str) -> str:
        """A schema may be sent as JSON inside of a text, and stays JSON."""
        try:
            parsed = parse_json_text(value)
        except ValueError:
            return self.text(value)
        return json.dumps(self._schema(parsed), ensure_ascii=False)

    def _arguments(self, value: str) -> str:
        """A call's arguments are JSON inside of a text, and stay JSON."""
        try:
            parsed = parse_json_text(value)
        except ValueError:
            return self.text(value)
        return json.dumps(self._opaque(parsed), ensure_ascii=False) if isinstance(parsed, dict) else "{}"

    def _opaque(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self._opaque(one) for one in value]
        if isinstance(value, dict):
            return {self.name(name): self._opaque(one) for name, one in value.items()}
        return value if value is None or isinstance(value, bool) else self._number(value)

    def _number(self, value: float) -> int:
        """Numbers that a model or tool said are content: as many digits."""
        digest = hmac.digest(self._key, repr(value).encode(), hashlib.sha256)
        digits = len(str(abs(int(value))))
        return int.from_bytes(digest[:8], "big") % int(10 ** min(digits, 15))

    def _schema(self, value: Any) -> Any:
        """Keep a schema's form; names and texts in it are hidden, and a pattern is left out."""
        if isinstance(value, list):
            return [self._schema(one) for one in value]
        if isinstance(value, str):
            return self.text(value)
        if not isinstance(value, Mapping):
            return value
        made: dict[str, Any] = {}
        for word, one in value.items():
            if word in _NAMED and isinstance(one, Mapping):
                made[word] = {self.name(name): self._schema(inner) for name, inner in one.items()}
            elif word in _LISTED:
                made[word] = self._names(one)
            elif word in _SPOKEN:
                made[word] = self._opaque(one)
            elif word in _KEPT_IN_SCHEMAS:
                made[word] = one
            elif word == "$ref" and isinstance(one, str):
                kept = ("#", *_NAMED)
                made[word] = "/".join(part if part in kept else self.name(part) for part in one.split("/"))
            elif word != "pattern":
                made[self._field(word)] = self._schema(one)
        return made

    def _names(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.name(value)
        if isinstance(value, list):
            return [self._names(one) for one in value]
        if isinstance(value, Mapping):
            return {self.name(name): self._names(one) for name, one in value.items()}
        return value


def _is_around_schema(value: Mapping[str, Any]) -> bool:
    """Return whether an object in a schema's place holds the schema in a field."""
    kind = value.get("type")
    return (isinstance(kind, str) and kind in _FORMS) or isinstance(value.get("schema"), Mapping)
