"""`truncation: auto`: drops the oldest turns of a conversation that does not fit, and keeps its system text.

A turn begins with what the user says; calls and their results go with it. The newest turn always stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from semanticd.domain.chat import ChatPrompt, Message, ToolCallPart, ToolResultPart
from semanticd.domain.generation import GenerationRequest

_ROOM = 0.9
"""The share of the context to aim at: some of it is for the answer, and text is measured roughly."""


def without_oldest_turns(
    request: GenerationRequest, *, num_tokens: int, maximum: int
) -> tuple[GenerationRequest, int]:
    """Return the request without as many of its oldest turns as are too long, and how many those are.

    `num_tokens` is the prompt's length, `maximum` what fits. The number is 0 where only one turn is left.
    """
    prompt = request.prompt
    if not isinstance(prompt, ChatPrompt):
        return request, 0
    messages = prompt.messages
    begins = [index for index, message in enumerate(messages) if message.role == "user"]
    sizes = [_size(message) for message in messages]
    too_long = sum(sizes) * (1 - maximum * _ROOM / num_tokens)
    dropped = 0
    num_turns = 0
    for start, end in pairwise(begins):
        dropped += sum(sizes[start:end])
        num_turns += 1
        if dropped >= too_long:
            break
    if not num_turns:
        return request, 0
    kept = (*_kept(messages[: begins[num_turns]]), *messages[begins[num_turns] :])
    return replace(request, prompt=replace(prompt, messages=kept)), num_turns


def _kept(messages: Sequence[Message]) -> tuple[Message, ...]:
    return tuple(message for message in messages if message.role == "system")


def _size(message: Message) -> int:
    size = len(message.text)
    for part in message.parts:
        if isinstance(part, ToolResultPart):
            size += len(part.content)
        elif isinstance(part, ToolCallPart):
            size += len(str(part.arguments))
    return size + 8
