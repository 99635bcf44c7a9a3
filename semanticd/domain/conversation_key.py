"""Assigns a request to a conversation, so that a title request under an agent's id does not replace the agent.

Programs send several conversations under one session id: the user's own, and requests for a title, a quota, a summary
or a sub-agent. They differ in their head (system text and tools). An agent holds its main conversation; the others are
agents of their own, named below it.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Literal

from semanticd.domain.agent_name import MAX_AGENT_ID_CHARACTERS
from semanticd.domain.chat import ChatPrompt, Message, Prompt, TextPart, TokenPrompt
from semanticd.domain.ids import AgentId
from semanticd.domain.volatile_header import without_volatile_header

Weight = Literal[0, 1, 2]
"""0: a single question. 1: the conversation has answers already. 2: tools are on offer."""

_RAW_HEAD = "raw"
_OPENING_MESSAGES = 4
_OPENING_TEXTS = 16
_DIGEST_BYTES = 8
_LARGE_BEGINNING = 64 * 1024
"""Characters that are read in a tenth of a millisecond."""
_MESSAGE_SIZE = 64
"""Cost of a message besides its text, in characters."""
_SKETCH_WORDS = 24
_ALIKE = 0.6
"""The share of words that two system texts have in common, from which on they are taken for versions of one."""


@dataclass(frozen=True, slots=True)
class ConversationKey:
    """The parts of two requests that are compared to see whether they belong to one conversation."""

    head: str
    """Digest of leading system messages and tools; empty where there are none, `raw` for prompts without messages."""
    words: tuple[int, ...] = ()
    """The smallest checksums of the system text's words, by which two texts are estimated to be alike."""
    opening: tuple[str, ...] = ()
    """Digests of the texts of the first user messages."""
    weight: Weight = 0

    def continues(self, main: ConversationKey | None) -> bool:
        """Return whether a request with this key continues (or replaces) a main conversation.

        With an equal head it does: programs compact their history, and users start again. So it does with system text
        that is nearly the same (a date in it has changed), if it weighs no less. With quite another head it does
        where it opens as the main conversation did (the program has changed its mode), or where that was a single
        question; and this is more than a question. Without any head, a single question that opens with other words
        leaves a longer conversation alone.
        """
        if main is None:
            return True
        opens_alike = not set(self.opening).isdisjoint(main.opening)
        if self.head == main.head:
            return bool(self.head) or opens_alike or self.weight >= main.weight
        if self.weight < main.weight:
            return False
        if _alike(self.words, main.words):
            return True
        return self.weight > 0 and (opens_alike or main.weight == 0)

    def heavier_of(self, main: ConversationKey | None) -> ConversationKey:
        """Return this key as the main conversation's after a turn: its weight never falls."""
        if main is None or main.weight <= self.weight or main.head != self.head:
            return self
        return replace(self, weight=main.weight)

    def name_below(self, agent_id: str) -> str:
        """Return the id of the agent that holds this conversation where it is not the main one of `agent_id`.

        Single questions share few ids, so that requests whose system text is always another make no heap of agents.
        """
        digest = _digest(self.head)
        suffix = f".side-{digest[:6] if self.weight else digest[0]}"
        room = MAX_AGENT_ID_CHARACTERS - len(suffix)
        return (
            agent_id if len(agent_id) <= room else f"{agent_id[: room - 9]}-{_digest(agent_id)[:8]}"
        ) + suffix


def conversation_key(prompt: Prompt) -> ConversationKey:
    """Return a prompt's key; its cost grows with the head and the first messages only."""
    if not isinstance(prompt, ChatPrompt):
        return ConversationKey(_RAW_HEAD)
    messages = prompt.messages
    head = [
        message.text
        for message in map(without_volatile_header, takewhile(lambda one: one.role == "system", messages))
    ]
    tools = [(tool.name, tool.description, tool.parameters) for tool in prompt.tools]
    answered = any(message.role == "assistant" for message in messages[:-1])
    text = json.dumps((head, sorted(tools, key=lambda tool: tool[0])), sort_keys=True, default=str)
    return ConversationKey(
        head=_digest(text) if tools or any(head) else "",
        words=_sketch(" ".join(head)),
        opening=tuple(dict.fromkeys(_opening(messages))),
        weight=2 if prompt.tools else 1 if answered else 0,
    )


def begins_large(prompt: Prompt) -> bool:
    """Return whether `anonymous_id` would block the event loop for long; reads only the first messages."""
    if not isinstance(prompt, ChatPrompt):
        return False
    size = 0
    for message in prompt.messages:
        size += _MESSAGE_SIZE + sum(len(part.text) for part in message.parts if isinstance(part, TextPart))
        if size > _LARGE_BEGINNING:
            return True
        if message.role == "user":
            break
    return False


def anonymous_id(prompt: Prompt) -> AgentId:
    """Name an anonymous conversation by how it begins, so that its next turn finds it again."""
    if isinstance(prompt, ChatPrompt):
        head: list[str] = []
        for message in map(without_volatile_header, prompt.messages):
            head.append(f"{message.role}:{message.text}")
            if message.role == "user":
                break
        text = "\0".join(head)
    elif isinstance(prompt, TokenPrompt):
        text = repr(prompt.token_ids[:256])
    else:
        text = prompt.text[:1024]
    return AgentId("anon-" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16])


def _opening(messages: tuple[Message, ...]) -> Iterator[str]:
    said = [message for message in messages[: 4 * _OPENING_MESSAGES] if message.role == "user"]
    texts = (
        part.text for one in said[:_OPENING_MESSAGES] for part in one.parts if isinstance(part, TextPart)
    )
    for text, _ in zip((text for text in texts if text.strip()), range(_OPENING_TEXTS), strict=False):
        yield _digest(text)


def _sketch(text: str) -> tuple[int, ...]:
    checksums = {zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in set(text.split())}
    return tuple(heapq.nsmallest(_SKETCH_WORDS, checksums))


def _alike(left: tuple[int, ...], right: tuple[int, ...]) -> bool:
    """Return whether two texts share most of their words, as estimated from their smallest joint checksums."""
    both = heapq.nsmallest(_SKETCH_WORDS, {*left, *right})
    shared = set(left) & set(right)
    return bool(both) and sum(checksum in shared for checksum in both) >= _ALIKE * len(both)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).hexdigest()
