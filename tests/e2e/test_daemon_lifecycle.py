"""start, stop, restart, status, logs and doctor as processes in a home of their own, and everything in their way.

The daemon is the real one, with a model of a few kilobytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from semanticd.adapters.process import running_pid
from semanticd.control.client import ControlClient, DaemonNotRunningError
from tests.fakes.daemon_process import DaemonProcess
from tests.fakes.tiny_folder import write_tiny_model

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(600)
IMPATIENT = """
from semanticd.entrypoints.cli import ending, main
ending.ANSWER_WITHIN_S /= 10
ending.NOW_S /= 10
main()
"""


class Home:
    """A user's home: settings, folders, and the commands typed in it."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        self.env = {
            "PATH": os.environ["PATH"],
            "SEMANTIC_AGENT_DISK_RESERVE_GB": "0",
            "HOME": str(folder),
            "PYTHONPATH": str(REPOSITORY),
            "SEMANTIC_RUNTIME_DIR": str(folder / "run"),
            "SEMANTIC_LOG_DIR": str(folder / "logs"),
            "SEMANTIC_MODELS_DIR": str(folder / "models"),
            "SEMANTIC_MLX_MODEL_ID": str(model),
            "SEMANTIC_MLX_CACHE_BUDGET_MB": "64",
            "SEMANTIC_SERVER_PORT": "0",
        }

    @property
    def socket(self) -> Path:
        return self.folder / "run" / "semanticd.sock"

    @property
    def pid(self) -> int | None:
        return running_pid(self.folder / "run" / "semanticd.pid")

    def run(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return self._run("-m", "semanticd", *words, **env)

    def run_impatiently(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the same program, which waits for a daemon that hangs a tenth as long, twice."""
        return self._run("-c", IMPATIENT, *words)

    def _run(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *words],
            cwd=self.folder,
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def spawn(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "semanticd", *words],
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def started(self, *words: str) -> str:
        ran = self.run("start", *words)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def status(self) -> dict[str, Any]:
        ran = self.run("status", "--json")
        assert ran.returncode == 0, ran.stderr
        result: dict[str, Any] = json.loads(ran.stdout)
        return result

    def kill(self) -> None:
        pid = self.pid
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            until(lambda: self.pid is None, "the daemon is gone")

    def kill_all(self) -> None:
        """Kill every daemon of this home, also one that no file names."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("HOME") == str(self.folder):
                    process.kill()
        self.kill()


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"timed out waiting until {what}"
        time.sleep(0.05)


def modes(paths: list[Path]) -> dict[Path, int]:
    """Return the modes of those that are still there: a daemon that runs removes files of its own."""
    found = {}
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            found[path] = path.stat().st_mode
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def home(short_tmp_path: Path, model: Path) -> Iterator[Home]:
    made = Home(short_tmp_path, model)
    yield made
    made.kill_all()


def test_a_module_that_lies_in_the_users_folder_is_not_run_by_the_daemon(home: Home) -> None:
    cloned, marker = home.folder / "cloned", home.folder / "ran"
    cloned.mkdir()
    for name in ("h2", "sniffio", "fcntl", "semanticd"):
        (cloned / f"{name}.py").write_text(f"open({str(marker)!r}, 'a').write({name!r} + ' ')\n")
    # The installed `semanticd` has its own folder on its path, not the user's; `-P` stands for that.
    for words in (["doctor", "--json", "--no-generate"], ["start"], ["restart"]):
        ran = subprocess.run(
            [sys.executable, "-P", "-m", "semanticd", *words],
            cwd=cloned,
            env=home.env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert not marker.exists(), (words, marker.read_text())
        assert words[0] == "doctor" or ran.returncode == 0, ran.stderr
    assert home.status()["state"] == "ready"


def test_a_day_in_the_life(home: Home) -> None:
    out = home.started()
    status = home.status()
    assert status["address"] in out
    assert str(home.socket) in out
    assert (status["state"], status["model"]) == ("ready", "tiny")
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4, "model": "tiny"}
    answer = httpx.post(f"{status['address']}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text

    again = home.run("start")
    assert (again.returncode, again.stdout) == (
        0,
        f"already running (pid {home.pid}) at {status['address']}\n",
    )
    different = home.run("start", "--mlx-max-batch-size", "3")
    assert different.returncode == 1
    assert "mlx.max_batch_size: 5 there (default), 3 here" in different.stderr
    assert "semanticd restart" in different.stderr

    listed = json.loads(home.run("agents", "list", "--json").stdout)
    assert len(listed["agents"]) == 1
    assert "daemon_ready" in home.run("logs").stdout
    assert json.loads(home.run("logs", "-n", "1", "--json").stdout)["level"]
    config = json.loads(home.run("config", "--daemon", "--json").stdout)
    assert {"name": "mlx.cache_budget_mb", "value": 64}.items() <= next(
        row for row in config["settings"] if row["name"] == "mlx.cache_budget_mb"
    ).items()

    first = home.pid
    restarted = home.run("restart", "--mlx-max-batch-size", "3")
    assert restarted.returncode == 0, restarted.stderr
    assert home.pid not in (first, None)
    assert home.status()["engine"]["max_batch_size"] == 3

    stopped = home.run("stop")
    assert (stopped.returncode, home.pid) == (0, None)
    assert "stopped" in stopped.stderr
    assert not home.socket.exists()
    assert home.run("stop").returncode == 0


def test_what_a_daemon_makes_is_its_users_alone_and_its_keys_are_in_no_process_list(home: Home) -> None:
    (home.folder / ".env").write_text("SEMANTIC_ADMIN_KEY=hush-admin\nSEMANTIC_SERVER_HOST=0.0.0.0\n")
    for words in (["init"], ["add", ".env"]):
        subprocess.run(["git", *words], cwd=home.folder, check=True, capture_output=True, timeout=60)
    refused = home.run("start", "--security-api-key", "hush-flag")
    assert refused.returncode == 2
    assert "SEMANTIC_API_KEY" in refused.stderr
    assert home.pid is None
    before = os.umask(0)
    try:
        ran = home.run("start", SEMANTIC_API_KEY="hush-api", SEMANTIC_SCHOLAR_API_KEY="another's")
    finally:
        os.umask(before)
    assert ran.returncode == 0, ran.stderr
    assert "SEMANTIC_SCHOLAR_API_KEY" in ran.stderr
    assert f"{home.folder / '.env'} may not set server.host, security.admin_key: git tracks it" in ran.stderr
    assert "127.0.0.1" in ran.stdout
    arguments = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    assert not any("hush" in one for one in arguments)
    if sys.platform == "linux":
        # The mode of any file that it creates later without one.
        assert re.search(r"^Umask:\s+0077$", Path(f"/proc/{home.pid}/status").read_text(), re.MULTILINE)
    home.run("ctl", "cache.verify")
    made = [home.folder / name for name in ("run", "logs", ".semantic")]
    made += [path for folder in made for path in folder.rglob("*")]
    assert {path.name for path in modes(made)} >= {
        "semanticd.sock",
        "semanticd.pid",
        "semanticd.log",
        "index.sqlite",
        "blocks",
    }
    assert {path: oct(mode) for path, mode in modes(made).items() if mode & 0o077} == {}


def test_status_without_a_daemon_exits_3_and_says_how_to_start_one(home: Home) -> None:
    for words in (["status"], ["agents", "list"], ["ctl", "ping"]):
        ran = home.run(*words)
        assert (ran.returncode, ran.stdout) == (3, "")
        assert "semanticd start" in ran.stderr
    ran = home.run("status", "--json")
    assert (ran.returncode, json.loads(ran.stdout)) == (3, {"state": "stopped"})


def test_a_killed_daemon_leaves_nothing_in_the_way(home: Home) -> None:
    home.started()
    first = home.pid
    home.kill()
    assert home.socket.exists()
    assert home.run("status").returncode == 3
    home.started()
    assert home.pid not in (first, None)
    assert home.status()["state"] == "ready"


def test_two_starts_at_once_make_one_daemon(home: Home) -> None:
    both = [home.spawn("start") for _ in range(2)]
    ends = [(one.communicate(timeout=120), one.returncode) for one in both]
    assert [code for _, code in ends] == [0, 0], ends
    pids = {json.loads(home.run("status", "--json").stdout)["pid"]}
    assert pids == {home.pid}
    assert all(str(home.pid) in out for (out, _), _ in ends)


def test_a_taken_port_is_told_with_the_log_and_leaves_no_daemon(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = home.run("start", "--port", str(port))
    assert ran.returncode == 1
    assert f"127.0.0.1:{port}" in ran.stderr
    # The reason comes first, without the log of earlier runs.
    assert "another program" in ran.stderr.splitlines()[0]
    assert len(ran.stderr.splitlines()) == 2
    assert home.pid is None


def test_a_stale_pid_and_a_stale_socket_are_replaced(home: Home) -> None:
    run = home.folder / "run"
    run.mkdir(mode=0o700)
    (run / "semanticd.pid").write_text(f"{os.getpid()}\n")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(home.socket))
    home.started()
    assert home.status()["pid"] == home.pid


def ended(pid: int) -> bool:
    """Return whether a process has ended; one that nobody has waited for has."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("damage", ["removed", "overwritten", "another's"])
def test_a_daemon_whose_pid_file_is_damaged_is_found_by_its_socket(home: Home, damage: str) -> None:
    with subprocess.Popen(["/bin/sleep", "600"]) as another:

        def spoil() -> int:
            pid, pid_file = home.status()["pid"], home.folder / "run" / "semanticd.pid"
            if damage == "removed":
                pid_file.unlink()
            else:
                pid_file.write_text("what?\n" if damage == "overwritten" else f"{another.pid}\n")
            return int(pid)

        try:
            home.started()
            first = spoil()
            again = home.run("start")
            assert (again.returncode, again.stdout.split(" at ")[0]) == (0, f"already running (pid {first})")
            ran = home.run("restart", "--now", "--mlx-max-batch-size", "3")
            assert (ran.returncode, ended(first)) == (0, True), ran.stderr
            assert home.status()["engine"]["max_batch_size"] == 3
            second = spoil()
            ran = home.run("stop", "--now")
            assert (ran.returncode, ended(second)) == (0, True), ran.stderr
            assert f"stopped (pid {second})" in ran.stderr
            assert home.run("status").returncode == 3
            assert another.poll() is None
        finally:
            another.kill()


def test_a_daemon_that_hangs_without_a_pid_file_is_ended(home: Home) -> None:
    home.started()
    pid = home.status()["pid"]
    (home.folder / "run" / "semanticd.pid").unlink()
    os.kill(pid, signal.SIGSTOP)
    ran = home.run_impatiently("stop", "--now")
    assert (ran.returncode, ended(pid)) == (0, True), ran.stderr
    assert f"the daemon (pid {pid}) does not answer on its socket" in ran.stderr


def test_a_removed_socket_is_made_again_and_clients_stay(home: Home) -> None:
    home.started()
    with ControlClient.connect(home.socket) as client:
        pid = client.call("status")["pid"]
        for gone in (home.socket, home.socket.parent):
            shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
            until(lambda: home.run("status").returncode == 0, "the socket is there again")
            assert home.status()["pid"] == client.call("status")["pid"] == pid
            assert {oct(mode) for mode in modes([home.socket, home.socket.parent]).values()} == {
                "0o140600",
                "0o40700",
            }
    assert home.run("stop").returncode == 0
    assert ended(pid)
    assert not home.socket.exists()


def test_a_daemon_without_a_socket_is_named_and_can_be_restarted(home: Home) -> None:
    home.started()
    pid = home.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)  # So that it does not make its socket again.
    home.socket.unlink()
    for words in (["status"], ["status", "--json"], ["agents", "list"]):
        ran = home.run(*words)
        assert (ran.returncode, ran.stdout) == (1, ""), words
        assert f"a daemon is running (pid {pid}), but it does not listen on {home.socket}" in ran.stderr
        assert "`semanticd restart --now`" in ran.stderr
    ran = home.run_impatiently("restart", "--now")
    assert (ran.returncode, ended(pid)) == (0, True), ran.stderr
    assert home.status()["pid"] == home.pid


def test_a_daemon_that_no_file_names_is_named_where_it_has_the_port(home: Home) -> None:
    home.started()
    pid, port = home.status()["pid"], home.status()["port"]
    os.kill(pid, signal.SIGSTOP)
    shutil.rmtree(home.socket.parent)
    ran = home.run("start", "--port", str(port))
    assert ran.returncode == 1
    assert f"another semanticd (pid {pid}) listens there" in ran.stderr
    assert f"`kill {pid}` ends it" in ran.stderr


def test_another_program_at_the_socket_is_told_from_a_daemon(home: Home) -> None:
    home.socket.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(home.socket))
        listener.listen()

        def greet() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.sendall(b"220 ready\r\n")

        greeting = threading.Thread(target=greet)
        greeting.start()
        try:
            status, stop, start = (home.run(word) for word in ("status", "stop", "start"))
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            greeting.join(60)
    assert status.returncode == start.returncode == 1
    assert f"another program listens on {home.socket}" in status.stderr
    assert (stop.returncode, stop.stderr) == (0, "no daemon is running\n")
    assert f"a daemon, or another program, is listening on {home.socket} already" in start.stderr


@pytest.mark.parametrize("variable", ["SEMANTIC_RUNTIME_DIR", "SEMANTIC_LOG_DIR", "SEMANTIC_AGENT_CACHE_DIR"])
def test_a_folder_that_cannot_be_written_is_named(home: Home, variable: str) -> None:
    # Root may write everywhere, but not into a file.
    blocker = home.folder / "blocker"
    blocker.write_text("")
    ran = home.run("start", **{variable: str(blocker / "inside")})
    assert ran.returncode == 1
    assert str(blocker) in ran.stderr
    assert home.pid is None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_is_told_where_it_matters_and_ignored_where_it_does_not(home: Home) -> None:
    log = home.folder / "logs" / "semanticd.log"
    log.parent.mkdir()
    # The largest file by far: once files may not grow beyond it, nothing but the log is refused.
    log.write_text("{}\n" * 400_000)
    home.started()
    assert home.pid is not None
    full = -1
    while full != log.stat().st_size:  # Until no line came between both.
        full = log.stat().st_size
        resource.prlimit(home.pid, resource.RLIMIT_FSIZE, (full, full))
    assert home.run("ctl", "log.level", "level=debug").returncode == 0
    assert home.status()["state"] == "ready"
    assert home.run("stop").returncode == 0
    assert log.stat().st_size == full, "the log was refused every line"
    ran = subprocess.run(
        ["/bin/sh", "-c", f"ulimit -f 0; exec {shlex.quote(sys.executable)} -m semanticd serve"],
        cwd=home.folder, env=home.env, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ran.returncode == 1
    assert (
        f"cannot write the pid file {home.folder / 'run' / 'semanticd.pid'}: File too large; make room"
        in ran.stderr
    )


def test_bad_settings_are_told_before_anything_is_started(home: Home) -> None:
    ran = home.run("start", SEMANTIC_MLX_KV_BITS="5", SEMANTIC_SERVER_PROT="1")
    assert ran.returncode == 2
    assert "4, 6 or 8" in ran.stderr
    assert "did you mean SEMANTIC_SERVER_PORT?" in ran.stderr
    assert not (home.folder / "logs").exists()


def test_a_model_that_cannot_be_loaded_ends_the_start_with_the_cause(home: Home, model: Path) -> None:
    broken = home.folder / "broken"
    broken.mkdir()
    (broken / "config.json").write_text((model / "config.json").read_text())
    ran = home.run("start", "--model", str(broken))
    assert ran.returncode == 1
    assert "safetensors" in ran.stderr
    assert home.pid is None


def test_ctrl_c_drains_and_exits_0_and_a_supervisor_hears_of_it(home: Home) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(home.folder / "notify"))
        supervisor.settimeout(60)
        home.env["NOTIFY_SOCKET"] = str(home.folder / "notify")
        process = home.spawn("serve")
        assert b"READY=1" in supervisor.recv(1000)
        process.send_signal(signal.SIGINT)
        assert b"STOPPING=1" in supervisor.recv(1000)
        process.communicate(timeout=60)
        assert process.returncode == 0
        assert home.pid is None


def test_a_service_whose_first_model_fails_stays_up_and_says_why(home: Home, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    home.env["NOTIFY_SOCKET"] = str(home.folder / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(home.env["NOTIFY_SOCKET"])
        supervisor.settimeout(60)
        process = home.spawn("serve", "--model", str(broken))
        said = supervisor.recv(1000).decode()
        assert said.startswith("READY=1\nSTATUS=no model is loaded: ")
        assert "safetensors" in said
        status = json.loads(home.run("status", "--json").stdout)
        assert (status["state"], status["model"]) == ("no_model", None)
        assert "safetensors" in status["model_error"]
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 0


def test_status_watches_and_ctl_reaches_everything(home: Home) -> None:
    home.started()
    watching = home.spawn("status", "--watch", "--json", "--interval", "0.1")
    assert watching.stdout is not None
    lines = [json.loads(watching.stdout.readline()) for _ in range(3)]
    watching.send_signal(signal.SIGINT)
    watching.communicate(timeout=60)
    assert watching.returncode == 130
    assert lines[2]["uptime_s"] > lines[0]["uptime_s"]
    assert home.run("ctl", "ping", "--json").stdout == '{\n  "pong": true\n}\n'
    assert "unknown command" in home.run("ctl", "pnig").stderr
    level = home.run("ctl", "log.level", "level=debug", "--json")
    assert json.loads(level.stdout) == {"level": "debug", "previous": "info"}
    subscribed = home.spawn("ctl", "subscribe", "status")
    assert subscribed.stdout is not None
    assert json.loads(subscribed.stdout.readline())["event"] == "status"
    subscribed.terminate()
    subscribed.communicate(timeout=60)


def test_the_doctor_examines_with_and_without_a_daemon(home: Home) -> None:
    without = home.run("doctor", "--json", HF_HUB_OFFLINE="1")
    report = json.loads(without.stdout)
    found = {one["check"]: one for one in report["findings"]}
    assert report["ok"], report
    assert {
        "platform",
        "mlx",
        "blas",
        "memory",
        "disk",
        "socket",
        "port",
        "model",
        "hub",
        "generation",
    } <= set(found)
    assert found["generation"]["state"] == "ok"
    home.started()
    with_daemon = json.loads(home.run("doctor", "--json").stdout)
    assert {one["check"] for one in with_daemon["findings"]} == set(found)
    assert all(one["advice"] for one in with_daemon["findings"] if one["state"] != "ok")


def test_stopping_now_does_not_wait_for_a_long_answer(home: Home) -> None:
    home.started()
    address = home.status()["address"]
    body = {
        "messages": [{"role": "user", "content": "x"}],
        # More than is computed while a command starts, however slowly.
        "max_tokens": 30_000,
        "model": "tiny",
        "stream": True,
        "ignore_eos": True,
    }
    with httpx.stream("POST", f"{address}/v1/chat/completions", json=body, timeout=60) as stream:
        lines = stream.iter_lines()
        next(lines)
        ran = home.run("stop", "--now")
        rest: list[str] = []
        with contextlib.suppress(httpx.TransportError):
            rest.extend(lines)
    assert not any('"length"' in line for line in rest), "the answer was waited for"
    assert ran.returncode == 0, ran.stderr
    assert home.pid is None
    with pytest.raises(DaemonNotRunningError):
        ControlClient.connect(home.socket)


def test_a_restart_that_cannot_succeed_leaves_the_daemon_running(home: Home) -> None:
    home.started()
    pid = home.pid
    other = home.folder / "elsewhere"
    other.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for words, said in (
            (["--model", "smollm2-135n"], "there is no model"),
            (["--model", "hf:nobody/nothing"], "semanticd models pull hf:nobody/nothing"),
            (["--mlx-kv-bits", "5"], "4, 6 or 8"),
            (["--port", str(taken.getsockname()[1])], "another program"),
        ):
            ran = home.run("restart", *words)
            assert ran.returncode in (1, 2), words
            assert said in ran.stderr
            assert "stopped" not in ran.stderr
    for line, said in (("SEMANTIC_MLX_KV_BITS=5", "4, 6 or 8"), ('SEMANTIC_SERVER_PORT="8', "is not closed")):
        (home.folder / ".env").write_text(f"{line}\n")
        ran = home.run("restart")
        assert ran.returncode == 2, line
        assert said in ran.stderr
    (home.folder / ".env").unlink()
    assert home.pid == pid
    assert home.status()["state"] == "ready"


def test_a_restart_keeps_the_flags_of_the_start_and_says_what_changes(home: Home) -> None:
    home.started("--mlx-max-batch-size", "3", "--server-drain-timeout-s=7.5", "--log-level", "warning")
    ran = home.run("restart", "--mlx-max-batch-size", "2")
    assert ran.returncode == 0, ran.stderr
    shown = json.loads(home.run("config", "--daemon", "--json").stdout)["settings"]
    values = {row["name"]: row["value"] for row in shown}
    assert values["mlx.max_batch_size"] == 2
    assert values["server.drain_timeout_s"] == 7.5
    assert values["server.log_level"] == "warning"
    changes = [line for line in ran.stderr.splitlines() if line.startswith("restarting with another setting")]
    assert len(changes) == 1
    assert "mlx.max_batch_size: 3 becomes 2" in changes[0]


def test_stopping_says_how_many_requests_it_waits_for(home: Home) -> None:
    home.started()
    url = f"{home.status()['address']}/v1/chat/completions"

    def ask(number: int) -> None:
        message = {"role": "user", "content": str(number)}
        body = {"messages": [message], "max_tokens": 20_000, "model": "tiny", "ignore_eos": True}
        with contextlib.suppress(httpx.TransportError):
            httpx.post(url, json=body, timeout=120)

    def num_asked() -> int:
        engine = home.status()["engine"]
        return int(engine["num_running"] + engine["num_waiting"])

    with ThreadPoolExecutor(12) as pool:
        pool.map(ask, range(12))
        until(lambda: num_asked() == 12, "all are in the engine")
        ran = home.run("stop", "--timeout", "2")
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.startswith("waiting up to 2 s for 12 running requests; `semanticd stop --now` cancels")
    assert ran.stderr.splitlines()[-1].startswith("stopped (pid ")


def test_a_daemon_that_hangs_is_named_and_what_hangs_it(home: Home) -> None:
    home.started()
    assert home.pid is not None
    os.kill(home.pid, signal.SIGSTOP)
    ran = home.run_impatiently("stop", "--now")
    assert ran.returncode == 0, ran.stderr
    assert "does not answer on its socket (its process is suspended" in ran.stderr
    assert home.pid is None


def test_the_disks_cap_holds_from_the_start(home: Home) -> None:
    home.started()
    address = home.status()["address"]
    for at in range(3):
        body = {"messages": [{"role": "user", "content": f"{at} " * 600}], "max_tokens": 2, "model": "tiny"}
        assert httpx.post(f"{address}/v1/chat/completions", json=body, timeout=60).status_code == 200
    assert home.run("stop").returncode == 0
    home.started()
    stored = home.status()["cache"]["warm_bytes"]
    cap = stored // 2 / 2**30
    assert home.run("stop").returncode == 0
    home.started(f"--agent-cache-max-gb={cap:.12f}", "--agent-write-policy=off")
    until(
        lambda: 0 < home.status()["cache"]["warm_bytes"] <= stored // 2 + 1, "the cache is pruned to the cap"
    )


def test_a_daemon_for_other_machines_says_where_it_is_and_what_that_means(home: Home) -> None:
    refused = home.run("start", "--host", "0.0.0.0")
    assert refused.returncode == 2
    for name in (
        "SEMANTIC_API_KEY",
        "SEMANTIC_SERVER_ALLOWED_HOSTS",
        "SEMANTIC_SERVER_HOST",
        "semanticd key new",
    ):
        assert name in refused.stderr
    key = home.run("key", "new").stdout.strip()
    home.env["SEMANTIC_API_KEY"] = key
    ran = home.run("start", "--host", "0.0.0.0")
    assert ran.returncode == 0, ran.stderr
    assert "warning: other machines can reach it" in ran.stderr
    port = home.status()["port"]
    # A literal address of this machine is an allowed host without any further setting.
    answer = httpx.get(
        f"http://127.0.0.1:{port}/v1/models",
        headers={"Host": f"192.0.2.7:{port}", "Authorization": f"Bearer {key}"},
        timeout=60,
    )
    assert answer.status_code == 200
    assert "requires an API key" in home.run("launch", "claude", "--print", SEMANTIC_API_KEY="").stderr


@pytest.fixture
def stalled_hub() -> Iterator[str]:
    """A hub that knows every model and never delivers a file."""
    over = threading.Event()

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            over.wait(120)

        def do_GET(self) -> None:
            model = self.path.partition("?")[0].removeprefix("/api/models/")
            if model not in ("nobody/nothing", "nobody/huge"):
                over.wait(120)
                return
            size = 1 << 60 if model == "nobody/huge" else 10
            info = {
                "id": model,
                "sha": "0" * 40,
                "siblings": [{"rfilename": "config.json", "size": size}],
            }
            body = json.dumps(info).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        over.set()
        server.shutdown()


def test_a_model_that_does_not_fit_on_the_disk_is_refused_before_it_is_fetched(
    home: Home, stalled_hub: str
) -> None:
    home.env["HF_ENDPOINT"] = stalled_hub
    ran = home.run("models", "pull", "hf:nobody/huge")
    assert ran.returncode == 1
    assert "it takes 1073741824.0 GiB" in ran.stderr
    assert "SEMANTIC_MODELS_DIR" in ran.stderr


def test_a_daemon_that_still_fetches_its_model_can_be_stopped(home: Home, stalled_hub: str) -> None:
    home.env["HF_ENDPOINT"] = stalled_hub
    home.env["HF_HUB_ETAG_TIMEOUT"] = home.env["HF_HUB_DOWNLOAD_TIMEOUT"] = "100"
    ran = home.run("start", "--model", "hf:nobody/nothing", "--timeout", "5")
    assert ran.returncode == 1
    assert "still starting" in ran.stderr
    # On a busy machine it may not even have opened its socket by then.
    until(lambda: home.run("status").returncode == 0, "it can be asked")
    assert home.status()["state"] == "starting"
    stopped = home.run("stop")
    assert stopped.returncode == 0, stopped.stderr
    assert home.pid is None


def test_what_a_daemon_in_the_foreground_makes_is_private_whatever_the_umask(short_tmp_path: Path) -> None:
    model = write_tiny_model(short_tmp_path / "tiny")
    start = (
        "import os, runpy, sys; os.umask(0); sys.argv = ['semanticd', 'serve']; "
        "runpy.run_module('semanticd', run_name='__main__')"
    )
    home = short_tmp_path / "home"
    home.mkdir()
    daemon = DaemonProcess(
        home, models_dir=home / "models", command=("-c", start), SEMANTIC_MLX_MODEL_ID=str(model)
    )
    daemon.start()
    try:
        daemon.chat([{"role": "user", "content": "Hello"}], agent="ada", model="default", max_tokens=4)
        assert daemon.stop() == 0
    finally:
        daemon.kill()
    made = [path for path in home.rglob("*") if path != daemon.log]
    assert {path.parent.name for path in made} >= {"caches", "blocks", "logs", ".fingerprints"}
    open_to_others = {path.relative_to(home).as_posix() for path in made if path.stat().st_mode & 0o077}
    assert open_to_others == set()


def test_a_supervisor_hears_that_a_daemon_lives_while_its_first_model_takes_long(
    home: Home, stalled_hub: str
) -> None:
    home.env["HF_ENDPOINT"] = stalled_hub
    home.env["HF_HUB_ETAG_TIMEOUT"] = home.env["HF_HUB_DOWNLOAD_TIMEOUT"] = "100"
    home.env["NOTIFY_SOCKET"] = str(home.folder / "notify")
    home.env["WATCHDOG_USEC"] = "200000"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(home.env["NOTIFY_SOCKET"])
        supervisor.settimeout(60)
        process = home.spawn("serve", "--model", "hf:nobody/nothing")
        assert [supervisor.recv(1000) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 0
