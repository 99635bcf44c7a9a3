"""Whatever ids come, the pieces of text add up to the decoded whole, and no character is split."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from semanticd.adapters.mlx.text.stream_decoder import ByteStreamDecoder, TokenBytes, WindowStreamDecoder


def byte_tokenizer() -> Tokenizer:
    """A token is a byte, and two common pairs."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {symbol: number for number, symbol in enumerate([*symbols, "Ġa", "ab"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[("Ġ", "a"), ("a", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def word_tokenizer() -> Tokenizer:
    """Words with a mark for the space before them, which is left out at the very beginning."""
    words = ["▁the", "▁sky", "▁", "blue", "!", "▁▁"]
    tokenizer = Tokenizer(models.BPE(vocab={w: n for n, w in enumerate(words)}, merges=[]))
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


BYTES, WORDS = byte_tokenizer(), word_tokenizer()
NUM_BYTES = BYTES.get_vocab_size()
HIGH = [BYTES.token_to_id(symbol) for symbol in "âĤ¬ðŁİī"]
"""The bytes of two long characters, so that halves of them are common."""


def pieces(tokenizer: Tokenizer, ids: list[int], silent: frozenset[int] = frozenset()) -> list[str]:
    decoder = WindowStreamDecoder(lambda some: tokenizer.decode(list(some)), silent=silent)
    return [*(decoder.add(token_id) for token_id in ids), decoder.finish()]


@given(
    ids=st.lists(
        st.one_of(st.integers(0, NUM_BYTES - 1), st.sampled_from(HIGH), st.sampled_from(HIGH)), max_size=120
    )
)
def test_pieces_of_any_bytes_add_up_to_the_whole(ids: list[int]) -> None:
    whole = BYTES.decode(ids)
    assert "".join(pieces(BYTES, ids)) == whole
    decoder = ByteStreamDecoder(TokenBytes(BYTES, silent=frozenset()))
    assert "".join([*(decoder.add(token_id) for token_id in ids), decoder.finish()]) == whole


@given(ids=st.lists(st.integers(0, WORDS.get_vocab_size() - 1), max_size=40))
def test_spaces_between_words_are_neither_lost_nor_doubled(ids: list[int]) -> None:
    assert "".join(pieces(WORDS, ids)) == WORDS.decode(ids)


@given(text=st.text(max_size=30))
def test_a_character_of_several_tokens_comes_whole(text: str) -> None:
    parts = pieces(BYTES, BYTES.encode(text).ids)
    assert "".join(parts) == text
    whole = [part for part in parts if "\ufffd" not in part]
    assert "".join(whole) == text or "\ufffd" in text


@pytest.mark.parametrize("num", [40, 200])
def test_bytes_that_are_never_text_pass_at_a_bounded_cost(num: int) -> None:
    longest = 0

    def decode(ids: object) -> str:
        nonlocal longest
        longest = max(longest, len(list(ids)))  # type: ignore[call-overload]
        return str(BYTES.decode(list(ids)))  # type: ignore[call-overload]

    decoder = WindowStreamDecoder(decode, silent=frozenset())
    shown = [decoder.add(BYTES.token_to_id("Ģ")) for _ in range(num)]
    assert "".join([*shown, decoder.finish()]) == "\ufffd" * num
    assert longest <= 33


def test_the_window_does_not_grow_with_the_answer() -> None:
    sizes: list[int] = []

    def decode(ids: object) -> str:
        sizes.append(len(list(ids)))  # type: ignore[call-overload]
        return str(BYTES.decode(list(ids)))  # type: ignore[call-overload]

    decoder = WindowStreamDecoder(decode, silent=frozenset())
    for token_id in BYTES.encode("a long answer of plain words").ids:
        decoder.add(token_id)
    assert max(sizes) <= 3


def test_silent_tokens_say_nothing() -> None:
    silent = BYTES.token_to_id("!")
    ids = BYTES.encode("a!b!").ids
    assert "".join(pieces(BYTES, ids, frozenset([silent]))) == "ab"
    decoder = ByteStreamDecoder(TokenBytes(BYTES, silent=frozenset([silent])))
    assert "".join(decoder.add(token_id) for token_id in ids) == "ab"
