"""Tokenizers one can do in one's head: a token is a character, or a pair of them.

```
CharTokenizer   "abc<|end|>"  ->  a b c <|end|>
PairTokenizer   "abc<|end|>"  ->  ab c <|end|>       (but a model may well have produced a b c: same text, other ids)
```
The chat template writes `<|role|>text<|end|>` for every message and `<|assistant|>` before the answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from semanticd.domain.chat import ChatPrompt, Message, TextPart, ToolCallPart, ToolResultPart
from semanticd.domain.errors import InvalidRequestError
from semanticd.domain.generation import (
    GenerationEvent,
    OutputConstraint,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
    ToolCallStarted,
)
from semanticd.domain.stop_matcher import TextPiece, VisibleStops

CHARACTERS = "\n" + "".join(chr(code) for code in range(32, 127))
SPECIALS = ("<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|tool|>", "<|tools|>")
NUM_CHARACTERS = len(CHARACTERS)
EOS = NUM_CHARACTERS

_PAIRS_FROM = 128
_ID_OF = {character: index for index, character in enumerate(CHARACTERS)}
_SPECIAL_ID = {text: NUM_CHARACTERS + index for index, text in enumerate(SPECIALS)}
_SPLIT = re.compile("(" + "|".join(re.escape(text) for text in SPECIALS) + ")")


class CharTokenizer:
    """A `Tokenizer` whose tokens are characters; what is outside ASCII becomes a question mark."""

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """The end of a turn."""
        return frozenset([EOS])

    @property
    def vocab_size(self) -> int:
        """Number of ids, pairs included."""
        return _PAIRS_FROM + NUM_CHARACTERS**2

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Return the ids of a text; special tokens written in it are recognised."""
        ids: list[int] = []
        for piece in _SPLIT.split(text):
            if piece in _SPECIAL_ID:
                ids.append(_SPECIAL_ID[piece])
            else:
                ids += self._plain(piece)
        return ids

    def _plain(self, text: str) -> list[int]:
        return [_ID_OF.get(character, _ID_OF["?"]) for character in text]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens included."""
        return "".join(_text(token_id) for token_id in token_ids)

    def render(self, prompt: ChatPrompt, *, add_generation_prompt: bool = True) -> str:
        """Apply the chat template; it refuses a conversation that begins with a tool's answer."""
        if prompt.messages and prompt.messages[0].role == "tool":
            raise InvalidRequestError("a conversation cannot begin with a tool result", param="messages")
        tools = "".join(f"<|tools|>{tool.name}: {tool.description}<|end|>" for tool in prompt.tools)
        prefill = prompt.prefill if add_generation_prompt else None
        messages = prompt.messages if prefill is None else prompt.messages[:-1]
        text = tools + "".join(f"<|{m.role}|>{_content(m)}<|end|>" for m in messages)
        return f"{text}<|assistant|>{(prefill or '').rstrip()}" if add_generation_prompt else text

    def text_ids(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Nothing is added."""
        return self.encode(text) if parse_special else self._plain(text)

    def embedding_ids(self, text: str) -> list[int]:
        """An end goes behind it."""
        return [*self._plain(text), EOS]

    def piece(self, token_id: int) -> bytes:
        """Return the token's text."""
        return _text(token_id).encode()

    def raw_text(self, text: str) -> str:
        """Nothing goes before it."""
        return text

    def canonical_changes(self, prompt: ChatPrompt) -> tuple[str, ...]:
        """Nothing is changed."""
        return ()

    def stream_decoder(self) -> CharStreamDecoder:
        """Return a fresh decoder."""
        return CharStreamDecoder()

    def output_parser(self, prompt: ChatPrompt, *, choice: int = 0) -> PlainParser:
        """Return a fresh parser."""
        return PlainParser(choice)

    def tool_constraint(
        self, prompt: ChatPrompt, answer: OutputConstraint | None = None
    ) -> OutputConstraint | None:
        """Enforce nothing but a required tool call, else the answer's form."""
        required = bool(prompt.tools) and prompt.tool_choice.mode == "required"
        return OutputConstraint("tool_call") if required else answer

    def visible_stops(
        self, prompt: ChatPrompt, stops: tuple[str, ...], *, formed: bool
    ) -> tuple[str, ...] | VisibleStops:
        """Stop outside of thinking only."""
        return VisibleStops(stops, TildeParts)

    def with_thinking(
        self, prompt: ChatPrompt, constraint: OutputConstraint | None, *, budget: int | None, max_tokens: int
    ) -> OutputConstraint | None:
        """Nobody bounds this model's thinking."""
        return constraint

    def find_constraint(self, constraint: OutputConstraint) -> OutputConstraint | None:
        """Know no form from before."""
        return None

    def compile_constraint(self, constraint: OutputConstraint) -> OutputConstraint:
        """Refuse a regular expression that Python cannot compile."""
        if constraint.kind == "regex":
            try:
                re.compile(constraint.grammar or "")
            except re.error as error:
                raise InvalidRequestError(f"the pattern cannot be compiled: {error}") from error
        return constraint


class PairTokenizer(CharTokenizer):
    """Reads characters two at a time, so that text can be spelt in ids in more than one way."""

    def _plain(self, text: str) -> list[int]:
        single = super()._plain(text)
        pairs = [
            _PAIRS_FROM + left * NUM_CHARACTERS + right
            for left, right in zip(single[0::2], single[1::2], strict=False)
        ]
        return pairs + single[len(single) - len(single) % 2 :]


class CharStreamDecoder:
    """A `StreamDecoder`: every token is certain at once, special ones are left out."""

    def add(self, token_id: int) -> str:
        """Return the token's text."""
        return "" if NUM_CHARACTERS <= token_id < _PAIRS_FROM else _text(token_id)

    def finish(self) -> str:
        """Nothing is ever held back."""
        return ""


class TildeParts:
    """`AnswerParts`: what stands between two tildes is not seen."""

    def __init__(self) -> None:
        self._is_visible = True

    def feed(self, text: str) -> list[TextPiece]:
        """Return the text between tildes, and the tildes."""
        pieces: list[TextPiece] = []
        for index, piece in enumerate(text.split("~")):
            if index:
                pieces.append(TextPiece("~", is_visible=False))
                self._is_visible = not self._is_visible
            pieces.append(TextPiece(piece, is_visible=self._is_visible))
        return pieces

    def finish(self, *, cut: bool) -> list[TextPiece]:
        """Nothing is held back."""
        return []


class PlainParser:
    """An `OutputParser`: `~` begins and ends thinking; `call:name {json}` at the start is a tool call."""

    def __init__(self, choice: int) -> None:
        """Stamp events with this choice."""
        self._choice = choice
        self._seen = ""
        self._thinking = False
        self._calling: bool | None = None
        self._num_tool_calls = 0
        self.num_parse_failures = 0

    @property
    def num_tool_calls(self) -> int:
        """Calls begun so far."""
        return self._num_tool_calls

    def feed(self, text: str) -> list[GenerationEvent]:
        """Take more text; return the events it completes."""
        if self._calling is not False:
            self._seen += text
            if len(self._seen) < 5 and "call:".startswith(self._seen):
                return []
            self._calling = self._seen.startswith("call:")
            if self._calling:
                return []
            text, self._seen = self._seen, ""
        return self._pieces(text)

    def _pieces(self, text: str) -> list[GenerationEvent]:
        events: list[GenerationEvent] = []
        for index, piece in enumerate(text.split("~")):
            if index:
                self._thinking = not self._thinking
            if piece:
                events.append(
                    ThinkingDelta(piece, self._choice)
                    if self._thinking
                    else TextDelta(piece, choice=self._choice)
                )
        return events

    def finish(self, *, cut: bool = False) -> list[GenerationEvent]:
        """Take the end of the text; what does not parse becomes text."""
        if not self._seen:
            return []
        name, _, arguments = self._seen.removeprefix("call:").partition(" ")
        if not self._calling or not name:
            return [TextDelta(self._seen, choice=self._choice)]
        self._num_tool_calls += 1
        return [
            ToolCallStarted(0, "call_0", name, self._choice),
            ToolCallDelta(0, arguments, self._choice),
        ]


def _text(token_id: int) -> str:
    if token_id < NUM_CHARACTERS:
        return CHARACTERS[token_id]
    if token_id < _PAIRS_FROM:
        return SPECIALS[token_id - NUM_CHARACTERS]
    left, right = divmod(token_id - _PAIRS_FROM, NUM_CHARACTERS)
    return CHARACTERS[left] + CHARACTERS[right]


def _content(message: Message) -> str:
    parts: list[str] = []
    for part in message.parts:
        if isinstance(part, TextPart):
            parts.append(part.text)
        elif isinstance(part, ToolCallPart):
            parts.append(f"call:{part.name} {json.dumps(dict(part.arguments))}")
        elif isinstance(part, ToolResultPart):
            parts.append(part.content)
    return "".join(parts)
