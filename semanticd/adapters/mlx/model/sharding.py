"""A model over several machines, as one rank computes it: which models can be spread, how, and the ring between them.

*tensor*: each rank has some of every layer's heads, and a part of its widths; sums over the ranks end attention and
MLP. All ranks see the same features, so that each computes the same logits, up to rounding where their chips differ.

*pipeline*: each rank has a range of layers, the last ones rank 0; hidden states go from rank to rank, and what the last
layer makes goes to all, as mlx-lm does it. For models whose heads the ranks do not divide, and for those whose
attention keeps latents, which all heads share.

Which token comes is rank 0's word: what it sampled is summed over the ranks, to which the others add nothing.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx
from mlx_lm.models.cache import KVCache, make_prompt_cache
from mlx_lm.models.pipeline import PipelineMixin
from mlx_lm.utils import MODEL_REMAPPING

from semanticd.adapters.mlx.model.decode_batch import DecodeBatch
from semanticd.adapters.mlx.model.kv_codec import flatten
from semanticd.adapters.mlx.model.ring_ports import RingPorts, ring_text
from semanticd.domain.errors import ModelLoadError

Spread = Literal["tensor", "pipeline"]
"""By heads, or by layers."""

_DIVIDED: Mapping[str, str] = {
    "num_attention_heads": "attention heads",
    "num_key_value_heads": "key and value heads",
    "intermediate_size": "numbers in its MLP",
    "moe_intermediate_size": "numbers in an expert",
    "linear_num_key_heads": "key heads of its linear attention",
    "linear_num_value_heads": "value heads of its linear attention",
}
_LATENT = "kv_lora_rank"
_EXPERTS = ("num_experts", "n_routed_experts", "num_local_experts")


def spread_of(config: Mapping[str, Any], *, name: str, world_size: int) -> Spread:
    """Return how this number of ranks computes a model of this config.

    Raises:
        ModelLoadError: The model cannot be spread over that many ranks.
    """
    if world_size == 1:
        return "tensor"
    text = {**config, **(config.get("text_config") or {})}
    why_not = _why_not_by_heads(config, text, world_size)
    if why_not is None:
        return "tensor"
    if not _has_pipeline(str(config.get("model_type", ""))):
        raise ModelLoadError(f"cannot spread {name} over {world_size} machines: {why_not}")
    num_layers = text.get("num_hidden_layers")
    if isinstance(num_layers, int) and num_layers < world_size:
        raise ModelLoadError(
            f"cannot spread {name} over {world_size} machines: {why_not}, and it has only {num_layers} layers"
        )
    return "pipeline"


def _why_not_by_heads(config: Mapping[str, Any], text: dict[str, Any], world_size: int) -> str | None:
    model_type = config.get("model_type")
    if not hasattr(_model_class(str(model_type)), "shard"):
        return f"mlx-lm cannot split models of the type {model_type!r} by their heads"
    if _LATENT in text:
        return "its attention keeps latents, which all heads share"
    text.setdefault("num_key_value_heads", text.get("num_attention_heads"))
    for key, what in _DIVIDED.items():
        number = text.get(key)
        if isinstance(number, int) and number % world_size:
            return (
                f"it has {number} {what}, which {world_size} does not divide; the hostfile may name {_divisors(text)} "
                "machines"
            )
    return None


def _model_class(model_type: str) -> Any:
    return getattr(_module(model_type), "Model", None)


def _has_pipeline(model_type: str) -> bool:
    found = vars(_module(model_type)).values() if _module(model_type) is not None else ()
    return any(
        isinstance(one, type) and issubclass(one, PipelineMixin) and one is not PipelineMixin for one in found
    )


def _module(model_type: str) -> Any:
    try:
        return importlib.import_module(f"mlx_lm.models.{MODEL_REMAPPING.get(model_type, model_type)}")
    except ImportError:
        return None


def device_kind() -> str:
    """Return what MLX computes on here: `cpu` or `gpu`."""
    return "cpu" if mx.default_device() == mx.Device(mx.cpu) else "gpu"


def has_experts(config: Mapping[str, Any]) -> bool:
    """Return whether tokens choose experts: ranks that round differently could choose different ones."""
    text = {**config, **(config.get("text_config") or {})}
    return any(isinstance(text.get(key), int) and text[key] > 1 for key in _EXPERTS)


def _divisors(text: Mapping[str, Any]) -> str:
    numbers = [text[key] for key in _DIVIDED if isinstance(text.get(key), int)]
    found = [
        str(size) for size in range(2, max(numbers) + 1) if all(number % size == 0 for number in numbers)
    ]
    return " or ".join(found) if found else "only 1 of its"


@dataclass(frozen=True, slots=True)
class Ring:
    """This process's place among the ranks."""

    group: Any
    rank: int
    world_size: int
    mode: Spread = "tensor"

    @classmethod
    def form(
        cls,
        *,
        rank: int,
        ring: Sequence[Sequence[str]],
        limit_s: float,
        mode: Spread,
        ports: RingPorts | None = None,
    ) -> Ring:
        """Connect to the neighbours; once in a process, which ends where MLX takes longer.

        `ports` are checked first (None: by a check that no one watches).

        Raises:
            ModelLoadError: The other ranks cannot be reached; the message has their addresses.
        """
        if len(ring) == 1:
            return cls(None, 0, 1, mode)
        (ports or RingPorts(rank=rank, ring=ring, limit_s=limit_s)).check()
        with (
            tempfile.NamedTemporaryFile("w", suffix=".json", prefix="semanticd-ring-") as file,
            Path(os.devnull).open("w") as nowhere,
        ):
            json.dump([list(addresses) for addresses in ring], file)
            file.flush()
            os.environ.update(MLX_RANK=str(rank), MLX_HOSTFILE=file.name)
            # MLX waits for its neighbours with Python's lock held: no thread of ours could end the process.
            faulthandler.dump_traceback_later(limit_s, exit=True, file=nowhere)
            try:
                group = mx.distributed.init(strict=True, backend="ring")
                # Connected is who has got something through.
                mx.eval(mx.distributed.all_sum(mx.ones((1,)), group=group))
            except (RuntimeError, ValueError) as error:
                raise ModelLoadError(
                    f"rank {rank} cannot connect to the others: {error} ({ring_text(ring)})"
                ) from error
            finally:
                faulthandler.cancel_dump_traceback_later()
        return cls(group, rank, len(ring), mode)

    def spread(self, model: Any) -> None:
        """Keep this rank's part of a model whose weights are not evaluated yet.

        Raises:
            ModelLoadError: The model cannot be spread over the ranks.
        """
        if self.group is None:
            return
        try:
            if self.mode == "tensor":
                model.shard(self.group)
            else:
                self._keep_layers(model)
        except (ValueError, AttributeError, TypeError) as error:
            raise ModelLoadError(
                f"cannot spread the model over {self.world_size} machines: {error}"
            ) from error

    def _keep_layers(self, model: Any) -> None:
        """Keep this rank's layers.

        Raises:
            ModelLoadError: The ranks would have layers of different kinds.
        """
        kinds = [_kinds(cache) for cache in make_prompt_cache(model)]
        body = _pipelined(model)
        body.pipeline(self.group)
        own = set[bool]().union(*kinds[body.start_idx : body.end_idx])
        if own != set[bool]().union(*kinds) or len(kinds) < body.end_idx:
            raise ModelLoadError(
                f"cannot spread the model over {self.world_size} machines: its layers keep caches of different kinds, "
                "and a machine would not have layers of each; name fewer machines in the hostfile"
            )

    def layers_of(self, model: Any) -> str:
        """Return which of its layers this rank computes, such as `8-16`; empty where it has a part of each."""
        if self.group is None or self.mode == "tensor":
            return ""
        body = _pipelined(model)
        return f"{body.start_idx}-{body.end_idx}"

    @property
    def batch(self) -> type[DecodeBatch]:
        """The decode batch whose tokens are rank 0's."""
        if self.group is None:
            return DecodeBatch
        return _agreeing(lambda tokens: self._of_first(tokens))

    def _of_first(self, tokens: mx.array) -> mx.array:
        own = tokens.astype(mx.uint32) if self.rank == 0 else mx.zeros(tokens.shape, mx.uint32)
        return mx.distributed.all_sum(own, group=self.group)


def _kinds(cache: Any) -> set[bool]:
    """Return whether what a layer keeps can be cut at any token."""
    return {type(leaf) is KVCache for leaf in flatten([cache])}


def _pipelined(model: Any) -> Any:
    """Return the module that has the layers.

    Raises:
        ValueError: mlx-lm has no pipeline for the model.
    """
    found = [module for module in model.modules() if isinstance(module, PipelineMixin)]
    if len(found) != 1:
        raise ValueError(f"mlx-lm has no pipeline for a {type(model).__module__.rpartition('.')[2]}")
    return found[0]


def _agreeing(agree: Callable[[mx.array], mx.array]) -> type[DecodeBatch]:
    class AgreeingBatch(DecodeBatch):
        """Takes the tokens that all ranks take."""

        def _sampled(self, logprobs: mx.array) -> mx.array:
            return agree(super()._sampled(logprobs))

    return AgreeingBatch
