"""Refuses oversized prompts before they are rendered or tokenized, which takes time and memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from semanticd.domain.chat import ChatPrompt, Part, Prompt, TokenPrompt, ToolCallPart, ToolResultPart
from semanticd.domain.errors import InvalidRequestError, PromptTooLongError
from semanticd.domain.limits import LIMITS
from semanticd.domain.transcript import outside_vocabulary


def check_size(prompt: Prompt, context_length: int) -> None:
    """Raise `PromptTooLongError` for a prompt that cannot fit into this number of tokens in any tokenization."""
    if isinstance(prompt, TokenPrompt):
        if len(prompt.token_ids) > context_length:
            raise PromptTooLongError(num_tokens=len(prompt.token_ids), maximum=context_length - 1)
    elif isinstance(prompt, ChatPrompt):
        parts = (part for message in prompt.messages for part in message.parts)
        check_characters(sum(map(_num_characters, parts)), context_length)
    else:
        check_characters(len(prompt.text), context_length)


def check_characters(count: int, context_length: int) -> None:
    """Raise `PromptTooLongError` if a text of this number of characters cannot fit."""
    at_least = count // LIMITS.prompt_characters_per_token
    if at_least > context_length:
        raise PromptTooLongError(num_tokens=at_least, maximum=context_length - 1, is_estimate=True)


def check_vocabulary(token_ids: Sequence[int], vocab_size: int, *, param: str) -> None:
    """Raise `InvalidRequestError` for an id that is not a token: the model would read beyond its tables."""
    bad = outside_vocabulary(token_ids, vocab_size)
    if bad is not None:
        raise InvalidRequestError(
            f"token id {bad} is outside the model's vocabulary of {vocab_size}", param=param
        )


def check_biases(biases: Iterable[int], vocab_size: int) -> None:
    """Raise `InvalidRequestError` for an id that is not a token: the client uses another model's vocabulary."""
    for token_id in biases:
        check_vocabulary([token_id], vocab_size, param=f"logit_bias.{token_id}")


def check_tool_choice(prompt: Prompt) -> None:
    """Raise `InvalidRequestError` where a tool must be called and none is offered, with those that its agent has."""
    if isinstance(prompt, ChatPrompt) and prompt.tool_choice.mode == "required" and not prompt.tools:
        raise InvalidRequestError("needs tools to choose from", param="tool_choice")


def _num_characters(part: Part) -> int:
    if isinstance(part, ToolCallPart):
        return 0  # its arguments are rendered first, and counted then
    return len(part.content if isinstance(part, ToolResultPart) else part.text)
