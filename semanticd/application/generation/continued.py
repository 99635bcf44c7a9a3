"""Continues an agent's own text: new messages after the prompt and the answer of its last turn.

Where the agent's client keeps the conversation, the daemon has no messages of it. New ones are then rendered as what
follows an answer, so that all of the text before them stays cached. The text may end with a question instead: a turn
that answered it once more was rewound. Then that question is answered, and new messages follow it.
"""

from __future__ import annotations

from dataclasses import replace

from semanticd.application.ports.inference import Tokenizer
from semanticd.domain.chat import ChatPrompt, Message
from semanticd.domain.errors import InvalidRequestError, UnsupportedError

_MARK = "semanticd-mark"
"""Stands for an earlier message where it is asked what a template puts after one."""
_QUESTION = (Message.of("user", "?"),)
_THINKING = (None, False, True)

NOTHING_TO_ANSWER = "this conversation has no unanswered question: send a prompt or messages"


def continued(tokenizer: Tokenizer, transcript: str, prompt: ChatPrompt) -> str:
    """Return a prompt's text and its answer, followed by a prompt's messages as the chat template writes them.

    Without messages, it is the question that stands last that is to be answered.

    Raises:
        InvalidRequestError: The template refuses these messages there, or there is nothing to answer.
        UnsupportedError: The template writes earlier turns in another way once there are later ones.
    """
    opening = _open_answer(tokenizer, transcript, prompt)
    if not opening:
        if not prompt.messages:
            raise InvalidRequestError(NOTHING_TO_ANSWER, param="prompt")
        return _behind((*_QUESTION, Message.of("assistant", _MARK)), tokenizer, transcript, prompt)
    asked = transcript[: -len(opening)]
    if not prompt.messages:
        return asked + _generation_prompt(tokenizer, prompt)
    try:
        return _behind((Message.of("user", _MARK),), tokenizer, asked, prompt)
    except InvalidRequestError as error:
        raise InvalidRequestError(
            f"this conversation ends with a question without an answer, and the model's chat template takes no such "
            f"message behind it ({error.message}); have it answered first (generate without prompt and messages), or "
            "rewind one turn more",
            param=error.param,
        ) from error


def _behind(before: tuple[Message, ...], tokenizer: Tokenizer, transcript: str, prompt: ChatPrompt) -> str:
    """Return a text followed by a prompt's messages; it ends as `before` does, of which the last is marked."""
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


def _open_answer(tokenizer: Tokenizer, transcript: str, prompt: ChatPrompt) -> str:
    """Return what opens an answer at a text's end, where no answer follows; empty where one does.

    Templates open answers in several ways, with and without thinking.
    """
    known = prompt.template_options
    ways = [
        _generation_prompt(
            tokenizer,
            prompt
            if thinks is None
            else replace(prompt, template_options={**known, "enable_thinking": thinks}),
        )
        for thinks in _THINKING
    ]
    return max((one for one in ways if one and transcript.endswith(one)), key=len, default="")


def _generation_prompt(tokenizer: Tokenizer, prompt: ChatPrompt) -> str:
    """Return what the template puts behind a question so that it is answered; empty where it rewrites the question."""
    asked = replace(prompt, messages=_QUESTION)
    before = tokenizer.render(asked, add_generation_prompt=False)
    whole = tokenizer.render(asked)
    return whole[len(before) :] if whole.startswith(before) else ""
