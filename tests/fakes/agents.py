"""Agents for tests: one that has something in every field."""

from __future__ import annotations

from semanticd.domain.agent import Agent, AgentConfig, Turn
from semanticd.domain.chat import Message, TextPart, ThinkingPart, ToolCallPart, ToolResultPart, ToolSpec
from semanticd.domain.generation import CacheMiss, CacheReport, Timings
from semanticd.domain.ids import AgentId, BlockHash, ModelFingerprint, RequestId
from semanticd.domain.transcript import Segment, Transcript


def make_turn(number: int) -> Turn:
    """Return a turn, identified by its number."""
    return Turn(
        request_id=RequestId(f"req-{number}"),
        finished_at=100.0 + number,
        prompt_tokens=10 * number,
        completion_tokens=number,
        num_segments=2 * number + 2,
        cache=CacheReport(prompt_tokens=10, computed_tokens=10, miss=CacheMiss(3, "template", "a", "b")),
        timings=Timings(ttft_ms=1.5, total_ms=2),
        finish_reason="stop",
    )


def full_agent(agent_id: str = "agent:a") -> Agent:
    """Return an agent with a transcript, messages of every kind, turns and blocks."""
    tool = ToolSpec(
        "search", "Finds.", {"type": "object", "properties": {"q": {"type": "string"}}}, strict=True
    )
    call = ToolCallPart("call-1", "search", {"q": "x", "n": [1, 2.5, None]})
    return Agent(
        agent_id=AgentId(agent_id),
        created_at=1.0,
        last_used_at=2.5,
        config=AgentConfig(
            model="m", system="be kind", tools=(tool,), ttl_s=60.0, priority="background", metadata={"k": "v"}
        ),
        anonymous=True,
        pinned=True,
        pinned_until=99.0,
        model=ModelFingerprint("ab" * 32),
        model_id="m",
        # Half a surrogate pair: what a model's byte fallback may leave at the end of an answer.
        transcript=Transcript((Segment("Hello ", (1, 2)), Segment("wörld \ud83d", (3, -4, 5)))),
        messages=(
            Message.of("user", "hi \ud83d"),
            Message("assistant", (ThinkingPart("hm", "sig"), TextPart("so"), call)),
            Message("tool", (ToolResultPart("call-1", "found", is_error=True),)),
        ),
        block_table=(BlockHash(b"a" * 32), BlockHash(b"b" * 32)),
        turns=(make_turn(1), make_turn(2)),
        num_turns=2,
    )
