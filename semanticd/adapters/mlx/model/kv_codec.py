"""Moves KV between running batches, blocks and bytes.

A block stacks the layers of equal shape into one tensor each for keys and values, `[layers, heads, tokens, dim]`,
so a block is a handful of tensors, not one per layer. Layers that cannot be cut by position (sliding window,
recurrent state) are not in blocks; they go into state snapshots. Everything here is *copied* out: a slice of an
mlx array would keep its whole parent buffer alive.

MLX's CPU back-end copies strided tensors element by element; there numpy copies them, by the row.

Engine thread only.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import (
    ArraysCache,
    CacheList,
    KVCache,
    RotatingKVCache,
)

from semanticd.adapters.mlx.model.batch_cache import SlottedKVCache
from semanticd.adapters.mlx.model.kv_quantization import KvQuantization
from semanticd.adapters.mlx.model.payload_bytes import PayloadTensor, payload_bytes
from semanticd.adapters.mlx.platform.device import device_kind
from semanticd.application.ports.inference import PrefixPart
from semanticd.application.ports.warm_store import TensorBytes
from semanticd.domain.errors import CacheError, ModelLoadError
from semanticd.domain.memory_plan import DeviceKind
from semanticd.domain.model_cache_spec import LayerKind, LayerSpec, StoragePrecision

_BITS: dict[StoragePrecision, tuple[int, int]] = {"q8": (8, 8), "q6": (8, 4), "q4": (4, 4)}
"""Bits of keys and of values."""


@dataclass(frozen=True, slots=True, eq=False)
class KvPayload:
    """A block's or snapshot's tensors, contiguous and owned."""

    tensors: Mapping[str, PayloadTensor]

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


@dataclass(frozen=True, slots=True)
class _Group:
    """Attention layers of one shape, by their leaf indices."""

    name: str
    leaves: tuple[int, ...]
    num_heads: int
    key_dim: int
    value_dim: int
    dtype: mx.Dtype
    precision: StoragePrecision

    def dim(self, kind: str) -> int:
        """Return the length of a head's `k` (key) or `v` (value)."""
        return self.key_dim if kind == "k" else self.value_dim

    def quantization(self, kind: str) -> KvQuantization | None:
        """Return how its `k` (keys) or `v` (values) are stored; None: as they are."""
        bits = _BITS.get(self.precision)
        if bits is None or not self.dim(kind):
            return None
        return KvQuantization(
            bits["kv".index(kind)], self.num_heads, self.dim(kind), self.dtype, by_channel=kind == "k"
        )

    @property
    def stored_bytes_per_token(self) -> int:
        """Bytes per token of one of its layers in storage precision."""
        ways = [(self.quantization(kind), self.dim(kind)) for kind in "kv"]
        return int(
            sum(way.bytes_per_token if way else dim * self.num_heads * self.dtype.size for way, dim in ways)
        )

    @property
    def first_token_bytes(self) -> int:
        """Bytes that one of its layers adds to a block that begins a sequence."""
        return sum(way.first_token_bytes for kind in "kv" if (way := self.quantization(kind)))


def flatten(prompt_cache: Sequence[Any]) -> list[Any]:
    """Return the caches of all layers with `CacheList`s opened up, in order."""
    leaves: list[Any] = []
    for cache in prompt_cache:
        leaves.extend(flatten(cache.caches) if isinstance(cache, CacheList) else [cache])
    return leaves


def slotted(prompt_cache: Sequence[Any]) -> list[SlottedKVCache]:
    """Return the attention caches of all layers."""
    return [leaf for leaf in flatten(prompt_cache) if isinstance(leaf, SlottedKVCache)]


class KvCodec:
    """Knows one model's cache shapes."""

    def __init__(
        self, probed: Sequence[Any], *, precision: StoragePrecision, device: DeviceKind | None = None
    ) -> None:
        """Learn the shapes from single-sequence caches that have seen one token.

        `device` says where payloads are kept (None: as MLX's default device has its memory).

        Raises:
            ModelLoadError: A layer's cache is of a kind that cannot be batched.
        """
        self.precision: StoragePrecision = precision
        kind = device or device_kind()
        self._bytes = payload_bytes(kind)
        self._on_cpu = kind == "cpu"
        shapes: dict[tuple[int, int, int, mx.Dtype], list[int]] = {}
        self._state_leaves: list[int] = []
        self._kinds: list[LayerKind] = []
        leaves = flatten(probed)
        for index, leaf in enumerate(leaves):
            if type(leaf) is KVCache:
                heads, key_dim, value_dim = leaf.keys.shape[1], leaf.keys.shape[3], leaf.values.shape[3]
                shapes.setdefault((heads, key_dim, value_dim, leaf.keys.dtype), []).append(index)
                self._kinds.append("attention")
            elif isinstance(leaf, RotatingKVCache):
                self._state_leaves.append(index)
                self._kinds.append("sliding")
            elif isinstance(leaf, ArraysCache):
                self._state_leaves.append(index)
                self._kinds.append("state")
            else:
                raise ModelLoadError(
                    f"cannot serve this model: its layer {index} keeps a {type(leaf).__name__}, "
                    "which mlx-lm cannot batch; try another model of the same family"
                )
        self._groups = [
            _Group(f"g{number}", tuple(indices), heads, key_dim, value_dim, dtype, precision)
            for number, ((heads, key_dim, value_dim, dtype), indices) in enumerate(shapes.items())
        ]
        self._layers = self._describe(leaves)

    @property
    def layers(self) -> tuple[LayerSpec, ...]:
        """The layers as the domain describes them."""
        return self._layers

    @property
    def has_state(self) -> bool:
        """Whether any layer needs snapshots."""
        return bool(self._state_leaves)

    @property
    def running_bytes_per_token(self) -> int:
        """Bytes a position takes in a running batch, over the attention layers."""
        return sum(
            len(g.leaves) * g.num_heads * (g.key_dim + g.value_dim) * g.dtype.size for g in self._groups
        )

    def _describe(self, leaves: Sequence[Any]) -> tuple[LayerSpec, ...]:
        specs: dict[int, LayerSpec] = {}
        for group in self._groups:
            per_token, first = group.stored_bytes_per_token, group.first_token_bytes
            shape = f"{group.num_heads}x{group.key_dim}+{group.value_dim}:{group.dtype}"
            for index in group.leaves:
                specs[index] = LayerSpec(
                    "attention", shape, bytes_per_token=per_token, first_token_bytes=first
                )
        for index in self._state_leaves:
            leaf = leaves[index]
            if isinstance(leaf, RotatingKVCache):
                row = leaf.keys.shape[1] * (leaf.keys.shape[3] + leaf.values.shape[3]) * leaf.keys.dtype.size
                dims = f"{leaf.keys.shape[1]}x{leaf.keys.shape[3]}+{leaf.values.shape[3]}"
                shape = f"{dims}w{leaf.max_size}:{leaf.keys.dtype}"
                specs[index] = LayerSpec("sliding", shape, state_bytes=row * leaf.max_size)
            else:
                arrays = [a for a in leaf.cache if a is not None]
                shape = ",".join(f"{a.shape}:{a.dtype}" for a in arrays)
                specs[index] = LayerSpec("state", shape, state_bytes=sum(a.nbytes for a in arrays))
        return tuple(specs[index] for index in range(len(leaves)))

    # Out of a running batch.

    def copy_blocks(
        self, prompt_cache: Sequence[Any], *, row: int, spans: Sequence[tuple[int, int]]
    ) -> list[KvPayload]:
        """Copy positions [start, end) of one row into a block for each span; all blocks are one evaluation."""
        leaves = flatten(prompt_cache)
        blocks = [self._block(leaves, row, slice(start, end)) for start, end in spans]
        mx.eval([list(tensors.values()) for tensors in blocks])
        return [KvPayload(tensors) for tensors in blocks]

    def _block(self, leaves: list[Any], row: int, span: slice) -> dict[str, mx.array]:
        tensors: dict[str, mx.array] = {}
        for group in self._groups:
            members = [leaves[index] for index in group.leaves]
            keys = self._stack([leaf.keys for leaf in members], row, span, group)
            values = self._stack([leaf.values for leaf in members], row, span, group)
            for kind, array in (("k", keys), ("v", values)):
                name, way = f"{group.name}.{kind}", group.quantization(kind)
                if way is None:
                    tensors[name] = array
                else:
                    parts = way.encode(array, begins=span.start == 0)
                    tensors.update({f"{name}.{part}": packed for part, packed in parts.items()})
        return tensors

    def _stack(self, arrays: list[mx.array], row: int, span: slice, group: _Group) -> mx.array:
        """Return these positions of a row, `[layers, heads, tokens, dim]`."""
        if not self._numpy_copies(group):
            return mx.stack([array[row, :, span] for array in arrays])
        views = [np.array(array, copy=False) for array in arrays]
        return mx.array(np.stack([view[row, :, span] for view in views]))

    def _numpy_copies(self, group: _Group) -> bool:
        return self._on_cpu and group.dtype in (mx.float32, mx.float16)

    def copy_state(self, prompt_cache: Sequence[Any], *, row: int) -> KvPayload | None:
        """Snapshot the layers that cannot be cut; None when there are none."""
        if not self._state_leaves:
            return None
        leaves = flatten(prompt_cache)
        tensors: dict[str, mx.array] = {}
        for index in self._state_leaves:
            single = leaves[index].extract(row)
            if isinstance(single, RotatingKVCache):
                # Only the window can ever be looked at again.
                kept = min(single.keys.shape[2], single.max_size)
                tensors[f"s{index}.0"] = mx.contiguous(single.keys[:, :, -kept:])
                tensors[f"s{index}.1"] = mx.contiguous(single.values[:, :, -kept:])
                tensors[f"s{index}.n"] = mx.array(
                    [single.offset, single.keep, single.max_size, kept], mx.int64
                )
            else:
                for number, array in enumerate(single.cache):
                    tensors[f"s{index}.{number}"] = mx.array(mx.contiguous(array))
        mx.eval(list(tensors.values()))
        return KvPayload(tensors)

    # Into a running batch.

    def assemble(
        self, fresh: Sequence[Any], *, prefix: Sequence[PrefixPart], state: KvPayload | None, capacity: int
    ) -> list[Any]:
        """Return batch caches of one row that hold the prefix, with room for `capacity` tokens.

        `fresh` are the model's own empty single-sequence caches. Each key and value is copied once.
        """
        used = sum(part.num_tokens for part in prefix)
        attention: dict[int, Any] = {}
        for group in self._groups:
            keys = [(self._load(part, "k", group), part.num_tokens) for part in prefix]
            values = [(self._load(part, "v", group), part.num_tokens) for part in prefix]
            room = max(capacity - used, 0)
            joined_keys = self._join(keys, (group.num_heads, room, group.key_dim), group)
            joined_values = self._join(values, (group.num_heads, room, group.value_dim), group)
            for index, leaf_keys, leaf_values in zip(group.leaves, joined_keys, joined_values, strict=True):
                attention[index] = SlottedKVCache.of_row(leaf_keys, leaf_values, used)
        assembled = self._rebuilt(fresh, attention, state, itertools.count())
        mx.eval([leaf.state for leaf in flatten(assembled) if not leaf.empty()])
        return assembled

    def _rebuilt(
        self,
        caches: Sequence[Any],
        attention: dict[int, Any],
        state: KvPayload | None,
        positions: Iterator[int],
    ) -> list[Any]:
        # A method: a nested function that calls itself is a cycle, which would keep the caches until it is collected.
        built: list[Any] = []
        for cache in caches:
            if isinstance(cache, CacheList):
                built.append(CacheList(*self._rebuilt(cache.caches, attention, state, positions)))
                continue
            position = next(positions)
            if position in attention:
                built.append(attention[position])
            else:
                built.append(cache.merge([self._restored_state(cache, position, state)]))
        return built

    def append(self, prompt_cache: Sequence[Any], part: PrefixPart) -> None:
        """Copy a block behind what caches of one row hold; they have room for it."""
        leaves = flatten(prompt_cache)
        changed: list[Any] = []
        for group in self._groups:
            keys, values = (self._load(part, kind, group) for kind in "kv")
            for number, index in enumerate(group.leaves):
                leaf = leaves[index]
                leaf.append(*(_of_mlx(array[number, :, : part.num_tokens]) for array in (keys, values)))
                changed += leaf.state
        # Each is written in its own memory: no other object holds its former memory.
        mx.eval(changed)

    def _join(
        self, parts: Sequence[tuple[Any, int]], room: tuple[int, int, int], group: _Group
    ) -> Iterator[mx.array]:
        """Return for each layer what the parts hold of it and room behind it, `[1, heads, tokens, dim]`."""
        if not self._numpy_copies(group):
            spare = [mx.zeros(room, group.dtype)] if room[1] else []
            for number in range(len(group.leaves)):
                pieces = [array[number, :, :num_tokens] for array, num_tokens in parts]
                yield mx.concatenate(pieces + spare, axis=1)[None]
            return
        heads, num_spare, dim = room
        views = [np.array(array, copy=False)[:, :, :num_tokens] for array, num_tokens in parts]
        used = sum(num_tokens for _, num_tokens in parts)
        joined = np.zeros((1, heads, used + num_spare, dim), views[0].dtype if views else np.float32)
        for number in range(len(group.leaves)):
            if views:
                np.concatenate([view[number] for view in views], axis=1, out=joined[0, :, :used])
            yield mx.array(joined, group.dtype)

    def _load(self, part: PrefixPart, kind: str, group: _Group) -> Any:
        """Return the part's keys or values, `[layers, heads, tokens, dim]`; more than its tokens, maybe.

        An array of MLX, or of numpy where numpy copies.
        """
        payload: Any = part.payload
        name, way = f"{group.name}.{kind}", group.quantization(kind)
        if way is None:
            return payload.tensors[name]
        return way.decode(_parts(payload.tensors, name), num_tokens=part.num_tokens)

    def _restored_state(self, fresh: Any, index: int, state: KvPayload | None) -> Any:
        if state is None:
            return fresh
        if isinstance(fresh, RotatingKVCache):
            fresh.keys, fresh.values = state.tensors[f"s{index}.0"], state.tensors[f"s{index}.1"]
            numbers: Any = state.tensors[f"s{index}.n"].tolist()
            fresh.offset, fresh.keep, fresh.max_size, fresh._idx = numbers
        else:
            fresh.cache = [state.tensors[f"s{index}.{number}"] for number in range(len(fresh.cache))]
        return fresh

    # Bytes.

    def dump(self, payload: KvPayload) -> tuple[TensorBytes, ...]:
        """Return a payload's tensors as bytes, which stay what they are: payloads never change."""
        return self._bytes.dump(payload.tensors)

    def restore(self, tensors: Sequence[TensorBytes]) -> KvPayload:
        """Turn bytes into a payload.

        Raises:
            CacheError: A tensor's type or shape does not belong to this model.
        """
        restored = self._bytes.restore(tensors, for_numpy=self._for_numpy)
        if not any(name.startswith("s") for name in restored):
            for group in self._groups if restored else ():
                for kind in "kv":
                    self._check(restored, kind, group)
        return KvPayload(restored)

    @property
    def _for_numpy(self) -> frozenset[str]:
        """The names of a block's tensors that numpy copies into running caches."""
        return frozenset(
            f"{group.name}.{kind}"
            for group in self._groups
            for kind in "kv"
            if self._numpy_copies(group) and group.quantization(kind) is None
        )

    def _check(self, restored: dict[str, Any], kind: str, group: _Group) -> None:
        name, way, dim = f"{group.name}.{kind}", group.quantization(kind), group.dim(kind)
        expected = (len(group.leaves), group.num_heads)
        if way is None:
            tensor = restored.get(name)
            found = {} if tensor is None else {name: tensor}
            fits = tensor is not None and tensor.shape[:2] == expected and tensor.shape[3] == dim
        else:
            found = _parts(restored, name)
            fits = way.fits(found, num_layers=len(group.leaves))
        if not fits:
            shapes = ", ".join(f"{part} {tensor.shape}" for part, tensor in found.items()) or "nothing"
            raise CacheError(
                f"cannot restore {name}: expected {expected} layers and heads of {dim}, found {shapes}"
            )


def _of_mlx(array: PayloadTensor) -> mx.array:
    return array if isinstance(array, mx.array) else mx.array(array)


def _parts(tensors: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the tensors whose names begin with this one, by the rest of their names."""
    return {
        key.removeprefix(f"{name}."): tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")
    }
