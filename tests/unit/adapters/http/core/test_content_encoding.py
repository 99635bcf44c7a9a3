"""Compressed bodies are read within the limit, and what cannot be read says so."""

from __future__ import annotations

import gzip
import zlib

import pytest
import zstandard

from semanticd.adapters.http.core.content_encoding import SUPPORTED, coding_of, decode
from semanticd.adapters.http.core.errors import MediaTypeError
from semanticd.domain.errors import InvalidRequestError, RequestTooLargeError

LIMIT = 1000
ENCODERS = {"gzip": gzip.compress, "deflate": zlib.compress, "zstd": zstandard.ZstdCompressor().compress}


def test_every_supported_coding_is_tried_here() -> None:
    assert set(ENCODERS) == set(SUPPORTED)


@pytest.mark.parametrize("coding", SUPPORTED)
def test_a_body_of_the_limits_size_is_decoded_and_one_byte_more_is_refused(coding: str) -> None:
    assert decode(ENCODERS[coding](b"a" * LIMIT), coding, limit=LIMIT) == b"a" * LIMIT
    for size in (LIMIT + 1, 50_000_000):
        with pytest.raises(RequestTooLargeError, match="decoded body"):
            decode(ENCODERS[coding](b"a" * size), coding, limit=LIMIT)


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_a_body_in_several_pieces_is_decoded_whole(coding: str) -> None:
    encode = ENCODERS[coding]
    assert decode(encode(b"ab") + encode(b"cd"), coding, limit=LIMIT) == b"abcd"


@pytest.mark.parametrize("coding", SUPPORTED)
def test_bytes_of_another_coding_are_refused(coding: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"not valid {coding}"):
        decode(b'{"model": "tiny"}', coding, limit=LIMIT)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_body_that_ends_early_is_refused(coding: str) -> None:
    with pytest.raises(InvalidRequestError, match="ends early"):
        decode(ENCODERS[coding](b"abcdefgh")[:-2], coding, limit=LIMIT)


def test_a_frame_that_asks_for_a_large_window_is_refused() -> None:
    settings = zstandard.ZstdCompressionParameters(window_log=26, enable_ldm=True)
    compressor = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    body = compressor.compress(b"a" * 10) + compressor.flush()
    with pytest.raises(InvalidRequestError, match="zstd"):
        decode(body, "zstd", limit=LIMIT)


@pytest.mark.parametrize(
    ("header", "coding"),
    [(None, None), ("", None), ("identity", None), ("GZIP", "gzip"), ("x-gzip", "gzip"), ("zstd", "zstd")],
)
def test_a_coding_is_known_by_its_names(header: str | None, coding: str | None) -> None:
    assert coding_of(header) == coding


@pytest.mark.parametrize("header", ["br", "gzip, zstd", "nonsense"])
def test_another_coding_is_refused_with_what_would_work(header: str) -> None:
    with pytest.raises(MediaTypeError, match="zstd, gzip, deflate"):
        coding_of(header)
