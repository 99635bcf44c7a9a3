"""What storing KV in fewer bits costs: a model continues texts from what was restored, in each storage precision.

Usage: `SEMANTIC_MODELS_DIR=… python contrib/dev/checks/kv_accuracy.py [model folder …]`. The first 1,792 tokens of
each text next to this script (prose, and code) are computed and stored in each precision, turned to bytes and
back, and the model predicts the following ones, by the text, from what was restored. Prints a Markdown table for
each model: bits per stored number; perplexity; the share of predictions whose most likely token is the one that
`exact` gives; the Kullback-Leibler divergence from `exact`, in thousandths of a nat. Layers that are not in blocks
(windows, states) are restored from a snapshot.

The figures do not depend on the machine's load.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from semanticd.adapters.mlx.platform.blas import load_fast_blas
from semanticd.application.ports.inference import PrefixPart
from semanticd.domain.model_cache_spec import StoragePrecision

if TYPE_CHECKING:
    from semanticd.adapters.mlx.model.kv_codec import KvCodec

BLOCK = 256
TEXTS = Path(__file__).with_name("texts")


@dataclass(frozen=True)
class Measured:
    """What a model makes of one text, continued from one kind of storage."""

    stored_as: str
    bits: float
    logprobs: np.ndarray[Any, np.dtype[np.float32]]
    """`[predicted tokens, vocabulary]`"""

    def row(self, text: str, exact: Measured, targets: list[int]) -> str:
        """Return the table's line."""
        perplexity = float(np.exp(-self.logprobs[np.arange(len(targets)), targets].mean()))
        agreed = float((self.logprobs.argmax(1) == exact.logprobs.argmax(1)).mean())
        probabilities = np.exp(exact.logprobs)
        divergence = float((probabilities * (exact.logprobs - self.logprobs)).sum(1).mean())
        figures = f"{self.bits:.2f} | {perplexity:.4f} | {agreed:.1%} | {1000 * divergence:.3f}"
        return f"| {text} | {self.stored_as} | {figures} |"


def main() -> int:
    """Measure and print."""
    models = Path(os.environ.get("SEMANTIC_MODELS_DIR", "~/.semantic/models")).expanduser()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folders", type=Path, nargs="*", default=[models / "smollm2-135m"], help="models' folders"
    )
    parser.add_argument("--restored", type=int, default=1792, help="tokens that are stored and restored")
    parser.add_argument("--predicted", type=int, default=606, help="tokens that are predicted behind them")
    given = parser.parse_args()
    load_fast_blas()  # before MLX is imported, or it is not used
    for folder in given.folders:
        print(f"{folder.name}: {given.restored:,} tokens restored, up to {given.predicted} predicted\n")
        print("| text | stored as | bits per number | perplexity | top-1 as exact | KL from exact / 1000 |")
        print("|---|---|---|---|---|---|")
        for line in _lines(folder, given.restored, given.predicted):
            print(line, flush=True)
        print()
    return 0


def _lines(folder: Path, num_restored: int, num_predicted: int) -> Iterator[str]:
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache

    from semanticd.adapters.mlx.model.kv_codec import KvCodec
    from semanticd.adapters.mlx.model.weights import load_tokenizer, load_weights
    from semanticd.application.ports.inference import finish_loading

    is_cpu = mx.default_device() == mx.Device(mx.cpu)
    steps = load_weights(folder, device_is_cpu=is_cpu, available_bytes=8 << 30, on_progress=lambda _: None)
    model, _ = finish_loading(steps)
    tokenizer = load_tokenizer(folder)
    probed = make_prompt_cache(model)
    mx.eval(model(mx.array([[0]]), cache=probed))
    codecs = {p: KvCodec(probed, precision=p) for p in get_args(StoragePrecision)}
    for path in sorted(TEXTS.glob("*.txt")):
        ids: list[int] = tokenizer.encode(path.read_text())[: num_restored + num_predicted + 1]
        caches = _computed(model, codecs["exact"], ids, num_restored)
        targets = ids[num_restored + 1 :]
        exact: Measured | None = None
        for precision, codec in codecs.items():
            restored, bits = _restored(model, codec, caches, ids, num_restored)
            measured = Measured(precision, bits, _predicted(model, restored, ids[num_restored:-1]))
            exact = exact or measured
            yield measured.row(path.stem, exact, targets)
        if exact is not None:
            # Last: it writes behind what the others were copied from.
            running = Measured("not stored", exact.bits, _predicted(model, caches, ids[num_restored:-1]))
            yield running.row(path.stem, exact, targets)


def _spans(num_tokens: int) -> list[tuple[int, int]]:
    return [(start, min(start + BLOCK, num_tokens)) for start in range(0, num_tokens, BLOCK)]


def _computed(model: Any, codec: KvCodec, ids: list[int], num_tokens: int) -> list[Any]:
    """Return caches that hold the first tokens, as the engine computes them."""
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache

    from semanticd.adapters.mlx.model.kv_codec import flatten

    caches = codec.assemble(make_prompt_cache(model), prefix=(), state=None, capacity=len(ids))
    for start, end in _spans(num_tokens):
        model(mx.array([ids[start:end]]), cache=caches)
        mx.eval([leaf.state for leaf in flatten(caches)])
    return caches


def _restored(
    model: Any, codec: KvCodec, caches: list[Any], ids: list[int], num_tokens: int
) -> tuple[list[Any], float]:
    """Return caches that were stored and restored, and the bits that a number took meanwhile."""
    from mlx_lm.models.cache import make_prompt_cache

    from semanticd.adapters.mlx.model.kv_codec import slotted

    blocks = codec.copy_blocks(caches, row=0, spans=_spans(num_tokens))
    numbers = sum(array[:, :, :num_tokens].size for leaf in slotted(caches) for array in leaf.state)
    state = codec.copy_state(caches, row=0)
    again = codec.assemble(
        make_prompt_cache(model),
        prefix=[
            PrefixPart(codec.restore(codec.dump(block)), end - start)
            for block, (start, end) in zip(blocks, _spans(num_tokens), strict=True)
        ],
        state=None if state is None else codec.restore(codec.dump(state)),
        capacity=len(ids),
    )
    return again, 8 * sum(block.num_bytes for block in blocks) / numbers


def _predicted(model: Any, caches: list[Any], ids: list[int]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the log-probabilities of all tokens behind each of these."""
    import mlx.core as mx

    logits = model(mx.array([ids]), cache=caches)[0].astype(mx.float32)
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    return np.array(logprobs)


if __name__ == "__main__":
    raise SystemExit(main())
