"""Frames: a 4-byte big-endian length, then that many bytes. No I/O: bytes go in, payloads come out.

Rule: a length is judged before anything after it is kept, so a peer cannot make us hold more than one frame's
limit. Bytes may arrive in any pieces, one at a time or many frames at once.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

_LENGTH: Final = struct.Struct(">I")

MAX_FRAME_BYTES: Final = 16 * 1024 * 1024
"""The longest payload either side accepts."""


class FrameError(ValueError):
    """The byte stream cannot be read as frames; nothing after this point can be understood."""


class FrameTooLargeError(FrameError):
    """A frame announces, or a payload has, more bytes than allowed; `num_bytes` says how many."""

    def __init__(self, num_bytes: int, maximum: int) -> None:
        super().__init__(f"frame of {num_bytes} bytes is larger than the maximum of {maximum} bytes")
        self.num_bytes = num_bytes
        self.maximum = maximum


def frame(payload: bytes, *, max_bytes: int = MAX_FRAME_BYTES) -> bytes:
    """Return the payload with its length in front.

    Raises:
        FrameTooLargeError: The payload is larger than the maximum.
    """
    if len(payload) > max_bytes:
        raise FrameTooLargeError(len(payload), max_bytes)
    return _LENGTH.pack(len(payload)) + payload


class FrameReader:
    """Cuts a byte stream into payloads.

        reader = FrameReader()
        for payload in reader.feed(received): ...

    After an error it is spent: every further `feed` raises the same error.
    """

    def __init__(self, *, max_bytes: int = MAX_FRAME_BYTES) -> None:
        """Refuse payloads above `max_bytes`."""
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._error: FrameError | None = None

    @property
    def num_pending_bytes(self) -> int:
        """Bytes of an unfinished frame; 0 between frames, when a peer may close without having cut one off."""
        return len(self._buffer)

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[bytes]:
        """Take bytes and yield the payloads that are now complete.

        The generator must be exhausted before the next call.

        Raises:
            FrameTooLargeError: A frame's announced length exceeds the limit; complete frames before it come first.
        """
        if self._error is not None:
            raise self._error
        self._buffer += data
        position = 0
        try:
            while (length := self._next_length(position)) is not None:
                start = position + _LENGTH.size
                if len(self._buffer) < start + length:
                    break
                position = start + length
                yield bytes(self._buffer[start:position])
        finally:
            del self._buffer[:position]

    def _next_length(self, position: int) -> int | None:
        if len(self._buffer) < position + _LENGTH.size:
            return None
        length: int = _LENGTH.unpack_from(self._buffer, position)[0]
        if length > self._max_bytes:
            self._error = FrameTooLargeError(length, self._max_bytes)
            self._buffer.clear()
            raise self._error
        return length
