"""Files of traces: who may read them, how large they grow, and what a full disk costs."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from semanticd.adapters.request_traces.writer import SUFFIX, TraceWriter
from semanticd.application.ports.request_traces import RecordedRequest
from semanticd.bench.trace_file import load_trace
from semanticd.domain.errors import DaemonError
from semanticd.domain.generation import CacheMiss, CacheReport, Usage
from tests.fakes.telemetry import RecordingLog, RecordingMetrics

CACHE = CacheReport(100, 60, 30, 10, CacheMiss(90, "history_changed", "secret", "secret"))


def writer(folder: Path, **more: Any) -> TraceWriter:
    options = {"max_bytes": 1 << 20, "redacted": False, "server": "test 1", "metrics": RecordingMetrics()}
    return TraceWriter(folder, log=RecordingLog(), **{**options, **more})


def request(text: str = "hello", **more: Any) -> RecordedRequest:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}).encode()
    fields: dict[str, Any] = {
        "request_id": "req_1",
        "dialect": "chat",
        "path": "/v1/chat/completions",
        "query": "",
        "headers": {"x-session-id": "ada"},
        "body": body,
        "began_at": 12.5,
        "seconds": 0.25,
        "status": 200,
        "first_s": 0.1,
        "agent_id": "ada",
        "usages": (Usage(100, 7, cache=CACHE),),
    }
    return RecordedRequest(**{**fields, **more})


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SUFFIX}"))


def test_a_request_is_written_with_its_body_its_times_and_its_cost(tmp_path: Path) -> None:
    made = writer(tmp_path / "traces")
    made.record(request())
    made.close()
    (path,) = files(tmp_path / "traces")
    trace = load_trace(path)
    assert trace.head["server"] == "test 1"
    (one,) = trace.requests
    assert one.body["messages"][0]["content"] == "hello"
    assert (one.at, one.agent, one.headers) == (12.5, "ada", {"x-session-id": "ada"})
    assert one.answer["usage"] == {
        "prompt_tokens": 100,
        "reused_hot_tokens": 60,
        "restored_warm_tokens": 30,
        "computed_tokens": 10,
        "completion_tokens": 7,
    }
    assert one.answer["miss"] == {"cause": "history_changed", "position": 90}
    assert "secret" not in path.read_text()


def test_only_the_owner_may_read_folder_and_files(tmp_path: Path) -> None:
    made = writer(tmp_path / "traces")
    made.record(request())
    made.close()
    assert stat.S_IMODE((tmp_path / "traces").stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in files(tmp_path / "traces")] == [0o600]


def test_a_folder_that_others_may_write_into_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").touch()
    (tmp_path / "mine").chmod(0o777)
    with pytest.raises(DaemonError, match="SEMANTIC_TRACE_DIR"):
        writer(tmp_path / "mine")


def test_the_folder_stays_below_its_cap_and_keeps_the_newest(tmp_path: Path) -> None:
    made = writer(tmp_path, max_bytes=64 * 1024)
    for number in range(200):
        made.record(request(f"{number} " + "x" * 2000))
    made.close()
    paths = files(tmp_path)
    assert len(paths) > 1
    assert sum(path.stat().st_size for path in paths) <= 64 * 1024
    newest = load_trace(paths[-1]).requests[-1]
    assert newest.body["messages"][0]["content"].startswith("199 ")


def test_a_request_larger_than_the_folder_is_left_out_and_counted(tmp_path: Path) -> None:
    metrics = RecordingMetrics()
    made = writer(tmp_path, max_bytes=64 * 1024, metrics=metrics)
    made.record(request("x" * 100_000))
    made.record(request("small"))
    made.close()
    assert metrics.counters["trace_dropped_requests_total", "size"] == 1
    assert len(load_trace(files(tmp_path)[0]).requests) == 1


def test_a_write_that_fails_costs_no_request_and_is_counted(tmp_path: Path) -> None:
    metrics = RecordingMetrics()
    made = writer(tmp_path / "traces", metrics=metrics)
    (tmp_path / "traces").rmdir()
    made.record(request())
    made.close()
    assert metrics.counters["trace_dropped_requests_total", "error"] == 1


def test_hashed_content_names_nobody(tmp_path: Path) -> None:
    made = writer(tmp_path, redacted=True)
    made.record(request("my secret", path="/v1/agents/ada/generate", dialect="agents"))
    made.close()
    text = files(tmp_path)[0].read_text()
    assert '"content":"hashed"' in text
    assert "secret" not in text
    assert "ada" not in text


def test_hashed_content_names_nobody_where_a_request_was_refused(tmp_path: Path) -> None:
    made = writer(tmp_path, redacted=True)
    headers = {
        "x-session-id": "ada_lovelace",
        "x-session-affinity": "ada_lovelace",
        "x-codex-parent-thread-id": "ada_lovelace",
        "user-agent": "curl",
    }
    for path in ("/v1/agents/ada_lovelace/generate", "/v1/agents/agents/generate"):
        query = "beta=true&user=ada_lovelace&ada_lovelace"
        made.record(
            request(path=path, dialect="agents", agent_id=None, status=404, query=query, headers=headers)
        )
    made.close()
    text = files(tmp_path)[0].read_text()
    assert "ada_lovelace" not in text
    assert "/agents/agents/" not in text
    rows = [json.loads(line) for line in text.splitlines()[1:]]
    for row in rows:
        assert row["path"].startswith("/v1/agents/")
        assert row["path"].endswith("/generate")
        assert row["query"].startswith("beta=true&")
        assert row["headers"]["user-agent"] == "curl"
    assert rows[0]["path"].split("/")[3] == rows[0]["headers"]["x-session-id"], "equal names stay equal"


def test_two_runs_do_not_write_into_one_file(tmp_path: Path) -> None:
    for _ in range(2):
        made = writer(tmp_path, wall=lambda: 1000.0)
        made.record(request())
        made.close()
    assert sum(len(load_trace(path).requests) for path in files(tmp_path)) == 2
