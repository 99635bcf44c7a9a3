"""PromptBoundaries: where in a prompt's tokens its head ends, its last message begins, and its messages end.

```
text     system, tools │ user … assistant … │ last message │ generation prompt
tokens                 head                 last           end
```
Found by rendering the conversation otherwise and looking how far the texts agree: no template has to be understood.
A placeholder text stands for a message, so that templates which refuse a conversation without a user, or
leave the thinking of turns that are over out, say what they would say of the real one. Any thread.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

from semanticd.application.ports.inference import LoadedModel, Tokenizer
from semanticd.domain.block import pack_token_ids, unpack_token_ids
from semanticd.domain.chat import ChatPrompt, Message, ToolResultPart
from semanticd.domain.errors import SemanticError
from semanticd.domain.prefix_index import common_prefix_length
from semanticd.domain.snapshots import MIN_DISTANCE
from semanticd.domain.transcript import Cut, Segment

_SAID = "\N{OBJECT REPLACEMENT CHARACTER} said \N{OBJECT REPLACEMENT CHARACTER}"
"""Placeholder of a message's text, to locate it in a prompt."""
_MAX_HEADS = 256


class PromptBoundaries:
    """Boundaries of chat prompts; remembers the tokens of equal heads."""

    def __init__(self) -> None:
        self._heads: dict[bytes, bytes] = {}
        self._lock = threading.Lock()

    def find(
        self, model: LoadedModel, prompt: ChatPrompt, text: str, segments: Sequence[Segment]
    ) -> tuple[tuple[int, ...], int]:
        """Return the positions worth a snapshot, and how many of the prompt's tokens are system text and tools.

        The positions are numbers of tokens, rising; none for a model whose layers can all be cut, and fewer where two
        nearly coincide.
        """
        written = _head(model.tokenizer, prompt)
        head = common_prefix_length(text, written)
        head_tokens = self._head_tokens(model, text[:head], segments)
        # A template may say something else of a conversation as short as that.
        system_tokens = head_tokens if head == len(written) else 0
        if model.runner.spec.cuts_anywhere:
            return (), system_tokens
        return self._snapshot_points(
            model.tokenizer, prompt, text, segments, (head, head_tokens)
        ), system_tokens

    @staticmethod
    def turn_start(
        tokenizer: Tokenizer, prompt: ChatPrompt, text: str, segments: Sequence[Segment]
    ) -> Cut | None:
        """Return where the prompt's last answer ends, behind which is what was said since.

        None where nothing was answered yet, or no place between two tokens is known to be the one.
        """
        messages = prompt.messages[:-1] if prompt.prefill is not None else prompt.messages
        before = _up_to_last_message(tokenizer, replace(prompt, messages=messages))
        if not before or not text.startswith(before):
            return None
        short = replace(prompt, messages=(Message.of("user", "?"), Message.of("assistant", _SAID)), tools=())
        closing = _rendered(tokenizer, short).rpartition(_SAID)[2]
        asked_on = replace(short, messages=(*short.messages, Message.of("user", _SAID)))
        between = _rendered(tokenizer, asked_on).partition(_SAID)[2].partition(_SAID)[0]
        ends = []
        if between and before.endswith(between):
            ends.append(len(before) - len(between))
        if closing.strip() and closing in before:
            ends += [before.rindex(closing), before.rindex(closing) + len(closing)]
        cuts = (_cut_at(tokenizer, segments, end) for end in ends)
        return next((cut for cut in cuts if cut is not None), None)

    @staticmethod
    def _snapshot_points(
        tokenizer: Tokenizer,
        prompt: ChatPrompt,
        text: str,
        segments: Sequence[Segment],
        head: tuple[int, int],
    ) -> tuple[int, ...]:
        """Return the boundaries; `head` is the first one's position in characters and in tokens."""
        messages = prompt.messages[:-1] if prompt.prefill is not None else prompt.messages
        last = common_prefix_length(text, _up_to_last_message(tokenizer, replace(prompt, messages=messages)))
        end = common_prefix_length(text, _rendered(tokenizer, replace(prompt, messages=messages)))
        found = [
            head[1],
            *(_num_tokens_before(tokenizer, segments, at) for at in (last, end) if at > head[0]),
        ]
        num_tokens = sum(segment.num_tokens for segment in segments)
        return tuple(sorted({at for at in found if MIN_DISTANCE <= at < num_tokens}))

    def _head_tokens(self, model: LoadedModel, head: str, segments: Sequence[Segment]) -> int:
        num_tokens = 0
        for segment in segments:
            if len(segment.text) > len(head):
                ids = self._ids(model, head)
                return num_tokens + common_prefix_length(ids, segment.token_ids)
            num_tokens += segment.num_tokens
            head = head[len(segment.text) :]
        return num_tokens

    def _ids(self, model: LoadedModel, text: str) -> tuple[int, ...]:
        """Return the ids of a text that many prompts begin with."""
        key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        key += model.fingerprint.encode()
        known = self._heads.get(key)
        if known is None:
            known = pack_token_ids(model.tokenizer.encode(text))
            with self._lock:
                self._heads[key] = known
                while len(self._heads) > _MAX_HEADS:
                    del self._heads[next(iter(self._heads))]
        return unpack_token_ids(known)


def _rendered(tokenizer: Tokenizer, prompt: ChatPrompt) -> str:
    """Return a conversation's text without the generation prompt; empty where the template refuses it."""
    try:
        return tokenizer.render(prompt, add_generation_prompt=False)
    except SemanticError:
        return ""


def _up_to_said(tokenizer: Tokenizer, prompt: ChatPrompt) -> str:
    rendered = _rendered(tokenizer, prompt)
    return rendered[: max(rendered.find(_SAID), 0)]


def _head(tokenizer: Tokenizer, prompt: ChatPrompt) -> str:
    """Return the messages before the first one that is not system text."""
    leading = takewhile(lambda message: message.role == "system", prompt.messages)
    return _up_to_said(tokenizer, replace(prompt, messages=(*leading, Message.of("user", _SAID))))


def _up_to_last_message(tokenizer: Tokenizer, prompt: ChatPrompt) -> str:
    """Return the messages up to and including the last answer; empty if there is no answer yet."""
    answers = [at for at, message in enumerate(prompt.messages) if message.role == "assistant"]
    if not answers or answers[-1] + 1 == len(prompt.messages):
        return ""
    before, message = prompt.messages[: answers[-1] + 1], prompt.messages[answers[-1] + 1]
    result = next((part for part in message.parts if isinstance(part, ToolResultPart)), None)
    said = (
        Message.of(message.role, _SAID)
        if result is None
        else replace(message, parts=(replace(result, content=_SAID),))
    )
    return _up_to_said(tokenizer, replace(prompt, messages=(*before, said)))


def _num_tokens_before(tokenizer: Tokenizer, segments: Sequence[Segment], at: int) -> int:
    """Return how many tokens lie before a character; where a token spans it, those before that token."""
    num_tokens = 0
    for segment in segments:
        if at < len(segment.text):
            return num_tokens + _num_within(tokenizer, segment, at)
        num_tokens += segment.num_tokens
        at -= len(segment.text)
    return num_tokens


def _num_within(tokenizer: Tokenizer, segment: Segment, at: int) -> int:
    # A message's end is near the prompt's: reading what follows is less than reading all that comes before.
    following = tuple(tokenizer.encode(segment.text[at:]))
    if segment.ends_with(following):
        return segment.num_tokens - len(following)
    return common_prefix_length(tuple(tokenizer.encode(segment.text[:at])), segment.token_ids)


def _cut_at(tokenizer: Tokenizer, segments: Sequence[Segment], at: int) -> Cut | None:
    """Return the cut before a character; None where a token spans it."""
    num_chars = num_tokens = 0
    for segment in segments:
        within = at - num_chars
        if within < len(segment.text):
            following = tuple(tokenizer.encode(segment.text[within:]))
            if not segment.ends_with(following):
                return None
            return Cut(at, num_tokens + segment.num_tokens - len(following))
        num_chars += len(segment.text)
        num_tokens += segment.num_tokens
    return None
