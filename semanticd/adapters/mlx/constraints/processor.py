"""Enforces an answer's form while it is sampled.

A processor belongs to one sequence and learns the sampled tokens from the ids it is shown, so a sequence that was
preempted continues where it was. It asks for the last one only where that decides what may follow. When the room for
the answer is nearly used, the form is led to a short end: an answer that is cut in the middle would not have the
form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import mlx.core as mx
import numpy as np
from llguidance import LLMatcher, LLTokenizer

from semanticd.adapters.mlx.constraints.compiled_form import FormUse
from semanticd.adapters.mlx.constraints.packed_mask import PackedMask, all_but, masked, only, within
from semanticd.adapters.mlx.constraints.thinking_gate import ThinkingGate

_Mask = np.ndarray[Any, np.dtype[np.bool_]]
_Fits = Callable[[str], list[int]]
"""Returns the tokens of a text if it may come next, else none."""

_LONGEST_ENDING = 512
_LOOK_FROM = 1024
"""With more room than this left, the end of the answer is not searched for."""
_SLACK = 16
_UNKNOWN_SLACK = 128
"""One token can open an object whose required members take many more; how many is not known of every form."""
_MAX_TOKENIZED = 4096
_FORCED_PIECES = 64
"""Maximum number of forced pieces that are followed from a form's start."""
_LOOK_AGAIN = 8
"""Tokens until the next search for an ending, after one that found none."""
_NUMBERS = (*(str(n) for n in range(10)), ".1", "0.1", "-1", "-0.1", *(f"{n:02}" for n in range(100)))
"""Texts that may complete a number, shortest first: two digits reach the next multiple, or exceed a bound."""


class ShortestEnding:
    """Finds a short way to complete a form by closing its open parts; not necessarily the shortest."""

    # In a string the quote ends it. Outside, what closes comes before what continues, and that before what opens.
    _STRING = "a0"
    _CLOSING = "}]"
    _OUTSIDE = ',0n"1tf:[{- '

    def __init__(self, tables: LLTokenizer) -> None:
        self._tables = tables
        self._size = tables.vocab_size
        self._ids = {
            character: ids[0]
            for character in {*self._STRING, *self._CLOSING, *self._OUTSIDE, "~"}
            if len(ids := tables.tokenize_str(character)) == 1
        }
        # The same few texts are tried at every step.
        self._tokenized = lru_cache(maxsize=_MAX_TOKENIZED)(tables.tokenize_str)
        self._number_ends = [number + end for number in _NUMBERS for end in "}],"]

    def find(
        self, matcher: LLMatcher, samples: Sequence[str] = (), keys: Sequence[str] = ()
    ) -> list[int] | None:
        """Return the tokens that complete the form from here; None when that takes too many.

        `samples` are texts that strings of the form may have to end like, `keys` its keys with the quote, best first.
        """
        ahead = matcher.deep_copy()
        path: list[int] = []
        while not ahead.is_accepting():
            if ahead.is_stopped() or len(path) > _LONGEST_ENDING:
                return None
            tokens = ahead.compute_ff_tokens() or self._choose(ahead, samples, keys)
            if not tokens or not ahead.consume_tokens(tokens):
                return None
            path += tokens
        return path

    def _choose(self, matcher: LLMatcher, samples: Sequence[str], keys: Sequence[str]) -> list[int]:
        allowed = allowed_tokens(matcher, self._size)

        def first(characters: str) -> list[int]:
            ids = (self._ids[character] for character in characters if character in self._ids)
            return [token_id for token_id in ids if allowed[token_id]][:1]

        def fits(text: str) -> list[int]:
            tokens: list[int] = self._tokenized(text)
            begins = bool(tokens) and allowed[tokens[0]]
            return tokens if begins and matcher.validate_tokens(tokens) == len(tokens) else []

        # A tilde means nothing in JSON, so where it may come there is a string.
        if first("~"):
            return first('"') or self._end_string(fits, samples) or first(self._STRING) or _any(allowed)
        return (
            first(self._CLOSING)
            or self._key(fits, keys)
            or self._end_string(fits, samples)
            or first(",")
            or self._end_number(fits)
            or first(self._OUTSIDE)
            or _any(allowed)
        )

    def _key(self, fits: _Fits, keys: Sequence[str]) -> list[int]:
        """Return the best key, with its quote, where a key is due."""
        # A value may be spelled like a key; only a key is followed by a colon.
        return next((self._tokenized(key) for key in keys if fits(key + ":")), [])

    def _end_string(self, fits: _Fits, samples: Sequence[str]) -> list[int]:
        """Return the shortest ending of a sample that ends the string, with the quote."""
        for sample in samples:
            for start in range(len(sample), -1, -1):
                if found := fits(sample[start:] + '"'):
                    return found
        return []

    def _end_number(self, fits: _Fits) -> list[int]:
        """Return the digits that complete a number and the text after it; empty if there is no number."""
        return next((found for text in self._number_ends if (found := fits(text))), [])


def _any(allowed: _Mask) -> list[int]:
    found = np.flatnonzero(allowed)
    return [int(found[0])] if len(found) else []


def allowed_tokens(matcher: LLMatcher, size: int) -> _Mask:
    """Return which tokens may come next."""
    allowed = np.zeros(size, dtype=np.bool_)
    bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
    found = np.unpackbits(bits, bitorder="little")[:size].astype(np.bool_)
    allowed[: len(found)] = found
    return allowed


def leads_nowhere(matcher: LLMatcher, size: int, *, eos: Sequence[int]) -> bool:
    """Return whether only the end may follow a form's forced start although the form is incomplete.

    The vocabulary has `size` tokens; those in `eos` end an answer.
    """
    ahead = matcher.deep_copy()
    for _ in range(_FORCED_PIECES):
        if ahead.is_accepting():
            return False
        tokens = [] if ahead.is_stopped() else ahead.compute_ff_tokens()
        if not tokens:
            allowed = allowed_tokens(ahead, size)
            allowed[[token_id for token_id in eos if token_id < size]] = False
            return ahead.is_stopped() or not allowed.any()
        if not ahead.consume_tokens(tokens):
            return True
    return False


@dataclass(frozen=True, slots=True)
class AnswerBounds:
    """Position of an answer: it begins after `num_context` tokens and has at most `max_tokens` (None: no limit).

    One that `may_be_cut` is not ended early where its form is complete: it is text, and its reader must learn that
    it was cut.
    """

    num_context: int
    max_tokens: int | None = None
    may_be_cut: bool = False


@dataclass(frozen=True, slots=True)
class FormHints:
    """Facts about a form: texts of its patterns, keys of its objects, and its largest opening.

    `opening` is the maximum number of tokens that complete a part begun inside the form; None: unknown.
    """

    samples: Sequence[str] = ()
    keys: Sequence[str] = ()
    opening: int | None = None


class ConstraintProcessor:
    """Masks one sequence's logits; call it with the ids so far `[n]` and a row `[1, vocab]`."""

    def __init__(
        self,
        matcher: LLMatcher | None,
        *,
        bounds: AnswerBounds,
        eos_token_ids: Sequence[int],
        gate: ThinkingGate | None = None,
        ending: ShortestEnding | None = None,
        hints: FormHints | None = None,
        use: FormUse | None = None,
    ) -> None:
        """Without a matcher the answer is free; with a gate whose thinking has begun, the form begins after it.

        `use` records what the answer did to the form that the matcher is a copy of.
        """
        hints = hints or FormHints()
        num_context, max_tokens, opening = bounds.num_context, bounds.max_tokens, hints.opening
        self._may_be_cut = bounds.may_be_cut
        self._samples, self._keys = hints.samples, hints.keys
        self._matcher = matcher
        self._use = use or FormUse()
        self._num_context = num_context
        self._consumed = num_context
        self._eos = list(eos_token_ids)
        self._gate = gate
        self._ending = ending
        self._max_tokens = max_tokens
        room = max_tokens or 0
        self._slack = (
            min(_SLACK + opening, room // 2) if opening is not None else min(_UNKNOWN_SLACK, room // 6)
        )
        self._look_at = min(_LOOK_FROM, max_tokens or 0)
        self._path: list[int] = []

    def __call__(self, context: mx.array, logits: mx.array) -> mx.array:
        """Return the row with every token that would break the form at minus infinity: a processor of the library's."""
        ids: Any = context.tolist()
        mask = self.mask(ids[:-1], ids[-1], size=logits.shape[-1])
        return logits if mask is None else masked(logits, mask)

    def needs_last(self, ids: Sequence[int]) -> bool:
        """Return whether the set of allowed next tokens depends on the token after `ids`."""
        self._follow(ids)
        if self._matcher is not None:
            return True
        return self._gate is not None and self._gate.may_force

    def mask(self, ids: Sequence[int], last: int | None, *, size: int) -> PackedMask | None:
        """Return which of `size` tokens may follow `ids` and `last`; None: all may."""
        self._follow(ids)
        if last is not None and self._consumed == len(ids):
            self._take(last)
        return self._allowed(size)

    def forced(self, ids: Sequence[int], last: int) -> list[int]:
        """Return the tokens that the form leaves no choice about behind `ids` and `last`, as it would spell them.

        Where an answer is led to its end they may be others: this is a guess of what `mask` will allow.
        """
        self._follow(ids)
        if self._consumed == len(ids):
            self._take(last)
        thinks = self._gate is not None and not self._gate.closed
        if thinks or self._path or self._matcher is None or self._matcher.is_stopped():
            return []
        return list(self._matcher.compute_ff_tokens())

    def _follow(self, ids: Sequence[int]) -> None:
        for token in ids[self._consumed :]:
            self._take(token)

    def _take(self, token: int) -> None:
        self._consumed += 1
        if self._gate is not None and not self._gate.closed:
            self._gate.take(token)
        elif self._matcher is not None and not self._matcher.is_stopped():
            self._matcher.consume_token(token)
            self._use.num_tokens += 1

    def _allowed(self, size: int) -> PackedMask | None:
        if self._gate is not None and not self._gate.closed:
            return self._while_thinking(size, self._gate.forced)
        if self._matcher is None:
            return None
        if not self._matcher.is_stopped():
            closing = self._closing()
            if closing is not None:
                return only(closing)
            allowed = within(np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint32), size)
            if allowed.any():
                return allowed
        # The form is complete, or the engine gave up on it: the answer ends here.
        self._use.has_failed |= self._matcher.is_error()
        return only(self._eos)

    def _while_thinking(self, size: int, forced: int | None) -> PackedMask | None:
        if forced is not None:
            return only([forced])
        if self._matcher is None:
            return None
        # The turn must not end before the form has come.
        return all_but(self._eos, size)

    def _closing(self) -> list[int] | None:
        """Return what must come next when the room is nearly used, or None while there is enough."""
        if self._max_tokens is None or self._ending is None or self._matcher is None:
            return None
        room = self._max_tokens - (self._consumed - self._num_context)
        if self._path:
            return [self._path.pop(0)]
        if room > self._look_at:
            return None
        path = self._ending.find(self._matcher, self._samples, self._keys)
        if path is None or (not path and self._may_be_cut):
            self._look_at = room - _LOOK_AGAIN
            return None
        # One more for the end of the turn.
        spare = room - len(path) - 1 - self._slack
        if spare < 0:
            self._path = path[1:]
            return path[:1] or self._eos
        self._look_at = room - min(max(spare // 8, 1), 16)
        return None
