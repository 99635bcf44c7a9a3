"""Strict JSON, and refusals that name the field."""

from __future__ import annotations

import asyncio

import pytest

from semanticd.adapters.http.anthropic.wire import MessagesRequest
from semanticd.adapters.http.core.body import parse_json, to_wire, within
from semanticd.adapters.http.openai.chat.wire import ChatRequest
from semanticd.domain.errors import InvalidRequestError


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"{", "not valid JSON"),
        (b'{"a": 1,}', "not valid JSON"),
        (b"\xff\xfe", "UTF-8"),
        (b'{"a": "\xc3\x28"}', "UTF-8"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"x": {"a": 1, "a": 2}}', "twice"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": 123456789012345678901234567890}', "64 bits"),
        (b'{"a": 18446744073709551616}', "64 bits"),
        (b'{"a": -9223372036854775809}', "64 bits"),
        (b'{"a": ' + b"9" * 5000 + b"}", "64 bits"),
        (b"[" * 65 + b"]" * 65, "deeper than 64"),
        (b"[" * 100_000, "deeper than 64"),
        (b"", "not valid JSON"),
    ],
)
def test_json_with_no_or_more_than_one_meaning_is_refused(raw: bytes, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        parse_json(raw, max_nesting=64)


def test_half_of_a_surrogate_pair_is_read_as_the_character_for_what_cannot_be_shown() -> None:
    raw = b'{"a": "cut \\ud83d", "\\ude00": ["\\ud83d\\ude00\\ud83d", 1]}'
    assert parse_json(raw, max_nesting=2) == {
        "a": "cut \N{REPLACEMENT CHARACTER}",
        "\N{REPLACEMENT CHARACTER}": ["\N{GRINNING FACE}\N{REPLACEMENT CHARACTER}", 1],
    }


def test_whole_surrogate_pairs_and_64_bit_numbers_are_fine() -> None:
    raw = b'{"a": "\\ud83d\\ude00", "b": 18446744073709551615, "c": [1.5, -2e3], "d": "\\\\ud800"}'
    assert parse_json(raw, max_nesting=2) == {
        "a": "\N{GRINNING FACE}",
        "b": 2**64 - 1,
        "c": [1.5, -2000.0],
        "d": "\\ud800",
    }


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({}, "model", "field required"),
        ({"model": "m", "messages": []}, "messages", "length >= 1"),
        ({"model": "m", "messages": [{"role": "user"}]}, "messages.0.content", "field required"),
        ({"model": "m", "messages": [{"role": "x", "content": ""}]}, "messages.0.role", "invalid enum value"),
        (
            {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "video"}]}]},
            "messages.0.content.0.type",
            "invalid value 'video'",
        ),
        (
            {"model": "m", "max_tokens": "5", "messages": [{"role": "user", "content": ""}]},
            "max_tokens",
            "int",
        ),
        (
            {"model": "m", "max_tokens": -1, "messages": [{"role": "user", "content": ""}]},
            "max_tokens",
            ">= 0",
        ),
        ([], None, "expected object, got array"),
    ],
)
def test_a_refusal_names_the_field_and_the_expectation(body: object, param: str | None, words: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        to_wire(body, MessagesRequest)
    assert caught.value.param == param
    assert words in caught.value.message


def test_explicit_nulls_stand_for_absent_fields_and_unknown_fields_are_ignored() -> None:
    message = {"role": "user", "content": "hi"}
    optional = ChatRequest.__struct_fields__
    nulls = {name: None for name in optional if name not in ("model", "messages")}
    read = to_wire({"model": "m", "messages": [message], **nulls, "beta_thing": {"x": 1}}, ChatRequest)
    assert read == to_wire({"model": "m", "messages": [message]}, ChatRequest)


async def test_work_has_its_time_and_is_cancelled_after_that() -> None:
    left: list[str] = []

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            left.append("cancelled")
            raise

    assert await within(60, asyncio.sleep(0, "done")) == "done"
    with pytest.raises((TimeoutError, asyncio.TimeoutError)):
        await within(0.001, forever())
    assert left == ["cancelled"]
    work = asyncio.ensure_future(within(60, forever()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert left == ["cancelled"] * 2
