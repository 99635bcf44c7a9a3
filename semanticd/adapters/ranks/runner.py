"""RankedRunner: the port `ModelRunner` on top of a formation: every call is a step of all ranks. Engine thread only.

Payloads are handles: what they stand for lies in the ranks, and leaves them with the step after the payload is dropped.
Frequently queried numbers (bytes) come from the last answer. There are no drafts, and a chunk is never left in
the middle: all ranks do the same, whatever happens.
"""

from __future__ import annotations

import itertools
import struct
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from semanticd.adapters.ranks.formation import Formation
from semanticd.adapters.ranks.wire import (
    constraint_out,
    sampling_out,
    tensors_in,
    tensors_out,
    tokens_in,
)
from semanticd.application.ports.inference import (
    BlockPayload,
    DecodedToken,
    DraftCounts,
    PrefixPart,
)
from semanticd.application.ports.warm_store import TensorBytes
from semanticd.domain.earlier_text import EarlierText
from semanticd.domain.errors import CacheError, UnsupportedError
from semanticd.domain.generation import OutputConstraint, SamplingParams
from semanticd.domain.ids import SequenceId
from semanticd.domain.model_cache_spec import ModelCacheSpec

COPIED, READ = "ranks.copied", "ranks.read"
"""Names of a tensor that stands for the workers' shards: under which handle they were copied, or number read."""
_NUMBER = struct.Struct("<q")


@dataclass(frozen=True, eq=False)
class RankedPayload:
    """A block that the ranks hold; its bytes are those of rank 0's shard."""

    handle: int
    num_bytes: int
    owner: int
    """Of which runner the handle is: ranks that were started again do not know it."""


def mark(name: str, number: int) -> TensorBytes:
    """Return the tensor that stands for the workers' shards."""
    return TensorBytes(name, "I64", (1,), memoryview(_NUMBER.pack(number)))


def marked(tensors: Sequence[TensorBytes], name: str) -> tuple[int | None, tuple[TensorBytes, ...]]:
    """Return the number of the mark of this name, None where there is none, and the tensors without marks."""
    numbers = [_NUMBER.unpack(one.data)[0] for one in tensors if one.name == name]
    return (numbers[0] if numbers else None), tuple(one for one in tensors if one.name not in (COPIED, READ))


_owners = itertools.count(1)


class RankedRunner:
    """Runs one model over all ranks of a formation."""

    def __init__(self, formation: Formation, *, spec: ModelCacheSpec) -> None:
        """`spec` is rank 0's, in the layout of all."""
        self._formation = formation
        self._spec = spec
        self._handles = itertools.count(1)
        self._owner = next(_owners)

    @property
    def spec(self) -> ModelCacheSpec:
        """The cache layout: sizes are those of rank 0's shard."""
        return self._spec

    @property
    def makes_drafts(self) -> bool:
        """Nothing is guessed."""
        return False

    @property
    def ended(self) -> str | None:
        """Reason why the runner cannot compute any longer; None if it can."""
        return self._formation.ended

    # Prefill.

    def open(
        self,
        sequence_id: SequenceId,
        *,
        prefix: Sequence[PrefixPart],
        state: BlockPayload | None,
        capacity_tokens: int,
    ) -> None:
        """Begin a sequence on a restored prefix."""
        parts = [[self._handle_of(part.payload), part.num_tokens] for part in prefix]
        behind = None if state is None else self._handle_of(state)
        self._formation.call("open", sequence_id, parts, behind, capacity_tokens)

    def append(self, sequence_id: SequenceId, part: PrefixPart) -> None:
        """Append a block to the sequence's cache."""
        self._formation.call("append", sequence_id, self._handle_of(part.payload), part.num_tokens)

    def prefill(
        self,
        sequence_id: SequenceId,
        token_ids: Sequence[int],
        *,
        is_unwanted: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Compute the KV of the next prompt tokens; a chunk that is not wanted any more is not begun."""
        if is_unwanted():
            return False
        return bool(self._formation.call("prefill", sequence_id, list(token_ids)))

    def prefill_logprobs(
        self, sequence_id: SequenceId, token_ids: Sequence[int], *, targets: Sequence[int], top: int
    ) -> list[DecodedToken]:
        """Compute KV, and score the targets."""
        return tokens_in(
            self._formation.call("prefill_logprobs", sequence_id, list(token_ids), list(targets), top)
        )

    # Vectors.

    def embed(self, texts: Sequence[Sequence[int]], *, dimensions: int | None) -> list[bytes]:
        """Refuse."""
        raise _no_vectors()

    def embed_part(
        self, sequence_id: SequenceId, token_ids: Sequence[int], *, is_last: bool, dimensions: int | None
    ) -> bytes | None:
        """Refuse."""
        raise _no_vectors()

    # Decode.

    def start_decode(
        self,
        sequence_id: SequenceId,
        *,
        last_token: int,
        context: Sequence[int],
        num_generated: int,
        sampling: SamplingParams,
        constraint: OutputConstraint | None,
        seed: int,
        group: int = 0,
        max_length: int | None = None,
        earlier: EarlierText | None = None,
    ) -> None:
        """Join a decode batch; rank 0 alone knows how tokens are chosen."""
        form = None if constraint is None else constraint_out(constraint)
        if form is not None and form["kind"] != "any":
            # A call that may take time or fail comes first: the other ranks would wait in the middle of a step.
            self._formation.call_first("form", form)
        place = (sequence_id, last_token, list(context), num_generated)
        rest = (seed, group, max_length)
        self._formation.call(
            "start_decode", *place, None, None, *rest, first=(*place, sampling_out(sampling), form, *rest)
        )

    def decode(self, group: int = 0) -> list[DecodedToken]:
        """Return the next token of every row of a batch."""
        return tokens_in(self._formation.call("decode", group))

    def take_draft_counts(self) -> DraftCounts:
        """Return nothing."""
        return DraftCounts()

    # Blocks.

    def copy_blocks(self, sequence_id: SequenceId, spans: Sequence[tuple[int, int]]) -> list[BlockPayload]:
        """Copy each span out, in every rank."""
        handles = [next(self._handles) for _ in spans]
        sizes = self._formation.call("copy_blocks", sequence_id, [list(span) for span in spans], handles)
        return [self._payload(handle, size) for handle, size in zip(handles, sizes, strict=True)]

    def copy_state(self, sequence_id: SequenceId) -> BlockPayload | None:
        """Snapshot the layers that cannot be cut, in every rank."""
        handle = next(self._handles)
        size = self._formation.call("copy_state", sequence_id, handle)
        return None if size is None else self._payload(handle, size)

    def num_cached(self, sequence_id: SequenceId) -> int:
        """Tokens in the running cache."""
        return int(self._formation.call_first("num_cached", sequence_id))

    def close(self, sequence_id: SequenceId) -> None:
        """Leave the batch; nothing to do once the ranks are gone."""
        if self._formation.ended is None:
            self._formation.call("close", sequence_id)

    def running_bytes(self) -> int:
        """Bytes of rank 0's running caches, as of its last step."""
        facts = self._formation.members[0].facts
        return facts.running_bytes if facts is not None and self._formation.ended is None else 0

    def spare_bytes(self, group: int) -> int:
        """Bytes of a decode batch at rank 0 that no row needs, as of its last step."""
        facts = self._formation.members[0].facts
        return facts.spare_bytes.get(group, 0) if facts is not None else 0

    def compact(self) -> int:
        """Free spare room, in every rank."""
        return int(self._formation.call("compact"))

    def dump(self, payload: BlockPayload) -> tuple[TensorBytes, ...]:
        """Return rank 0's shard as bytes, and a mark for the shards that the workers keep for their disks."""
        handle = self._handle_of(payload)
        tensors = tensors_in(self._formation.call("dump", handle))
        return (*tensors, mark(COPIED, handle))

    def restore(self, tensors: Sequence[TensorBytes]) -> BlockPayload:
        """Make a payload of rank 0's shard and of those that the workers have read."""
        number, own = marked(tensors, READ)
        if number is None and self._formation.world_size > 1:
            raise CacheError("the other machines were not asked for their shards of this block")
        handle = next(self._handles)
        try:
            size = self._formation.call("restore", handle, number, first=(handle, tensors_out(own)))
        except CacheError:
            self._formation.dropped.append(handle)
            raise
        return self._payload(handle, size)

    def release(self) -> None:
        """End the formation: the ranks' processes end, and wait again."""
        self._formation.end("the model was unloaded", wanted=True)

    def _payload(self, handle: int, num_bytes: int) -> RankedPayload:
        payload = RankedPayload(handle, num_bytes, self._owner)
        weakref.finalize(payload, self._formation.dropped.append, handle).atexit = False
        return payload

    def _handle_of(self, payload: BlockPayload) -> int:
        if not isinstance(payload, RankedPayload) or payload.owner != self._owner:
            raise CacheError("the block is not one of these ranks")
        return payload.handle


def _no_vectors() -> UnsupportedError:
    return UnsupportedError("embeddings are not computed by a model that is spread over several machines")
