"""What follows an agent's own text: new messages behind the prompt and the answer of its last turn.

Where the agent's client keeps the conversation, the daemon has no messages of it. New ones are then rendered as what
follows an answer, so that all of the text before them stays cached.
"""

from __future__ import annotations

from dataclasses import replace

from semanticd.application.ports.inference import Tokenizer
from semanticd.domain.chat import ChatPrompt, Message
from semanticd.domain.errors import UnsupportedError

_MARK = "semanticd-mark"
"""Stands for an earlier answer where it is asked what a template puts after one."""


def continued(tokenizer: Tokenizer, transcript: str, prompt: ChatPrompt) -> str:
    """Return a prompt's text and its answer, followed by a prompt's messages as the chat template writes them.

    Raises:
        InvalidRequestError: The template refuses these messages behind an answer.
        UnsupportedError: The template writes earlier turns in another way once there are later ones.
    """
    before = (Message.of("user", "?"), Message.of("assistant", _MARK))
    earlier = tokenizer.render(replace(prompt, messages=before), add_generation_prompt=False)
    whole = tokenizer.render(replace(prompt, messages=(*before, *prompt.messages)))
    head, mark, closing = earlier.rpartition(_MARK)
    if not mark or not whole.startswith(head + mark):
        raise UnsupportedError(
            "the model's chat template does not show what follows an answer, so that a turn cannot be added to a "
            "conversation that a client keeps; start a conversation of the daemon's own with a new agent id"
        )
    # The transcript may hold the closing marker already, or a part of it: the model wrote it, or it did not.
    after = whole[len(head + mark) :]
    for length in range(len(closing), 0, -1):
        if transcript.endswith(closing[:length]):
            return transcript + after[length:]
    return transcript + after
