"""MlxTokenizer: text to ids and back, answers to events; conversations to text is `chat_template`'s business."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper

from semanticd.adapters.mlx.constraints.compile import ConstraintCompiler
from semanticd.adapters.mlx.constraints.tool_grammar import (
    call_or_answer_grammar,
    channel_no_call_grammar,
    channel_tool_grammar,
    no_call_grammar,
    optional_tool_grammar,
    tool_grammar,
)
from semanticd.adapters.mlx.text.answer_parts import MarkedParts, Part
from semanticd.adapters.mlx.text.chat_template import SHORTEST, ChatTemplate, template_text
from semanticd.adapters.mlx.text.harmony import MARKERS as CHANNEL_MARKERS
from semanticd.adapters.mlx.text.harmony import PARTS as CHANNELS
from semanticd.adapters.mlx.text.harmony import HarmonyParser
from semanticd.adapters.mlx.text.literal_content import MARK, ControlTokens, pieces, protected
from semanticd.adapters.mlx.text.output_parser import Markup, MlxOutputParser, strings_of
from semanticd.adapters.mlx.text.stream_decoder import ByteStreamDecoder, TokenBytes, WindowStreamDecoder
from semanticd.adapters.mlx.text.tool_families import family_of
from semanticd.application.ports.inference import OutputParser, StreamDecoder
from semanticd.domain.chat import ChatPrompt
from semanticd.domain.errors import InvalidRequestError, SemanticError
from semanticd.domain.generation import OutputConstraint
from semanticd.domain.stop_matcher import VisibleStops

_ENDS_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|return|>", "<|call|>", "<|end_of_turn|>")

_BYTE = re.compile("<0x([0-9A-F]{2})>")
"""Spelling of a byte that is not a character, in vocabularies that are not byte-level."""

_ANCHOR = "\n"
"""Text that no tokenizer joins with a letter or a bracket after it."""


class MlxTokenizer:
    """One model's tokenizer and chat template; see the port `Tokenizer`. Callable from any thread."""

    def __init__(
        self,
        wrapper: TokenizerWrapper,
        *,
        model_type: str = "",
        tool_parser: str | None = None,
        canonicalize: bool = True,
        literal_content: bool = True,
        vocab_size: int | None = None,
    ) -> None:
        """Take mlx-lm's wrapper; `tool_parser` names a family of `tool_families` or a parser of mlx-lm.

        With `literal_content` control tokens in what users wrote are text.

        Raises:
            ValueError: There is no such parser.
        """
        self._wrapper = wrapper
        self._model_type = model_type
        self._vocabulary: dict[str, int] = wrapper.get_vocab()
        self._vocab_size = max(vocab_size or 0, len(self._vocabulary))
        self._family = family_of(
            hint=tool_parser,
            inferred=_inferred_parser(wrapper),
            template=template_text(wrapper),
            vocabulary=self._vocabulary,
        )
        self._template = ChatTemplate(wrapper, family=self._family, canonicalize=canonicalize)
        self._markup = Markup(wrapper.think_start, wrapper.think_end, self._family.forms)
        self._parts = {
            "calls": _parts_of(self._markup),
            "no calls": _parts_of(replace(self._markup, forms=())),
        }
        # Some conversions name only the end of the document as EOS; the template's end of turn counts too.
        turns = {
            self._vocabulary[m] for m in _ENDS_OF_TURN if m in self._vocabulary and m in self._template.text
        }
        self._eos = frozenset(int(token) for token in wrapper.eos_token_ids) | turns
        self._special = _special_tokens(wrapper)
        # In a grammar a marker that is one token is named by its id, whether or not the token is called special.
        self._marker_ids = self._special | {
            token.content: i for i, token in wrapper.added_tokens_decoder.items()
        }
        self._speaks_in_channels = all(
            marker in self._special and marker in self._template.text
            for marker in ("<|channel|>", "<|message|>")
        )
        self._silent = self._silent_ids()
        self._all_control = self._control_tokens()
        self._control = self._all_control if literal_content else None
        self._anchor = self._plain_ids(_ANCHOR)
        self._around = self._added_around_text()
        self._bos = self.decode(self._around[0])
        backend = getattr(wrapper, "backend_tokenizer", None)
        if backend is not None:
            # The library re-sets these on every call when they are set, and that is not safe between threads.
            backend.no_truncation()
            backend.no_padding()
        byte_level = backend is not None and type(backend.decoder).__name__ == "ByteLevel"
        self._token_bytes = TokenBytes(backend, silent=self._silent) if byte_level else None
        self._piece_bytes = TokenBytes(backend, silent=frozenset()) if byte_level else None
        self.constraints = ConstraintCompiler(
            backend,
            vocab_size=self._vocab_size,
            eos_token_ids=sorted(self._eos),
            think_start=self.encode(self._markup.think_start or ""),
            think_end=self.encode(self._markup.think_end or ""),
        )

    def warm_up(self) -> None:
        """Render and tokenize the shortest conversation: the first time, templates are compiled."""
        with contextlib.suppress(SemanticError):
            self.encode(self.render(SHORTEST))

    def _silent_ids(self) -> frozenset[int]:
        """Special tokens produce no text, save those that the output parser must see."""
        markers = [*self._family.markers, *self._thinking_markers()]
        markers += CHANNEL_MARKERS if self._speaks_in_channels else ()
        return frozenset(
            i for text, i in self._special.items() if not any(text in marker for marker in markers)
        )

    def _control_tokens(self) -> ControlTokens:
        markers = [*self._family.markers, *self._thinking_markers(), *CHANNEL_MARKERS]
        single = {token.content for token in self._wrapper.added_tokens_decoder.values()}
        return ControlTokens(special=self._special, structural=[m for m in markers if m in single])

    def _added_around_text(self) -> tuple[list[int], list[int]]:
        """Return the ids that the tokenizer puts before and behind a text of its own accord, as its file says."""
        plain = self._plain_ids(_ANCHOR)
        ids: list[int] = self._wrapper.encode(_ANCHOR, add_special_tokens=True)
        starts = [i for i in range(len(ids) - len(plain) + 1) if ids[i : i + len(plain)] == plain]
        return (ids[: starts[0]], ids[starts[0] + len(plain) :]) if starts else ([], [])

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Ids that end the model's turn."""
        return self._eos

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return self._vocab_size

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Return the ids of a text; special tokens written in it are recognised, save those that `render` marked."""
        if MARK in text:
            return [
                token_id
                for i, piece in enumerate(pieces(text))
                for token_id in self._piece(piece, first=i == 0)
            ]
        return self._plain_ids(text, add_special_tokens=add_special_tokens)

    def _plain_ids(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        ids: list[int] = self._wrapper.encode(text, add_special_tokens=add_special_tokens)
        return ids

    def _piece(self, text: str, *, first: bool) -> list[int]:
        """Return the ids of a piece that continues a text: some tokenizers put a space before the first word."""
        if first:
            return self._plain_ids(text)
        ids = self._plain_ids(_ANCHOR + text)
        size = len(self._anchor)
        return ids[size:] if ids[:size] == self._anchor else self._plain_ids(text)

    def raw_text(self, text: str) -> str:
        """Return raw text as it is encoded: behind the BOS that the tokenizer wants, unless it is written there."""
        return self._behind_bos(protected(text))

    def _behind_bos(self, text: str) -> str:
        return text if text.startswith(self._bos) else self._bos + text

    def text_ids(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Return the ids of a text as it is; see the port."""
        text = protected(text) if parse_special else self._all_control.literal(text)
        return self.encode(self._behind_bos(text) if add_special else text)

    def embedding_ids(self, text: str) -> list[int]:
        """Return the ids of a text whose meaning is wanted; see the port."""
        before, after = self._around
        return [*before, *self.encode(self._all_control.literal(text)), *after]

    def piece(self, token_id: int) -> bytes:
        """Return the bytes that a token stands for; they may be a part of a character."""
        if self._piece_bytes is not None:
            return self._piece_bytes(token_id)
        written = _BYTE.fullmatch(str(self._wrapper.convert_ids_to_tokens(token_id)))
        return bytes([int(written[1], 16)]) if written else self.decode([token_id]).encode()

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens included."""
        text: str = self._wrapper.decode(
            list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text

    def canonical_changes(self, prompt: ChatPrompt) -> tuple[str, ...]:
        """Name what rendering leaves out or puts in order; see the port."""
        return self._template.changes(prompt)

    def stream_decoder(self) -> StreamDecoder:
        """Return a fresh decoder."""
        if self._token_bytes is not None:
            return ByteStreamDecoder(self._token_bytes)
        return WindowStreamDecoder(self.decode, silent=self._silent)

    def render(self, prompt: ChatPrompt, *, add_generation_prompt: bool = True) -> str:
        """Apply the chat template.

        Raises:
            InvalidRequestError: The template refuses the conversation.
        """
        if self._control is not None:
            prompt = self._control.marked(prompt)
        return self._template.render(prompt, add_generation_prompt=add_generation_prompt)

    # Answers.

    def output_parser(self, prompt: ChatPrompt, *, choice: int = 0) -> OutputParser:
        """Return a fresh parser for an answer to this prompt."""
        offered = prompt.tools if prompt.tool_choice.mode != "none" else ()
        if self._speaks_in_channels:
            return HarmonyParser(names=[tool.name for tool in offered], choice=choice)
        return MlxOutputParser(
            self._markup,
            tools=[self._template.tool(tool) for tool in offered],
            begins_thinking=self._begins_thinking(prompt),
            choice=choice,
        )

    def visible_stops(
        self, prompt: ChatPrompt, stops: tuple[str, ...], *, formed: bool
    ) -> tuple[str, ...] | VisibleStops:
        """Return stop strings that do not stop inside of thinking and calls; see the port."""
        if self._speaks_in_channels:
            return VisibleStops(stops, partial(MarkedParts, CHANNELS["final" if formed else "header"]))
        calls = bool(prompt.tools) and prompt.tool_choice.mode != "none"
        parts = self._parts["calls" if calls else "no calls"]
        begin = parts["thinking" if self._begins_thinking(prompt) else "text"]
        return VisibleStops(stops, partial(MarkedParts, begin)) if begin.marks else stops

    @property
    def thinks(self) -> bool:
        """Whether the model may think before it answers, judging by its template."""
        return bool(self._markup.think_end) or self._speaks_in_channels

    def _begins_thinking(self, prompt: ChatPrompt) -> bool:
        if prompt.prefill:
            return False
        start, end = self._markup.think_start, self._markup.think_end
        return bool(start and end) and self._template.opens(str(start), str(end), prompt)

    def tool_constraint(
        self, prompt: ChatPrompt, answer: OutputConstraint | None = None
    ) -> OutputConstraint | None:
        """Return the form that enforces the prompt's tool choice, or None; `answer` is the form of other answers.

        Where the model may choose whether to call, what was promised of its calls still holds: their names when the
        choice limits them, their number, their arguments when a tool is strict.
        """
        choice, names = prompt.tool_choice, prompt.tool_choice.names
        if not prompt.tools:
            return answer
        if choice.mode == "none":
            return answer or self._no_call()
        tools = [tool for tool in prompt.tools if not names or tool.name in names]
        if not tools:
            raise InvalidRequestError(
                f"tool_choice names {', '.join(names)}, which is not among the tools", param="tool_choice"
            )
        if choice.mode == "required":
            answer = None
        elif answer is None and not names and choice.parallel and not any(tool.strict for tool in tools):
            return None
        if self._speaks_in_channels:
            if answer is None and choice.mode != "required":
                return None
            return channel_tool_grammar(tools, self._special, answer=answer)
        markup: dict[str, Any] = {"spelling": self._family.spelling, "parallel": choice.parallel}
        markup["special"] = self._marker_ids
        if choice.mode == "required":
            return tool_grammar(tools, **markup)
        if answer is not None:
            return call_or_answer_grammar(tools, answer, **markup)
        return optional_tool_grammar(tools, **markup, thinking=self._thinking_markers())

    def _no_call(self) -> OutputConstraint:
        if self._speaks_in_channels:
            return channel_no_call_grammar(self._special, CHANNEL_MARKERS)
        return no_call_grammar(
            start=self._family.spelling.start,
            special=self._marker_ids,
            thinking=self._thinking_markers(),
        )

    def _thinking_markers(self) -> list[str]:
        return [marker for marker in (self._markup.think_start, self._markup.think_end) if marker]

    def with_thinking(
        self, prompt: ChatPrompt, constraint: OutputConstraint | None, *, budget: int | None, max_tokens: int
    ) -> OutputConstraint | None:
        """Return the constraint with the thinking that may come before it, for models that think."""
        if not self._markup.think_end:
            return constraint
        begins = self._begins_thinking(prompt)
        if constraint is None:
            if budget is None:
                return None
            return OutputConstraint("any", thinking_budget=budget, begins_thinking=begins)
        if not begins:
            # The form begins at once.
            return constraint
        # Without a budget, thinking leaves half of the room to a form that must come.
        room = max_tokens if constraint.kind == "optional_call" else max_tokens // 2
        return replace(
            constraint, thinking_budget=room if budget is None else min(budget, room), begins_thinking=True
        )

    def find_constraint(self, constraint: OutputConstraint) -> OutputConstraint | None:
        """Return the constraint with its form if that was compiled before."""
        return self.constraints.find(constraint)

    def compile_constraint(self, constraint: OutputConstraint) -> OutputConstraint:
        """Return the constraint with its compiled form."""
        return self.constraints.compile(constraint)


def _parts_of(markup: Markup) -> Mapping[str, Part]:
    """Return the two parts in which an answer may begin: text and thinking."""
    text, thinking = Part(is_visible=True), Part()
    if markup.think_start and markup.think_end:
        text.marks[markup.think_start] = thinking
        thinking.marks[markup.think_end] = text
    for form in markup.forms:
        # A block after a guarded marker may be text, in which stop strings count.
        if form.guard is None:
            ends = {form.end: text} if form.end else {}
            text.marks[form.start] = Part(marks=ends, strings=partial(strings_of, form))
    return {"text": text, "thinking": thinking}


def _inferred_parser(wrapper: TokenizerWrapper) -> str | None:
    """Return the name of the parser that mlx-lm found for the model, if it found one."""
    if wrapper.tool_parser is None:
        return None
    return str(wrapper.tool_parser.__module__.rpartition(".")[2])


def _special_tokens(wrapper: TokenizerWrapper) -> dict[str, int]:
    """Return special tokens with their ids, those too that only the tokenizer's file calls special."""
    added = {token.content: i for i, token in wrapper.added_tokens_decoder.items() if token.special}
    return added | dict(zip(wrapper.all_special_tokens, wrapper.all_special_ids, strict=True))
