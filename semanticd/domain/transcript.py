"""Text together with the token ids it was computed from, so that text that extends it keeps those ids.

Retokenizing a conversation may split an answer differently from how the model produced it, and then every
later block has another hash. A transcript is a chain of segments cut only where tokens cannot straddle:
at the end of a rendered prompt and at the end of an answer.
"""

from __future__ import annotations

import hashlib
import struct
import sys
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from semanticd.domain.block import pack_token_ids, unpack_token_ids


class Segment:
    """A run of text and exactly the ids that stand for it; immutable, four bytes an id."""

    __slots__ = ("packed_ids", "text")

    def __init__(self, text: str, token_ids: Sequence[int] | bytes) -> None:
        """Hold ids, or what `pack_token_ids` made of them.

        Raises:
            ValueError: An id has more than 32 bits.
        """
        self.text = text
        self.packed_ids = token_ids if isinstance(token_ids, bytes) else _packed(token_ids)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The ids, rebuilt at each call."""
        return unpack_token_ids(self.packed_ids)

    @property
    def num_tokens(self) -> int:
        """Number of ids."""
        return len(self.packed_ids) // 4

    @property
    def num_bytes(self) -> int:
        """Bytes of memory that it takes."""
        return sys.getsizeof(self.text) + sys.getsizeof(self.packed_ids)

    def ends_with(self, token_ids: Sequence[int]) -> bool:
        """Return whether it ends with these ids."""
        return self.packed_ids.endswith(pack_token_ids(token_ids))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Segment):
            return NotImplemented
        return self.text == other.text and self.packed_ids == other.packed_ids

    def __hash__(self) -> int:
        return hash((self.text, self.packed_ids))

    def __repr__(self) -> str:
        return f"Segment({self.text!r}, {self.token_ids!r})"


def _packed(token_ids: Sequence[int]) -> bytes:
    try:
        return pack_token_ids(token_ids)
    except struct.error:
        raise ValueError("a token id has more than 32 bits") from None


def token_ids_of(segments: Iterable[Segment]) -> tuple[int, ...]:
    """Return the ids of all segments."""
    return unpack_token_ids(b"".join(segment.packed_ids for segment in segments))


def outside_vocabulary(token_ids: Sequence[int], vocab_size: int) -> int | None:
    """Return an id that no table of `vocab_size` rows holds, or None."""
    if not token_ids:
        return None
    # Two passes in C; a conversation may have a hundred thousand ids.
    low, high = min(token_ids), max(token_ids)
    return low if low < 0 else high if high >= vocab_size else None


@dataclass(frozen=True, slots=True)
class Cut:
    """A place in a text between two tokens: how many characters and how many ids come before it."""

    num_chars: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Continuation:
    """A transcript's next state, and its overlap with the previous one; both counts are segments of the new one.

    `num_shared` are also the first segments of the transcript before, text and ids. `num_before`, at least as many, are
    what the next turn found: the transcript before, as far as it is known, perhaps as its client writes it.
    """

    segments: tuple[Segment, ...]
    num_shared: int
    num_before: int


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
        return token_ids_of(self.segments)

    @property
    def num_tokens(self) -> int:
        """Number of tokens."""
        return sum(segment.num_tokens for segment in self.segments)

    @property
    def num_bytes(self) -> int:
        """Bytes of memory that its segments take; others may share them."""
        return sum(segment.num_bytes for segment in self.segments)

    def extended(self, *segments: Segment) -> Transcript:
        """Return a transcript with more segments at its end; empty ones are left out."""
        return Transcript(self.segments + tuple(s for s in segments if s.text or s.packed_ids))

    def followed_by(self, segments: Sequence[Segment], *, turn_start: Cut | None = None) -> Continuation:
        """Return the state after a turn whose prompt and answer are `segments`, which need not begin with this one.

        Where this transcript's segments begin the new text, it is cut as they are. Where it departs from them,
        `turn_start` says where in it the new turn begins (None: not known), and it is cut there too.
        """
        shared, rest = self._shared_with(segments)
        num_shared = num_before = len(shared)
        if turn_start is not None and num_shared < len(self.segments):
            start = Cut(
                turn_start.num_chars - sum(len(segment.text) for segment in shared),
                turn_start.num_tokens - sum(segment.num_tokens for segment in shared),
            )
            parts = _parts(rest, start) if start.num_chars > 0 and start.num_tokens > 0 else None
            if parts is not None:
                num_before += len(parts[0])
                rest = parts[0] + parts[1]
        return Continuation(shared + rest, num_shared, num_before)

    def _shared_with(self, segments: Sequence[Segment]) -> tuple[tuple[Segment, ...], tuple[Segment, ...]]:
        """Return how much of this transcript begins other segments, in whole segments, and what follows there."""
        at = 0
        for own, other in zip(self.segments, segments, strict=False):
            if own is not other and own != other:
                break
            at += 1
        rest = tuple(segments[at:])
        text, packed_ids = "".join(one.text for one in rest), b"".join(one.packed_ids for one in rest)
        num_chars = num_bytes = num_more = 0
        for own in self.segments[at:]:
            # Cut elsewhere, the same text may have the same ids.
            if not text.startswith(own.text, num_chars) or not packed_ids.startswith(
                own.packed_ids, num_bytes
            ):
                break
            num_chars += len(own.text)
            num_bytes += len(own.packed_ids)
            num_more += 1
        parts = _parts(rest, Cut(num_chars, num_bytes // 4)) if num_more else None
        if parts is None:
            return self.segments[:at], rest
        return self.segments[: at + num_more], parts[1]


def _parts(segments: Sequence[Segment], cut: Cut) -> tuple[tuple[Segment, ...], tuple[Segment, ...]] | None:
    """Return the parts before and after a cut; None if it is not inside one segment."""
    num_chars, num_bytes = cut.num_chars, 4 * cut.num_tokens
    for at, segment in enumerate(segments):
        if num_chars == 0 and num_bytes == 0:
            return tuple(segments[:at]), tuple(segments[at:])
        is_whole = num_chars >= len(segment.text) and num_bytes >= len(segment.packed_ids)
        if not is_whole:
            before = Segment(segment.text[:num_chars], segment.packed_ids[:num_bytes])
            after = Segment(segment.text[num_chars:], segment.packed_ids[num_bytes:])
            if not all(part.text and part.packed_ids for part in (before, after)):
                return None
            return (*segments[:at], before), (after, *segments[at + 1 :])
        num_chars -= len(segment.text)
        num_bytes -= len(segment.packed_ids)
    return (tuple(segments), ()) if num_chars == 0 and num_bytes == 0 else None


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
    beginning share nodes. Bounded by bytes; least recently used leaves go first.
    """

    _ROOT = b"root"

    def __init__(self, *, max_bytes: int = 128 * 1024 * 1024) -> None:
        """Keep at most this number of bytes of segments."""
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._nodes: OrderedDict[bytes, _Node] = OrderedDict()
        self._children: dict[bytes, dict[int, set[bytes]]] = {self._ROOT: {}}

    def __len__(self) -> int:
        return len(self._nodes)

    @property
    def num_bytes(self) -> int:
        """Bytes of memory that its segments take."""
        return self._num_bytes

    def add(self, segments: Iterable[Segment]) -> tuple[Segment, ...]:
        """Add a transcript; known segments are only touched. Returns its segments, with equal ones shared."""
        parent = self._ROOT
        used: list[bytes] = []
        held: list[Segment] = []
        rest = iter(segments)
        for segment in rest:
            if not segment.text:
                held.append(segment)
                break
            key = self._key(parent, segment.text)
            node = self._nodes.get(key)
            if node is None:
                self._children.setdefault(parent, {}).setdefault(len(segment.text), set()).add(key)
            if node is None or node.segment.packed_ids != segment.packed_ids:
                self._num_bytes += segment.num_bytes - (0 if node is None else node.segment.num_bytes)
                node = self._nodes[key] = _Node(key, segment, parent=parent)
            held.append(node.segment)
            used.append(key)
            parent = key
        self._touch(used)
        self._shrink()
        return (*held, *rest)

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
        while self._num_bytes > self._max_bytes:
            # Nothing hangs on the oldest: what others hang on is younger, see `_touch`.
            self._forget(next(iter(self._nodes)))

    def _forget(self, key: bytes) -> None:
        node = self._nodes.pop(key)
        length = len(node.segment.text)
        self._num_bytes -= node.segment.num_bytes
        siblings = self._children[node.parent]
        siblings[length].discard(key)
        if not siblings[length]:
            del siblings[length]
        self._children.pop(key, None)
