"""The child's side of `trial`: compiles grammars, and says whether they compile. Run by path, as a program of its own.

Messages in both directions are a length (4 bytes, big-endian) and as many bytes. In: a grammar in UTF-8. Out: the
bytes that the compiled form takes (8 bytes, big-endian; 0 where the system does not say) and the reason why it was
refused in UTF-8 (empty: it compiles). An empty message comes first, when the process is ready.

Nothing else allocates here, so that what the system's heap grew by is what the form takes. The vocabulary matters
little: a form of a tokenizer with 256 tokens takes as much as one of 150,000 (within 1 %). Tokens that a grammar names
by id are therefore all taken for one of these; whether the model has them is seen when the form is compiled for it.
"""

from __future__ import annotations

import ctypes
import os
import re
import struct
import sys
from typing import Any, BinaryIO

_NICE = 10
_FORCED_PIECES = 64
_NAMED_TOKENS = re.compile(r"<\[[0-9^,\- ]+\]>")
_ANY_ID = "<[256]>"
"""A token of the byte tokenizer that stands for no byte."""


def main(max_bytes: int) -> None:
    """Answer grammars from standard input until it ends, within `max_bytes` of address space."""
    # The folder of this file comes first in the path of a program that is run by path; nothing is imported from there.
    sys.path.pop(0)
    _bound(max_bytes)
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

    limits = LLParserLimits(verbose_errors=False)
    tables = LLTokenizer("byte")
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    # Ready: a form's time begins now.
    sink.write(struct.pack(">I", 0))
    sink.flush()
    while (grammar := read_message(source)) is not None:
        before = heap_bytes()
        text = _NAMED_TOKENS.sub(_ANY_ID, grammar.decode())
        matcher = LLMatcher(tables, text, log_level=0, limits=limits)
        reason = matcher.get_error().encode() if matcher.is_error() else b""
        if not reason:
            begin(matcher)
        taken = max(0, heap_bytes() - before)
        del matcher
        sink.write(struct.pack(">IQ", 8 + len(reason), taken) + reason)
        sink.flush()


def begin(matcher: Any) -> None:
    """Follow what a form forces from its start: its lexer, which copies share, keeps what it learns from that."""
    ahead = matcher.deep_copy()
    for _ in range(_FORCED_PIECES):
        tokens = ahead.compute_ff_tokens()
        if not tokens or not ahead.consume_tokens(tokens):
            break
    ahead.compute_bitmask()


def read_message(source: BinaryIO) -> bytes | None:
    """Return the next message; None at the end of the stream."""
    head = source.read(4)
    if len(head) < 4:
        return None
    size: int = struct.unpack(">I", head)[0]
    content = source.read(size)
    return content if len(content) == size else None


class _GlibcHeap(ctypes.Structure):
    """`struct mallinfo2`: `hblkhd` is the fifth of its numbers, `uordblks` the eighth; together what is in use."""

    _fields_ = (("numbers", ctypes.c_size_t * 10),)


class _MacHeap(ctypes.Structure):
    """`malloc_statistics_t`."""

    _fields_ = (
        ("blocks_in_use", ctypes.c_uint),
        ("size_in_use", ctypes.c_size_t),
        ("max_size_in_use", ctypes.c_size_t),
        ("size_allocated", ctypes.c_size_t),
    )


def heap_bytes() -> int:
    """Return the bytes of this process's heap that are in use; 0 where the system does not say."""
    library: Any = ctypes.CDLL(None)
    if (mallinfo := getattr(library, "mallinfo2", None)) is not None:
        mallinfo.restype = _GlibcHeap
        numbers = mallinfo().numbers
        return int(numbers[4] + numbers[7])
    if (statistics := getattr(library, "malloc_zone_statistics", None)) is not None:
        found = _MacHeap()
        # No zone: all of them.
        statistics(None, ctypes.byref(found))
        return int(found.size_in_use)
    return 0


def _bound(max_bytes: int) -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (max_bytes, max_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.nice(_NICE)
    except (ImportError, ValueError, OSError):
        # macOS does not bound address space; the deadline holds there all the same.
        return


if __name__ == "__main__":
    main(int(sys.argv[1]))
