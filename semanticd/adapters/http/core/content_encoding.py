"""Request bodies that a client compressed: decoded within the limit for plain ones, or refused with 415.

Codex compresses its requests with zstd. A small body can decode to gigabytes, so that no more than the limit is ever
produced; zstd frames may ask for a window of at most 8 MiB (RFC 9659).
"""

from __future__ import annotations

import zlib

from semanticd.adapters.http.core.errors import MediaTypeError
from semanticd.domain.errors import InvalidRequestError, RequestTooLargeError

SUPPORTED = ("zstd", "gzip", "deflate")

_MAX_WINDOW_BYTES = 8 * 1024 * 1024
_ALIASES = {"x-gzip": "gzip"}
_GZIP_BITS = 16 + zlib.MAX_WBITS


def coding_of(header: str | None) -> str | None:
    """Return the coding that a `Content-Encoding` header names; None for a plain body.

    Raises:
        MediaTypeError: a coding that is not supported, or several.
    """
    name = (header or "").strip().lower()
    if name in ("", "identity"):
        return None
    coding = _ALIASES.get(name, name)
    if coding not in SUPPORTED:
        raise MediaTypeError(
            f"a body with `Content-Encoding: {name[:40]}` cannot be read; send it plain, or as {', '.join(SUPPORTED)}"
        )
    return coding


def decode(raw: bytes, coding: str, *, limit: int) -> bytes:
    """Return a decompressed body of at most `limit` bytes.

    Raises:
        InvalidRequestError: the bytes are not of this coding, or end early.
        RequestTooLargeError: it would be larger than the limit.
    """
    try:
        decoded = _zstd(raw, limit) if coding == "zstd" else _zlib(raw, coding, limit)
    except (zlib.error, ValueError) as error:
        raise InvalidRequestError(f"the body is not valid {coding}: {error}") from None
    if len(decoded) > limit:
        raise RequestTooLargeError(
            f"the decoded body is larger than the limit of {limit} bytes; send less, or raise the limit"
        )
    return decoded


def _zlib(raw: bytes, coding: str, limit: int) -> bytes:
    decoded = b""
    while raw and len(decoded) <= limit:
        # A gzip file may have several members, one after another.
        stream = zlib.decompressobj(_GZIP_BITS if coding == "gzip" else zlib.MAX_WBITS)
        decoded += stream.decompress(raw, limit + 1 - len(decoded))
        if not stream.eof and len(decoded) <= limit:
            raise ValueError("it ends early")
        raw = stream.unused_data
    return decoded


def load_decoders() -> None:
    """Import the modules for compressed bodies in advance: their files may change later. Takes 30 ms."""
    import zstandard  # noqa: F401


def _zstd(raw: bytes, limit: int) -> bytes:
    import zstandard

    try:
        decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
        with decompressor.stream_reader(raw, read_across_frames=True) as reader:
            return reader.read(limit + 1)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from None
