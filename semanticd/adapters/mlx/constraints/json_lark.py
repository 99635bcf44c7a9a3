"""Rewrites a Lark grammar so that it describes text as it stands inside a JSON string.

A custom tool's input is one string of a call's JSON arguments. Rules stay rules; strings, patterns and terminals become
rules of the text that JSON makes of them (see `json_pattern`). Names are replaced, so that none is taken twice.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from semanticd.adapters.mlx.constraints.json_pattern import as_ignored, as_rule, counted
from semanticd.adapters.mlx.constraints.pattern_tree import (
    MAX_DEPTH,
    Chain,
    Choice,
    Node,
    PatternReader,
    Repeat,
    UntranslatableError,
    between,
    literal,
)

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+|//[^\n]*|\#[^\n]*)
      | (?P<string>"(?:\\.|[^"\\\n])*"i?)
      | (?P<pattern>/(?:\\.|[^/\\\n])+/[a-z]*)
      | (?P<directive>%[a-z]+)
      | (?P<name>[!?]*_?[A-Za-z][A-Za-z0-9_-]*)
      | (?P<number>-?\d+)
      | (?P<sign>->|\.\.|[][(){}|:,.*+?~=&<>@])""",
    re.VERBOSE,
)
_MAX_NODES = 5_000
"""Parts of terminals, each counted wherever its terminal is named by another."""

_COMMON = {
    "DIGIT": "[0-9]", "HEXDIGIT": "[0-9A-Fa-f]", "INT": "[0-9]+", "SIGNED_INT": "[+-]?[0-9]+",
    "DECIMAL": r"([0-9]+\.[0-9]*|\.[0-9]+)",
    "FLOAT": r"([0-9]+[eE][+-]?[0-9]+|([0-9]+\.[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?)",
    "NUMBER": r"([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?",
    "SIGNED_NUMBER": r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?",
    "LCASE_LETTER": "[a-z]", "UCASE_LETTER": "[A-Z]", "LETTER": "[A-Za-z]", "WORD": "[A-Za-z]+",
    "CNAME": "[_A-Za-z][_A-Za-z0-9]*",
    "ESCAPED_STRING": r'"([^"\\\n]|\\[^\n])*"',
    "WS_INLINE": r"[ \t]+", "WS": r"[ \t\f\r\n]+", "CR": r"\r", "LF": r"\n", "NEWLINE": r"(\r?\n)+",
    "SH_COMMENT": r"#[^\n]*", "CPP_COMMENT": r"//[^\n]*", "SQL_COMMENT": r"--[^\n]*",
}  # fmt: skip
"""Lark's common terminals as patterns."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token; `kind` is the name of its group above."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Expression:
    """Part of a definition: a leaf with what it matches or names, or an operation on parts."""

    kind: str
    """text, name, sequence, choice, optional or repeat."""
    parts: tuple[Expression, ...] = ()
    node: Node | None = None
    name: str = ""
    counts: tuple[int, int | None] = (0, None)


@dataclass(slots=True)
class Grammar:
    """A grammar's definitions by name, and its ignored text."""

    definitions: dict[str, Expression] = field(default_factory=dict)
    ignored: list[Expression] = field(default_factory=list)


def inside_json_string(grammar: str) -> str:
    """Return a grammar of the same language, each text of it as JSON writes it in a string, without the quotes.

    Raises:
        ValueError: It is not a grammar.
        UntranslatableError: it has what cannot be said of a JSON string.
    """
    return _Writer(_Reader(grammar).read()).written()


def _is_terminal(name: str) -> bool:
    return name.lstrip("_")[:1].isupper()


class _Reader:
    def __init__(self, grammar: str) -> None:
        self._tokens = list(_tokens(grammar))
        self._at = 0
        self._depth = 0

    def read(self) -> Grammar:
        found = Grammar()
        while self._at < len(self._tokens):
            token = self._take()
            if token.kind == "name":
                self._definition(token.text, found)
            elif token.text == "%ignore":
                found.ignored.append(self._choice())
            elif token.text == "%import":
                self._import(found)
            elif token.kind == "directive":
                raise UntranslatableError(f"{token.text} in a grammar")
            else:
                raise ValueError(f"{token.text!r} where a rule should begin")
        if "start" not in found.definitions:
            raise ValueError("it has no rule called start")
        return found

    def _definition(self, name: str, found: Grammar) -> None:
        name = name.lstrip("!?")
        if self._next() == ".":
            raise UntranslatableError("priorities in a grammar")
        if self._next() in ("{", "["):
            raise UntranslatableError("templates or attributes in a grammar")
        self._expect(":")
        if name in found.definitions:
            raise ValueError(f"{name} is defined twice")
        found.definitions[name] = self._choice()

    def _import(self, found: Grammar) -> None:
        words = [self._expect_kind("name")]
        while self._next() == ".":
            self._at += 1
            words.append(self._expect_kind("name"))
        names = [words.pop()] if len(words) > 1 else []
        if self._next() == "(":
            self._at += 1
            while self._next() != ")":
                names.append(self._expect_kind("name"))
                if self._next() == ",":
                    self._at += 1
            self._at += 1
        called = names[-1] if names else ""
        if self._next() == "->":
            self._at += 1
            called = self._expect_kind("name")
        if words != ["common"] or not names:
            raise UntranslatableError("an import of what is not Lark's common terminals")
        for name in names:
            if name not in _COMMON:
                raise UntranslatableError(f"the common terminal {name}")
            node = PatternReader(_COMMON[name]).read()
            found.definitions[called if len(names) == 1 else name] = Expression("text", node=node)

    def _choice(self) -> Expression:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ValueError("its brackets are nested too deeply")
        if self._next() == "|":
            self._at += 1  # a rule may begin with one
        options = [self._sequence()]
        while self._next() == "|":
            self._at += 1
            options.append(self._sequence())
        self._depth -= 1
        return options[0] if len(options) == 1 else Expression("choice", tuple(options))

    def _sequence(self) -> Expression:
        parts = []
        while (token := self._peek()) is not None and not self._ends_sequence(token):
            parts.append(self._repeated(self._atom()))
        if self._next() == "->":
            self._at += 1
            self._expect_kind("name")
        return parts[0] if len(parts) == 1 else Expression("sequence", tuple(parts))

    def _ends_sequence(self, token: Token) -> bool:
        if token.kind == "directive":
            if token.text in ("%ignore", "%import", "%declare", "%override", "%extend"):
                return True
            raise UntranslatableError(f"{token.text} in a grammar")
        return token.text in ("|", ")", "]", "->") or (token.kind == "name" and self._is_definition())

    def _is_definition(self) -> bool:
        after = self._tokens[self._at + 1 : self._at + 4]
        texts = [token.text for token in after]
        if texts[:1] == [":"] or (texts[:1] == ["."] and texts[2:] == [":"]):
            return True
        if texts[:1] == ["["] and texts[2:] == ["="]:
            raise UntranslatableError("attributes in a grammar")
        return False

    def _atom(self) -> Expression:
        token = self._take()
        if token.kind == "string":
            text = _string(token.text)
            if self._next() != "..":
                return Expression("text", node=literal(text, ignores_case=token.text.endswith("i")))
            self._at += 1
            return Expression("text", node=between(text, _string(self._expect_kind("string"))))
        if token.kind == "pattern":
            pattern, _, flags = token.text[1:].rpartition("/")
            return Expression("text", node=PatternReader(pattern, flags).read())
        if token.kind == "name":
            return Expression("name", name=token.text.lstrip("!?"))
        if token.text in ("(", "["):
            inner = self._choice()
            self._expect(")" if token.text == "(" else "]")
            return inner if token.text == "(" else Expression("repeat", (inner,), counts=(0, 1))
        if token.text in ("<", "@", "&", "~"):
            raise UntranslatableError(f"{token.text!r} in a grammar")
        raise ValueError(f"{token.text!r} is not expected in a rule")

    def _repeated(self, inner: Expression) -> Expression:
        known = {"?": (0, 1), "*": (0, None), "+": (1, None)}
        while (sign := self._next()) in ("?", "*", "+", "~", "{"):
            self._at += 1
            counts = known.get(sign) or self._counts(sign)
            inner = Expression("repeat", (inner,), counts=counts)
        return inner

    def _counts(self, sign: str) -> tuple[int, int | None]:
        separator = ".." if sign == "~" else ","
        least = self._number()
        most = least
        if self._next() == separator:
            self._at += 1
            most = self._number()
            if most is None and sign == "~":
                raise ValueError("~ is followed by a number, or two")
        if sign == "{":
            self._expect("}")
        if least is None and most is None:
            raise ValueError("a repetition without a number")
        return least or 0, most

    def _number(self) -> int | None:
        token = self._peek()
        if token is None or token.kind != "number":
            return None
        self._at += 1
        return int(token.text)

    def _peek(self) -> Token | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _next(self) -> str:
        token = self._peek()
        return token.text if token is not None and token.kind == "sign" else ""

    def _take(self) -> Token:
        token = self._peek()
        if token is None:
            raise ValueError("it ends in the middle of a rule")
        self._at += 1
        return token

    def _expect(self, text: str) -> None:
        found = self._take().text
        if found != text:
            raise ValueError(f"{found!r} where {text!r} is expected")

    def _expect_kind(self, kind: str) -> str:
        token = self._take()
        if token.kind != kind:
            raise ValueError(f"{token.text!r} where a {kind} is expected")
        return token.text


def _tokens(grammar: str) -> Iterator[Token]:
    at = 0
    while at < len(grammar):
        found = _TOKEN.match(grammar, at)
        if found is None:
            raise ValueError(f"{grammar[at : at + 20]!r} cannot be read")
        at = found.end()
        if found.lastgroup != "space":
            yield Token(str(found.lastgroup), found[0])


def _string(token: str) -> str:
    try:
        return str(json.loads(token.removesuffix("i"), strict=False))
    except ValueError:
        raise ValueError(f"the text {token[:40]} has an escape that is not known") from None


class _Writer:
    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar
        self._names = {name: f"r{number}" for number, name in enumerate(grammar.definitions)}
        self._names["start"] = "start"
        self._depth = self._num_nodes = 0

    def written(self) -> str:
        lines = []
        for name, definition in self._grammar.definitions.items():
            body = as_rule(self._node(definition)) if _is_terminal(name) else self._rule(definition)
            lines.append(f"{self._names[name]}: {body}")
        for ignored in self._grammar.ignored:
            lines += [f"%ignore {pattern}" for pattern in as_ignored(self._node(ignored))]
        return "\n".join(lines) + "\n"

    def _rule(self, part: Expression) -> str:
        if part.node is not None:
            return as_rule(part.node)
        if part.kind == "name":
            return self._name(part.name)
        inner = [self._rule(one) for one in part.parts]
        if part.kind == "repeat":
            return f"({inner[0]}){counted(*part.counts)}"
        return f"({(' | ' if part.kind == 'choice' else ' ').join(inner)})" if inner else '""'

    def _name(self, name: str) -> str:
        if name not in self._names:
            raise ValueError(f"it names {name}, which it does not define")
        return self._names[name]

    def _node(self, part: Expression) -> Node:
        """Return what a terminal matches, with the terminals that it names in their places."""
        if part.node is not None:
            return part.node
        self._depth += 1
        self._num_nodes += 1
        if self._depth > MAX_DEPTH or self._num_nodes > _MAX_NODES:
            raise ValueError("its terminals name one another too often, too deeply, or without an end")
        found = self._operations()[part.kind](part)
        self._depth -= 1
        return found

    def _operations(self) -> dict[str, Callable[[Expression], Node]]:
        return {
            "name": lambda part: self._named(part.name),
            "repeat": lambda part: Repeat(self._node(part.parts[0]), *part.counts),
            "choice": lambda part: Choice(tuple(map(self._node, part.parts))),
            "sequence": lambda part: Chain(tuple(map(self._node, part.parts))),
        }

    def _named(self, name: str) -> Node:
        self._name(name)
        if not _is_terminal(name):
            raise ValueError(f"a terminal names the rule {name}")
        return self._node(self._grammar.definitions[name])
