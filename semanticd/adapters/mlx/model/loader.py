"""MlxModelLoader: from a model's folder to something the engine can run."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.utils import load_config

from semanticd.adapters.mlx.constraints.compile import ConstraintCompiler
from semanticd.adapters.mlx.model import latent_attention
from semanticd.adapters.mlx.model.chunk_traits import chunk_traits
from semanticd.adapters.mlx.model.decode_batch import DecodeBatch
from semanticd.adapters.mlx.model.runner import Decoding, MlxModelRunner
from semanticd.adapters.mlx.model.weights import (
    compute_dtype,
    load_tokenizer,
    load_weights,
    packed_bytes_if_wide,
)
from semanticd.adapters.mlx.platform import cpu_math
from semanticd.adapters.mlx.text.tokenizer import MlxTokenizer
from semanticd.application.ports.inference import LoadedModel
from semanticd.application.ports.models import InstalledModel
from semanticd.application.ports.telemetry import Log, NullLog
from semanticd.domain.errors import ModelLoadError
from semanticd.domain.generation import OutputConstraint
from semanticd.domain.ids import ModelId
from semanticd.domain.memory_plan import WeightRoom, packed_on_cpu
from semanticd.domain.model_cache_spec import StoragePrecision

if TYPE_CHECKING:  # loaded where a model is spread over machines, and nowhere else
    from semanticd.adapters.mlx.model.sharding import Ring, Spread

_SLICE_S = 0.005
"""Maximum wait of a check's step for the data that is read alongside it."""
_HALF_ON_CPU = "float32 does not fit, and this is many times slower; give it more memory or a quantized model"


@dataclass(frozen=True, slots=True)
class ComputeOptions:
    """Options of computing models."""

    cpu_math: bool = True
    """Whether models on the CPU get functions of our own."""
    max_drafts: int = 0
    """Tokens that are guessed and verified in one step, at most; 0: none are guessed."""
    ring: Ring | None = None
    """This process's place among the ranks that compute a model together; None: it computes it alone."""


class MlxModelLoader:
    """Loads models for one engine; called on the engine thread."""

    def __init__(
        self,
        *,
        block_tokens: int,
        precision: StoragePrecision,
        room: WeightRoom,
        canonicalize: bool = True,
        literal_content: bool = True,
        compute: ComputeOptions = ComputeOptions(),
        log: Log | None = None,
    ) -> None:
        """`room` says how much memory weights may take now that are made wider for a CPU."""
        self._block_tokens = block_tokens
        self._precision: StoragePrecision = precision
        self._room = room
        self._canonicalize = canonicalize
        self._literal_content = literal_content
        self._compute = compute
        self._log = log or NullLog()

    def load(
        self, installed: InstalledModel, *, on_progress: Callable[[float], None]
    ) -> Generator[None, None, LoadedModel]:
        """Load weights and tokenizer, a slice each time it is advanced.

        Raises:
            ModelLoadError: The model cannot be loaded.
        """
        path = Path(installed.path)
        device_is_cpu = mx.default_device() == mx.Device(mx.cpu)
        trusted = installed.entry.trust_remote_code
        token_bytes = installed.footprint().token_bytes("exact", kind="cpu")
        ring = self._compute.ring
        reading = load_weights(
            path,
            device_is_cpu=device_is_cpu,
            available_bytes=self._room.available_bytes(token_bytes) * self._num_ranks,
            on_progress=on_progress,
            trust_remote_code=trusted,
            spread=ring.spread if ring is not None else None,
        )
        yield next(reading)
        with ThreadPoolExecutor(1, thread_name_prefix="semanticd-tokenizer") as beside:
            # Reading weights leaves Python's lock alone; reading a tokenizer holds it, a quarter of a second or more.
            reading_text = beside.submit(
                load_tokenizer, path, config=load_config(path), trust_remote_code=trusted
            )
            model, config = yield from reading
            wrapper = reading_text.result()
        yield
        computes_in = compute_dtype(model)
        warning = None
        if device_is_cpu and computes_in != "float32":
            warning = _HALF_ON_CPU
            self._log.warning(
                "half_precision_on_cpu", model=installed.model_id, dtype=computes_in, reason=warning
            )
        wide_bytes = packed_bytes_if_wide(model) if device_is_cpu else None
        if wide_bytes is not None:
            warning = packed_on_cpu(self._room.missing_bytes(wide_bytes, token_bytes))
            self._log.warning("packed_weights_on_cpu", model=installed.model_id, reason=warning)
        bounds_scores = latent_attention.install(model)
        if device_is_cpu and self._compute.cpu_math:
            cpu_math.install(model)
            bounds_scores = True
        tokenizer = self._tokenizer(installed, wrapper, model_type=str(config.get("model_type", "")))
        runner = MlxModelRunner(
            model,
            fingerprint=installed.fingerprint,
            block_tokens=self._block_tokens,
            precision=self._precision,
            decoding=Decoding(
                self._processors(tokenizer.constraints),
                self._compute.max_drafts,
                batch=DecodeBatch if ring is None else ring.batch,
            ),
            pooling=installed.pooling,
            chunks=chunk_traits(config, device_is_cpu=device_is_cpu, bounds_scores=bounds_scores),
        )
        yield
        tokenizer.warm_up()
        yield
        runner.warm_up()
        weights: Any = tree_flatten(model.parameters())
        return LoadedModel(
            model_id=ModelId(installed.model_id),
            fingerprint=installed.fingerprint,
            runner=runner,
            tokenizer=tokenizer,
            context_length=installed.context_length,
            defaults=installed.defaults,
            settings_digest=installed.settings_digest,
            weights_bytes=sum(array.nbytes for _, array in weights),
            description={
                "device": "cpu" if device_is_cpu else "gpu",
                "compute_dtype": computes_in,
                "model_type": config.get("model_type"),
                **({"layers": ring.layers_of(model)} if ring is not None else {}),
                **({"warning": warning} if warning is not None else {}),
                # The template decides, unless an entry of the configuration does.
                "thinks": tokenizer.thinks if installed.entry.thinking is None else installed.entry.thinking,
            },
        )

    @property
    def _num_ranks(self) -> int:
        return self._compute.ring.world_size if self._compute.ring is not None else 1

    def text(self, installed: InstalledModel) -> MlxTokenizer:
        """Read a model's tokenizer alone.

        Raises:
            ModelLoadError: The tokenizer cannot be loaded.
        """
        path, trusted = Path(installed.path), installed.entry.trust_remote_code
        config = load_config(path)
        wrapper = load_tokenizer(path, config=config, trust_remote_code=trusted)
        tokenizer = self._tokenizer(installed, wrapper, model_type=str(config.get("model_type", "")))
        tokenizer.warm_up()
        return tokenizer

    def spread_of(self, installed: InstalledModel, *, world_size: int) -> Spread:
        """Return how this number of ranks computes a model.

        Raises:
            ModelLoadError: The model cannot be spread over that many ranks.
        """
        from semanticd.adapters.mlx.model.sharding import spread_of

        return spread_of(load_config(Path(installed.path)), name=installed.model_id, world_size=world_size)

    def has_experts(self, installed: InstalledModel) -> bool:
        """Return whether a model routes tokens to experts."""
        from semanticd.adapters.mlx.model.sharding import has_experts

        return has_experts(load_config(Path(installed.path)))

    def check(self, installed: InstalledModel) -> Generator[None, None, None]:
        """Read configuration, tokenizer and the shapes of all weights, and drop them; see the port."""
        path, trusted = Path(installed.path), installed.entry.trust_remote_code
        reading = load_weights(
            path, device_is_cpu=False, available_bytes=0, on_progress=_unheard, trust_remote_code=trusted
        )
        yield next(reading)
        reading.close()
        config = load_config(path)
        with ThreadPoolExecutor(1, thread_name_prefix="semanticd-tokenizer") as beside:
            reading_text = beside.submit(load_tokenizer, path, config=config, trust_remote_code=trusted)
            while wait([reading_text], timeout=_SLICE_S).not_done:
                yield
            wrapper = reading_text.result()
        self._tokenizer(installed, wrapper, model_type=str(config.get("model_type", "")))

    def _tokenizer(self, installed: InstalledModel, wrapper: Any, *, model_type: str) -> MlxTokenizer:
        try:
            return MlxTokenizer(
                wrapper,
                model_type=model_type,
                tool_parser=installed.entry.tool_parser,
                canonicalize=self._canonicalize,
                literal_content=self._literal_content,
            )
        except ValueError as error:
            raise ModelLoadError(
                f"cannot load {installed.model_id}: `tool_parser` of its entry in your configuration is wrong: {error}"
            ) from error

    @staticmethod
    def _processors(compiler: ConstraintCompiler) -> Callable[[OutputConstraint, int], Any]:
        def make(constraint: OutputConstraint, num_context: int) -> Any:
            return compiler.processor(constraint, num_context=num_context)

        return make


def _unheard(share: float) -> None:
    """Report no progress of a check: it takes less than a second."""
