"""MlxModelRunner: runs one model over mlx-lm's batch classes; the scheduler decides the order elsewhere.

Prefill: one `PromptProcessingBatch` of one row per sequence, a chunk a call. Decode: one `DecodeBatch` that
sequences join and leave. The library's generation runs one step ahead: the token that `decode` returns was sampled
a step earlier, and its KV is already in the cache. The CPU back-end does not compute alongside its caller, so that
there every first token would wait for a second step: it is emitted as soon as it is sampled
(`_emits_first_token_early`), and its KV is computed by the next step, or when it is asked for. Rows may get several
tokens from one step, see `drafts`.

Engine thread only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm.generate import PromptProcessingBatch
from mlx_lm.models.cache import make_prompt_cache

from semanticd.adapters.mlx.model.compute_revision import compute_revision
from semanticd.adapters.mlx.model.decode_batch import DecodeBatch, Form, GuardedForm, GuardedSampler
from semanticd.adapters.mlx.model.drafts import RowDrafts
from semanticd.adapters.mlx.model.embedding import TextEmbedder
from semanticd.adapters.mlx.model.evaluation import LeftError, evaluated_in_parts, leaving_between_layers
from semanticd.adapters.mlx.model.kv_codec import KvCodec, KvPayload, flatten, slotted
from semanticd.adapters.mlx.model.output_head import OutputHead
from semanticd.adapters.mlx.model.sampling import SequenceSampler, greedy, logits_processors
from semanticd.adapters.mlx.platform.shortage import raising_shortage
from semanticd.application.ports.inference import BlockPayload, DecodedToken, DraftCounts, PrefixPart
from semanticd.application.ports.models import Pooling
from semanticd.application.ports.warm_store import TensorBytes
from semanticd.domain.chunk_policy import ChunkTraits
from semanticd.domain.decode_groups import capacity_for
from semanticd.domain.earlier_text import EarlierText
from semanticd.domain.errors import OutOfMemoryError
from semanticd.domain.generation import OutputConstraint, SamplingParams
from semanticd.domain.ids import ModelFingerprint, SequenceId
from semanticd.domain.lookup import is_worth_a_step, shared_width
from semanticd.domain.memory_plan import DeviceKind
from semanticd.domain.model_cache_spec import ModelCacheSpec, StoragePrecision

# The library counts tokens itself; ours is the count that decides.
_NO_LIMIT = 1 << 60

_WARM_UP_TOKENS = 16
SCORED_AT_ONCE = 256
"""Prompt tokens whose logits are there at the same time: those of a long chunk would take gigabytes."""


@dataclass(slots=True)
class _Decoding:
    """The facts about a row that `decode` needs in addition to the batch."""

    sequence_id: SequenceId
    wants_logprobs: bool
    num_top: int
    group: int = 0
    first_emitted: bool = False
    """Whether the token that the next step returns was emitted already."""
    error: Exception | None = None
    """Error of its sampler or of a logits processor: this row cannot continue, the others can."""
    drafts: RowDrafts | None = None
    """Source of draft tokens; None: the row decodes without drafts."""

    def note(self, error: Exception) -> None:
        """Note the first error of its own."""
        self.error = self.error or error

    def guarded_processor(self, process: Callable[..., mx.array]) -> Callable[..., mx.array]:
        """Return a logits processor that notes what it raises, and then leaves the logits as they are."""

        def guarded(tokens: Any, logits: mx.array) -> mx.array:
            if self.error is None:
                try:
                    return process(tokens, logits)
                except Exception as error:  # noqa: BLE001 (handed to the engine, which ends this row)
                    self.error = error
            return logits

        return guarded


@dataclass(frozen=True, slots=True)
class Decoding:
    """Options of decoding."""

    constraint_processor: Callable[[OutputConstraint, int], Form] | None = None
    """Makes, from a constraint and the length of the context that precedes the answer, the form that enforces it."""
    max_drafts: int = 0
    """Tokens that are guessed and verified in one step, at most, of each row; 0: none are guessed."""
    batch: type[DecodeBatch] = DecodeBatch
    """Class of the decode batch; another one where several ranks must sample alike."""


class MlxModelRunner:
    """Runs one model; see the port `ModelRunner`."""

    device: DeviceKind | None = None
    """Device that payloads are kept for, see `payload_bytes`; None: MLX's default device."""

    def __init__(
        self,
        model: Any,
        *,
        fingerprint: ModelFingerprint,
        block_tokens: int = 256,
        precision: StoragePrecision = "exact",
        decoding: Decoding = Decoding(),
        pooling: Pooling = "mean",
        chunks: ChunkTraits = ChunkTraits(),  # noqa: B008 (frozen)
    ) -> None:
        """Probe the model's cache with one token and build its layout.

        `pooling` is how its vectors are made of features. Where a layer cannot be cut nothing is guessed.
        """
        self._model = model
        self._head: Any = OutputHead(model)
        self._embedder: Any = TextEmbedder(model, self._head, pooling=pooling)
        self._codec = KvCodec(self._probe(model), precision=precision, device=self.device)
        self._spec = ModelCacheSpec(
            fingerprint=fingerprint,
            layers=self._codec.layers,
            block_tokens=block_tokens,
            precision=precision,
            running_bytes_per_token=self._codec.running_bytes_per_token,
            compute_revision=compute_revision(),
            chunks=chunks,
        )
        self._constraint_processor = decoding.constraint_processor
        self._batch_kind = decoding.batch
        self._max_drafts = decoding.max_drafts if self._spec.cuts_anywhere else 0
        self._draft_counts = DraftCounts()
        self._prefilling: dict[SequenceId, PromptProcessingBatch] = {}
        self._decoding: dict[SequenceId, _Decoding] = {}
        self._early: list[DecodedToken] = []
        """Tokens that came without a call of `decode`."""
        self._batches: dict[int, DecodeBatch] = {}
        """Decode batches by number; each row of one has the room of the longest."""
        # A snapshot of layers that cannot be cut must hold what was returned, and nothing beyond it.
        self._emits_first_token_early = self._spec.cuts_anywhere and mx.default_device() == mx.Device(mx.cpu)

    @staticmethod
    def _probe(model: Any) -> list[Any]:
        caches: list[Any] = make_prompt_cache(model)
        mx.eval(model(mx.array([[0]]), cache=caches), [c.state for c in caches])
        return caches

    @property
    def spec(self) -> ModelCacheSpec:
        """The model's cache layout."""
        return self._spec

    @property
    def makes_drafts(self) -> bool:
        """Whether the runner makes drafts."""
        return self._max_drafts > 0

    @property
    def model(self) -> Any:
        """The model as the library knows it, for measurements."""
        return self._model

    def warm_up(self) -> None:
        """Run a short prompt and a step, so that the first request need not wait for kernels to be made ready."""
        uid, prompt = SequenceId(0), [0] * _WARM_UP_TOKENS
        self.open(uid, prefix=(), state=None, capacity_tokens=_WARM_UP_TOKENS + 1)
        self.prefill(uid, prompt)
        self.start_decode(
            uid,
            last_token=0,
            context=prompt,
            num_generated=0,
            sampling=SamplingParams(temperature=0),
            constraint=None,
            seed=0,
        )
        self.decode()
        self.close(uid)

    # Prefill.

    @raising_shortage
    def open(
        self,
        sequence_id: SequenceId,
        *,
        prefix: Sequence[PrefixPart],
        state: BlockPayload | None,
        capacity_tokens: int,
    ) -> None:
        """Begin a sequence on a restored prefix."""
        num_restored = sum(part.num_tokens for part in prefix)
        capacity = capacity_for(max(capacity_tokens, num_restored + 1))
        batch = PromptProcessingBatch(
            self._model, [sequence_id], [], tokens=[[0] * num_restored], prefill_step_size=_NO_LIMIT
        )
        batch.prompt_cache = self._codec.assemble(
            make_prompt_cache(self._model),
            prefix=prefix,
            state=state if isinstance(state, KvPayload) else None,
            capacity=capacity,
        )
        self._prefilling[sequence_id] = batch

    @raising_shortage
    def append(self, sequence_id: SequenceId, part: PrefixPart) -> None:
        """Append a block to the sequence's cache."""
        batch = self._prefilling[sequence_id]
        self._codec.append(batch.prompt_cache, part)
        batch.tokens[0] += [0] * part.num_tokens

    @raising_shortage
    def prefill(
        self,
        sequence_id: SequenceId,
        token_ids: Sequence[int],
        *,
        is_unwanted: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Compute the KV of the next prompt tokens; see `ModelRunner.prefill`."""
        batch = self._prefilling[sequence_id]
        # The batch's own `prompt` would also give the freed buffers back, which the next chunk wants again.
        try:
            with leaving_between_layers(slotted(batch.prompt_cache), is_unwanted=is_unwanted):
                self._model(mx.array([list(token_ids)]), cache=batch.prompt_cache)
        except LeftError:
            return False
        is_whole = evaluated_in_parts([c.state for c in batch.prompt_cache], is_unwanted=is_unwanted)
        if is_whole:
            batch.tokens[0] += list(token_ids)
        return is_whole

    @raising_shortage
    def prefill_logprobs(
        self, sequence_id: SequenceId, token_ids: Sequence[int], *, targets: Sequence[int], top: int
    ) -> list[DecodedToken]:
        """Compute KV, and for each token the log-probability of the target that follows it."""
        scored: list[DecodedToken] = []
        for start in range(0, len(token_ids), SCORED_AT_ONCE):
            part = slice(start, start + SCORED_AT_ONCE)
            scored += self._scored_part(sequence_id, list(token_ids[part]), list(targets[part]), top)
        return scored

    def _scored_part(
        self, sequence_id: SequenceId, ids: list[int], targets: list[int], top: int
    ) -> list[DecodedToken]:
        batch = self._prefilling[sequence_id]
        logits = self._model(mx.array([ids]), cache=batch.prompt_cache)[0].astype(mx.float32)
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        mx.eval(logprobs, [c.state for c in batch.prompt_cache])
        batch.tokens[0] += ids
        return _scored([sequence_id] * len(ids), targets, logprobs, top)

    # Vectors.

    @raising_shortage
    def embed(self, texts: Sequence[Sequence[int]], *, dimensions: int | None) -> list[bytes]:
        """Return a vector for each text."""
        vectors: list[bytes] = self._embedder.whole(texts, dimensions=dimensions)
        return vectors

    @raising_shortage
    def embed_part(
        self, sequence_id: SequenceId, token_ids: Sequence[int], *, is_last: bool, dimensions: int | None
    ) -> bytes | None:
        """Compute the next tokens of a text; returns its vector with the last ones."""
        vector: bytes | None = self._embedder.part(
            sequence_id, token_ids, is_last=is_last, dimensions=dimensions
        )
        return vector

    # Decode.

    @raising_shortage
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
        batch = self._prefilling.pop(sequence_id)
        rest = context[len(batch.tokens[0]) :]
        if rest:
            batch.model = self._head.joining(self._model, rest)
        # Penalties and constraints look at token ids, so the placeholders of the restored prefix must go.
        batch.tokens = [list(context)]
        row = _Decoding(sequence_id, sampling.logprobs, sampling.top_logprobs, group=group)
        sampler = (
            greedy if sampling.temperature == 0 else SequenceSampler(sampling, seed=seed, step=num_generated)
        )
        batch.samplers = [
            GuardedSampler(sampler, row.note) if isinstance(sampler, SequenceSampler) else sampler
        ]
        processors: list[Any] = [row.guarded_processor(process) for process in logits_processors(sampling)]
        form: GuardedForm | None = None
        if constraint is not None and self._constraint_processor is not None:
            made = self._constraint_processor(constraint, len(context) + 1 - num_generated)
            form = GuardedForm(made, row.note, looks_ahead=self._max_drafts > 0)
            processors.append(form)
        if self._max_drafts:
            row.drafts = RowDrafts(self._max_drafts, form=form, max_length=max_length, earlier=earlier)
            if earlier is not None:
                known = [*context, last_token]
                num_prompt = len(known) - num_generated
                row.drafts.begin(known[:num_prompt], known[num_prompt:])
        batch.logits_processors = [processors]
        batch.max_tokens = [_NO_LIMIT]
        joined = self._batch_kind.begin(batch, last_token)
        joined.model = self._model
        if row.error is not None:
            raise row.error
        self._decoding[sequence_id] = row
        if self._emits_first_token_early:
            (token,) = joined._next_tokens.tolist()
            self._early.append(self._decoded(sequence_id, token, joined._next_logprobs[0]))
            row.first_emitted = True
        if group in self._batches:
            with self._losing(group):
                self._batches[group].extend(joined)
        else:
            self._batches[group] = joined

    @raising_shortage
    def decode(self, group: int = 0) -> list[DecodedToken]:
        """Return the next token of every row of a batch, or of those only that have one already."""
        early = [token for token in self._early if self._decoding[token.sequence_id].group == group]
        if not early:
            return self._step(group)
        tokens: dict[SequenceId, DecodedToken] = {}
        for token in early:
            if tokens.setdefault(token.sequence_id, token) is token:
                self._early.remove(token)
        return list(tokens.values())

    def _step(self, group: int, *, drafts: bool = True) -> list[DecodedToken]:
        tokens: list[DecodedToken] = []
        for response in self._next(group, drafts=drafts):
            row = self._decoding[SequenceId(response.uid)]
            if row.error is not None:
                tokens.append(DecodedToken(row.sequence_id, response.token, error=row.error))
            elif row.first_emitted:
                row.first_emitted = False
            else:
                tokens.append(self._decoded(row.sequence_id, response.token, response.logprobs))
        return tokens

    def _next(self, group: int, *, drafts: bool) -> list[Any]:
        batch = self._batches.get(group)
        if batch is None:
            if any(row.group == group for row in self._decoding.values()):
                raise OutOfMemoryError("memory ran out in a step of this request's decode batch")
            return []
        with self._losing(group):
            responses: list[Any] = (self._verified(batch) if drafts else []) or batch.next()
        return responses

    @contextmanager
    def _losing(self, group: int) -> Iterator[None]:
        """Drop a batch in whose change an error occurs.

        The contents of its caches are then undefined: they must not be read, and rows leave without looking at them.
        """
        try:
            yield
        except Exception:
            del self._batches[group]
            raise

    def _verified(self, batch: DecodeBatch) -> list[Any]:
        """Run a step that verifies drafts, if most rows of the batch have one."""
        if not self._max_drafts:
            return []
        room = batch.draft_room
        rows = [self._decoding[SequenceId(uid)].drafts for uid in batch.uids]
        hopeful = [
            drafts is not None and drafts.expect(ids, room=room)
            for drafts, ids in zip(rows, batch.tokens, strict=True)
        ]
        if not is_worth_a_step(sum(hopeful), len(rows)):
            return []
        made = [
            drafts.make(ids, pending) if drafts is not None and has_hope else []
            for drafts, has_hope, ids, pending in zip(
                rows, hopeful, batch.tokens, batch.pending(), strict=True
            )
        ]
        width = shared_width([len(draft) for draft in made])
        if not width:
            return []
        made = [draft[:width] for draft in made]
        responses: list[Any] = batch.verify(made)
        num_returned = Counter(response.uid for response in responses)
        for uid, drafts, draft, ids in zip(batch.uids, rows, made, batch.tokens, strict=True):
            num_accepted = num_returned[uid] - 1
            if drafts is not None and draft:
                self._draft_counts = self._draft_counts.plus(
                    drafts.note(num_drafted=len(draft), num_accepted=num_accepted, length=len(ids))
                )
        self._draft_counts = self._draft_counts.plus(DraftCounts(num_steps=1))
        return responses

    def take_draft_counts(self) -> DraftCounts:
        """Return the counts of drafts since the last call."""
        counts, self._draft_counts = self._draft_counts, DraftCounts()
        return counts

    def _decoded(self, uid: SequenceId, token: int, logprobs: mx.array) -> DecodedToken:
        row = self._decoding[uid]
        if row.wants_logprobs:
            return _scored([uid], [token], logprobs[None], row.num_top)[0]
        return DecodedToken(uid, token)

    # Blocks.

    @raising_shortage
    def copy_blocks(self, sequence_id: SequenceId, spans: Sequence[tuple[int, int]]) -> list[BlockPayload]:
        """Copy each span of positions [start, end) out of the running cache."""
        batch, row = self._find(sequence_id)
        last = max((end for _, end in spans), default=0)
        if last > len(batch.tokens[row]) and sequence_id in self._decoding:
            self._early += self._step(self._decoding[sequence_id].group, drafts=False)
        return list(self._codec.copy_blocks(batch.prompt_cache, row=row, spans=spans))

    @raising_shortage
    def copy_state(self, sequence_id: SequenceId) -> BlockPayload | None:
        """Snapshot the layers that cannot be cut."""
        batch, row = self._find(sequence_id)
        return self._codec.copy_state(batch.prompt_cache, row=row)

    def num_cached(self, sequence_id: SequenceId) -> int:
        """Tokens in the running cache."""
        batch, row = self._find(sequence_id)
        return len(batch.tokens[row])

    def _find(self, sequence_id: SequenceId) -> tuple[Any, int]:
        prefilling = self._prefilling.get(sequence_id)
        if prefilling is not None:
            return prefilling, 0
        batch = self._batches[self._decoding[sequence_id].group]
        return batch, batch.uids.index(sequence_id)

    def close(self, sequence_id: SequenceId) -> None:
        """Leave the batch and free the running cache."""
        self._embedder.close(sequence_id)
        if self._prefilling.pop(sequence_id, None) is not None:
            return
        self._early = [token for token in self._early if token.sequence_id != sequence_id]
        row = self._decoding.pop(sequence_id, None)
        if row is None:
            return
        # They ask its form, which notes in the row what it raises: all three would stay until garbage is looked for.
        row.drafts = None
        batch = self._batches.get(row.group)
        others = [i for i, uid in enumerate(batch.uids) if uid != sequence_id] if batch is not None else []
        if batch is None:
            return
        if others:
            with self._losing(row.group):
                batch.filter(others)
        else:
            del self._batches[row.group]

    @raising_shortage
    def compact(self) -> int:
        """Free the room in decode batches that no row needs now."""
        num_bytes = 0
        for group, batch in list(self._batches.items()):
            with self._losing(group):
                num_bytes += sum(leaf.compact() for leaf in slotted(batch.prompt_cache))
        return num_bytes

    def spare_bytes(self, group: int) -> int:
        """Bytes of a decode batch that no row needs now."""
        batch = self._batches.get(group)
        return sum(leaf.spare_bytes for leaf in slotted(batch.prompt_cache)) if batch is not None else 0

    def running_bytes(self) -> int:
        """Bytes of all running caches, padding and spare room included."""
        batches = [*self._prefilling.values(), *self._batches.values()]
        own = sum(leaf.nbytes for batch in batches for leaf in flatten(batch.prompt_cache))
        return own + int(self._embedder.running_bytes())

    def dump(self, payload: BlockPayload) -> tuple[TensorBytes, ...]:
        """Turn a payload into bytes."""
        assert isinstance(payload, KvPayload)
        return self._codec.dump(payload)

    @raising_shortage
    def restore(self, tensors: Sequence[TensorBytes]) -> BlockPayload:
        """Turn bytes into a payload."""
        return self._codec.restore(tensors)

    def release(self) -> None:
        """Free weights and caches."""
        self._prefilling.clear()
        self._decoding.clear()
        self._batches.clear()
        self._model = self._head = self._embedder = None
        mx.clear_cache()


def _scored(
    uids: Sequence[SequenceId], token_ids: Sequence[int], logprobs: mx.array, top: int
) -> list[DecodedToken]:
    """Return tokens with what rows of log-probabilities `[n, vocab]` say of them, and of the `top` likeliest ones."""
    logprobs = logprobs.astype(mx.float32)
    own = mx.take_along_axis(logprobs, mx.array(list(token_ids))[:, None], axis=-1)[:, 0]
    none = mx.zeros((len(token_ids), 0), mx.uint32)
    likeliest = mx.argpartition(-logprobs, top, axis=-1)[:, :top] if top else none
    values = mx.take_along_axis(logprobs, likeliest, axis=-1)
    # Waited for once.
    mx.eval(own, likeliest, values)
    lists: Any = own.tolist(), likeliest.tolist(), values.tolist()
    return [
        DecodedToken(
            uid, token_id, one, tuple(sorted(zip(best, each, strict=True), key=lambda pair: -pair[1]))
        )
        for uid, token_id, one, best, each in zip(uids, token_ids, *lists, strict=True)
    ]
