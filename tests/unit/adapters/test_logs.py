"""The daemon's log."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import structlog

from semanticd.adapters.logs import LevelChange, LogOptions, Logs
from semanticd.control.terminal_text import one_line
from semanticd.domain.errors import DaemonError, InvalidRequestError
from tests.fakes.hostile_text import HOSTILE


class Bus:
    """Keeps published lines while there is a subscriber."""

    def __init__(self) -> None:
        self.watched = True
        self.lines: list[Mapping[str, Any]] = []

    def publish(self, topic: str, data: Mapping[str, object]) -> None:
        assert topic == "log"
        self.lines.append(data)

    def wanted(self, topic: str) -> bool:
        return self.watched


@pytest.fixture
def bus() -> Bus:
    return Bus()


@pytest.fixture
def logs(tmp_path: Path, bus: Bus) -> Iterator[Logs]:
    opened = Logs(LogOptions(folder=tmp_path / "logs", console=False), bus=bus)
    yield opened
    opened.close()


def written(logs: Logs) -> list[dict[str, Any]]:
    assert logs.file is not None
    return [json.loads(line) for line in logs.file.read_text().splitlines()]


def test_a_line_is_json_with_its_fields_and_the_request_it_belongs_to(logs: Logs) -> None:
    with structlog.contextvars.bound_contextvars(request_id="req-7"):
        logs.get().info("request_finished", tokens=12, path=Path("/x"))
    (line,) = written(logs)
    assert line["event"] == "request_finished"
    assert (line["tokens"], line["request_id"], line["level"], line["path"]) == (12, "req-7", "info", "/x")
    assert line["timestamp"].endswith("Z")


def test_other_peoples_warnings_go_the_same_way_and_their_chatter_does_not(logs: Logs) -> None:
    logging.getLogger("some_library").warning("odd %s", "thing")
    logging.getLogger("some_library").info("chatter")
    (line,) = written(logs)
    assert (line["event"], line["logger"], line["level"]) == ("odd thing", "some_library", "warning")


def test_a_warning_that_another_library_repeats_is_written_once_a_second(tmp_path: Path, bus: Bus) -> None:
    now = [100.0]
    logs = Logs(LogOptions(folder=tmp_path / "logs", console=False), bus=bus, monotonic=lambda: now[0])
    theirs = logging.getLogger("another_library.server")
    try:
        for _ in range(500):
            theirs.warning("Invalid HTTP request received.")
        theirs.warning("another %s", "line")
        for error in (ValueError("a"), ValueError("b"), KeyError("c")):
            theirs.error("Exception in ASGI application", exc_info=error)
        for number in range(3):
            logs.get().warning("ours", number=number)
        now[0] += 1.0
        theirs.warning("Invalid HTTP request received.")
        lines = written(logs)
    finally:
        logs.close()
    assert [line["event"] for line in lines] == [
        "Invalid HTTP request received.",
        "another line",
        "Exception in ASGI application",
        "Exception in ASGI application",
        *["ours"] * 3,
        "Invalid HTTP request received.",
    ]
    assert lines[-1]["num_left_out"] == 499
    assert len(bus.lines) == len(logs.recent()) == len(lines), "what watches is not flooded either"
    assert logs.recent()[-1]["fields"]["num_left_out"] == 499


def test_keys_never_reach_the_log(logs: Logs) -> None:
    logs.get().info("configured", api_key="sk-secret", Authorization="Bearer sk-secret")
    assert "sk-secret" not in logs.file.read_text()
    assert "sk-secret" not in json.dumps(logs.recent())


def test_exceptions_are_told_with_their_traceback(logs: Logs) -> None:
    try:
        raise ZeroDivisionError("boom")
    except ZeroDivisionError:
        logs.get().exception("step_failed")
    (line,) = written(logs)
    assert "ZeroDivisionError: boom" in line["exception"]
    assert "boom" in logs.recent()[0]["fields"]["exception"]


def test_lines_are_kept_and_published_while_somebody_watches(logs: Logs, bus: Bus) -> None:
    logs.get().info("seen", number=1)
    bus.watched = False
    logs.get().info("unseen")
    assert [line["event"] for line in bus.lines] == ["seen"]
    assert bus.lines[0]["fields"] == {"number": 1}
    assert [line["event"] for line in logs.recent()] == ["seen", "unseen"]


async def test_the_level_can_be_changed_while_it_runs(logs: Logs) -> None:
    logs.get().debug("too_quiet")
    assert await logs.set_level("debug") == LevelChange("debug", previous="info")
    logs.get().debug("heard")
    assert [line["event"] for line in logs.recent() if line["logger"] == "semanticd"] == ["heard"]
    with pytest.raises(InvalidRequestError, match="loud"):
        await logs.set_level("loud")


def test_files_rotate_and_the_oldest_go(tmp_path: Path) -> None:
    logs = Logs(LogOptions(folder=tmp_path, console=False, max_bytes=2000, num_kept=2))
    for number in range(200):
        logs.get().info("line", number=number)
    logs.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "semanticd.log",
        "semanticd.log.1",
        "semanticd.log.2",
    ]
    assert all(path.stat().st_size <= 2000 for path in tmp_path.iterdir())


def test_files_of_all_ages_are_this_users_alone_whatever_the_umask(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "log"
    folder.mkdir(parents=True)
    for name in ("semanticd.log", "semanticd.log.1"):
        (folder / name).write_text("{}\n")
        (folder / name).chmod(0o644)
    folder.chmod(0o755)
    before = os.umask(0)
    try:
        logs = Logs(LogOptions(folder=folder, console=False, max_bytes=200, num_kept=3))
        for number in range(20):
            logs.get().info("line", number=number)
        logs.close()
    finally:
        os.umask(before)
    assert {path.name: path.stat().st_mode & 0o777 for path in (folder, *folder.iterdir())} == {
        "log": 0o700, "semanticd.log": 0o600, "semanticd.log.1": 0o600, "semanticd.log.2": 0o600,
        "semanticd.log.3": 0o600,
    }  # fmt: skip


def test_the_log_is_not_written_through_a_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("keep me")
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "semanticd.log").symlink_to(victim)
    with pytest.raises(DaemonError, match="is a link"):
        Logs(LogOptions(folder=tmp_path / "log", console=False))
    assert victim.read_text() == "keep me"


def test_console_lines_go_to_stderr_and_closing_gives_logging_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = logging.root.handlers
    logs = Logs(LogOptions(format="console", folder=None))
    logs.get().warning("careful", thing="x")
    logs.close()
    out, err = capsys.readouterr()
    assert out == ""
    assert "careful" in err
    assert logging.root.handlers == before


@pytest.mark.parametrize("text", HOSTILE)
def test_a_line_for_people_is_one_line_and_steers_no_terminal(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = Logs(LogOptions(format="console", folder=tmp_path))
    logs.get().warning("odd", agent=text, reason=[text])
    logging.getLogger("some_library").warning("other %s", text)
    logs.close()
    for shown in (capsys.readouterr().err, (tmp_path / "semanticd.log").read_text()):
        assert [line.split()[3] for line in shown.splitlines()] == ["odd", "other"]
        assert one_line(shown.replace("\n", "")) == shown.replace("\n", "")


def test_a_folder_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DaemonError, match="SEMANTIC_LOG_DIR"):
        Logs(LogOptions(folder=tmp_path / "file"))


def test_a_full_disk_does_not_disturb_whoever_logs(logs: Logs, capsys: pytest.CaptureFixture[str]) -> None:
    class Full:
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

        def flush(self) -> None:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            pass

    file_handler = next(h for h in logging.root.handlers if isinstance(h, logging.FileHandler))
    file_handler.stream.close()
    file_handler.stream = Full()  # type: ignore[assignment]
    logs.get().info("still_here")
    assert logs.recent()[-1]["event"] == "still_here"
    assert capsys.readouterr().err == ""
