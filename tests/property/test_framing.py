"""Framing and messages hold for any bytes, in any pieces."""

from __future__ import annotations

import contextlib
import struct
from itertools import chain, pairwise

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semanticd.control import messages as m
from semanticd.control.framing import MAX_FRAME_BYTES, FrameReader, FrameTooLargeError, frame

COUNTS = st.integers(0, m.MAX_REQUEST_ID)
TEXTS = st.text(min_size=1, max_size=20)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
MAPS = st.dictionaries(st.text(max_size=10), VALUES, max_size=5)
MESSAGES = st.one_of(
    st.builds(m.Command, COUNTS, TEXTS, MAPS),
    st.builds(m.Event, TEXTS, COUNTS, MAPS, COUNTS),
    st.builds(m.Reply, st.none() | COUNTS, result=MAPS),
    st.builds(m.Reply, st.none() | COUNTS, error=st.builds(m.ErrorInfo, TEXTS, TEXTS)),
)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(places)]


@given(st.lists(st.binary(max_size=300), max_size=8), st.lists(st.integers(0, 5000), max_size=20))
def test_payloads_come_out_as_they_went_in_however_they_are_cut(
    payloads: list[bytes], cuts: list[int]
) -> None:
    stream = b"".join(frame(payload) for payload in payloads)
    reader = FrameReader()
    received = [payload for piece in pieces(stream, cuts) for payload in reader.feed(piece)]
    assert received == payloads
    assert reader.num_pending_bytes == 0


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_one_byte_at_a_time_is_enough(payloads: list[bytes]) -> None:
    reader = FrameReader()
    received: list[bytes] = []
    for byte in b"".join(frame(payload) for payload in payloads):
        received += reader.feed(bytes([byte]))
    assert received == payloads


@given(st.binary(max_size=2000), st.lists(st.integers(0, 2000), max_size=10))
def test_any_bytes_are_payloads_or_too_large_and_never_hoarded(data: bytes, cuts: list[int]) -> None:
    reader = FrameReader(max_bytes=64)
    try:
        for piece in pieces(data, cuts):
            for payload in reader.feed(piece):
                assert len(payload) <= 64
            assert reader.num_pending_bytes < 64 + 4
    except FrameTooLargeError:
        assert reader.num_pending_bytes == 0
        with pytest.raises(FrameTooLargeError):
            list(reader.feed(b"more"))


@given(st.lists(st.binary(max_size=64), max_size=4), st.integers(65, 2**32 - 1))
def test_frames_before_one_that_is_too_large_still_arrive(payloads: list[bytes], length: int) -> None:
    reader = FrameReader(max_bytes=64)
    received: list[bytes] = []
    reader = FrameReader(max_bytes=64)
    with pytest.raises(FrameTooLargeError):
        received.extend(reader.feed(b"".join(map(frame, payloads)) + struct.pack(">I", length)))
    assert received == payloads


def test_the_limit_itself_fits_and_one_more_does_not() -> None:
    assert len(frame(bytes(MAX_FRAME_BYTES))) == MAX_FRAME_BYTES + 4
    with pytest.raises(FrameTooLargeError, match="16777217"):
        frame(bytes(MAX_FRAME_BYTES + 1))


@given(MESSAGES)
def test_a_message_survives_the_wire(message: m.Message) -> None:
    assert m.decode(m.encode(message)) == message


@given(MESSAGES, st.dictionaries(TEXTS, VALUES, max_size=3))
def test_unknown_keys_are_ignored(message: m.Message, more: dict[str, object]) -> None:
    fields = msgpack.unpackb(m.encode(message))
    known = {"v", "id", "cmd", "args", "ok", "result", "error", "event", "sub", "data", "dropped"}
    added = {key: value for key, value in more.items() if key not in known}
    assert m.decode(msgpack.packb({**fields, **added})) == message


def num_values(value: object) -> int:
    if isinstance(value, dict):
        return 1 + sum(num_values(key) + num_values(one) for key, one in value.items())
    return 1 + sum(map(num_values, value)) if isinstance(value, list) else 1


@given(VALUES)
def test_values_are_counted_before_they_are_built(value: object) -> None:
    number = num_values(value)
    assert not m.has_more_values(msgpack.packb(value), number)
    assert m.has_more_values(msgpack.packb(value), number - 1)


@given(st.binary(max_size=300), st.integers(0, 300))
def test_any_bytes_can_be_counted(payload: bytes, limit: int) -> None:
    try:
        value = msgpack.unpackb(
            payload, strict_map_key=False, object_pairs_hook=lambda pairs: [*chain(*pairs)]
        )
    except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException):
        m.has_more_values(payload, limit)
    else:
        assert m.has_more_values(payload, limit) == (num_values(value) > limit)


@given(st.binary(max_size=300))
def test_any_payload_is_a_message_or_malformed(payload: bytes) -> None:
    with contextlib.suppress(m.MalformedMessageError):
        m.decode(payload)
    number = m.readable_id(payload)
    assert number is None or 0 <= number <= m.MAX_REQUEST_ID


@given(
    VALUES
    | st.fixed_dictionaries(
        {},
        optional={
            "v": VALUES | st.just(1),
            "id": VALUES,
            "cmd": VALUES,
            "args": VALUES,
            "ok": VALUES,
            "result": VALUES,
            "error": VALUES,
            "event": VALUES,
            "sub": VALUES,
            "data": VALUES,
            "dropped": VALUES,
        },
    )
)
def test_any_map_is_a_message_or_malformed(fields: object) -> None:
    try:
        message = m.decode(msgpack.packb(fields))
    except m.MalformedMessageError:
        return
    assert isinstance(fields, dict)
    assert m.decode(m.encode(message)) == message
