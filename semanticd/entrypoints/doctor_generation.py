"""Ten tokens for the doctor: from the running daemon's engine, or from one put together for the occasion."""

from __future__ import annotations

from semanticd.adapters.config import Settings
from semanticd.application.generation.service import Generator
from semanticd.domain.chat import TextPrompt
from semanticd.domain.generation import GenerationRequest, SamplingParams
from semanticd.domain.ids import RequestId
from semanticd.entrypoints.temporary_daemon import TemporaryDaemon

_PROMPT = "The doctor says:"


async def generate_some(generator: Generator, *, num_tokens: int = 10) -> int:
    """Generate tokens with the current model; returns how many came."""
    request = GenerationRequest(
        RequestId("doctor"),
        model="",
        prompt=TextPrompt(_PROMPT),
        # An echoed prompt is not a turn of an agent: the check leaves no agent behind.
        echo=True,
        sampling=SamplingParams(max_tokens=num_tokens, temperature=0.0, ignore_eos=True),
    )
    stream = await generator.open(request)
    return (await stream.result()).usage.completion_tokens


async def generate_here(settings: Settings, model: str, *, num_tokens: int) -> int:
    """Load the model in this process and generate; nothing is written to the user's cache."""
    async with TemporaryDaemon(settings, model) as daemon:
        return await generate_some(daemon.parts.generate, num_tokens=num_tokens)
