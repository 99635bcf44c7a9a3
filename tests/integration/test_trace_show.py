"""`semanticd trace show`: a recorded trace as a table, one request in full, and what is said of files that are none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
RECORDED = REPOSITORY / "tests" / "data" / "traces" / "claude.trace.jsonl.xz"
HEAD = {"trace": 1, "server": "semanticd 0.2.0", "began_at": 1_790_000_000.0, "content": "full"}


def request(at: float, *messages: str, prompt: int, hot: int, miss: dict[str, object] | None = None) -> str:
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": 4,
        "reused_hot_tokens": hot,
        "restored_warm_tokens": 0,
        "computed_tokens": prompt - hot,
    }
    line = {
        "at": at,
        "path": "/v1/messages",
        "dialect": "anthropic",
        "agent": "scout",
        "headers": {},
        "body": {"messages": [{"role": "user", "content": text} for text in messages]},
        "answer": {"status": 200, "usage": usage, "miss": miss, "first_s": 0.2, "seconds": 0.5},
    }
    return json.dumps(line)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "day.trace.jsonl"
    lines = [
        json.dumps(HEAD),
        request(1.0, "Name a river.", prompt=20, hot=0, miss={"cause": "first_request", "position": 0}),
        request(3.5, "Name a river.", "Another.", prompt=40, hot=30),
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def show(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "semanticd", "trace", "show", *map(str, words)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_requests_are_listed_with_their_agents_times_and_costs(trace: Path) -> None:
    lines = show(trace).stdout.splitlines()
    assert [line.split() for line in lines if line.startswith(("requests:", "agents:", "reused_ratio:"))] == [
        ["requests:", "2"],
        ["agents:", "1"],
        ["reused_ratio:", "50%"],
    ]
    heading, first, second = [line.split() for line in lines[-3:]]
    assert heading[:4] == ["REQUEST", "AT", "DIALECT", "AGENT"]
    assert (first[0], first[1], first[3], first[-1]) == ("1", "0.00", "scout", "first_request@0")
    assert (second[0], second[1], second[3]) == ("2", "2.50", "scout")
    rows = json.loads(show(trace, "--json").stdout)["requests"]
    assert [(row["prompt"], row["hot"], row["computed"]) for row in rows] == [(20, 0, 20), (40, 30, 10)]


def test_a_request_is_shown_in_full_by_its_number(trace: Path) -> None:
    shown = show(trace, "--request", "2").stdout
    assert "path:    /v1/messages" in shown
    assert '"content": "Another."' in shown
    assert (
        json.loads(show(trace, "-r", "1", "--json").stdout)["body"]["messages"][0]["content"]
        == "Name a river."
    )
    beyond = show(trace, "-r", "3")
    assert (beyond.returncode, beyond.stdout) == (1, "")
    assert "the trace has 2 requests, numbered from 1; 3 is not one of them" in beyond.stderr


def test_a_packed_trace_of_another_recorder_is_listed_without_what_it_lacks() -> None:
    listed = show(RECORDED)
    assert listed.returncode == 0
    table = [line.split() for line in listed.stdout.splitlines()]
    assert table[-1][0] == table[3][1], "as many rows as requests"
    assert "HOT" not in listed.stdout


def test_what_is_no_trace_is_named_with_what_to_do(tmp_path: Path) -> None:
    missing = show(tmp_path / "none.jsonl")
    assert missing.returncode == 1
    assert f"{tmp_path / 'none.jsonl'} failed: No such file or directory; " in missing.stderr
    assert "SEMANTIC_TRACE_DIR" in missing.stderr
    (tmp_path / "text").write_text("hello\n")
    assert "line 1 is not JSON" in show(tmp_path / "text").stderr
