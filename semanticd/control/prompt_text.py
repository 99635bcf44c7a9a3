"""A prompt's text as messages with roles, by the marks of the common chat templates. Pure.

Of a client that keeps the conversation, the daemon has the text of its prompts only, as the model reads it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

TRANSCRIPT = "transcript"
"""The role of a text in which no template is recognised, and of rows of `agents.messages` that are a prompt's text."""
_NAMES = {"model": "assistant", "ipython": "tool"}
# The starts of a message in the templates of the common families; what stands before the first is a preamble.
_START = re.compile(
    r"<\|im_start\|>(\w+)\n"  # ChatML: SmolLM, Qwen, Yi
    r"|<\|start_header_id\|>(\w+)<\|end_header_id\|>\s*"  # Llama 3
    r"|<start_of_turn>(\w+)\n"  # Gemma
    r"|<\|(system|user|assistant|tool)\|>\n?"  # Phi, Zephyr
    r"|<｜(User|Assistant)｜>"  # DeepSeek 3
    r"|(?:^|(?<=\n\n)|(?<=<｜end▁of▁sentence｜>))(User|Assistant): "  # DeepSeek 2
    r"|(\[/?INST\])\s?"  # Mistral, Llama 2
)
_END = re.compile(
    r"<\|(?:im_end|eot_id|end|endoftext|begin_of_text)\|>\n?|<end_of_turn>\n?|</?s>|<bos>|<｜(?:begin|end)▁of▁sentence｜>"
)


@dataclass(frozen=True, slots=True)
class PromptMessage:
    """One message; `start` is where its text begins in the prompt's, in characters."""

    role: str
    text: str
    start: int = 0


def prompt_messages(text: str) -> list[PromptMessage]:
    """Return the messages in a prompt's text; one of all of it where no template is recognised."""
    starts = list(_START.finditer(text))
    if not starts:
        return [PromptMessage(TRANSCRIPT, text)]
    found = [_message("system", text, 0, starts[0].start())]
    for at, start in enumerate(starts):
        end = starts[at + 1].start() if at + 1 < len(starts) else len(text)
        role = next(group for group in start.groups() if group)
        role = {"[INST]": "user", "[/INST]": "assistant"}.get(role, role.lower())
        found.append(_message(_NAMES.get(role, role), text, start.end(), end))
    return [message for message in found if message.text]


def _message(role: str, text: str, start: int, end: int) -> PromptMessage:
    return PromptMessage(role, _END.sub("", text[start:end]).strip("\n"), start)
