"""Enforces the form of an answer while it is sampled: JSON, a JSON schema, a grammar, or a call of a tool.

The grammar engine is llguidance. A processor belongs to one sequence and learns the sampled tokens from the context
it is shown, so a sequence that was preempted goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from llguidance import LLMatcher, LLTokenizer

from semanticd.domain.chat import ToolSpec
from semanticd.domain.errors import UnsupportedError
from semanticd.domain.generation import OutputConstraint

_COMPACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class ConstraintCompiler:
    """Compiles constraints for one tokenizer."""

    def __init__(self, backend: Any, *, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        """`backend` is the fast tokenizer of the `tokenizers` library; the grammar tables are made on first use."""
        self._backend = backend
        self._vocab_size = vocab_size
        self._eos = sorted(eos_token_ids)
        self._tokenizer: LLTokenizer | None = None

    def _tables(self) -> LLTokenizer:
        if self._tokenizer is None:
            eos = self._eos or [0]
            self._tokenizer = LLTokenizer(self._backend.to_str(), n_vocab=self._vocab_size, eos_token=eos)
        return self._tokenizer

    def validate(self, constraint: OutputConstraint) -> None:
        """Raise `UnsupportedError` when the constraint cannot be compiled."""
        grammar = _grammar(constraint)
        problem = LLMatcher.validate_grammar(grammar, self._tables())
        if problem:
            raise UnsupportedError(
                f"the requested output form cannot be enforced: {problem}", param="response_format"
            )

    def processor(self, constraint: OutputConstraint, *, num_context: int) -> ConstraintProcessor:
        """Return the logits processor for an answer that follows `num_context` tokens."""
        matcher = LLMatcher(self._tables(), _grammar(constraint))
        return ConstraintProcessor(matcher, num_context=num_context, eos_token_ids=self._eos)


def _grammar(constraint: OutputConstraint) -> str:
    try:
        if constraint.kind == "json_object":
            return LLMatcher.grammar_from_json_schema({"type": "object", "x-guidance": _COMPACT})
        if constraint.kind == "json_schema":
            return LLMatcher.grammar_from_json_schema({**(constraint.schema or {}), "x-guidance": _COMPACT})
        if constraint.kind == "regex":
            return LLMatcher.grammar_from_regex(constraint.grammar or "")
        return LLMatcher.grammar_from_lark(constraint.grammar or "")
    except (ValueError, TypeError) as error:
        raise UnsupportedError(f"the requested output form cannot be enforced: {error}") from error


def tool_grammar(
    tools: Sequence[ToolSpec], *, start: str, end: str, parallel: bool, special: frozenset[str] = frozenset()
) -> OutputConstraint:
    """Return the form of one call (or several) of one of these tools, between a family's markers."""
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": tool.name}, "arguments": _object_schema(tool.parameters)},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for tool in tools
    ]
    schema = (
        {"anyOf": calls, "x-guidance": _COMPACT} if len(calls) > 1 else {**calls[0], "x-guidance": _COMPACT}
    )
    opening, closing = _literal(start, special), _literal(end, special)
    one = f'{opening} "\\n" json "\\n" {closing}'
    body = f'{one} ("\\n" {one})*' if parallel else one
    grammar = f"start: {body}\njson: %json {json.dumps(schema)}\n"
    return OutputConstraint("tool_call", grammar=grammar)


def _literal(marker: str, special: frozenset[str]) -> str:
    # Special tokens are named bare; as a string they would have to be spelled letter by letter.
    return marker if marker in special else json.dumps(marker)


def _object_schema(parameters: Mapping[str, Any]) -> dict[str, Any]:
    schema = dict(parameters) or {"type": "object"}
    schema.setdefault("type", "object")
    return schema


class ConstraintProcessor:
    """Masks one sequence's logits; call it with the ids so far `[n]` and a row `[1, vocab]`."""

    def __init__(self, matcher: LLMatcher, *, num_context: int, eos_token_ids: Sequence[int]) -> None:
        """The answer begins after `num_context` tokens."""
        self._matcher = matcher
        self._consumed = num_context
        self._eos = list(eos_token_ids)

    def __call__(self, context: mx.array, logits: mx.array) -> mx.array:
        """Return the row with every token that would break the form at minus infinity."""
        new: Any = context[self._consumed :].tolist()
        self._consumed += len(new)
        for token in new:
            if self._matcher.is_stopped():
                break
            self._matcher.consume_token(token)
        allowed = self._allowed(logits.shape[-1])
        return mx.where(mx.array(allowed)[None], logits, -float("inf"))

    def _allowed(self, vocab_size: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
        allowed = np.zeros(vocab_size, dtype=np.bool_)
        if not self._matcher.is_stopped():
            bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
            found = np.unpackbits(bits, bitorder="little")[:vocab_size].astype(np.bool_)
            allowed[: len(found)] = found
        if not allowed.any():
            # The form is complete, or the engine gave up on it: the answer ends here.
            allowed[self._eos] = True
        return allowed
