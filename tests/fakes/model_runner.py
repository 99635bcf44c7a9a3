"""HashRunner: a model whose keys and values are hashes of everything before them.

The KV of position i mixes token i with a digest of all KV before it, and the next token follows from the digest of
all KV there is. One block that is wrong, missing, misplaced or cut at the wrong token therefore changes every token
that follows, which is how a test sees it. With `has_state` a rolling value over the tokens takes the part of a layer
that cannot be cut (sliding window, recurrent): it must come from a snapshot of exactly the restored position.

Like the real runner it runs one step ahead: a decoding sequence's last token is in the cache as soon as
`start_decode` returns, and so is the KV of every token that `decode` returns.
"""

from __future__ import annotations

import struct
import threading
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

from semanticd.application.ports.inference import (
    BlockPayload,
    DecodedToken,
    DraftCounts,
    Drafted,
    LoadedModel,
    PrefixPart,
    Tokenizer,
)
from semanticd.application.ports.warm_store import TensorBytes
from semanticd.domain.chunk_policy import ChunkTraits
from semanticd.domain.earlier_text import EarlierText
from semanticd.domain.errors import CacheError, InvalidRequestError
from semanticd.domain.generation import ModelDefaults, OutputConstraint, SamplingParams
from semanticd.domain.ids import ModelFingerprint, ModelId, SequenceId
from semanticd.domain.model_cache_spec import LayerSpec, ModelCacheSpec
from tests.fakes.telemetry import ManualClock
from tests.fakes.tokenizer import EOS, NUM_CHARACTERS, CharTokenizer

BYTES_PER_TOKEN = 8
STATE_BYTES = 16
CAPACITY_STEP = 256
"""A running cache grows by so many tokens at once, as the real one does."""

VECTOR_SIZE = 4


def vector_of(token_ids: Sequence[int]) -> bytes:
    """Return the vector of a text, which is not of length one but differs between texts."""
    return struct.pack(
        "<4f", float(len(token_ids)), float(sum(token_ids)), float(token_ids[0]), float(token_ids[-1])
    )


_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class HashPayload:
    """A block's KV, one 64-bit value a token, or a snapshot: the rolling value and its position."""

    values: tuple[int, ...]
    kind: str = "kv"

    @property
    def num_bytes(self) -> int:
        """Bytes held."""
        return BYTES_PER_TOKEN * len(self.values)


@dataclass(slots=True)
class _Row:
    """One sequence's running cache."""

    seed: int
    has_state: bool
    kv: list[int] = field(default_factory=list)
    digest: int = 0
    state: int = 0
    capacity: int = 0
    sampling: SamplingParams = field(default_factory=SamplingParams)
    sampler_seed: int = 0
    num_generated: int = 0
    group: int = 0
    embedded: list[int] = field(default_factory=list)
    """Tokens of a text that becomes a vector."""
    is_torn: bool = False
    """Whether a prefill was left in the middle: a real running cache could not be read."""
    pending: int = 0
    """The token that comes out of the next decode step."""

    def restore(self, values: Sequence[int]) -> None:
        for value in values:
            self.kv.append(value)
            self.digest = _mix(self.digest ^ value, len(self.kv))

    def feed(self, token: int) -> None:
        if self.has_state:
            self.state = _mix(self.state, token + 1)
        value = _mix(self.digest ^ self.state ^ self.seed, token + 1)
        self.restore([value])

    def sample(self, script: Sequence[int] | None, num_ids: int) -> int:
        index = self.num_generated
        self.num_generated += 1
        if script is not None:
            return script[index] if index < len(script) else EOS
        noise = 0 if self.sampling.temperature == 0 else _mix(self.sampler_seed, index + 1)
        return _mix(self.digest ^ self.state, noise) % num_ids


class HashRunner:
    """A `ModelRunner` in plain Python; it insists on being called from one thread."""

    def __init__(
        self,
        *,
        fingerprint: str = "ab" * 32,
        block_tokens: int = 16,
        has_state: bool = False,
        seed: int = 0,
        num_ids: int = NUM_CHARACTERS,
        script: Sequence[int] | None = None,
        clock: ManualClock | None = None,
        prefill_token_s: float = 0.0,
        decode_step_s: float = 0.0,
        max_drafts: int = 0,
        chunks: ChunkTraits = ChunkTraits(),  # noqa: B008 (frozen)
    ) -> None:
        """Answer with ids below `num_ids`, or with the ids of `script` and an end of turn.

        `seed` stands for the weights. With a clock, prefill takes `prefill_token_s` a token and decode `decode_step_s`
        a step. A row that is alone may get up to `max_drafts` tokens more from a step.
        """
        layers = [LayerSpec("attention", "hash", bytes_per_token=BYTES_PER_TOKEN)]
        if has_state:
            layers.append(LayerSpec("state", "rolling", state_bytes=STATE_BYTES))
        self._spec = ModelCacheSpec(
            fingerprint=ModelFingerprint(fingerprint),
            layers=tuple(layers),
            block_tokens=block_tokens,
            precision="exact",
            running_bytes_per_token=BYTES_PER_TOKEN,
            chunks=chunks,
        )
        self._has_state = has_state
        self._seed = seed
        self._num_ids = num_ids
        self.script = script
        self._clock = clock
        self._prefill_token_s = prefill_token_s
        self._decode_step_s = decode_step_s
        self._max_drafts = 0 if has_state else max_drafts
        self._draft_counts = DraftCounts()
        self._prefilling: dict[SequenceId, _Row] = {}
        self._decoding: dict[SequenceId, _Row] = {}
        self._thread: int | None = None
        self._faults: dict[str, list[tuple[int, Exception]]] = {}
        self.before: Callable[[str], None] | None = None
        """Called on the engine thread with the name of each operation that is about to run."""
        self.calls: Counter[str] = Counter()
        self.prefilled: Counter[SequenceId] = Counter()
        """Tokens computed before decoding, by sequence; preempted work that is done twice counts twice."""
        self.restored: Counter[SequenceId] = Counter()
        """Tokens taken from blocks, by sequence."""
        self.batch_sizes: list[int] = []
        self.embedded: list[tuple[int, ...]] = []
        """The tokens of each row, by slice."""
        self.earlier: dict[SequenceId, EarlierText | None] = {}
        """Each sequence's earlier answers of its agent, as passed in."""
        self.broken_rows: dict[SequenceId, Exception] = {}
        """Rows whose sampling fails at the next decode step."""
        self.released = False

    # For tests.

    def fail(self, operation: str, error: Exception | None = None, *, after: int = 0) -> None:
        """Let one call of an operation fail: the next one, or the one `after` more."""
        at = self.calls[operation] + after
        self._faults.setdefault(operation, []).append((at, error or RuntimeError(f"{operation} broke")))

    @property
    def num_prefilled(self) -> int:
        """Tokens computed before decoding, in all."""
        return sum(self.prefilled.values())

    @property
    def num_open(self) -> int:
        """Sequences with a running cache."""
        return len(self._prefilling) + len(self._decoding)

    def _called(self, operation: str) -> None:
        me = threading.get_ident()
        if self._thread is None:
            self._thread = me
        assert self._thread == me, f"{operation} was called from a second thread"
        if self.before is not None:
            self.before(operation)
        number = self.calls[operation]
        self.calls[operation] += 1
        for at, error in self._faults.get(operation, []):
            if at == number:
                raise error

    def _spend(self, seconds: float) -> None:
        if self._clock is not None:
            self._clock.advance(seconds)

    # ModelRunner.

    @property
    def spec(self) -> ModelCacheSpec:
        """The model's cache layout."""
        return self._spec

    @property
    def makes_drafts(self) -> bool:
        """Whether several tokens may come from a step."""
        return self._max_drafts > 0

    def open(
        self,
        sequence_id: SequenceId,
        *,
        prefix: Sequence[PrefixPart],
        state: BlockPayload | None,
        capacity_tokens: int,
    ) -> None:
        """Begin a sequence on a restored prefix."""
        self._called("open")
        assert sequence_id not in self._prefilling, f"sequence {sequence_id} is open already"
        row = _Row(self._seed, self._has_state, capacity=capacity_tokens)
        for part in prefix:
            assert isinstance(part.payload, HashPayload)
            assert part.num_tokens <= len(part.payload.values), "more tokens wanted than the block holds"
            row.restore(part.payload.values[: part.num_tokens])
        if isinstance(state, HashPayload):
            value, position = state.values
            row.state = value if position == len(row.kv) else _mix(value, position)
        self.restored[sequence_id] += len(row.kv)
        self._prefilling[sequence_id] = row

    def append(self, sequence_id: SequenceId, part: PrefixPart) -> None:
        """Put a block behind what the sequence holds."""
        self._called("append")
        assert not self._has_state, "a layer that cannot be cut cannot be continued"
        assert isinstance(part.payload, HashPayload)
        row = self._prefilling[sequence_id]
        row.restore(part.payload.values[: part.num_tokens])
        assert len(row.kv) < row.capacity, "the running cache has room for its prompt"
        self.restored[sequence_id] += part.num_tokens

    def prefill(
        self,
        sequence_id: SequenceId,
        token_ids: Sequence[int],
        *,
        is_unwanted: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Compute the KV of the next prompt tokens; asks before each whether it is wanted."""
        self._called("prefill")
        row = self._prefilling[sequence_id]
        for token in token_ids:
            row.is_torn = is_unwanted()
            if row.is_torn:
                return False
            row.feed(token)
            self.prefilled[sequence_id] += 1
            self._spend(self._prefill_token_s)
        return True

    def prefill_logprobs(
        self, sequence_id: SequenceId, token_ids: Sequence[int], *, targets: Sequence[int], top: int
    ) -> list[DecodedToken]:
        """Compute KV and score each following token by its distance from the token the model would choose."""
        self._called("prefill_logprobs")
        assert len(targets) == len(token_ids), "every token needs the one that follows it"
        row = self._prefilling[sequence_id]
        scored = []
        for token, target in zip(token_ids, targets, strict=True):
            row.feed(token)
            best = _mix(row.digest ^ row.state, 0) % self._num_ids
            rivals = tuple(((best + i) % self._num_ids, -0.1 * (i + 1)) for i in range(top))
            scored.append(DecodedToken(sequence_id, target, -0.1 * (1 + abs(best - target)), rivals))
        self.prefilled[sequence_id] += len(token_ids)
        return scored

    def embed(self, texts: Sequence[Sequence[int]], *, dimensions: int | None) -> list[bytes]:
        """Return digests of the texts."""
        self._called("embed")
        assert all(texts), "no text is empty"
        self.embedded.append(tuple(map(len, texts)))
        self._spend(self._prefill_token_s * len(texts) * max(map(len, texts)))
        return [self._vector(text, dimensions) for text in texts]

    def embed_part(
        self, sequence_id: SequenceId, token_ids: Sequence[int], *, is_last: bool, dimensions: int | None
    ) -> bytes | None:
        """Compute the next tokens of a text; the digest comes with the last ones."""
        self._called("embed_part")
        self.embedded.append((len(token_ids),))
        row = self._prefilling.setdefault(sequence_id, _Row(self._seed, self._has_state))
        for token in token_ids:
            row.feed(token)
        row.embedded += token_ids
        self._spend(self._prefill_token_s * len(token_ids))
        return self._vector(row.embedded, dimensions) if is_last else None

    def _vector(self, token_ids: Sequence[int], dimensions: int | None) -> bytes:
        if dimensions is not None and dimensions > VECTOR_SIZE:
            raise InvalidRequestError(
                f"this model's vectors have {VECTOR_SIZE} dimensions", param="dimensions"
            )
        return vector_of(token_ids)[: 4 * (dimensions or VECTOR_SIZE)]

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
        """Join a decode batch."""
        self._called("start_decode")
        self.earlier[sequence_id] = earlier
        row = self._prefilling.pop(sequence_id)
        rest = context[len(row.kv) :]
        assert not (rest and self._has_state), (
            f"{len(row.kv)} tokens are cached of {len(context)} before the last"
        )
        self.prefilled[sequence_id] += len(rest)
        for token in rest:
            row.feed(token)
        row.sampling, row.sampler_seed, row.num_generated, row.group = sampling, seed, num_generated, group
        row.feed(last_token)
        row.pending = row.sample(self.script, self._num_ids)
        self._decoding[sequence_id] = row

    def decode(self, group: int = 0) -> list[DecodedToken]:
        """Run one step; one token for every row of the batch."""
        self._called("decode")
        rows = {sequence_id: row for sequence_id, row in self._decoding.items() if row.group == group}
        self.batch_sizes.append(len(rows))
        self._spend(self._decode_step_s)
        tokens = []
        for sequence_id, row in rows.items():
            token = row.pending
            if sequence_id in self.broken_rows:
                tokens.append(DecodedToken(sequence_id, token, error=self.broken_rows.pop(sequence_id)))
                continue
            tokens.append(self._next(sequence_id, row))
            tokens += [self._next(sequence_id, row) for _ in range(self._num_accepted(row))]
        return tokens

    def _next(self, sequence_id: SequenceId, row: _Row) -> DecodedToken:
        token = row.pending
        row.feed(token)
        row.pending = row.sample(self.script, self._num_ids)
        scored = row.sampling.logprobs
        top = tuple(((token + i) % self._num_ids, -0.5 * (i + 1)) for i in range(row.sampling.top_logprobs))
        return DecodedToken(sequence_id, token, -0.5 if scored else None, top if scored else ())

    def _num_accepted(self, row: _Row) -> int:
        """Return how many tokens come from drafts: any number that makes the running cache no larger."""
        if not self._max_drafts or len(self._decoding) > 1:
            return 0
        most = min(self._max_drafts, max(_capacity(row) - len(row.kv), 0))
        num_accepted = _mix(row.digest, 7) % (most + 1)
        self._draft_counts = self._draft_counts.plus(
            DraftCounts(own=Drafted(most, num_accepted), num_steps=int(most > 0))
        )
        return num_accepted

    def take_draft_counts(self) -> DraftCounts:
        """Return what was drafted since the last call."""
        counts, self._draft_counts = self._draft_counts, DraftCounts()
        return counts

    def copy_blocks(self, sequence_id: SequenceId, spans: Sequence[tuple[int, int]]) -> list[BlockPayload]:
        """Copy spans of positions [start, end) out of the running cache; each block is a call of `copy_block`."""
        assert not self._row(sequence_id).is_torn, "nothing is copied out of a torn running cache"
        kv = self._row(sequence_id).kv
        payloads: list[BlockPayload] = []
        for start, end in spans:
            self._called("copy_block")
            assert 0 <= start < end <= len(kv), f"positions {start} to {end} of {len(kv)} cannot be copied"
            payloads.append(HashPayload(tuple(kv[start:end])))
        self.calls["copy_blocks"] += 1
        return payloads

    def copy_state(self, sequence_id: SequenceId) -> BlockPayload | None:
        """Snapshot the rolling value; it opens only at the position where it was taken."""
        self._called("copy_state")
        if not self._has_state:
            return None
        row = self._row(sequence_id)
        assert not row.is_torn, "nothing is copied out of a torn running cache"
        return HashPayload((row.state, len(row.kv)), kind="state")

    def num_cached(self, sequence_id: SequenceId) -> int:
        """Tokens in the running cache."""
        return len(self._row(sequence_id).kv)

    def _row(self, sequence_id: SequenceId) -> _Row:
        row = self._prefilling.get(sequence_id)
        return self._decoding[sequence_id] if row is None else row

    def close(self, sequence_id: SequenceId) -> None:
        """Free the running cache."""
        self._called("close")
        self._prefilling.pop(sequence_id, None)
        self._decoding.pop(sequence_id, None)

    def running_bytes(self) -> int:
        """Bytes of all running caches: each prefill by itself, each decode batch as long as its longest row."""
        tokens = sum(_capacity(row) for row in self._prefilling.values())
        groups: dict[int, list[int]] = {}
        for row in self._decoding.values():
            groups.setdefault(row.group, []).append(_capacity(row))
        tokens += sum(len(rows) * max(rows) for rows in groups.values())
        return BYTES_PER_TOKEN * tokens

    def spare_bytes(self, group: int) -> int:
        """Every row has its own room, and no other's."""
        return 0

    def compact(self) -> int:
        """There is nothing to give back."""
        return 0

    def dump(self, payload: BlockPayload) -> tuple[TensorBytes, ...]:
        """Turn a payload into bytes."""
        self._called("dump")
        assert isinstance(payload, HashPayload)
        data = struct.pack(f"<{len(payload.values)}Q", *payload.values)
        return (TensorBytes(payload.kind, "U64", (len(payload.values),), data),)

    def restore(self, tensors: Sequence[TensorBytes]) -> BlockPayload:
        """Turn bytes into a payload."""
        self._called("restore")
        if len(tensors) != 1 or tensors[0].dtype != "U64" or tensors[0].name not in ("kv", "state"):
            raise CacheError("cannot restore a block: its tensors are not this model's")
        (tensor,) = tensors
        return HashPayload(struct.unpack(f"<{tensor.shape[0]}Q", bytes(tensor.data)), tensor.name)

    def release(self) -> None:
        """Free everything."""
        self._called("release")
        self._prefilling.clear()
        self._decoding.clear()
        self.released = True


def continuation(
    prompt_ids: Sequence[int],
    num_tokens: int,
    *,
    sampling: SamplingParams | None = None,
    sampler_seed: int = 0,
    has_state: bool = False,
    seed: int = 0,
    num_ids: int = NUM_CHARACTERS,
) -> list[int]:
    """Return what a HashRunner answers when it computes everything itself: the truth that caches must agree with."""
    row = _Row(seed, has_state, sampling=sampling or SamplingParams(temperature=0), sampler_seed=sampler_seed)
    for token in prompt_ids:
        row.feed(token)
    answer = []
    for _ in range(num_tokens):
        answer.append(row.sample(None, num_ids))
        row.feed(answer[-1])
    return answer


def loaded_model(
    runner: HashRunner,
    *,
    model_id: str = "tiny",
    tokenizer: Tokenizer | None = None,
    context_length: int = 100_000,
    defaults: ModelDefaults = ModelDefaults(),  # noqa: B008 (frozen)
    settings_digest: str = "",
) -> LoadedModel:
    """Return a model in memory that runs on this runner."""
    return LoadedModel(
        model_id=ModelId(model_id),
        fingerprint=runner.spec.fingerprint,
        runner=runner,
        tokenizer=tokenizer or CharTokenizer(),
        context_length=context_length,
        weights_bytes=1000,
        description={"quantization": "none"},
        defaults=defaults,
        settings_digest=settings_digest,
    )


def already_loaded(model: LoadedModel) -> Generator[None, None, LoadedModel]:
    """Return a loader's generator that has nothing left to do."""
    return model
    yield


def _capacity(row: _Row) -> int:
    return -(-max(row.capacity, len(row.kv)) // CAPACITY_STEP) * CAPACITY_STEP


def _mix(value: int, more: int) -> int:
    """Mix two numbers into 64 bits (the finalizer of splitmix64)."""
    value = (value + 0x9E3779B97F4A7C15 * (more + 1)) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
