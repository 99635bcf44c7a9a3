"""Latent attention whose cache holds latents: what DeepSeek V2 and its descendants compress keys and values into.

A layer of these models projects a token to one latent (rank numbers) and one rotary key, and every head's keys and
values are products of the latent. mlx-lm's `deepseek_v2` caches those products, heads x (key + value) numbers a token.
Here a plain `KVCache` of one head holds the latent as its keys and the rotary key as its values; the products
are made again, in one of two ways:

- absorbed, for few queries: the queries are taken into the latent's space instead of the keys out of it, because
  `q (W k) = (Wᵀ q) k`, and the mixed latents become values at the end. Costs `L x S x (2 rank + rope)` a head.
- expanded, for many queries: keys and values of all positions, as the library makes them. Costs
  `S x rank x (key + value)` a head once, and `L x S x (key + rope + value)`.

Both paths work in parts, so that no temporary is larger than `PART_BYTES` per operand. The per-head matrices are row
slices of the library's own matrix: packed rows stay packed and exact. Quantizing them again in another orientation
would cost three per cent of accuracy.

`deepseek_v3`, `glm4_moe_lite` and `kimi_linear` cache latents in the library too, but compute the rotary scores of all
heads as a mask, which no fast attention takes; they get the same attention.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module

REVISION = 1
"""Counts changes of what this attention computes or of how it lays its cache out."""

PART_BYTES = 256 << 20
"""Bound of one temporary tensor: longer ones are made for some heads, or some queries, at a time."""

CPU_PART_BYTES = 8 << 20
"""The same for expanded keys on a CPU: what is made, turned and read once more must not leave its caches.

Measured behind 8k and 16k (two cores, MKL): a quarter less time than with parts of 256 MiB.
"""

_FOLDED_QUERIES = 4
"""Up to so many queries, all heads' queries are the rows of one product with the latents."""

_FAMILIES = {
    "DeepseekV2Attention": "mlx_lm.models.deepseek_v2",
    "DeepseekV3Attention": "mlx_lm.models.deepseek_v3",
    "Glm4MoeLiteAttention": "mlx_lm.models.glm4_moe_lite",
    "KimiMLAAttention": "mlx_lm.models.kimi_linear",
}
_TAKEN_OVER = (
    "q_proj",
    "q_a_proj",
    "q_a_layernorm",
    "q_b_proj",
    "kv_a_proj_with_mqa",
    "kv_a_layernorm",
    "o_proj",
    "rope",
)


class HeadMatrices(Module):
    """One matrix per head, `[heads, rows, columns]`, float or packed; `flipped`: a head's matrix is its transpose."""

    def __init__(
        self, weight: mx.array, *, packing: dict[str, Any] | None = None, flipped: bool = False
    ) -> None:
        """Take the matrices; `packing` has scales, biases, group_size, bits and mode of packed ones."""
        super().__init__()
        self.weight = weight
        self._flipped = flipped
        self._packing: dict[str, Any] = {}
        if packing is not None:
            self.scales = packing["scales"]
            if packing.get("biases") is not None:
                self.biases = packing["biases"]
            self._packing = {key: packing[key] for key in ("group_size", "bits", "mode")}
        self.freeze()

    def up(self, latent: mx.array, heads: slice = slice(None)) -> mx.array:
        """Return what each head makes of latents: `[B, 1 or heads, N, rank]` to `[B, heads, N, out]`."""
        return self._product(latent, heads, transpose=not self._flipped)

    def down(self, x: mx.array, heads: slice = slice(None)) -> mx.array:
        """Take each head's vectors into the latent's space: `[B, heads, N, out]` to `[B, heads, N, rank]`."""
        return self._product(x, heads, transpose=self._flipped)

    def _product(self, x: mx.array, heads: slice, *, transpose: bool) -> mx.array:
        weight = self.weight[heads]
        if not self._packing:
            return x @ (weight.swapaxes(-1, -2) if transpose else weight)
        biases = self.biases[heads] if "biases" in self else None
        return mx.quantized_matmul(
            x, weight, scales=self.scales[heads], biases=biases, transpose=transpose, **self._packing
        )


class LatentAttention(Module):
    """Takes the place of a library's attention after its weights are loaded."""

    def __init__(self, library: Any, *, rope: Any | None = None) -> None:
        """Take over the projections of the library's module; `rope` is shared by all layers."""
        super().__init__()
        self.num_heads: int = library.num_heads
        self.scale: float = library.scale
        self.rank: int = library.kv_lora_rank
        self.nope: int = library.qk_nope_head_dim
        self.v_head_dim: int = library.v_head_dim
        for name in _TAKEN_OVER:
            if name in library:
                self[name] = library[name]
        if rope is not None:
            self.rope = rope
        if "kv_b_proj" in library:
            self.key_heads, self.value_heads = _split(library.kv_b_proj, self.num_heads, self.nope)
        else:
            self.key_heads = _whole(library.embed_q, flipped=True)
            self.value_heads = _whole(library.unembed_out, flipped=False)
        self.head_dim: int = self.nope + library.qk_rope_head_dim

    def __call__(self, x: mx.array, mask: Any = None, cache: Any = None) -> mx.array:
        """Attend; see `mlx_lm.models.deepseek_v2`.

        Args:
            x: `[B, L, hidden]`.
            mask: None, `causal`, or booleans that broadcast to `[B, 1, L, S]`.
            cache: A cache of one head, whose keys are latents and whose values are rotary keys.
        """
        batch, length, _ = x.shape
        q = self.q_proj(x) if "q_proj" in self else self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x)))
        q = q.reshape(batch, length, self.num_heads, self.head_dim).transpose(0, 2, 1, 3)
        q_nope, q_rope = q[..., : self.nope], q[..., self.nope :]
        compressed = self.kv_a_proj_with_mqa(x)
        latent = self.kv_a_layernorm(compressed[..., : self.rank])[:, None]
        k_rope = compressed[..., self.rank :][:, None]
        if "rope" in self:
            offset = 0 if cache is None else cache.offset
            q_rope, k_rope = self.rope(q_rope, offset), self.rope(k_rope, offset)
        if cache is not None:
            latent, k_rope = cache.update_and_fetch(latent, k_rope)
        attend = self._absorbed if self._absorbs(length, latent.shape[2]) else self._expanded
        mixed = attend(q_nope, q_rope, latent, k_rope, mask)
        return self.o_proj(mixed.transpose(0, 2, 1, 3).reshape(batch, length, -1))

    def _absorbs(self, length: int, positions: int) -> bool:
        """Return whether the absorbed way is the faster one; behind a long history of Lite below 192 queries.

        Multiplications count, and an eighth more for what the expanded way writes and reads again. Measured on one
        layer of Lite in float32 (two cores, MKL), in processor time as a multiple of the library's, which keeps all
        heads' keys and values:

        ```
        queries            64    128    192    256    512
        behind 2k    abs  1.85   1.95   2.19   2.02   1.98
                     exp  3.30   2.37   1.85   1.62   1.36
        behind 16k   abs  1.89   1.99   1.97   1.97   2.01
                     exp  4.15   2.49   1.97   1.62   1.31
        ```
        Neither can be much better: absorbed scores and sums are 3.4 times the library's products, and expansion is as
        many as attending with 410 queries, so that only chunks of some 1,500 queries cost a quarter more or less by
        arithmetic, of 600 by measurement. Latents instead of heads are what that buys.
        """
        made = self.nope + self.v_head_dim
        expansion = self.rank * made * 9 // 8
        return length * (positions * (2 * self.rank - made) + self.rank * made) < positions * expansion

    def _expanded(
        self, q_nope: mx.array, q_rope: mx.array, latent: mx.array, k_rope: mx.array, mask: Any
    ) -> mx.array:
        batch, _, length, _ = q_nope.shape
        positions = latent.shape[2]
        part_bytes = CPU_PART_BYTES if mx.default_device() == mx.cpu else PART_BYTES
        per_head = batch * positions * max(self.head_dim, self.v_head_dim, length) * latent.dtype.size
        at_once = max(1, min(self.num_heads, part_bytes // per_head))
        queries = mx.concatenate([q_nope, q_rope], axis=-1)
        parts = []
        for first in range(0, self.num_heads, at_once):
            heads = slice(first, min(first + at_once, self.num_heads))
            turned = mx.broadcast_to(k_rope, (batch, heads.stop - first, *k_rope.shape[2:]))
            keys = mx.concatenate([self.key_heads.up(latent, heads), turned], axis=-1)
            parts.append(
                mx.fast.scaled_dot_product_attention(
                    queries[:, heads], keys, self.value_heads.up(latent, heads), scale=self.scale, mask=mask
                )
            )
            if at_once < self.num_heads:
                mx.eval(parts[-1])  # the next part's keys may have the room of these
        return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=1)

    def _absorbed(
        self, q_nope: mx.array, q_rope: mx.array, latent: mx.array, k_rope: mx.array, mask: Any
    ) -> mx.array:
        q_latent = self.key_heads.down(q_nope)
        length = q_latent.shape[2]
        if length <= _FOLDED_QUERIES:
            return self.value_heads.up(self._folded(q_latent, q_rope, latent, k_rope, mask))
        keys = mx.concatenate([latent, k_rope], axis=-1)
        queries = mx.concatenate([q_latent, q_rope], axis=-1)
        batch, _, positions, _ = latent.shape
        rows = max(16, PART_BYTES // (batch * self.num_heads * positions * latent.dtype.size))
        parts = []
        for first in range(0, length, rows):
            end = min(first + rows, length)
            # With a causal mask, the last of these queries sees so many positions.
            seen = positions - length + end if isinstance(mask, str) else positions
            rows_mask = mask[..., first:end, :] if isinstance(mask, mx.array) and mask.shape[-2] > 1 else mask
            parts.append(
                mx.fast.scaled_dot_product_attention(
                    queries[:, :, first:end],
                    keys[:, :, :seen],
                    latent[:, :, :seen],
                    scale=self.scale,
                    mask=rows_mask,
                )
            )
            if end < length:
                mx.eval(parts[-1])
        return self.value_heads.up(parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=2))

    def _folded(
        self, q_latent: mx.array, q_rope: mx.array, latent: mx.array, k_rope: mx.array, mask: Any
    ) -> mx.array:
        """Attend with all heads' queries as the rows of one matrix; returns mixed latents, `[B, heads, L, rank]`."""
        batch, heads, length, _ = q_latent.shape
        positions = latent.shape[2]
        rows = (batch, 1, heads * length, -1)
        scores = (q_latent * self.scale).reshape(rows) @ latent.swapaxes(-1, -2)
        scores = scores + (q_rope * self.scale).reshape(rows) @ k_rope.swapaxes(-1, -2)
        if isinstance(mask, str):
            mask = (
                mx.arange(positions) <= mx.arange(positions - length, positions)[:, None]
                if length > 1
                else None
            )
        if mask is not None:
            scores = scores.reshape(batch, heads, length, positions)
            scores = mx.where(mask, scores, mx.finfo(scores.dtype).min).reshape(
                batch, 1, heads * length, positions
            )
        return (mx.softmax(scores, axis=-1, precise=True) @ latent).reshape(batch, heads, length, self.rank)


def install(model: Any) -> bool:
    """Replace the attention of every layer that has latents; returns whether there was one.

    The positions' table is the same in all layers: they share the first one's.
    """
    shared: Any = None
    for module in list(model.modules()):
        for name, child in list(module.items()):
            if isinstance(child, Module) and _FAMILIES.get(type(child).__name__) == type(child).__module__:
                shared = shared or child.get("rope")
                module[name] = LatentAttention(child, rope=shared)
                # Layer by layer: the slices are copies, and the matrix they come from is freed with its layer.
                mx.eval(module[name].parameters())
    return shared is not None or any(isinstance(module, LatentAttention) for module in model.modules())


def _split(projection: Any, heads: int, nope: int) -> tuple[HeadMatrices, HeadMatrices]:
    """Cut `[heads x (nope + value), rank]` into each head's matrices for keys and for values."""
    parts = []
    for rows in (slice(0, nope), slice(nope, None)):

        def cut(matrix: mx.array, rows: slice = rows) -> mx.array:
            return mx.contiguous(matrix.reshape(heads, -1, matrix.shape[-1])[:, rows])

        parts.append(HeadMatrices(cut(projection.weight), packing=_packing(projection, cut)))
    return parts[0], parts[1]


def _whole(matrices: Any, *, flipped: bool) -> HeadMatrices:
    return HeadMatrices(matrices.weight, packing=_packing(matrices, lambda array: array), flipped=flipped)


def _packing(module: Any, cut: Any) -> dict[str, Any] | None:
    if "scales" not in module:
        return None
    biases = module.get("biases")
    return {
        "scales": cut(module.scales),
        "biases": None if biases is None else cut(biases),
        "group_size": module.group_size,
        "bits": module.bits,
        "mode": getattr(module, "mode", "affine"),
    }
