"""Traces as they are read: packed or not, whole or cut off."""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from semanticd.bench.errors import BenchError
from semanticd.bench.trace_file import load_trace

HEAD = {"trace": 1, "server": "test", "began_at": 0, "content": "full"}
ROWS = [
    {"at": at, "dialect": "chat", "path": "/v1/chat/completions", "body": {"messages": []}}
    for at in (2.0, 1.0)
]
TEXT = "".join(json.dumps(line) + "\n" for line in [HEAD, *ROWS])


@pytest.mark.parametrize(
    ("name", "pack"),
    [("a.trace.jsonl", bytes), ("a.trace.jsonl.gz", gzip.compress), ("a.trace.jsonl.xz", lzma.compress)],
)
def test_a_trace_is_read_packed_or_not_in_the_order_of_its_times(
    tmp_path: Path, name: str, pack: Callable[[bytes], bytes]
) -> None:
    (tmp_path / name).write_bytes(pack(TEXT.encode()))
    trace = load_trace(tmp_path / name)
    assert trace.name == "a"
    assert [one.at for one in trace.requests] == [1.0, 2.0]


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.trace.jsonl"
    path.write_text(TEXT + '{"at": 3.0, "dial')
    assert len(load_trace(path).requests) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a trace"),
        ('{"format": 1}\n', "is not a trace"),
        ('{"trace": 2}\n', "is not a trace of format 1"),
        ("[]\n", "is not a trace"),
        (json.dumps(HEAD) + "\n{broken\n" + json.dumps(ROWS[0]) + "\n", "line 2 is not JSON"),
        (json.dumps(HEAD) + '\n{"at": 1}\n', "line 2: KeyError('dialect')"),
        (json.dumps(HEAD) + '\n{"at": "x", "dialect": "chat"}\n', "line 2"),
        (json.dumps(HEAD) + "\n7\n", "line 2"),
    ],
)
def test_what_is_no_trace_is_named_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.trace.jsonl"
    path.write_text(text)
    with pytest.raises(BenchError) as caught:
        load_trace(path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"), [("a.gz", b"x"), ("a.xz", b"x"), ("gone.jsonl", None), ("a.b", b"\xff\n")]
)
def test_a_file_that_cannot_be_read_or_unpacked_is_named(
    tmp_path: Path, name: str, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BenchError, match=name):
        load_trace(tmp_path / name)
