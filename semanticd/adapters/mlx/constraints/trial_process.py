"""The child's side of `trial`: compiles grammars, and says whether they compile. Run by path, as a program of its own.

Messages in both directions are a length (4 bytes, big-endian) and as many bytes of UTF-8: a grammar, and the reason
why it was refused (empty: it compiles). An empty message comes first, when the process is ready.
"""

from __future__ import annotations

import os
import struct
import sys
from typing import BinaryIO

_NICE = 10


def main(max_bytes: int) -> None:
    """Answer grammars from standard input until it ends, within `max_bytes` of address space."""
    # The folder of this file comes first in the path of a program that is run by path; nothing is imported from there.
    sys.path.pop(0)
    _bound(max_bytes)
    from llguidance import LLMatcher, LLParserLimits

    limits = LLParserLimits(verbose_errors=False)
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    # Ready: a form's time begins now.
    sink.write(struct.pack(">I", 0))
    sink.flush()
    while (grammar := read_message(source)) is not None:
        reason = LLMatcher.validate_grammar(grammar.decode(), None, limits=limits).encode()
        sink.write(struct.pack(">I", len(reason)) + reason)
        sink.flush()


def read_message(source: BinaryIO) -> bytes | None:
    """Return the next message; None at the end of the stream."""
    head = source.read(4)
    if len(head) < 4:
        return None
    size: int = struct.unpack(">I", head)[0]
    content = source.read(size)
    return content if len(content) == size else None


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
