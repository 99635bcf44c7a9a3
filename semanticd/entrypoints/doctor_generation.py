"""Ten tokens for the doctor: from the running daemon's engine, or from one put together for the occasion."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from semanticd.adapters.config import Settings
from semanticd.application.generation.service import Generator
from semanticd.domain.chat import TextPrompt
from semanticd.domain.generation import GenerationRequest, SamplingParams
from semanticd.domain.ids import RequestId

_PROMPT = "The doctor says:"


async def generate_some(generator: Generator, *, num_tokens: int = 10) -> int:
    """Generate tokens with the current model; returns how many came."""
    request = GenerationRequest(
        RequestId("doctor"),
        model="",
        prompt=TextPrompt(_PROMPT),
        # An echoed prompt is no agent's turn: the examination leaves no agent behind.
        echo=True,
        sampling=SamplingParams(max_tokens=num_tokens, temperature=0.0, ignore_eos=True),
    )
    stream = await generator.open(request)
    return (await stream.result()).usage.completion_tokens


async def generate_here(settings: Settings, model: str, *, num_tokens: int) -> int:
    """Load the model in this process and generate; nothing is written to the user's cache."""
    from semanticd.adapters.mlx.platform.descriptors import import_mlx_lm

    import_mlx_lm()
    from semanticd.entrypoints.assembly import assemble
    from semanticd.entrypoints.bootstrap import close

    with tempfile.TemporaryDirectory(prefix="semanticd-doctor-") as folder:
        own = replace(settings, agent=replace(settings.agent, cache_dir=Path(folder) / "caches"))
        daemon = assemble(own, bus=_Nobody(), log=_Nobody(), state=lambda: "ready", facts={})
        try:
            daemon.engine.start()
            await daemon.models.load(model)
            return await generate_some(daemon.generate, num_tokens=num_tokens)
        finally:
            await asyncio.to_thread(close, daemon)


class _Nobody:
    """An event bus and a log that nobody reads."""

    def publish(self, topic: str, data: Mapping[str, object]) -> None:
        """Drop it."""

    def wanted(self, topic: str) -> bool:
        """Nobody listens."""
        return False

    def info(self, event: str, **fields: object) -> None:
        """Drop it."""

    def warning(self, event: str, **fields: object) -> None:
        """Drop it."""

    def error(self, event: str, **fields: object) -> None:
        """Drop it."""
