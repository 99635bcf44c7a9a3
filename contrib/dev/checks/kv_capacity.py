"""How many tokens of KV fit into memory with a model: tables for well-known models, from their configs.

Usage: `python contrib/dev/checks/kv_capacity.py`, with `--links` how quickly a peer's blocks come, and for a model of
your own the same with its shape, which is in its `config.json`: `--name NAME --layers 32 --heads 8 --key 128
--value 128 --weights-gb 4.5`.

A token costs, in every layer that keeps all positions, `heads x (key + value)` numbers. Exact means 16 bits a
number; q8, q6 (8 for keys, 4 for values) and q4 add a scale and an offset of 16 bits for every 64 numbers. Layers
with a window keep a snapshot instead, which does not grow.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields

from semanticd.domain.memory_plan import ModelFootprint, device_memory, fit

GIB = 1024**3
BITS = {"exact": 16.0, "q8": 8 + 32 / 64, "q6": 6 + 32 / 64, "q4": 4 + 32 / 64}
MEMORIES = (16, 24, 64)
FRAMES = 1448 / 1538
"""What of a wire's bits is TCP's payload, with frames of 1,500 bytes."""
LINKS = {
    "1 GbE": 1e9 * FRAMES / 8,
    "2.5 GbE": 2.5e9 * FRAMES / 8,
    "10 GbE": 10e9 * FRAMES / 8,
    # A third-party measurement; see docs/scaling.md.
    "Thunderbolt 4": 16.4e9 / 8,
}
"""Bytes per second."""
LONG = 32_768
"""Tokens of a long conversation."""


@dataclass(frozen=True)
class Model:
    """What decides the cost: full-attention layers, KV heads, numbers per head for key and value, weights in GB."""

    name: str
    layers: int
    heads: int
    key: int
    value: int
    weights_gb: float

    def bytes_per_token(self, precision: str) -> int:
        """Stored bytes of one position."""
        return int(self.layers * self.heads * (self.key + self.value) * BITS[precision] / 8)


MODELS = (
    Model("SmolLM2 135M", 30, 3, 64, 64, 0.3),
    Model("Llama 3.2 3B", 28, 8, 128, 128, 1.8),
    Model("Llama 3.1 8B", 32, 8, 128, 128, 4.5),
    Model("Qwen3 8B", 36, 8, 128, 128, 4.6),
    Model("Qwen3 30B-A3B", 48, 4, 128, 128, 17.2),
    # A latent and a rotary key a layer; see `adapters/mlx/model/latent_attention.py`.
    Model("DeepSeek-Coder-V2-Lite", 27, 1, 512, 64, 8.8),
    # One layer in six keeps all positions, the others 1,024.
    Model("Gemma 3 12B", 8, 8, 256, 256, 7.4),
    # Every other layer keeps all positions, the others 128.
    Model("gpt-oss-20b", 12, 8, 64, 64, 12.1),
)


def fitting(model: Model, precision: str, memory: int) -> str:
    """Return how many tokens fit on a Mac with so many GiB, rounded down to thousands; `-`: the model does not fit."""
    exact = ModelFootprint(
        name=model.name,
        weights_bytes=int(model.weights_gb * 1e9),
        kv_bytes_per_token=model.bytes_per_token("exact"),
    )
    found = fit(device_memory("metal", memory * GIB), exact)
    return f"{found.kv_bytes // model.bytes_per_token(precision) // 1000 * 1000:,}" if found.fits else "-"


def show(models: Sequence[Model]) -> None:
    """Print both tables."""
    print("| model | layers x heads x (key + value) | exact | q8 | q6 | q4 |\n|---|---|---|---|---|---|")
    for model in models:
        costs = " | ".join(f"{model.bytes_per_token(p):,}" for p in BITS)
        print(f"| {model.name} | {model.layers} x {model.heads} x ({model.key} + {model.value}) | {costs} |")
    heads = " | ".join(f"{memory} GB, {p}" for memory in MEMORIES for p in ("exact", "q4"))
    print(f"\n| model (weights) | {heads} |\n|---|{'---|' * 6}")
    for model in models:
        cells = " | ".join(fitting(model, p, memory) for memory in MEMORIES for p in ("exact", "q4"))
        print(f"| {model.name} ({model.weights_gb} GB) | {cells} |")


def show_links(models: Sequence[Model]) -> None:
    """Print how many tokens of KV a second come over a link, and how long those of a long conversation take."""
    print(f"| model, stored as | {' | '.join(LINKS)} |\n|---|{'---|' * len(LINKS)}")
    for model in models:
        for precision in ("exact", "q4"):
            rates = [link / model.bytes_per_token(precision) for link in LINKS.values()]
            cells = " | ".join(f"{round(rate / 100) * 100:,} ({LONG / rate:.1f} s)" for rate in rates)
            print(f"| {model.name}, {precision} | {cells} |")


def main() -> int:
    """Show the well-known models, or the one that the options describe."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", default="yours")
    parser.add_argument("--layers", type=int, help="layers that keep all positions")
    parser.add_argument("--heads", type=int, help="KV heads")
    parser.add_argument("--key", type=int, help="numbers of a head's key")
    parser.add_argument("--value", type=int, help="numbers of a head's value")
    parser.add_argument("--weights-gb", type=float, help="size of the weights")
    parser.add_argument("--links", action="store_true", help="show how quickly blocks come over a network")
    shape = vars(parser.parse_args())
    table = show_links if shape.pop("links") else show
    given = [name for name, value in shape.items() if name != "name" and value is not None]
    if given and len(given) < len(fields(Model)) - 1:
        parser.error("a model needs --layers, --heads, --key, --value and --weights-gb")
    table([Model(**shape)] if given else MODELS)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
