"""Faults that vendors refuse, and agents send after a compaction: detected, logged, refused in strict mode.

Tool results without a call, calls without a result, two results for one call, and messages without content are
answered as they are. With `SEMANTIC_SERVER_STRICT=true` they are refused as the original APIs refuse them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from semanticd.adapters.http.core.adjustments import Adjustments
from semanticd.domain.chat import Message, TextPart, ToolCallPart, ToolResultPart
from semanticd.domain.errors import InvalidRequestError


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that the vendors refuse: its name for the log, and the sentence that refuses it."""

    name: str
    sentence: str


def check_conversation(
    messages: Sequence[Message], adjustments: Adjustments, *, strict: bool, param: str
) -> None:
    """Note a conversation's errors; with `strict`, raise `InvalidRequestError` for the first one."""
    for finding in findings(messages):
        if strict:
            raise InvalidRequestError(finding.sentence, param=param)
        adjustments.note(finding.name)


def findings(messages: Sequence[Message]) -> Iterator[Finding]:
    """Yield the faults that vendors refuse, in the order of the messages."""
    open_calls: dict[str, None] = {}
    answered: Counter[str] = Counter()
    for message in messages:
        results = [part for part in message.parts if isinstance(part, ToolResultPart)]
        if not results and open_calls and message.role != "system":
            yield from _unanswered(open_calls)
            open_calls = {}
        for result in results:
            if result.call_id in open_calls:
                del open_calls[result.call_id]
            elif answered[result.call_id]:
                yield Finding(
                    "duplicate_tool_result", f"two results for the tool call {result.call_id[:80]!r}"
                )
            else:
                yield Finding(
                    "orphan_tool_result", f"no tool call before it has the id {result.call_id[:80]!r}"
                )
            answered[result.call_id] += 1
        if not results and _is_empty(message):
            yield Finding("empty_content", f"a message of the role {message.role} has no content")
        open_calls |= {part.call_id: None for part in message.parts if isinstance(part, ToolCallPart)}
    yield from _unanswered(open_calls)


def _unanswered(calls: dict[str, None]) -> Iterator[Finding]:
    for call_id in calls:
        yield Finding("missing_tool_result", f"no result follows the tool call {call_id[:80]!r}")


def _is_empty(message: Message) -> bool:
    return not any(part.text.strip() if isinstance(part, TextPart) else True for part in message.parts)
