"""Compaction: the model summarizes a conversation; user messages stay, followed by the summary as one sealed item.

The question stands behind the whole conversation, so that all of it is found in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from semanticd.adapters.http.core.request_context import make_id
from semanticd.adapters.http.openai.responses.reasoning import seal
from semanticd.domain.chat import ChatPrompt, Message, TextPart, ToolChoice
from semanticd.domain.errors import InvalidRequestError, ModelError
from semanticd.domain.generation import FinishReason, GenerationRequest, GenerationResult

SUMMARY_TOKENS = 1024
"""Default limit of a summary's tokens: on a laptop's CPU they take a minute or two."""
_WORDS_PER_TOKEN = 0.6
"""Words requested per allowed token: well below the limit, so that the model ends the summary by itself."""
_KEPT_CHARACTERS = 64_000
"""The user's messages are kept up to this length, newest first."""

_QUESTION = (
    "This conversation is about to be replaced by a summary of it. Write that summary for the one who continues the "
    "work: the goal, what was decided and why, what was done, the state of each file or object that matters, exact "
    "names and values that are still needed, and the next steps. Call no tool. Write the summary only, in at most "
    "{words} words."
)
_HEADING = "Summary of the conversation before this point:"


def asking_for_a_summary(request: GenerationRequest) -> GenerationRequest:
    """Return the request that asks the model to sum its conversation up, in as many tokens as the client allows."""
    prompt = request.prompt
    if not isinstance(prompt, ChatPrompt):
        return request
    sampling = request.sampling
    if sampling.max_tokens is None:
        given = sampling.given if sampling.given is None else sampling.given | {"max_tokens"}
        sampling = replace(sampling, max_tokens=SUMMARY_TOKENS, given=given)
    words = max(10, int((sampling.max_tokens or SUMMARY_TOKENS) * _WORDS_PER_TOKEN))
    return replace(
        request,
        prompt=replace(
            prompt,
            messages=(*prompt.messages, Message.of("user", _QUESTION.format(words=words))),
            tool_choice=ToolChoice("none"),
            # Thinking is not part of the summary and would use up its tokens.
            template_options={**prompt.template_options, "enable_thinking": False},
        ),
        sampling=sampling,
        constraint=None,
    )


def summary_in(result: GenerationResult) -> str:
    """Return the summary that the model wrote.

    Raises:
        InvalidRequestError: it was cut off, so that its end is missing.
        ModelError: the model wrote none.
    """
    choice = result.choices[0]
    if choice.reason is FinishReason.LENGTH:
        raise InvalidRequestError(
            f"the summary was cut off after {result.usage.completion_tokens} tokens, so the conversation was not "
            "replaced; send a larger max_output_tokens, or compact a shorter conversation",
            param="max_output_tokens",
        )
    if not choice.text.strip():
        raise ModelError(
            "the model wrote no summary, so the conversation was not replaced; send it as it is, or use another model"
        )
    return choice.text


def compacted(said: Sequence[Message], summary: str, *, key: bytes) -> list[dict[str, Any]]:
    """Return the items that replace a conversation: its user messages, and its summary."""
    kept: list[dict[str, Any]] = []
    room = _KEPT_CHARACTERS
    for message in reversed(said):
        texts = [part.text for part in message.parts if isinstance(part, TextPart) and part.text]
        room -= sum(map(len, texts))
        if room < 0:
            break
        if texts:
            content = [{"type": "input_text", "text": text} for text in texts]
            kept.append(
                {
                    "type": "message",
                    "id": make_id("msg_"),
                    "role": "user",
                    "status": "completed",
                    "content": content,
                }
            )
    sealed = seal(f"{_HEADING}\n\n{summary.strip()}", key)
    return [*reversed(kept), {"type": "compaction", "id": make_id("cmp_"), "encrypted_content": sealed}]
