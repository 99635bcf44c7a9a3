"""Saying something to an agent from the daemon's own tools: one turn in its conversation, or in that of a fork.

Where the daemon keeps the conversation, the turn continues it. Where the agent's client keeps it, the daemon has the
text of the last prompt and answer; the turn is then rendered as what follows them, so that all of it stays cached. The
client knows nothing of such a turn, and will leave the cache there with its own next one: hence the fork.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from semanticd.application.generation.service import GenerateService
from semanticd.application.ports.inference import Tokenizer
from semanticd.application.services.agents import AgentsService
from semanticd.application.services.models import ModelsService
from semanticd.domain.agent import Agent, AgentConfig
from semanticd.domain.chat import ChatPrompt, Message, Prompt, TextPrompt
from semanticd.domain.errors import AgentNotFoundError, UnsupportedError
from semanticd.domain.generation import FinishReason, GenerationRequest, SamplingParams
from semanticd.domain.ids import AgentId, RequestId

_MARK = "semanticd-mark"
"""Stands for an earlier answer where it is asked what a template puts after one."""


@dataclass(frozen=True, slots=True)
class Said:
    """What an agent answered; `agent` is the fork, where one was made."""

    agent: str
    request: str
    model: str
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    ttft_ms: float


class Chat:
    """Takes turns with agents; asyncio thread."""

    def __init__(self, *, generate: GenerateService, agents: AgentsService, models: ModelsService) -> None:
        """Answer with `generate`."""
        self._generate = generate
        self._agents = agents
        self._models = models

    async def say(
        self, agent_id: str, text: str, *, fork: bool = False, max_tokens: int | None = None
    ) -> Said:
        """Say something and wait for the answer; its text also comes on the topic `tokens`. A new id is a new agent.

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
        prompt = await self._prompt(agent, text)
        request = GenerationRequest(
            RequestId(f"say-{secrets.token_hex(8)}"),
            model=agent.config.model or "",
            prompt=prompt,
            sampling=SamplingParams(max_tokens=max_tokens),
            agent_id=AgentId(agent.agent_id),
            conversation=isinstance(prompt, ChatPrompt),
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
        )

    async def _prompt(self, agent: Agent, text: str) -> Prompt:
        if agent.messages or not agent.transcript.segments:
            return ChatPrompt((Message.of("user", text),))
        async with self._models.lease(agent.config.model or "") as model:
            return TextPrompt(continued(model.tokenizer, agent.transcript.text, text))


def continued(tokenizer: Tokenizer, transcript: str, text: str) -> str:
    """Return a prompt's text and its answer, followed by a user's turn as the chat template writes it.

    Raises:
        UnsupportedError: The template writes earlier turns in another way once there are later ones.
    """
    before = (Message.of("user", "?"), Message.of("assistant", _MARK))
    earlier = tokenizer.render(ChatPrompt(before), add_generation_prompt=False)
    whole = tokenizer.render(ChatPrompt((*before, Message.of("user", text))))
    head, mark, closing = earlier.rpartition(_MARK)
    if not mark or not whole.startswith(head + mark):
        raise UnsupportedError(
            "the model's chat template does not show what follows an answer, so that a turn cannot be added to a "
            "conversation that a client keeps; start a conversation of the daemon's own with a new agent id"
        )
    # The transcript may hold the closing marker already, or a part of it: the model wrote it, or it did not.
    after = whole[len(head + mark) :]
    for length in range(len(closing), 0, -1):
        if transcript.endswith(closing[:length]):
            return transcript + after[length:]
    return transcript + after
