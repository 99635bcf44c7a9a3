"""User text stays text, even where it looks like a control token.

A chat template puts contents and control tokens into one string, which the tokenizer reads as a whole: a content with
`<|im_end|>` in it would end its own message, and could continue in another's name. So every control token in a
content is marked before the template sees it: a mark after its first character. The rendered text carries the marks,
and is tokenized apart at each: no token reaches across, and the mark itself is not part of the text.

The mark is U+FDD0, which Unicode reserves for a program's own use. A content's own U+FDD0 is doubled, and halved again.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from semanticd.domain.chat import (
    ChatPrompt,
    Message,
    Part,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
    ToolSpec,
)

MARK = "\ufdd0"
_MARKS = re.compile(f"({MARK}{MARK}|{MARK})")


def protected(text: str) -> str:
    """Return text whose own marks are doubled, so that they stay."""
    return text.replace(MARK, MARK + MARK)


def pieces(text: str) -> list[str]:
    """Return the pieces of a rendered text that are tokenized apart, none of them empty."""
    if MARK not in text:
        return [text] if text else []
    found = [""]
    for piece in _MARKS.split(text):
        if piece == MARK:
            found.append("")
        else:
            found[-1] += MARK if piece == MARK + MARK else piece
    return [piece for piece in found if piece]


class ControlTokens:
    """The control tokens of one tokenizer, and how contents are marked."""

    def __init__(self, *, special: Iterable[str], structural: Iterable[str]) -> None:
        """Take the special tokens, and what else has a meaning in a conversation, such as `<tool_call>`.

        Structural ones stay unchanged in the assistant's messages: templates look there for thoughts and calls.
        """
        named = {token for token in special if token.strip()}
        meant = {token for token in structural if token.strip()}
        self._special = _pattern(named - meant)
        self._all = _pattern(named | meant)

    def marked(self, prompt: ChatPrompt) -> ChatPrompt:
        """Return the conversation with all control tokens in its contents marked."""
        return replace(
            prompt,
            messages=tuple(self._message(message) for message in prompt.messages),
            tools=tuple(self._tool(tool) for tool in prompt.tools),
            template_options=_deep(prompt.template_options, self._all),
        )

    def literal(self, text: str) -> str:
        """Return a text with all control tokens in it marked."""
        return _mark(text, self._all)

    def _message(self, message: Message) -> Message:
        pattern = self._special if message.role == "assistant" else self._all
        return replace(message, parts=tuple(_part(part, pattern) for part in message.parts))

    def _tool(self, tool: ToolSpec) -> ToolSpec:
        mark = functools.partial(_mark, pattern=self._all)
        return replace(
            tool,
            name=mark(tool.name),
            description=mark(tool.description),
            parameters=_deep(tool.parameters, self._all),
        )


def _pattern(tokens: set[str]) -> re.Pattern[str] | None:
    """Return what finds any of the tokens, longer ones first."""
    if not tokens:
        return None
    return re.compile("|".join(re.escape(token) for token in sorted(tokens, key=lambda t: (-len(t), t))))


def _part(part: Part, pattern: re.Pattern[str] | None) -> Part:
    if isinstance(part, (TextPart, ThinkingPart)):
        return replace(part, text=_mark(part.text, pattern))
    if isinstance(part, ToolResultPart):
        return replace(part, content=_mark(part.content, pattern))
    if isinstance(part, ToolCallPart):
        return replace(part, name=_mark(part.name, pattern), arguments=_deep(part.arguments, pattern))
    return part


def _deep(value: Any, pattern: re.Pattern[str] | None) -> Any:
    """Mark every string inside a JSON value, keys included."""
    if isinstance(value, str):
        return _mark(value, pattern)
    if isinstance(value, Mapping):
        return {_deep(key, pattern): _deep(one, pattern) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_deep(one, pattern) for one in value]
    return value


def _mark(text: str, pattern: re.Pattern[str] | None) -> str:
    text = protected(text)
    if pattern is None:
        return text
    return pattern.sub(lambda found: f"{found.group()[0]}{MARK}{found.group()[1:]}", text)
