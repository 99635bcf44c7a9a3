"""TurnRecorder: what is written down of a request while its events pass: log, metrics, savings, the conversation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from semanticd.application.cache.agent_registry import AgentRegistry
from semanticd.application.engine.loop import BlockPoolBatchEngine
from semanticd.application.ports.telemetry import Log, Metrics
from semanticd.application.services.history import History
from semanticd.application.services.savings import Savings
from semanticd.domain.agent import Agent
from semanticd.domain.chat import Message, Part, TextPart, ThinkingPart
from semanticd.domain.errors import ConflictError
from semanticd.domain.generation import Finished, GenerationRequest, GenerationResult, Started
from semanticd.domain.ids import AgentId, ModelId, RequestId


class TurnRecorder:
    """Records requests; the event loop's thread."""

    def __init__(
        self,
        *,
        engine: BlockPoolBatchEngine,
        agents: AgentRegistry,
        metrics: Metrics,
        log: Log,
        savings: Savings,
        history: History,
    ) -> None:
        """Write into these."""
        self._engine = engine
        self._agents = agents
        self._metrics = metrics
        self._log = log
        self._savings = savings
        self._history = history
        self._in_turn: dict[AgentId, RequestId] = {}

    def begin_turn(self, agent_id: AgentId, request_id: RequestId) -> None:
        """Begin a turn of a conversation that the server keeps; raises `ConflictError` while another is under way."""
        other = self._in_turn.setdefault(agent_id, request_id)
        if other != request_id:
            raise ConflictError(
                f"agent {agent_id!r} is answering request {other}: its turns follow one another; wait for the answer "
                "or cancel it"
            )

    def end_turn(self, agent_id: AgentId, request_id: RequestId) -> None:
        """End a turn, whatever became of it; harmless for a request that is in none."""
        if self._in_turn.get(agent_id) == request_id:
            del self._in_turn[agent_id]

    def started(self, started: Started) -> None:
        """Record what the cache was good for."""
        cache, miss = started.cache, started.cache.miss
        rate = self._engine.prefill_rate(started.model)
        self._savings.started(started.agent_id, cache, prefill_tokens_per_s=rate)
        self._log.info(
            "prompt_cache",
            request_id=started.request_id,
            agent=started.agent_id,
            hot=cache.reused_hot_tokens,
            warm=cache.restored_warm_tokens,
            computed=cache.computed_tokens,
            miss=miss.cause if miss else None,
            miss_at=miss.position if miss else None,
            canonicalized=cache.canonicalized,
        )

    def finished(self, finished: Finished) -> None:
        """Record what a choice cost."""
        self._history.finished(finished.usage)

    def answered(self, request: GenerationRequest, agent_id: AgentId, result: GenerationResult) -> None:
        """Append the turn to a conversation that the server keeps."""
        if not request.conversation:
            return
        prompt: Any = request.prompt
        choice = result.choices[0]
        parts: list[Part] = [ThinkingPart(choice.thinking)] if choice.thinking else []
        parts += [TextPart(choice.text)] if choice.text or not choice.tool_calls else []
        parts += list(choice.tool_calls)
        answer = Message("assistant", tuple(parts))

        def change(agent: Agent) -> Agent:
            # The configured system text is put in front each time; what the client sent itself belongs here.
            configured = Message.of("system", agent.config.system or "")
            messages = tuple(message for message in prompt.messages if message != configured)
            if prompt.prefill is not None:
                begun = messages[-1]
                return replace(
                    agent, messages=(*messages[:-1], replace(begun, parts=(*begun.parts, *answer.parts)))
                )
            return replace(agent, messages=(*messages, answer))

        self._agents.update(agent_id, change)

    def parse_failures(self, request_id: RequestId, model_id: ModelId, num_calls: int) -> None:
        """Record tool calls that could not be read."""
        self._metrics.count("tool_parse_failures_total", num_calls)
        self._log.warning("tool_call_not_parsed", request_id=request_id, model=model_id, calls=num_calls)
