"""The parts of a conversation, the same for every dialect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]

RESERVED_TEMPLATE_OPTIONS = frozenset(
    {
        "messages",
        "conversation",
        "tools",
        "chat_template",
        "add_generation_prompt",
        "continue_final_message",
        "tokenize",
        "sanitize_control_tokens",
        "padding",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
        "tokenizer_kwargs",
    }
)
"""Arguments that the server itself passes to a chat template; no client may set them."""


def join_texts(texts: Sequence[str]) -> str:
    """Return texts as one, with a line break between two that no white space keeps apart."""
    pieces: list[str] = []
    for text in texts:
        if pieces and text and not (pieces[-1][-1].isspace() or text[0].isspace()):
            pieces.append("\n")
        if text:
            pieces.append(text)
    return "".join(pieces)


@dataclass(frozen=True, slots=True)
class TextPart:
    """Plain text."""

    text: str


@dataclass(frozen=True, slots=True)
class ThinkingPart:
    """An assistant's thinking, kept apart from its answer."""

    text: str
    signature: str = ""


@dataclass(frozen=True, slots=True)
class ToolCallPart:
    """An assistant's call of a tool; `arguments` is the JSON object as a mapping."""

    call_id: str
    name: str
    arguments: Mapping[str, Any]
    cut: str | None = None
    """The incomplete arguments, if the answer ended before they were complete."""


@dataclass(frozen=True, slots=True)
class ToolResultPart:
    """The answer to a tool call, as text."""

    call_id: str
    content: str
    is_error: bool = False


Part = TextPart | ThinkingPart | ToolCallPart | ToolResultPart


@dataclass(frozen=True, slots=True)
class Message:
    """One message; a `tool` message holds only tool results."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """All text parts.

        An assistant's follow one another as the model wrote them. Of other roles each is a text of its own: a line
        break keeps two apart unless white space does already.
        """
        texts = [part.text for part in self.parts if isinstance(part, TextPart)]
        return "".join(texts) if self.role == "assistant" else join_texts(texts)

    @classmethod
    def of(cls, role: Role, text: str) -> Message:
        """Make a message of one text part."""
        return cls(role, (TextPart(text),))


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool the model may call; `parameters` is a JSON schema of type object."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    strict: bool = False
    input_grammar: str = ""
    """A Lark grammar of the only argument, a string called `input`; empty: none."""


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Constraint on tool calls: allowed, required, or a specific tool.

    `required` means any of `names` (all tools if empty) must be called; `auto` limits to `names` if given.
    """

    mode: Literal["auto", "none", "required"] = "auto"
    names: tuple[str, ...] = ()
    parallel: bool = True


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation that the model's chat template turns into text."""

    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    continues: bool = True
    """Whether an assistant's text that stands last is continued, instead of a new message begun after it."""
    template_options: Mapping[str, Any] = field(default_factory=dict)
    """Extra variables for the chat template, such as `enable_thinking` or `reasoning_effort`."""

    @property
    def prefill(self) -> str | None:
        """The beginning of the answer, which the client wrote and the model continues; None where there is none."""
        if not self.continues or len(self.messages) < 2 or self.messages[-1].role != "assistant":
            return None
        last = self.messages[-1]
        if any(isinstance(part, ToolCallPart) for part in last.parts):
            return None
        return last.text


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """Raw text to continue, without a chat template."""

    text: str


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """Token ids to continue."""

    token_ids: tuple[int, ...]


Prompt = ChatPrompt | TextPrompt | TokenPrompt
