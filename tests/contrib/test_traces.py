"""The recorded sessions hold filler in place of every text: no word of a program's own prompt is left in them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from contrib.dev.traces.refill import FILLER, Refill
from semanticd.bench.trace_file import load_trace
from tests.fakes.tiny_folder import write_tiny_model
from tests.fakes.traces import FOLDER

TRACES = sorted(FOLDER.glob("*.trace.jsonl.xz"))
WORDS = set(FILLER)
FIELDS = """
$schema additionalProperties annotations anyOf arguments cache_control call_id const content
context_management default description edits effort enum exclusiveMinimum external_web_access format
function id include include_usage input input_schema is_error items keep maxItems maxLength
max_tokens maximum messages metadata minLength minimum model name namespace not output output_config
parallel_tool_calls parameters prompt_cache_key properties propertyNames reasoning required role
status store stream stream_options strict summary system text thinking tool_call_id tool_calls
tool_choice tool_use_id tools type user_id
"""
"""Names of the dialects and of JSON Schema."""
VALUES = """
adaptive all array assistant auto boolean clear_thinking_20251015 completed default developer
ephemeral function function_call function_call_output high
https://json-schema.org/draft/2020-12/schema input_text integer message namespace number object
output_text reasoning.encrypted_content string system text tool tool_result tool_use uri user
web_search
"""
"""Their words."""
ID = re.compile(r"(?:(?:toolu|call|msg|fc|resp)_)?[0-9a-f]{8,24}")
BILLING = re.compile(r"x-anthropic-billing-header:(?: \w+=[0-9a-f]{8};)+")


def strings(value: Any) -> Iterator[tuple[str, str]]:
    """Yield every name and every text with what it is."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield "name", name
            yield from strings(one)
    elif isinstance(value, list):
        for one in value:
            yield from strings(one)
    elif isinstance(value, str):
        if value.startswith("{"):
            # A call's arguments.
            yield from strings(json.loads(value))
        else:
            yield "text", value


def is_filler(text: str) -> bool:
    return set(re.split(r"[ _]+", text.strip(" _"))) <= WORDS


@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.name)
def test_nothing_is_left_but_the_dialects_words_filler_and_random_ids(path: Path) -> None:
    left = set()
    for request in load_trace(path).requests:
        for kind, text in strings(request.body):
            known = (FIELDS if kind == "name" else VALUES).split()
            if text and not (
                text in known or is_filler(text) or ID.fullmatch(text) or BILLING.fullmatch(text)
            ):
                left.add((kind, text[:80]))
        for name, value in request.headers.items():
            assert name in ("content-type", "anthropic-version") or ID.fullmatch(value), (name, value)
    assert left == set()


@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.name)
def test_a_session_is_long_and_its_file_small(path: Path) -> None:
    trace = load_trace(path)
    longest = max(len(one.body.get("messages") or one.body["input"]) for one in trace.requests)
    assert longest >= 30, "fifteen turns of two messages"
    assert path.stat().st_size < 32_000
    assert {one.answer["status"] for one in trace.requests} == {200}


def test_filler_has_as_many_tokens_and_begins_alike_where_the_text_did(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    refill = Refill(tokenizer)

    def ids(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    one, other = "You are a careful agent. Today is Monday.", "You are a careful agent. Today is Friday."
    shared = next(at for at, (a, b) in enumerate(zip(ids(one), ids(other), strict=False)) if a != b)
    made, rest = ids(refill.text(one)), ids(refill.text(other))
    assert (len(made), len(rest)) == (len(ids(one)), len(ids(other)))
    assert made[:shared] == rest[:shared]
    assert made != rest
    assert refill.text(one) == Refill(tokenizer).text(one), "the seed decides"
    assert refill.text(one) != Refill(tokenizer, b"other").text(one)
    assert refill.name("file_path") != refill.name("path")
