"""Collects a request's events into its complete answer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from semanticd.domain.chat import ToolCallPart
from semanticd.domain.generation import (
    Choice,
    Finished,
    FinishReason,
    GenerationEvent,
    TextDelta,
    ThinkingDelta,
    TokenLogprob,
    ToolCallBroken,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from semanticd.domain.json_text import parse_json_text


@dataclass(slots=True)
class _Call:
    call_id: str
    name: str
    arguments: list[str] = field(default_factory=list)
    is_broken: bool = False


@dataclass(slots=True)
class _Draft:
    text: list[str] = field(default_factory=list)
    thinking: list[str] = field(default_factory=list)
    calls: list[_Call] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finished: Finished | None = None


class AnswerBuilder:
    """Adds events up to choices and usage."""

    def __init__(self, num_choices: int) -> None:
        """Expect this many choices."""
        self._drafts = [_Draft() for _ in range(num_choices)]

    def add(self, event: GenerationEvent) -> None:
        """Take one event."""
        draft = self._drafts[event.choice]
        if isinstance(event, TextDelta):
            draft.text.append(event.text)
            draft.logprobs.extend(event.logprobs)
        elif isinstance(event, ThinkingDelta):
            draft.thinking.append(event.text)
        elif isinstance(event, ToolCallStarted):
            draft.calls.append(_Call(event.call_id, event.name))
        elif isinstance(event, ToolCallDelta):
            draft.calls[event.index].arguments.append(event.arguments)
        elif isinstance(event, ToolCallBroken):
            draft.calls[event.index].is_broken = True
            draft.text.append(event.text)
        elif isinstance(event, Finished):
            draft.finished = event

    def choices(self) -> tuple[Choice, ...]:
        """Return the answers so far; one that has not finished counts as cancelled."""
        return tuple(
            Choice(
                text="".join(draft.text),
                thinking="".join(draft.thinking),
                tool_calls=tuple(_call(call) for call in draft.calls if not call.is_broken),
                reason=draft.finished.reason if draft.finished else FinishReason.CANCELLED,
                stop_sequence=draft.finished.stop_sequence if draft.finished else None,
                logprobs=tuple(draft.logprobs),
            )
            for draft in self._drafts
        )

    def usage(self) -> Usage:
        """Return the first choice's usage with the output tokens of all choices: the prompt counts once."""
        usages = [draft.finished.usage for draft in self._drafts if draft.finished]
        if not usages:
            return Usage()
        return replace(
            usages[0],
            completion_tokens=sum(usage.completion_tokens for usage in usages),
            reasoning_tokens=sum(usage.reasoning_tokens for usage in usages),
        )


def _call(call: _Call) -> ToolCallPart:
    text = "".join(call.arguments)
    try:
        arguments = parse_json_text(text) if text else {}
    except ValueError:
        return ToolCallPart(call.call_id, call.name, {}, cut=text)
    return ToolCallPart(call.call_id, call.name, arguments if isinstance(arguments, dict) else {})
