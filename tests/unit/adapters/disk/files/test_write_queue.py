from __future__ import annotations

from semanticd.adapters.disk.files.write_queue import WriteQueue
from tests.fakes.telemetry import RecordingLog


def test_who_asks_gets_the_result_after_what_was_queued_before() -> None:
    queue = WriteQueue(log=RecordingLog())
    done: list[str] = []
    queue.put(lambda: done.append("first"))
    assert queue.ask(lambda: list(done), otherwise=[]).result(60) == ["first"]
    queue.close()


def test_a_failed_or_late_job_returns_the_fallback() -> None:
    log = RecordingLog()
    queue = WriteQueue(log=log)
    assert queue.ask(lambda: 1 // 0, otherwise=-1).result(60) == -1
    assert queue.ask(lambda: 2, otherwise=-1).result(60) == 2
    assert log.lines, "the failure is in the log"
    queue.close()
    assert queue.ask(lambda: 3, otherwise=-1).result(60) == -1
