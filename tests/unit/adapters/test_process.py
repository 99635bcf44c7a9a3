"""The daemon as a process: lock, spawn, port, supervisor."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from semanticd.adapters.process import (
    PidFile,
    bind_listener,
    is_locked,
    is_supervised,
    kill,
    notify_supervisor,
    running_pid,
    runs_daemon,
    spawn_detached,
    terminate,
    watchdog_interval_s,
)
from semanticd.domain.errors import DaemonError
from tests.fakes.full_volume import fill, small_volume

HOLD = textwrap.dedent("""
    import sys
    from pathlib import Path
    from semanticd.adapters.process import PidFile
    file = PidFile.acquire(Path(sys.argv[1]))
    print("held", flush=True)
    sys.stdin.read()
""")


def holder(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_pid_file_says_who_runs_and_goes_away(tmp_path: Path) -> None:
    path = tmp_path / "run" / "semanticd.pid"
    file = PidFile.acquire(path)
    assert path.read_text() == f"{os.getpid()}\n"
    assert running_pid(path) == os.getpid()
    file.release()
    file.release()
    assert not path.exists()
    assert running_pid(path) is None


@pytest.mark.parametrize("end", [terminate, kill])
def test_a_signal_says_whether_the_process_was_there(end: Callable[[int], bool]) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert end(process.pid) is True
    assert end(2**30) is False, "more than a system counts to"


def test_a_second_start_is_refused_with_the_first_ones_pid(tmp_path: Path) -> None:
    path = tmp_path / "semanticd.pid"
    process = holder(path)
    with process:
        with pytest.raises(DaemonError, match=f"pid {process.pid}"):
            PidFile.acquire(path)
        assert running_pid(path) == process.pid
        process.stdin.close()


def test_a_pid_file_that_is_overwritten_is_still_locked(tmp_path: Path) -> None:
    path = tmp_path / "semanticd.pid"
    process = holder(path)
    with process:
        path.write_text("what?\n")
        assert (is_locked(path), running_pid(path)) == (True, None)
        process.stdin.close()
    assert not is_locked(path)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-m", "semanticd", "serve", "--port", "0"], True),
        (["/usr/local/bin/semanticd", "serve"], True),
        (["-m", "semanticd", "status"], False),
        (["/usr/local/bin/serve", "semanticd"], False),
        ([], False),
    ],
)
def test_a_daemon_is_known_by_its_command_line(words: list[str], expected: bool) -> None:
    command = [sys.executable, "-c", "print(flush=True); input()", *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert runs_daemon(process.pid) is expected
    assert runs_daemon(process.pid) is False


def test_on_a_full_disk_it_is_the_lock_that_says_who_runs(tmp_path: Path) -> None:
    with small_volume(tmp_path / "volume", num_bytes=1 << 20) as volume:
        path = volume / "run" / "semanticd.pid"
        path.parent.mkdir(mode=0o700)
        filler = fill(volume)
        process = holder(path)
        with process:
            assert path.read_text() == ""
            assert running_pid(path) == process.pid
            with pytest.raises(DaemonError, match=f"pid {process.pid}"):
                PidFile.acquire(path)
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert running_pid(path) is None
        filler.unlink()
        file = PidFile.acquire(path)
        assert path.read_text() == f"{os.getpid()}\n"
        file.release()


def test_a_killed_daemons_file_is_stale_at_once(tmp_path: Path) -> None:
    path = tmp_path / "semanticd.pid"
    process = holder(path)
    with process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert path.read_text() == f"{process.pid}\n"
        assert running_pid(path) is None
        PidFile.acquire(path).release()


def test_a_pid_in_the_file_proves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "semanticd.pid"
    path.write_text(f"{os.getppid()}\n")
    assert running_pid(path) is None


def test_a_link_in_the_pid_files_place_is_refused_and_its_target_stays(tmp_path: Path) -> None:
    victim = tmp_path / "authorized_keys"
    victim.write_text("ssh-ed25519 AAAA\n")
    path = tmp_path / "run" / "semanticd.pid"
    path.parent.mkdir(mode=0o700)
    path.symlink_to(victim)
    with pytest.raises(DaemonError, match="is a link"):
        PidFile.acquire(path)
    assert running_pid(path) is None
    assert victim.read_text() == "ssh-ed25519 AAAA\n"


def test_a_runtime_folder_open_to_others_is_refused(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "thesis.tex").touch()
    folder.chmod(0o755)
    with pytest.raises(DaemonError, match=r"others can open .*SEMANTIC_RUNTIME_DIR"):
        PidFile.acquire(folder / "semanticd.pid")
    assert [entry.name for entry in folder.iterdir()] == ["thesis.tex"]


def test_releasing_leaves_the_file_of_another_owner(tmp_path: Path) -> None:
    path = tmp_path / "run" / "semanticd.pid"
    file = PidFile.acquire(path)
    path.unlink()
    path.write_text("another daemon's")
    file.release()
    assert path.read_text() == "another daemon's"


def test_a_pid_file_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(DaemonError, match="SEMANTIC_RUNTIME_DIR"):
        PidFile.acquire(blocker / "semanticd.pid")


def test_a_spawned_process_leads_its_own_session_and_writes_to_its_file(tmp_path: Path) -> None:
    output = tmp_path / "logs" / "out"
    process = spawn_detached(
        [sys.executable, "-c", "import os; print(os.getsid(0), os.getpid())"], output=output
    )
    assert process.wait(60) == 0
    session, pid = output.read_text().split()
    assert session == pid == str(process.pid)


def test_a_spawned_process_and_its_output_are_closed_to_others(tmp_path: Path) -> None:
    output = tmp_path / "logs" / "out"
    before = os.umask(0)
    try:
        code = "import pathlib; pathlib.Path('made').touch(); pathlib.Path('folder').mkdir()"
        process = spawn_detached(
            ["/bin/sh", "-c", f'cd {tmp_path}; {sys.executable} -c "{code}"'], output=output
        )
        assert process.wait(60) == 0
    finally:
        os.umask(before)
    modes = {
        path.name: path.stat().st_mode & 0o777
        for path in (output, output.parent, tmp_path / "made", tmp_path / "folder")
    }
    assert modes == {"out": 0o600, "logs": 0o700, "made": 0o600, "folder": 0o700}


def test_output_is_not_written_through_a_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("keep me")
    (tmp_path / "out").symlink_to(victim)
    with pytest.raises(DaemonError, match="is a link"):
        spawn_detached([sys.executable, "-c", ""], output=tmp_path / "out")
    assert victim.read_text() == "keep me"


def test_a_program_that_is_not_there_is_explained(tmp_path: Path) -> None:
    with pytest.raises(DaemonError, match="cannot start"):
        spawn_detached([str(tmp_path / "nothing")], output=tmp_path / "out")


def test_a_taken_port_is_named_with_what_to_do() -> None:
    with bind_listener("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(DaemonError, match=rf"127\.0\.0\.1:{port}.*another program.*--port"):
            bind_listener("127.0.0.1", port)


def test_an_address_of_somebody_else_is_refused() -> None:
    with pytest.raises(DaemonError, match="cannot listen on"):
        bind_listener("192.0.2.1", 0)


def test_the_supervisor_is_told_what_it_asked_for(short_tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(short_tmp_path / "notify"))
        environ = {"NOTIFY_SOCKET": str(short_tmp_path / "notify")}
        assert notify_supervisor("READY=1", environ)
        assert supervisor.recv(100) == b"READY=1"
    assert not notify_supervisor("READY=1", {})
    assert not notify_supervisor("READY=1", {"NOTIFY_SOCKET": str(short_tmp_path / "gone")})


def test_a_supervisor_that_does_not_read_holds_nobody_up(short_tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(short_tmp_path / "notify"))
        environ = {"NOTIFY_SOCKET": str(short_tmp_path / "notify")}
        # How many it holds unread is the system's affair (net.unix.max_dgram_qlen, and its buffer).
        assert any(not notify_supervisor("WATCHDOG=1", environ) for _ in range(5000))


@pytest.mark.parametrize(
    ("environ", "interval"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_wants_half_its_limit(environ: dict[str, str], interval: float | None) -> None:
    assert watchdog_interval_s(environ) == interval


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, False),
        ({"NOTIFY_SOCKET": ""}, False),
        ({"NOTIFY_SOCKET": "/run/user/1000/systemd/notify"}, True),
        ({"XPC_SERVICE_NAME": "semanticd.daemon"}, True),
        ({"XPC_SERVICE_NAME": "0"}, False),  # a terminal's
        ({"XPC_SERVICE_NAME": "application.com.apple.Terminal.1152921500311883009"}, False),
    ],
)
def test_a_service_of_the_system_is_told_from_a_program_of_a_terminal(
    environ: dict[str, str], expected: bool
) -> None:
    assert is_supervised("semanticd.daemon", environ) is expected
