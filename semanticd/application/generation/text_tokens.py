"""Texts to token ids and back, as a model's tokenizer has it: apart from every agent, and nothing is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from semanticd.application.generation.places import COUNTING, ReadingPlaces
from semanticd.application.generation.prompt_size import check_size, check_vocabulary
from semanticd.application.ports.inference import LoadedModel
from semanticd.application.services.model_routing import ModelRouting
from semanticd.domain.chat import ChatPrompt, TextPrompt, TokenPrompt
from semanticd.domain.volatile_sections import with_sections_behind_tools


@dataclass(frozen=True, slots=True)
class TextToRead:
    """The input to tokenize: a conversation, or plain text."""

    source: ChatPrompt | str
    add_special: bool = True
    """Whether text gets the BOS that its tokenizer wants; a conversation's template writes its own."""
    parse_special: bool = True
    """Whether special tokens that are written in the text are those tokens; in a conversation they never are."""
    add_generation_prompt: bool = True
    with_pieces: bool = False


@dataclass(frozen=True, slots=True)
class ReadText:
    """The ids, the text of each if requested, and the model's context in tokens."""

    token_ids: tuple[int, ...]
    pieces: tuple[bytes, ...] | None
    context_length: int


class TextTokens(Protocol):
    """Texts to ids and back; `TextTokensService` below is the real one."""

    async def encode(self, model: str, text: TextToRead) -> ReadText:
        """Return a text's ids.

        Raises:
            PromptTooLongError: The text is far longer than the model's context.
        """

    async def decode(self, model: str, token_ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens included.

        Raises:
            InvalidRequestError: An id is not a token of the vocabulary.
        """


class TextTokensService:
    """Reads with the tokenizers of loaded models, one text at a time: those that wait for answers come first."""

    def __init__(self, *, routing: ModelRouting, places: ReadingPlaces, move_volatile: bool = False) -> None:
        """Read for as many callers at a time as `places` has, those that wait for answers included.

        With `move_volatile`, chats are read as they are for an answer; see `volatile_sections`.
        """
        self._move_volatile = move_volatile
        self._routing = routing
        self._places = places

    async def encode(self, model: str, text: TextToRead) -> ReadText:
        """Return a text's ids; see the protocol."""
        with self._places.take(None, 1, holder=COUNTING):
            async with self._places.to_count, self._routing.lease(model) as loaded:
                return await self._places.count(partial(_encode, loaded, self._arranged(text)))

    async def decode(self, model: str, token_ids: Sequence[int]) -> str:
        """Return the text of ids; see the protocol."""
        with self._places.take(None, 1, holder=COUNTING):
            async with self._places.to_count, self._routing.lease(model) as loaded:
                return await self._places.count(partial(_decode, loaded, token_ids))

    def _arranged(self, text: TextToRead) -> TextToRead:
        if not self._move_volatile or isinstance(text.source, str):
            return text
        return replace(text, source=with_sections_behind_tools(text.source))


def _encode(model: LoadedModel, text: TextToRead) -> ReadText:
    tokenizer, source = model.tokenizer, text.source
    if isinstance(source, str):
        check_size(TextPrompt(source), model.context_length)
        ids = tokenizer.text_ids(source, add_special=text.add_special, parse_special=text.parse_special)
    else:
        check_size(source, model.context_length)
        prompt = model.defaults.of_prompt(source)
        assert isinstance(prompt, ChatPrompt)
        rendered = tokenizer.render(prompt, add_generation_prompt=text.add_generation_prompt)
        check_size(TextPrompt(rendered), model.context_length)
        ids = tokenizer.encode(rendered)
    pieces = tuple(map(tokenizer.piece, ids)) if text.with_pieces else None
    return ReadText(tuple(ids), pieces, model.context_length)


def _decode(model: LoadedModel, token_ids: Sequence[int]) -> str:
    prompt = TokenPrompt(tuple(token_ids))
    check_size(prompt, model.context_length)
    check_vocabulary(prompt.token_ids, model.tokenizer.vocab_size, param="tokens")
    return model.tokenizer.decode(prompt.token_ids)
