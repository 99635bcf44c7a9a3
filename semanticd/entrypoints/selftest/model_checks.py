"""Checks of one loaded model: its text, and its memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from semanticd.adapters.config import Settings
from semanticd.application.ports.inference import Tokenizer
from semanticd.application.ports.models import InstalledModel, PullProgress
from semanticd.domain.memory_plan import DeviceKind, in_gb
from semanticd.entrypoints.model_fit import open_registry, refuse_what_never_fits
from semanticd.entrypoints.selftest.outcome import Outcome, fail, ok, warn
from semanticd.entrypoints.temporary_daemon import TemporaryDaemon

_TEXTS = (
    "two words, and then some more.",
    "def f(x):\n    return {'a': [x,  1]}\n\n\tend",
    "  spaces at both ends  ",
    "emoji 🦊👩‍💻 and 中文汉字 日本語 한국어",
    "3141592653589793238462643383279502884197",
    '{"path": "C:\\\\temp", "ok": true}',
)
_MORE_THAN_PLANNED = 1.1
_SLACK_BYTES = 64 << 20
_LEFT_BEHIND_BYTES = 256 << 20
_FLOAT32_BITS = 32


def check_tokenizer(tokenizer: Tokenizer) -> Outcome:
    """Check that text survives encoding and decoding, as a whole and in pieces."""
    num_read = 0
    for text in _TEXTS:
        ids = tokenizer.encode(text)
        back = tokenizer.decode(ids)
        # Some write a space before the first word.
        if text not in (back, back.removeprefix(" ")):
            if not _is_known(tokenizer, text):
                continue  # a vocabulary without these characters
            return fail(f"the tokenizer decodes {text!r} as {back!r}")
        decoder = tokenizer.stream_decoder()
        pieces = "".join(decoder.add(token) for token in ids) + decoder.finish()
        if pieces.strip() != text.strip():
            return fail(f"token by token, {text!r} is written as {pieces!r}")
        num_read += 1
    if num_read < len(_TEXTS) // 2:
        return warn(f"the vocabulary holds {num_read} of {len(_TEXTS)} texts", num_texts=num_read)
    return ok(f"{num_read} texts are decoded unchanged", num_texts=num_read)


def _is_known(tokenizer: Tokenizer, text: str) -> bool:
    """Return whether the vocabulary covers each character of a text; it must cover ASCII."""
    others = {character for character in text if not character.isascii()}
    return all(character in tokenizer.decode(tokenizer.encode(character)) for character in others)


@dataclass(frozen=True, slots=True)
class LoadFigures:
    """The memory and time of loading, compared with the plan. All sizes in bytes."""

    took_s: float
    planned_bytes: int
    weights_bytes: int
    active_bytes: int
    peak_bytes: int
    footprint_bytes: int


def planned_bytes(model: InstalledModel, kind: DeviceKind) -> int:
    """Return what the plan expects of a model's weights; a CPU may make them float32."""
    size = model.footprint().weights_bytes
    if kind != "cpu" or not model.weight_bits:
        return size
    return size * max(_FLOAT32_BITS // model.weight_bits, 1)


def judge_load(found: LoadFigures) -> Outcome:
    """Judge what a model took: fail where its weights take more than the plan lets them."""
    figures = {name: getattr(found, name) for name in LoadFigures.__dataclass_fields__}
    figures["took_s"] = round(found.took_s, 2)
    taken = max(found.weights_bytes, found.active_bytes)
    text = (
        f"loaded in {found.took_s:.1f} s: weights {in_gb(found.weights_bytes)} of {in_gb(found.planned_bytes)} "
        f"planned, peak {in_gb(found.peak_bytes)}, process {in_gb(found.footprint_bytes)}"
    )
    if taken > found.planned_bytes * _MORE_THAN_PLANNED + _SLACK_BYTES:
        return fail(f"{text}; what is in use, {in_gb(taken)}, is more than planned", **figures)
    if found.active_bytes > found.weights_bytes + _LEFT_BEHIND_BYTES:
        left = found.active_bytes - found.weights_bytes
        return warn(f"{text}; loading left {in_gb(left)} behind", **figures)
    return ok(text, **figures)


async def check_model(settings: Settings, model: str, *, progress: Callable[[str, float], None]) -> Outcome:
    """Check that the model is installed; downloads or converts it otherwise, as a daemon's start does."""
    refuse_what_never_fits(settings, model)
    registry = open_registry(settings)

    def report(done: PullProgress) -> None:
        progress(done.stage, done.done_bytes / done.total_bytes if done.total_bytes else 0.0)

    began = time.perf_counter()
    found = await asyncio.to_thread(registry.pull, model, report)
    took_s = time.perf_counter() - began
    bits = f", {found.weight_bits} bits" if found.weight_bits else ""
    return ok(
        f"{found.model_id}: {in_gb(found.size_bytes)}{bits}, context {found.context_length}",
        size_bytes=found.size_bytes,
        weight_bits=found.weight_bits,
        fingerprint=found.fingerprint[:16],
        took_s=round(took_s, 2),
    )


async def check_load(daemon: TemporaryDaemon) -> Outcome:
    """Start the engine and load the model; how long that takes, and how much memory."""
    from semanticd.adapters.mlx.platform.counters import read_memory, reset_peak

    reset_peak()
    before = read_memory()
    began = time.perf_counter()
    await daemon.start()
    took_s = time.perf_counter() - began
    now = await daemon.on_engine(read_memory)
    installed = daemon.installed()
    return judge_load(
        LoadFigures(
            took_s=took_s,
            planned_bytes=planned_bytes(installed, daemon.parts.device.kind),
            weights_bytes=daemon.loaded.weights_bytes,
            active_bytes=now.active_bytes - before.active_bytes,
            peak_bytes=now.peak_bytes - before.active_bytes,
            footprint_bytes=now.footprint_bytes,
        )
    )
