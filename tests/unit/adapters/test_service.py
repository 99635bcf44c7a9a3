"""The daemon as a service of the system, with the system's programs replaced by a recording."""

from __future__ import annotations

import importlib.util
import plistlib
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from semanticd.adapters import service
from semanticd.adapters.service import LABEL, LaunchdAgent, SystemdUnit, program_arguments, run_program
from semanticd.domain.errors import DaemonError
from semanticd.domain.limits import LIMITS

REPOSITORY = Path(__file__).resolve().parents[3]
ARGUMENTS = ("/opt/my tools/semanticd", "serve")


class System:
    """Remembers what was run; answers by the command's first words."""

    def __init__(self, **answers: tuple[int, str]) -> None:
        self.ran: list[str] = []
        self.answers = answers

    def __call__(self, command: Sequence[str]) -> tuple[int, str]:
        self.ran.append(" ".join(command))
        return next((answer for word, answer in self.answers.items() if word in " ".join(command)), (0, ""))


def test_a_systemd_unit_is_written_enabled_and_started(tmp_path: Path) -> None:
    system = System()
    unit = SystemdUnit(arguments=ARGUMENTS, folder=tmp_path / "user", run=system)
    assert unit.install(start=True).read_text() == unit.text()
    assert system.ran == [
        "systemctl --user daemon-reload",
        "systemctl --user enable semanticd.service",
        "systemctl --user restart --no-block semanticd.service",
    ]
    assert 'ExecStart="/opt/my tools/semanticd" serve' in unit.text()
    assert "Type=notify" in unit.text()
    assert "WatchdogSec=" in unit.text()


def test_a_systemd_unit_goes_away_with_its_file(tmp_path: Path) -> None:
    system = System()
    unit = SystemdUnit(arguments=ARGUMENTS, folder=tmp_path, run=system)
    assert unit.uninstall() is None
    assert system.ran == []
    unit.install(start=False)
    assert unit.uninstall() == tmp_path / "semanticd.service"
    assert list(tmp_path.iterdir()) == []
    assert "systemctl --user disable --now semanticd.service" in system.ran


def test_a_system_without_a_user_session_is_explained(tmp_path: Path) -> None:
    system = System(enable=(1, "Failed to connect to bus"))
    unit = SystemdUnit(arguments=ARGUMENTS, folder=tmp_path, run=system)
    with pytest.raises(DaemonError, match=r"Failed to connect to bus.*semanticd start"):
        unit.install(start=True)


def test_systemd_says_how_the_unit_is(tmp_path: Path) -> None:
    unit = SystemdUnit(arguments=ARGUMENTS, folder=tmp_path, run=System(**{"is-active": (0, "active")}))
    assert unit.status()["installed"] is False
    unit.install(start=False)
    assert {"installed": True, "enabled": True, "running": True}.items() <= unit.status().items()


@pytest.mark.parametrize(
    ("word", "quoted"),
    [
        ("plain", "plain"),
        ("50%", "50%%"),
        ("$HOME", "$$HOME"),
        ('say "hi"', '"say \\"hi\\""'),
        ("a b", '"a b"'),
    ],
)
def test_words_survive_systemds_own_expansion(word: str, quoted: str) -> None:
    assert f"ExecStart={quoted}\n" in SystemdUnit(arguments=(word,)).text()


def test_a_launchd_agent_is_written_and_loaded(tmp_path: Path) -> None:
    system = System()
    agent = LaunchdAgent(arguments=ARGUMENTS, folder=tmp_path / "a", log_folder=tmp_path / "logs", run=system)
    content = plistlib.loads(agent.install(start=True).read_bytes())
    assert content["ProgramArguments"] == list(ARGUMENTS)
    assert content["KeepAlive"] == {"SuccessfulExit": False}
    assert (tmp_path / "logs").is_dir()
    assert [line.split()[1] for line in system.ran] == ["bootout", "bootstrap"]
    assert agent.uninstall() == tmp_path / "a" / f"{LABEL}.plist"
    assert agent.uninstall() is None


def test_launchd_says_how_the_agent_is_and_why_it_would_not_load(tmp_path: Path) -> None:
    system = System(print=(0, "state = running"), bootstrap=(5, "Input/output error"))
    pauses: list[float] = []
    agent = LaunchdAgent(
        arguments=ARGUMENTS, folder=tmp_path, log_folder=tmp_path, run=system, sleep=pauses.append
    )
    assert agent.status()["installed"] is False
    with pytest.raises(DaemonError, match="Input/output error"):
        agent.install(start=True)
    assert {"installed": True, "running": True}.items() <= agent.status().items()
    assert 5 < sum(pauses) < 30


def test_launchd_is_asked_again_while_it_still_unloads_an_older_agent(tmp_path: Path) -> None:
    answers = [(0, ""), (5, "Bootstrap failed: 5: Input/output error"), (5, "again"), (0, "")]
    ran: list[str] = []

    def run(command: Sequence[str]) -> tuple[int, str]:
        ran.append(command[1])
        return answers[len(ran) - 1]

    agent = LaunchdAgent(
        arguments=ARGUMENTS, folder=tmp_path, log_folder=tmp_path, run=run, sleep=lambda seconds: None
    )
    assert agent.install(start=True).exists()
    assert ran == ["bootout", "bootstrap", "bootstrap", "bootstrap"]


def test_both_services_may_open_as_many_files_as_the_server_admits_connections_twice(tmp_path: Path) -> None:
    agent = plistlib.loads(LaunchdAgent(arguments=ARGUMENTS).text().encode())
    least = 2 * LIMITS.connections
    assert (
        agent["SoftResourceLimits"]["NumberOfFiles"] >= least <= agent["HardResourceLimits"]["NumberOfFiles"]
    )
    assert "LimitNOFILE=8192\n" in SystemdUnit(arguments=ARGUMENTS).text()


def test_a_file_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DaemonError, match="cannot write the service file"):
        SystemdUnit(arguments=ARGUMENTS, folder=tmp_path / "file", run=System()).install(start=False)


def test_each_system_has_its_service(monkeypatch: pytest.MonkeyPatch) -> None:
    for platform, kind in (("darwin", LaunchdAgent), ("linux", SystemdUnit)):
        monkeypatch.setattr(service.sys, "platform", platform)
        assert isinstance(service.service_for_this_machine(), kind)
    monkeypatch.setattr(service.sys, "platform", "plan9")
    with pytest.raises(DaemonError, match="plan9"):
        service.service_for_this_machine()


def test_the_daemon_is_started_by_a_program_that_exists() -> None:
    assert Path(program_arguments()[0]).exists()
    assert program_arguments()[-1] == "serve"


def test_a_program_that_is_not_there_counts_as_failed(tmp_path: Path) -> None:
    assert run_program([str(tmp_path / "none")])[0] == 127
    assert run_program(["true"]) == (0, "")


def generated_files() -> dict[Path, str]:
    path = REPOSITORY / "contrib" / "dev" / "generators" / "service_files.py"
    spec = importlib.util.spec_from_file_location("service_files", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    files: dict[Path, str] = module.files()
    return files


def test_the_files_in_contrib_are_what_the_code_writes() -> None:
    for path, content in generated_files().items():
        assert path.read_text() == content, (
            f"run `python contrib/dev/generators/service_files.py`: {path.name} is out of date"
        )


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "semanticd.service"
    unit.write_text(SystemdUnit(arguments=("/bin/sh", "-c", "exit 0")).text())
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--user", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (checked.returncode, checked.stderr) == (0, "")
