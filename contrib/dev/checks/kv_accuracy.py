"""What storing KV in fewer bits costs: perplexity and top-1 agreement on SmolLM2, continued from a restored cache.

Usage: `SEMANTIC_MODELS_DIR=… python contrib/dev/checks/kv_accuracy.py [model folder]`. The first block of a text
is computed, stored in each precision, turned to bytes and back, and the rest is continued from what
was restored. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semanticd.adapters.mlx.platform.blas import load_fast_blas
from semanticd.application.ports.inference import DecodedToken, PrefixPart
from semanticd.domain.ids import ModelFingerprint, SequenceId
from semanticd.domain.model_cache_spec import StoragePrecision

if TYPE_CHECKING:
    from semanticd.adapters.mlx.model.runner import MlxModelRunner

BLOCK = 256
PRECISIONS: tuple[StoragePrecision, ...] = ("exact", "q8", "q4")

TEXT = """\
The harbour town had two clocks, and they had never agreed. The older one hung in the tower of the customs
house, where the keeper wound it every Monday and set it by the noon gun. The younger one stood in the
railway station and was set by telegraph from the capital. When the trains first came, the difference was
seven minutes, and nobody minded, because nobody in the town had ever needed to know the time as exactly as
that. Fishermen went out with the tide, shops opened when the shopkeeper had finished breakfast, and the
school began when the teacher rang the bell.

But a train does not wait for a tide. In the first summer, eleven people missed the morning express, and
every one of them had looked at the tower before leaving the house. The mayor called a meeting. The
stationmaster, a careful man with a white beard, explained that the time of the capital was now the time of
the whole country, that it was sent along a wire at the speed of lightning, and that it could not be wrong.
The keeper of the tower listened politely and then asked a question. If the sun stood highest over the
harbour at noon by his clock, and not by the other, which of the two was telling the time, and which was
only repeating what it had been told?

There was a long silence, and then everybody spoke at once. The baker wanted the station's time, because his
flour came by rail. The captain of the ferry wanted the tower's time, because the tides did. The teacher
proposed that the town should keep both, and that each clock should carry a sign saying what it was good
for. People laughed, but by the end of the evening nobody had a better idea, and so it was written down and
signed. A painter was found. Under the clock in the tower he wrote, in blue letters, SEA, and under the
clock in the station he wrote, in red letters, LAND.

For forty years the town lived by two times, and it did so without any trouble at all. Children learned the
difference before they learned to read. A wedding was held by the sea clock and the journey after it began
by the land clock. When a visitor asked what time it was, the answer was always another question: where are
you going? Only much later, when the ferry had stopped and the noon gun had been sold to a museum, did
somebody notice that the keeper had died in the spring, that no one had wound the clock in the tower since,
and that it had been standing still for months. By then its hands showed a quarter past four, and it was
right twice a day, which, as the old stationmaster liked to say, was exactly twice as often as a clock that
is seven minutes slow.
"""


def main() -> int:
    """Measure and print."""
    models = Path(os.environ.get("SEMANTIC_MODELS_DIR", "~/.semantic/models")).expanduser()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folder", type=Path, nargs="?", default=models / "smollm2-135m", help="a model's folder"
    )
    folder = parser.parse_args().folder
    load_fast_blas()  # before MLX is imported, or it is not used
    from semanticd.adapters.mlx.model.weights import load_tokenizer, load_weights
    from semanticd.application.ports.inference import finish_loading

    steps = load_weights(folder, device_is_cpu=_is_cpu(), available_bytes=8 << 30, on_progress=lambda _: None)
    model, _ = finish_loading(steps)
    text = "\n\n".join(" ".join(paragraph.split()) for paragraph in TEXT.split("\n\n"))
    ids: list[int] = load_tokenizer(folder).encode(text)
    runners = {precision: _runner(model, precision) for precision in PRECISIONS}
    running = _scores(runners["exact"], ids, restored=False)
    rows = [("not stored", runners["exact"].spec.running_bytes_per_token, running)]
    rows += [(p, r.spec.bytes_per_token, _scores(r, ids, restored=True)) for p, r in runners.items()]
    exact = rows[1][2]
    print(f"{len(ids)} tokens, {BLOCK} of them restored, {len(exact)} predicted; model {folder.name}\n")
    print(
        "| stored as | bytes per token | perplexity | top-1 as exact | largest change of a log-probability |"
    )
    print("|---|---|---|---|---|")
    for name, num_bytes, scores in rows:
        perplexity = math.exp(-sum(score.logprob or 0.0 for score in scores) / len(scores))
        pairs = list(zip(scores, exact, strict=True))
        agree = sum(one.top[0][0] == other.top[0][0] for one, other in pairs) / len(pairs)
        change = max(abs((one.logprob or 0.0) - (other.logprob or 0.0)) for one, other in pairs)
        print(f"| {name} | {num_bytes:,} | {perplexity:.4f} | {agree:.1%} | {change:.4f} |")
    return 0


def _is_cpu() -> bool:
    import mlx.core as mx

    return mx.default_device() == mx.Device(mx.cpu)


def _runner(model: Any, precision: StoragePrecision) -> MlxModelRunner:
    from semanticd.adapters.mlx.model.runner import MlxModelRunner

    return MlxModelRunner(
        model, fingerprint=ModelFingerprint("0" * 64), block_tokens=BLOCK, precision=precision
    )


def _scores(runner: MlxModelRunner, ids: list[int], *, restored: bool) -> list[DecodedToken]:
    """Return what the model thought of each token after the first block."""
    first = SequenceId(1)
    runner.open(first, prefix=(), state=None, capacity_tokens=len(ids))
    runner.prefill(first, ids[:BLOCK])
    if restored:
        payload = runner.restore(runner.dump(*runner.copy_blocks(first, [(0, BLOCK)])))
        runner.close(first)
        first = SequenceId(2)
        runner.open(first, prefix=[PrefixPart(payload, BLOCK)], state=None, capacity_tokens=len(ids))
    scores = runner.prefill_logprobs(first, ids[BLOCK:-1], targets=ids[BLOCK + 1 :], top=1)
    runner.close(first)
    return scores


if __name__ == "__main__":
    raise SystemExit(main())
