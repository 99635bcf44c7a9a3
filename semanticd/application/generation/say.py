"""Saying something to an agent from the daemon's own tools: one turn in its conversation, or in that of a fork.

Where the daemon keeps the conversation, the turn continues it. Where the agent's client keeps it, the turn follows the
text of the last prompt and answer, see `continued`. The client knows nothing of such a turn, and will leave the cache
there with its own next one: hence the fork.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from semanticd.application.generation.service import GenerateService
from semanticd.application.services.agents import AgentsService
from semanticd.domain.agent import AgentConfig
from semanticd.domain.chat import ChatPrompt, Message
from semanticd.domain.errors import AgentNotFoundError
from semanticd.domain.generation import FinishReason, GenerationRequest, SamplingParams
from semanticd.domain.ids import AgentId, RequestId


@dataclass(frozen=True, slots=True)
class Said:
    """An agent's answer; `agent` is the fork, where one was made."""

    agent: str
    request: str
    model: str
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    ttft_ms: float
    unsaved: bool = False
    """Whether the turn is in memory only: the disk refused it, or is not done in time."""


class Chat:
    """Takes turns with agents; asyncio thread."""

    def __init__(self, *, generate: GenerateService, agents: AgentsService) -> None:
        """Answer with `generate`."""
        self._generate = generate
        self._agents = agents

    async def say(
        self, agent_id: str, text: str, *, fork: bool = False, max_tokens: int | None = None
    ) -> Said:
        """Send a message and wait for the answer; its text also comes on the topic `tokens`. A new id is a new agent.

        Raises:
            UnsupportedError: The model's template does not show where a turn of an agent's own text ends.
            SemanticError: The request was not admitted, or failed.
        """
        try:
            agent = await self._agents.agent(agent_id)
        except AgentNotFoundError:
            await self._agents.create(agent_id, AgentConfig())
            agent = await self._agents.agent(agent_id)
        if fork:
            agent = await self._agents.agent((await self._agents.fork(agent_id)).id)
        request = GenerationRequest(
            RequestId(f"say-{secrets.token_hex(8)}"),
            model=agent.config.model or "",
            prompt=ChatPrompt((Message.of("user", text),)),
            sampling=SamplingParams(max_tokens=max_tokens),
            agent_id=AgentId(agent.agent_id),
            conversation=True,
            priority=agent.config.priority,
        )
        stream = await self._generate.open(request)
        result = await stream.result()
        usage, choice = result.usage, result.choices[0]
        return Said(
            agent=agent.agent_id,
            request=request.request_id,
            model=result.model,
            text=choice.text,
            finish_reason=choice.reason,
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cache.cached_tokens,
            completion_tokens=usage.completion_tokens,
            ttft_ms=usage.timings.ttft_ms,
            unsaved=usage.is_unsaved,
        )
