"""A compiled form, and the memory that it takes for as long as it is kept.

llguidance's copies of a matcher share a lexer. It keeps each state that an answer led it through, for all later answers
that follow the form, up to 250,000 states (100 MB and more); from then on it refuses every answer. So a form counts the
tokens of the answers that followed it, books memory for them, and is spent after a while: it is compiled again for the
next request, with a lexer that knows nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from llguidance import LLMatcher

_FORM_BYTES = 96 * 1024
_BYTES_PER_BYTE = 200
"""A compiled form of plain words takes 30 to 200 bytes for each of its grammar (objects of 30 to 3,000 members)."""
_BYTES_PER_BOUND = 16 * 1024
"""Additional bytes for each bound of a number or an array: it becomes a regular expression, or many rules."""
_BOUNDS = re.compile(r'"(?:minimum|maximum|minItems|maxItems)"')

_MEASURED_IN_ADDITION = 16 * 1024
"""Bytes added to a measured form for a larger vocabulary, and for its samples and keys."""

_LEARNED_BYTES_PER_TOKEN = 2048
"""Measured: 0.5 to 10 KB, most in the first answers (`\\p{L}{1,200}`, a string of up to 10,000 characters)."""
_PLAIN_LEARNED_BYTES_PER_TOKEN = 256
"""Of plain words without lengths of strings: 0.1 MB in all, whatever comes."""
_LENGTH = re.compile(r'"(?:minLength|maxLength)"')
_MAX_LEARNED_BYTES = 8 * 1024 * 1024


@dataclass(slots=True)
class FormUse:
    """The state of a form's lexer; written by the engine thread, read by any."""

    num_tokens: int = 0
    """Tokens of answers that followed the form."""
    has_failed: bool = False
    """Whether the lexer gave up: it does so for all answers, also for new ones."""


@dataclass(frozen=True, slots=True)
class FormMemory:
    """The memory of a form: `own_bytes` once compiled, and `bytes_per_token` for each token that follows it."""

    own_bytes: int
    bytes_per_token: int


@dataclass(frozen=True, slots=True)
class CompiledForm:
    """A form ready for use: everything that the engine thread needs, computed in advance."""

    matcher: LLMatcher
    """Never advanced: each answer follows a copy."""
    samples: tuple[str, ...]
    keys: tuple[str, ...]
    opening: int | None
    memory: FormMemory
    not_enforced: tuple[str, ...] = ()
    """Words of its schemas that were left out or changed."""
    use: FormUse = field(default_factory=FormUse)

    @property
    def num_bytes(self) -> int:
        """Memory that it takes now: its own as measured or estimated, what it learned by estimate."""
        return self.memory.own_bytes + self._learned_bytes

    @property
    def is_spent(self) -> bool:
        """Whether the next request must compile the form again."""
        return self.use.has_failed or self._learned_bytes >= _MAX_LEARNED_BYTES

    @property
    def _learned_bytes(self) -> int:
        return self.use.num_tokens * self.memory.bytes_per_token


def form_memory(grammar: str, *, measured_bytes: int | None) -> FormMemory:
    """Return what a form takes; `measured_bytes` are None for one of plain words, whose memory grows with its text."""
    bounds = len(_BOUNDS.findall(grammar))
    size = len(grammar.encode("utf-8", "surrogatepass"))
    estimate = _FORM_BYTES + _BYTES_PER_BYTE * size + _BYTES_PER_BOUND * bounds
    is_plain = measured_bytes is None and _LENGTH.search(grammar) is None
    per_token = _PLAIN_LEARNED_BYTES_PER_TOKEN if is_plain else _LEARNED_BYTES_PER_TOKEN
    return FormMemory(max((measured_bytes or 0) + _MEASURED_IN_ADDITION, estimate), per_token)
