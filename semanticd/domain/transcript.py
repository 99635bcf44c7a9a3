"""Text together with the token ids it was computed from, so that text that extends it keeps those ids.

Retokenizing a conversation may split an answer differently from how the model produced it, and then every
later block has another hash. A transcript is a chain of segments cut only where tokens cannot straddle:
at the end of a rendered prompt and at the end of an answer.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of text and exactly the ids that stand for it."""

    text: str
    token_ids: tuple[int, ...]


def outside_vocabulary(token_ids: Sequence[int], vocab_size: int) -> int | None:
    """Return an id that no table of `vocab_size` rows holds, or None."""
    if not token_ids:
        return None
    # Two passes in C; a conversation may have a hundred thousand ids.
    low, high = min(token_ids), max(token_ids)
    return low if low < 0 else high if high >= vocab_size else None


@dataclass(frozen=True, slots=True)
class Transcript:
    """An agent's conversation as the model saw it, oldest segment first."""

    segments: tuple[Segment, ...] = ()

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(segment.text for segment in self.segments)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """All token ids."""
        return tuple(token for segment in self.segments for token in segment.token_ids)

    @property
    def num_tokens(self) -> int:
        """How many tokens it has."""
        return sum(len(segment.token_ids) for segment in self.segments)

    def extended(self, *segments: Segment) -> Transcript:
        """Return a transcript with more segments at its end; empty ones are left out."""
        return Transcript(self.segments + tuple(s for s in segments if s.text or s.token_ids))


@dataclass(frozen=True, slots=True)
class TranscriptMatch:
    """The longest known beginning of a text: whole segments only."""

    segments: tuple[Segment, ...]
    num_chars: int


@dataclass(slots=True)
class _Node:
    key: bytes
    segment: Segment
    parent: bytes = b""


class TranscriptIndex:
    """Finds, for a text, the longest chain of known segments that it begins with.

    Segments are nodes of a tree whose keys are digests of (parent key, text), so conversations that share a
    beginning share nodes. Bounded by characters; least recently used leaves go first.
    """

    _ROOT = b"root"

    def __init__(self, *, max_chars: int = 64 * 1024 * 1024) -> None:
        """Keep at most `max_chars` characters of text."""
        self._max_chars = max_chars
        self._num_chars = 0
        self._nodes: OrderedDict[bytes, _Node] = OrderedDict()
        self._children: dict[bytes, dict[int, set[bytes]]] = {self._ROOT: {}}

    def __len__(self) -> int:
        """Count the segments held."""
        return len(self._nodes)

    @property
    def num_chars(self) -> int:
        """Characters held."""
        return self._num_chars

    def add(self, segments: Iterable[Segment]) -> None:
        """Remember a transcript; what is already known is only touched."""
        parent = self._ROOT
        used: list[bytes] = []
        for segment in segments:
            if not segment.text:
                break
            key = self._key(parent, segment.text)
            node = self._nodes.get(key)
            if node is None or node.segment.token_ids != segment.token_ids:
                if node is None:
                    self._num_chars += len(segment.text)
                    self._children.setdefault(parent, {}).setdefault(len(segment.text), set()).add(key)
                self._nodes[key] = _Node(key, segment, parent=parent)
            used.append(key)
            parent = key
        self._touch(used)
        self._shrink()

    def match(self, text: str) -> TranscriptMatch:
        """Return the longest chain of segments that `text` begins with."""
        found: list[Segment] = []
        used: list[bytes] = []
        position = 0
        parent = self._ROOT
        while True:
            node = self._longest_child(parent, text, position)
            if node is None:
                self._touch(used)
                return TranscriptMatch(tuple(found), position)
            found.append(node.segment)
            position += len(node.segment.text)
            used.append(node.key)
            parent = node.key

    def _touch(self, chain: list[bytes]) -> None:
        # Last to first: what others hang on is always younger than what hangs on it.
        for key in reversed(chain):
            self._nodes.move_to_end(key)

    def _longest_child(self, parent: bytes, text: str, position: int) -> _Node | None:
        by_length = self._children.get(parent)
        if not by_length:
            return None
        remaining = len(text) - position
        for length in sorted((n for n in by_length if n <= remaining), reverse=True):
            # Comparing stops at the first difference; hashing would read every candidate's length of the text.
            for key in by_length[length]:
                if text.startswith(self._nodes[key].segment.text, position):
                    return self._nodes[key]
        return None

    @staticmethod
    def _key(parent: bytes, text: str) -> bytes:
        digest = hashlib.blake2b(parent, digest_size=16)
        digest.update(text.encode("utf-8", "surrogatepass"))
        return digest.digest()

    def _shrink(self) -> None:
        if self._num_chars <= self._max_chars:
            return
        # Oldest first; a node comes after all that hang on it (see `_touch`), so one pass suffices.
        for key in list(self._nodes):
            if self._num_chars <= self._max_chars:
                return
            if self._children.get(key):
                continue
            self._forget(key)

    def _forget(self, key: bytes) -> None:
        node = self._nodes.pop(key)
        length = len(node.segment.text)
        self._num_chars -= length
        siblings = self._children[node.parent]
        siblings[length].discard(key)
        if not siblings[length]:
            del siblings[length]
        self._children.pop(key, None)
