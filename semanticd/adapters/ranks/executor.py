"""StepExecutor: a rank's half of the steps: it runs the engine's commands on the runner of its shard."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from semanticd.adapters.ranks.shards import Shards, named, unnamed
from semanticd.adapters.ranks.wire import (
    constraint_in,
    error_out,
    sampling_in,
    spec_out,
    tensors_in,
    tensors_out,
    tokens_out,
)
from semanticd.application.ports.inference import BlockPayload, LoadedModel, ModelRunner, PrefixPart
from semanticd.domain.errors import CacheError, SemanticError
from semanticd.domain.generation import OutputConstraint, SamplingParams
from semanticd.domain.ids import SequenceId

_GREEDY = SamplingParams(temperature=0)
"""Sampling of all ranks but the first, whose token replaces theirs."""


@dataclass(frozen=True, slots=True)
class LoadOrder:
    """The model that every rank loads, and the ring of all ranks."""

    ring: tuple[tuple[str, ...], ...]
    names: tuple[str, ...]
    """Under which the model may be known on this machine, the likeliest first."""
    fingerprint: str
    block_tokens: int
    precision: str
    cpu_math: bool
    limit_s: float
    """Seconds to wait for the neighbours in the ring."""

    def sent(self) -> dict[str, Any]:
        """Return it as it is sent."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def received(cls, sent: Mapping[str, Any]) -> LoadOrder:
        """Undo `sent`."""
        ring = tuple(tuple(addresses) for addresses in sent["ring"])
        return cls(**{**sent, "ring": ring, "names": tuple(sent["names"])})


@dataclass(frozen=True, slots=True)
class LoadedShard:
    """A rank's shard in memory."""

    model: LoadedModel
    mode: str
    """Parallelism of the model: `tensor` or `pipeline`."""
    kv_budget_bytes: int
    """Bytes for KV on this machine: its memory less its weights."""


class ShardLoader(Protocol):
    """Loads a rank's shard."""

    def find(self, order: LoadOrder) -> object:
        """Raise `ModelLoadError` where this machine does not have the model."""

    def load(self, order: LoadOrder) -> LoadedShard:
        """Form the ring and load.

        Raises:
            OverloadedError: The ring cannot be formed.
            ModelLoadError: The model cannot be loaded.
        """

    def memory_bytes(self) -> int:
        """Return what tensors take in this process."""


class StepExecutor:
    """Does one step after the other; the thread that owns MLX."""

    def __init__(
        self,
        loader: ShardLoader,
        shards: Shards,
        *,
        rank: int,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Compute as this rank; `tell` gets messages for the users of its machine."""
        self._tell = tell
        self._rank = rank
        self._world_size = 1
        self._loader = loader
        self._shards = shards
        self._loaded: LoadedModel | None = None
        self._payloads: dict[int, BlockPayload] = {}
        self._groups: set[int] = set()
        self._steps: Mapping[str, Callable[..., Any]] = {
            "find": self._find,
            "load": self._load,
            "open": self._open,
            "append": self._append,
            "prefill": self._prefill,
            "prefill_logprobs": self._prefill_logprobs,
            "form": self._form,
            "start_decode": self._start_decode,
            "decode": self._decode,
            "copy_blocks": self._copy_blocks,
            "copy_state": self._copy_state,
            "num_cached": self._num_cached,
            "close": self._close,
            "compact": self._compact,
            "dump": self._dump,
            "restore": self._restore,
        }

    def answer(self, message: Sequence[Any]) -> list[Any]:
        """Run a step and return its answer; an error is an answer, too."""
        number, name, arguments, dropped = message
        began = time.perf_counter()
        result, error = None, None
        for handle in dropped:
            self._payloads.pop(handle, None)
        self._shards.drop(dropped)
        try:
            result = self._steps[name](*arguments)
        except Exception as raised:  # noqa: BLE001 (sent to the daemon, which decides what it means)
            error = error_out(raised)
        return [number, result, error, self._facts(time.perf_counter() - began)]

    def _facts(self, seconds: float) -> list[Any]:
        memory = self._loader.memory_bytes()
        if self._loaded is None:
            return [0, {}, memory, seconds]
        runner = self._runner
        spare = {group: runner.spare_bytes(group) for group in self._groups}
        return [runner.running_bytes(), spare, memory, seconds]

    @property
    def _runner(self) -> ModelRunner:
        assert self._loaded is not None, "a model is loaded before anything is computed with it"
        return self._loaded.runner

    @property
    def _is_first(self) -> bool:
        return self._rank == 0

    def _part(self, handle: int, num_tokens: int) -> PrefixPart:
        if handle not in self._payloads:
            raise CacheError(f"this rank has no block under {handle}")
        return PrefixPart(self._payloads[handle], num_tokens)

    # The steps, in the order of the port.

    def _find(self, sent: Mapping[str, Any]) -> None:
        try:
            self._loader.find(LoadOrder.received(sent))
        except SemanticError as error:
            self._tell(error.message)
            raise

    def _load(self, sent: Mapping[str, Any]) -> dict[str, Any]:
        order = LoadOrder.received(sent)
        self._world_size = len(order.ring)
        try:
            shard = self._loader.load(order)
        except SemanticError as error:
            self._tell(error.message)
            raise
        self._tell(f"computes {order.names[0]} with {self._world_size - 1} other machines")
        self._loaded = shard.model
        return {
            "mode": shard.mode,
            "spec": spec_out(shard.model.runner.spec),
            "layout": shard.model.runner.spec.layout,
            "weights_bytes": shard.model.weights_bytes,
            "kv_budget_bytes": shard.kv_budget_bytes,
            "description": {
                key: value
                for key, value in shard.model.description.items()
                if isinstance(value, str | bool | int)
            },
        }

    def _open(
        self, sequence_id: int, prefix: Sequence[Sequence[int]], state: int | None, capacity_tokens: int
    ) -> None:
        self._runner.open(
            SequenceId(sequence_id),
            prefix=[self._part(*part) for part in prefix],
            state=None if state is None else self._part(state, 0).payload,
            capacity_tokens=capacity_tokens,
        )

    def _append(self, sequence_id: int, handle: int, num_tokens: int) -> None:
        self._runner.append(SequenceId(sequence_id), self._part(handle, num_tokens))

    def _prefill(self, sequence_id: int, token_ids: Sequence[int]) -> bool:
        return self._runner.prefill(SequenceId(sequence_id), token_ids)

    def _prefill_logprobs(
        self, sequence_id: int, token_ids: Sequence[int], targets: Sequence[int], top: int
    ) -> Any:
        scored = self._runner.prefill_logprobs(SequenceId(sequence_id), token_ids, targets=targets, top=top)
        return tokens_out(scored) if self._is_first else None

    def _form(self, constraint: Mapping[str, Any]) -> None:
        """Compile a form before its answer is begun, while no other rank waits for this one."""
        assert self._loaded is not None
        self._loaded.tokenizer.compile_constraint(constraint_in(constraint))

    def _start_decode(
        self,
        sequence_id: int,
        last_token: int,
        context: Sequence[int],
        num_generated: int,
        sampling: Mapping[str, Any] | None,
        constraint: Mapping[str, Any] | None,
        seed: int,
        group: int,
        max_length: int | None,
    ) -> None:
        self._groups.add(group)
        self._runner.start_decode(
            SequenceId(sequence_id),
            last_token=last_token,
            context=context,
            num_generated=num_generated,
            sampling=_GREEDY if sampling is None else sampling_in(sampling),
            constraint=self._compiled(constraint),
            seed=seed,
            group=group,
            max_length=max_length,
        )

    def _compiled(self, constraint: Mapping[str, Any] | None) -> OutputConstraint | None:
        if constraint is None:
            return None
        assert self._loaded is not None
        return self._loaded.tokenizer.compile_constraint(constraint_in(constraint))

    def _decode(self, group: int) -> Any:
        tokens = self._runner.decode(group)
        return tokens_out(tokens) if self._is_first else None

    def _copy_blocks(
        self, sequence_id: int, spans: Sequence[Sequence[int]], handles: Sequence[int]
    ) -> list[int]:
        payloads = self._runner.copy_blocks(SequenceId(sequence_id), [(start, end) for start, end in spans])
        self._payloads.update(zip(handles, payloads, strict=True))
        return [payload.num_bytes for payload in payloads]

    def _copy_state(self, sequence_id: int, handle: int) -> int | None:
        payload = self._runner.copy_state(SequenceId(sequence_id))
        if payload is None:
            return None
        self._payloads[handle] = payload
        return payload.num_bytes

    def _num_cached(self, sequence_id: int) -> int:
        return self._runner.num_cached(SequenceId(sequence_id))

    def _close(self, sequence_id: int) -> None:
        self._runner.close(SequenceId(sequence_id))

    def _compact(self) -> int:
        return self._runner.compact()

    def _dump(self, handle: int) -> Any:
        tensors = named(
            self._runner.dump(self._part(handle, 0).payload), rank=self._rank, world_size=self._world_size
        )
        if self._is_first:
            return tensors_out(tensors)
        self._shards.keep_copied(handle, tensors)
        return None

    def _restore(self, handle: int, source: Any) -> int:
        """Make a payload from the tensors of the message, at rank 0, or from those read under a number."""
        tensors = self._shards.take_read(source) if isinstance(source, int) else tensors_in(source)
        payload = self._runner.restore(unnamed(tensors, rank=self._rank, world_size=self._world_size))
        self._payloads[handle] = payload
        return payload.num_bytes
