"""Turns a sequence's tokens into text as they come; a character split over tokens waits until it is whole.

Byte-level vocabularies (most models) say which bytes a token stands for, so decoding is a table and an incremental
UTF-8 decoder: exact for any ids, at a cost that does not depend on the answer's length. Other vocabularies are
decoded in a short window of the last tokens.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from typing import Any

_INCOMPLETE = "\ufffd"
_MAX_WINDOW = 32
"""Tokens looked at together before the oldest are let go."""


class ByteStreamDecoder:
    """One answer's decoder for a byte-level vocabulary; see the port `StreamDecoder`."""

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        """`token_bytes` gives a token's bytes; none for ids that produce no text."""
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token_id: int) -> str:
        """Return the text that became certain."""
        return self._decoder.decode(self._token_bytes(token_id))

    def finish(self) -> str:
        """Return the text held back."""
        return self._decoder.decode(b"", final=True)


class WindowStreamDecoder:
    """One answer's decoder for any vocabulary; see the port `StreamDecoder`.

    A token's text can depend on the one before it, so a short window of tokens is decoded and what was passed on of
    it is left out. A window begins where a character was whole. The last character waits while it is a replacement
    character: more bytes may yet complete it.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], *, silent: frozenset[int]) -> None:
        """`silent` ids produce no text."""
        self._decode = decode
        self._silent = silent
        self._window: list[int] = []
        self._num_shown = 0
        self._passed = ""

    def add(self, token_id: int) -> str:
        """Return the text that became certain."""
        if token_id in self._silent:
            return ""
        self._window.append(token_id)
        text = self._decode(self._window)
        whole = not text.endswith(_INCOMPLETE)
        fresh = self._pass_on(text if whole else text[:-1])
        if whole:
            # The text shown before was only needed to join the new tokens to it.
            del self._window[: self._num_shown]
            self._num_shown = len(self._window)
            self._passed = self._decode(self._window)
        elif len(self._window) > _MAX_WINDOW:
            self._let_go(text)
        return fresh

    def finish(self) -> str:
        """Return the text held back."""
        return self._pass_on(self._decode(self._window)) if self._window else ""

    def _pass_on(self, text: str) -> str:
        fresh = text[len(self._passed) :]
        self._passed += fresh
        return fresh

    def _let_go(self, text: str) -> None:
        """Shorten a window that never was whole (not UTF-8) where that does not change how the rest reads."""
        for cut in range(len(self._window) // 2, len(self._window)):
            head = self._decode(self._window[:cut])
            if head + self._decode(self._window[cut:]) == text and len(head) <= len(self._passed):
                self._passed = self._passed[len(head) :]
                self._window = self._window[cut:]
                self._num_shown = 0
                return


class TokenBytes:
    """Bytes of each token of a byte-level vocabulary."""

    def __init__(self, backend: Any, *, silent: frozenset[int]) -> None:
        """`backend` is a tokenizer of the `tokenizers` library; `silent` ids have no bytes."""
        self._backend = backend
        self._known: dict[int, bytes] = dict.fromkeys(silent, b"")

    def __call__(self, token_id: int) -> bytes:
        """Return the bytes; ids outside the vocabulary have none, as in the library."""
        found = self._known.get(token_id)
        if found is None:
            found = self._known[token_id] = self._spell(token_id)
        return found

    def _spell(self, token_id: int) -> bytes:
        token = self._backend.id_to_token(token_id)
        if token is None:
            return b""
        try:
            return bytes(_BYTE_OF[character] for character in token)
        except KeyError:
            # Added tokens are written as they are.
            return str(token).encode()


def _byte_alphabet() -> dict[str, int]:
    """Return the printable stand-ins for bytes that GPT-2's encoder introduced (openai/gpt-2, encoder.py)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(hidden)}


_BYTE_OF = _byte_alphabet()
