"""Compiles the form an answer must have: JSON, a JSON schema, a regular expression, a grammar, or a call of a tool.

The grammar engine is llguidance. A form that cannot be compiled is refused with the engine's reason before anything
runs; a compiled form is kept and carried by the constraint, so that the engine thread only copies it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from semanticd.adapters.mlx.constraints.compiled_form import CompiledForm, form_memory
from semanticd.adapters.mlx.constraints.nameless_tokens import with_nameless_tokens
from semanticd.adapters.mlx.constraints.pattern_sample import keys, samples, schemas, with_schemas
from semanticd.adapters.mlx.constraints.processor import (
    AnswerBounds,
    ConstraintProcessor,
    FormHints,
    ShortestEnding,
    leads_nowhere,
)
from semanticd.adapters.mlx.constraints.reasons import plain_reason
from semanticd.adapters.mlx.constraints.schema_size import largest_opening
from semanticd.adapters.mlx.constraints.schema_words import Relaxation
from semanticd.adapters.mlx.constraints.thinking_gate import ThinkingGate
from semanticd.adapters.mlx.constraints.tool_grammar import SPACING, as_lark, closed, enforceable
from semanticd.adapters.mlx.constraints.trial import TooComplexError, TrialProcess, is_plain
from semanticd.domain.errors import UnsupportedError
from semanticd.domain.generation import OutputConstraint
from semanticd.domain.limits import LIMITS, Limits

_MAX_REFUSALS = 256


class ConstraintCompiler:
    """Compiles constraints for one tokenizer; callable from any thread.

    Compiled forms are kept up to a number of bytes, refusals up to a number of refusals. A compiled
    constraint carries its form with it, so that the engine thread looks nothing up and compiles nothing.
    """

    def __init__(
        self,
        backend: Any,
        *,
        vocab_size: int,
        eos_token_ids: Sequence[int],
        think_start: Sequence[int] = (),
        think_end: Sequence[int] = (),
        limits: Limits = LIMITS,
    ) -> None:
        """`backend` is the fast tokenizer of the `tokenizers` library; the grammar tables are made on first use.

        `think_start` and `think_end` are the ids of the model's thinking markers, if it has any.
        """
        self._backend = backend
        self._vocab_size = vocab_size
        self._eos = sorted(eos_token_ids)
        self._think_start, self._think_end = tuple(think_start), tuple(think_end)
        self._limits = limits
        self._trial = TrialProcess(timeout_s=limits.form_compile_s)
        self._lock = threading.Lock()
        self._compiling = threading.Lock()
        """Held by one compilation at a time, so that equal forms are compiled once; the engine thread never asks."""
        self._tables: LLTokenizer | None = None
        self._ending: ShortestEnding | None = None
        self._compiled: OrderedDict[bytes, CompiledForm] = OrderedDict()
        self._counted: dict[bytes, int] = {}
        """Bytes that were counted of each kept form when it was last asked for."""
        self._compiled_bytes = 0
        self._refused: OrderedDict[bytes, str] = OrderedDict()

    @property
    def num_cached_bytes(self) -> int:
        """Bytes of the forms that are kept, when each was last asked for."""
        return self._compiled_bytes

    def find(self, constraint: OutputConstraint) -> OutputConstraint | None:
        """Return the constraint with its form if that was compiled before; None if it has to be compiled.

        Raises:
            UnsupportedError: the form was refused before, or is too large.
        """
        if constraint.kind == "any" or constraint.compiled is not None:
            return constraint
        if constraint.not_enforced and not constraint.may_relax:
            raise _refused("a tool's grammar has what cannot be enforced inside JSON", constraint)
        digest = self._digest(constraint)
        with self._lock:
            if reason := self._refused.get(digest):
                raise _refused(reason, constraint)
            form = self._compiled.get(digest)
            if form is None:
                return None
            if form.is_spent:
                self._forget(digest)
                return None
            self._keep(digest, form)
        return _with_form(constraint, form)

    def compile(self, constraint: OutputConstraint) -> OutputConstraint:
        """Return the constraint with its compiled form; takes its time, up to the limit.

        Raises:
            UnsupportedError: the form cannot be compiled, or is too complex.
        """
        with self._compiling:
            return self.find(constraint) or self._compile(constraint)

    def _compile(self, constraint: OutputConstraint) -> OutputConstraint:
        digest = self._digest(constraint)
        try:
            form = self._make_or_relax(constraint)
        except UnsupportedError as error:
            with self._lock:
                self._refused[digest] = error.message.removeprefix(_CANNOT)
                if len(self._refused) > _MAX_REFUSALS:
                    self._refused.popitem(last=False)
            raise
        with self._lock:
            self._keep(digest, form)
        return _with_form(constraint, form)

    def _keep(self, digest: bytes, form: CompiledForm) -> None:
        """Keep a form as the last used one, with its present size; older ones are dropped to make room."""
        self._compiled[digest] = form
        self._compiled.move_to_end(digest)
        self._compiled_bytes += form.num_bytes - self._counted.get(digest, 0)
        self._counted[digest] = form.num_bytes
        while self._compiled_bytes > self._limits.form_cache_bytes:
            self._forget(next(iter(self._compiled)))

    def _forget(self, digest: bytes) -> None:
        del self._compiled[digest]
        self._compiled_bytes -= self._counted.pop(digest)

    def processor(self, constraint: OutputConstraint, *, num_context: int) -> ConstraintProcessor:
        """Return the logits processor for an answer that follows `num_context` tokens."""
        form: CompiledForm | None = None
        if constraint.kind != "any":
            form = self.compile(constraint).compiled
        gate = None
        if constraint.thinking_budget is not None and self._think_end:
            gate = ThinkingGate(
                start=self._think_start,
                end=self._think_end,
                begun=constraint.begins_thinking,
                budget=constraint.thinking_budget,
            )
        return ConstraintProcessor(
            None if form is None else form.matcher.deep_copy(),
            bounds=AnswerBounds(
                num_context, constraint.max_tokens, may_be_cut=constraint.kind == "optional_call"
            ),
            eos_token_ids=self._eos,
            gate=gate,
            ending=self._ending,
            hints=None if form is None else FormHints(form.samples, form.keys, form.opening),
            use=None if form is None else form.use,
        )

    def _digest(self, constraint: OutputConstraint) -> bytes:
        """Return a name for the form; equal forms have the same one."""
        text = constraint.grammar or ""
        if constraint.kind == "json_schema":
            try:
                # The order of keys counts: members come in the order of their schema.
                text = json.dumps(constraint.schema or {})
            except (ValueError, TypeError, RecursionError) as error:
                raise _refused(error, constraint) from error
        size = len(text.encode("utf-8", "surrogatepass"))
        if size > self._limits.form_bytes:
            raise _refused(
                f"it has {size} bytes, and {self._limits.form_bytes} is the maximum; request less", constraint
            )
        kind = f"{constraint.kind}~" if constraint.may_relax else constraint.kind
        return hashlib.sha256(f"{kind}:{text}".encode("utf-8", "surrogatepass")).digest()

    def _make_or_relax(self, constraint: OutputConstraint) -> CompiledForm:
        """Compile a form; where it allows that, without the words of its schemas that cannot be compiled."""
        try:
            return self._make(constraint)
        except UnsupportedError as error:
            if not constraint.may_relax or isinstance(error.__cause__, TooComplexError):
                raise
            refusal = error.with_traceback(None)  # which has this frame, and that has the error
        for one_of, patterns in ((False, False), (True, False), (True, True)):
            relaxation = Relaxation(one_of=one_of, patterns=patterns)
            relaxed = with_schemas(constraint, relaxation.apply)
            if relaxed != constraint:
                with contextlib.suppress(UnsupportedError):
                    return replace(self._make(relaxed), not_enforced=tuple(relaxation.names))
        try:
            raise refusal
        finally:
            del refusal

    def _make(self, constraint: OutputConstraint) -> CompiledForm:
        try:
            parts = list(schemas(constraint))
            self._check_size(parts, constraint)
            grammar = _grammar(constraint)
        except (ValueError, TypeError, RecursionError) as error:
            raise _refused(error, constraint) from error
        with self._lock:
            tables = self._tables or self._make_tables(constraint)
        # Of a client's own grammars and patterns, also those alongside calls, the cost is not known.
        has_own = constraint.kind in ("regex", "lark") or "%lark {" in grammar or "ANSWER: /" in grammar
        measured = None
        if has_own or not all(map(is_plain, parts)):
            measured = self._try(grammar, constraint)
        # Outside the lock: a large form takes its time, and the engine must not wait for it.
        matcher = LLMatcher(tables, grammar, log_level=0, limits=_limits())
        if matcher.is_error():
            raise _refused(matcher.get_error(), constraint)
        if leads_nowhere(matcher, self._vocab_size, eos=self._eos or [0]):
            raise _refused("no finite value matches it", constraint)
        return CompiledForm(
            matcher,
            samples=samples(constraint),
            keys=keys(constraint),
            opening=largest_opening(constraint, max_steps=self._limits.form_steps),
            memory=form_memory(grammar, measured_bytes=measured),
        )

    def _try(self, grammar: str, constraint: OutputConstraint) -> int:
        """Compile a grammar where that can be ended; returns the memory it takes, 0 where that is not known."""
        try:
            trial = self._trial.attempt(grammar)
        except TooComplexError as error:
            raise _refused(
                f"it is too complex: it was not compiled within {self._limits.form_compile_s:g} s; use fewer patterns "
                "and fewer combinations",
                constraint,
            ) from error
        if trial.refusal:
            raise _refused(trial.refusal, constraint)
        if trial.num_bytes > self._limits.form_memory_bytes:
            raise _refused(
                f"it is too complex: compiled it takes {trial.num_bytes >> 20} MiB, and "
                f"{self._limits.form_memory_bytes >> 20} MiB is the maximum; use fewer patterns and fewer alternatives",
                constraint,
            )
        return trial.num_bytes

    def _check_size(self, parts: Iterable[Any], constraint: OutputConstraint) -> None:
        left = list(parts)
        while left:
            part = left.pop()
            if isinstance(part, Mapping):
                properties = part.get("properties")
                count = len(properties) if isinstance(properties, Mapping) else 0
                if count > self._limits.form_properties:
                    raise _refused(
                        f"an object has {count} properties, and {self._limits.form_properties} is the maximum",
                        constraint,
                    )
                if "minProperties" in part and count > self._limits.form_counted_properties:
                    most = self._limits.form_counted_properties
                    raise _refused(f"minProperties is supported with at most {most} properties", constraint)
                left += part.values()
            elif isinstance(part, list):
                left += part

    def _make_tables(self, constraint: OutputConstraint) -> LLTokenizer:
        if self._backend is None:
            raise _refused("this model's tokenizer is not one of the fast kind", constraint)
        eos = self._eos or [0]
        content = with_nameless_tokens(self._backend.to_str())
        self._tables = LLTokenizer(content, n_vocab=self._vocab_size, eos_token=eos)
        self._ending = ShortestEnding(self._tables)
        return self._tables


def _with_form(constraint: OutputConstraint, form: CompiledForm) -> OutputConstraint:
    not_enforced = (*constraint.not_enforced, *form.not_enforced)
    return replace(constraint, compiled=form, not_enforced=tuple(dict.fromkeys(not_enforced)))


def _limits() -> LLParserLimits:
    """Return the maximum cost of a form.

    With the engine's own limits a schema of some hundred optional properties compiles, and is given up in the answer.
    """
    return LLParserLimits(max_items_in_row=50_000, step_max_items=500_000, verbose_errors=False)


_CANNOT = "the requested output form cannot be enforced: "


def _refused(reason: object, constraint: OutputConstraint) -> UnsupportedError:
    param = "tools" if constraint.kind in ("tool_call", "optional_call") else constraint.param
    return UnsupportedError(f"{_CANNOT}{plain_reason(reason)}", param=param)


def _grammar(constraint: OutputConstraint) -> str:
    if constraint.kind == "json_object":
        return LLMatcher.grammar_from_json_schema({"type": "object", "x-guidance": SPACING})
    if constraint.kind == "json_schema":
        return LLMatcher.grammar_from_json_schema(
            {**closed(enforceable(constraint.schema or {})), "x-guidance": SPACING}
        )
    if constraint.kind == "regex":
        return LLMatcher.grammar_from_regex(constraint.grammar or "")
    if constraint.kind == "lark":
        return LLMatcher.grammar_from_lark(as_lark(constraint.grammar or ""))
    return LLMatcher.grammar_from_lark(constraint.grammar or "")
