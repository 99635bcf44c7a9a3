"""Compiles the form an answer must have: JSON, a JSON schema, a regular expression, a grammar, or a call of a tool.

The grammar engine is llguidance. What cannot be compiled is refused with the engine's reason before anything runs;
what was compiled once is kept, so that the engine thread only copies it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from semanticd.adapters.mlx.constraints.pattern_sample import keys, samples, schemas
from semanticd.adapters.mlx.constraints.processor import ConstraintProcessor, ShortestEnding
from semanticd.adapters.mlx.constraints.schema_size import largest_opening
from semanticd.adapters.mlx.constraints.thinking_gate import ThinkingGate
from semanticd.adapters.mlx.constraints.tool_grammar import SPACING, closed, enforceable
from semanticd.domain.errors import UnsupportedError
from semanticd.domain.generation import OutputConstraint

_MAX_KEPT = 64
_MAX_COUNTED = 64


class ConstraintCompiler:
    """Compiles constraints for one tokenizer; callable from any thread."""

    def __init__(
        self,
        backend: Any,
        *,
        vocab_size: int,
        eos_token_ids: Sequence[int],
        think_start: Sequence[int] = (),
        think_end: Sequence[int] = (),
    ) -> None:
        """`backend` is the fast tokenizer of the `tokenizers` library; the grammar tables are made on first use.

        `think_start` and `think_end` are the ids of the model's thinking markers, if it has any.
        """
        self._backend = backend
        self._vocab_size = vocab_size
        self._eos = sorted(eos_token_ids)
        self._think_start, self._think_end = tuple(think_start), tuple(think_end)
        self._lock = threading.Lock()
        self._tables: LLTokenizer | None = None
        self._ending: ShortestEnding | None = None
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()

    def validate(self, constraint: OutputConstraint) -> None:
        """Raise `UnsupportedError` when the constraint cannot be compiled."""
        if constraint.kind != "any":
            self._matcher(constraint)

    def processor(self, constraint: OutputConstraint, *, num_context: int) -> ConstraintProcessor:
        """Return the logits processor for an answer that follows `num_context` tokens."""
        matcher = self._matcher(constraint) if constraint.kind != "any" else None
        gate = None
        if constraint.thinking_budget is not None and self._think_end:
            gate = ThinkingGate(
                start=self._think_start,
                end=self._think_end,
                begun=constraint.begins_thinking,
                budget=constraint.thinking_budget,
            )
        return ConstraintProcessor(
            matcher,
            num_context=num_context,
            eos_token_ids=self._eos,
            gate=gate,
            ending=self._ending,
            max_tokens=constraint.max_tokens,
            may_be_cut=constraint.kind == "optional_call",
            samples=samples(constraint),
            keys=keys(constraint),
            opening=largest_opening(constraint),
        )

    def _matcher(self, constraint: OutputConstraint) -> LLMatcher:
        """Return a fresh matcher of the constraint's form."""
        param = "tools" if constraint.kind in ("tool_call", "optional_call") else "response_format"
        try:
            grammar = _grammar(constraint)
        except (ValueError, TypeError, RecursionError) as error:
            raise _refused(error, param) from error
        with self._lock:
            compiled = self._compiled.get(grammar)
            tables = self._tables or self._make_tables(param)
        if compiled is None:
            if any(_takes_for_ever(schema) for schema in schemas(constraint)):
                raise _refused(f"minProperties is taken with at most {_MAX_COUNTED} properties", param)
            # Outside the lock: a large form takes its time, and the engine must not wait for it.
            compiled = LLMatcher(tables, grammar, log_level=0, limits=_limits())
            if compiled.is_error():
                raise _refused(compiled.get_error(), param)
        with self._lock:
            self._compiled[grammar] = compiled
            self._compiled.move_to_end(grammar)
            if len(self._compiled) > _MAX_KEPT:
                self._compiled.popitem(last=False)
            return compiled.deep_copy()

    def _make_tables(self, param: str) -> LLTokenizer:
        if self._backend is None:
            raise _refused("this model's tokenizer is not one of the fast kind", param)
        eos = self._eos or [0]
        self._tables = LLTokenizer(self._backend.to_str(), n_vocab=self._vocab_size, eos_token=eos)
        self._ending = ShortestEnding(self._tables)
        return self._tables


def _takes_for_ever(schema: Any) -> bool:
    """Counting properties makes a grammar that grows with the third power of their number: minutes for a thousand."""
    if isinstance(schema, Mapping):
        properties = schema.get("properties")
        if "minProperties" in schema and isinstance(properties, Mapping) and len(properties) > _MAX_COUNTED:
            return True
        schema = list(schema.values())
    return isinstance(schema, list) and any(map(_takes_for_ever, schema))


def _limits() -> LLParserLimits:
    """Return what a form may cost.

    With the engine's own limits a schema of some hundred optional properties compiles, and is given up in the answer.
    """
    return LLParserLimits(max_items_in_row=50_000, step_max_items=500_000, verbose_errors=False)


def _refused(reason: object, param: str) -> UnsupportedError:
    text = " ".join(str(reason).split())
    return UnsupportedError(f"the requested output form cannot be enforced: {text}", param=param)


def _grammar(constraint: OutputConstraint) -> str:
    if constraint.kind == "json_object":
        return LLMatcher.grammar_from_json_schema({"type": "object", "x-guidance": SPACING})
    if constraint.kind == "json_schema":
        return LLMatcher.grammar_from_json_schema(
            {**closed(enforceable(constraint.schema or {})), "x-guidance": SPACING}
        )
    if constraint.kind == "regex":
        return LLMatcher.grammar_from_regex(constraint.grammar or "")
    return LLMatcher.grammar_from_lark(constraint.grammar or "")
