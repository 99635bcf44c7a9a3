"""Prompts of the self-test: seeded words, so that no two requests share a beginning unless they are meant to."""

from __future__ import annotations

import random
from collections.abc import Sequence

from semanticd.application.ports.inference import Tokenizer
from semanticd.bench.text import WORDS
from semanticd.domain.chat import ChatPrompt, Message, Prompt, TextPrompt
from semanticd.domain.errors import InvalidRequestError


def words(num_words: int, *, seed: int) -> str:
    """Return this number of words."""
    choose = random.Random(seed)  # noqa: S311 (text that repeats)
    return " ".join(choose.choice(WORDS) for _ in range(num_words))


def token_ids(tokenizer: Tokenizer, num_tokens: int, *, seed: int) -> list[int]:
    """Return this number of ids of ordinary text."""
    ids: list[int] = []
    while len(ids) < num_tokens:
        ids += tokenizer.encode(f" {words(num_tokens, seed=seed + len(ids))}.")
    return ids[:num_tokens]


def conversation(tokenizer: Tokenizer, messages: Sequence[Message]) -> Prompt:
    """Return messages as a chat, or as plain text for a model without a chat template."""
    prompt = ChatPrompt(tuple(messages))
    try:
        tokenizer.render(prompt)
    except InvalidRequestError:
        return TextPrompt("\n".join(message.text for message in messages))
    return prompt


def question(tokenizer: Tokenizer, text: str) -> Prompt:
    """Return a conversation of one message."""
    return conversation(tokenizer, (Message.of("user", text),))
