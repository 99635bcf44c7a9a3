"""TurnRecorder: records a request while its events pass: log, metrics, savings, the conversation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from semanticd.application.cache.agent_registry import AgentRegistry
from semanticd.application.engine.loop import BlockPoolBatchEngine
from semanticd.application.ports.telemetry import GEN_AI_PROVIDER, Log, Metrics
from semanticd.application.services.history import History
from semanticd.application.services.saving import SAVED_WITHIN_S, saved_within
from semanticd.application.services.savings import Savings
from semanticd.domain.agent import Agent
from semanticd.domain.chat import Message, Part, TextPart, ThinkingPart
from semanticd.domain.errors import AgentBusyError, AgentNotFoundError
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
        self._engine = engine
        self._agents = agents
        self._metrics = metrics
        self._log = log
        self._savings = savings
        self._history = history
        self._in_turn: dict[AgentId, RequestId] = {}
        self.saved_within_s = SAVED_WITHIN_S
        """Maximum time that the end of a turn waits for the disk, in seconds."""

    def begin_turn(self, agent_id: AgentId, request_id: RequestId) -> None:
        """Begin a turn of a conversation that the server keeps.

        Raises:
            AgentBusyError: Another turn is in progress.
        """
        other = self._in_turn.setdefault(agent_id, request_id)
        if other != request_id:
            raise AgentBusyError(agent_id, other)

    def end_turn(self, agent_id: AgentId, request_id: RequestId) -> None:
        """End a turn with any outcome; has no effect on a request without a turn."""
        if self._in_turn.get(agent_id) == request_id:
            del self._in_turn[agent_id]

    def started(self, started: Started) -> None:
        """Record the reuse of the prompt."""
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

    def finished(self, request: GenerationRequest, model_id: ModelId, finished: Finished) -> None:
        """Record the cost of a choice."""
        self._history.finished(finished.usage)
        usage, cache, timings = finished.usage, finished.usage.cache, finished.usage.timings
        labels = {
            "gen_ai_operation_name": request.operation,
            "gen_ai_provider_name": GEN_AI_PROVIDER,
            "gen_ai_response_model": str(model_id),
        }
        seconds = {"request_duration": timings.total_ms}
        if usage.completion_tokens:
            seconds["time_to_first_token"] = timings.ttft_ms
        if usage.completion_tokens > 1:
            seconds["time_per_output_token"] = timings.decode_ms / (usage.completion_tokens - 1)
        for name, value_ms in seconds.items():
            self._metrics.observe(f"gen_ai_server_{name}_seconds", value_ms / 1000, **labels)
        first = finished.choice == 0
        for name, num_tokens in (
            # The choices of a request have one prompt.
            ("input", usage.prompt_tokens if first else 0),
            ("cache_read_input", cache.reused_hot_tokens + cache.restored_warm_tokens if first else 0),
            ("output", usage.completion_tokens),
            ("reasoning_output", usage.reasoning_tokens),
        ):
            self._metrics.count(f"gen_ai_client_inference_usage_{name}_tokens_total", num_tokens, **labels)

    def answered(self, request: GenerationRequest, agent_id: AgentId, result: GenerationResult) -> None:
        """Append the turn to a conversation that the server keeps as messages."""
        if not request.conversation or request.follows_text:
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

        try:
            self._agents.update(agent_id, change)
        except AgentNotFoundError:
            # Deleted since its last token: the answer is the client's all the same, and nothing of it is kept.
            self._log.info("deleted_agent_answered", agent=agent_id)

    async def is_kept(self, request: GenerationRequest, agent_id: AgentId) -> bool:
        """Wait until the disk has the turn of a conversation that the server keeps; returns whether it has.

        Only the server could repeat the turn, so that a crash right behind the answer must not take it.
        """
        if not request.conversation:
            return True
        kept = await saved_within(self._agents.is_saved(agent_id), self.saved_within_s)
        if not kept:
            self._log.warning("turn_not_stored", request_id=request.request_id, agent=agent_id)
        return kept

    def parse_failures(self, request_id: RequestId, model_id: ModelId, num_calls: int) -> None:
        """Record tool calls that could not be read."""
        self._metrics.count("tool_parse_failures_total", num_calls)
        self._log.warning("tool_call_not_parsed", request_id=request_id, model=model_id, calls=num_calls)
