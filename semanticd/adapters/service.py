"""The daemon as a service of the system: a launchd agent on macOS, a systemd user unit on Linux.

The files are made from the templates here; those in `contrib/` are the same templates with a usual path filled in.
"""

from __future__ import annotations

import os
import plistlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from semanticd.control.python_command import python_module
from semanticd.domain.errors import DaemonError

LABEL = "semanticd.daemon"
UNIT = "semanticd.service"

_DESCRIPTORS = 8192
"""Open files of the process: two for each connection that is admitted, and as many again for models and caches."""
_BOOTSTRAP_RETRIES, _BOOTSTRAP_PAUSE_S = 20, 0.5

Run = Callable[[Sequence[str]], "tuple[int, str]"]
"""Runs a program; returns its exit status and output."""


def run_program(command: Sequence[str]) -> tuple[int, str]:
    """Run a program of the system; one that is not there counts as failed."""
    try:
        done = subprocess.run(list(command), capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return 127, str(error)
    return done.returncode, (done.stdout + done.stderr).strip()


class Service(Protocol):
    """The interface of a service manager for `semanticd service`."""

    def text(self) -> str:
        """Return the service file."""

    def install(self, *, start: bool) -> Path:
        """Write the file and register it.

        Raises:
            DaemonError: The registration failed; the message has the system's output.
        """

    def uninstall(self) -> Path | None:
        """Stop and unregister it and remove the file; None when there was none."""

    def status(self) -> dict[str, Any]:
        """Return whether it is installed and running."""


def program_arguments() -> list[str]:
    """Return how the system starts the daemon: the installed program if there is one, else this Python."""
    beside = Path(sys.executable).with_name("semanticd")
    found = str(beside) if beside.exists() else shutil.which("semanticd")
    return [found, "serve"] if found else [*python_module("semanticd"), "serve"]


def service_for_this_machine() -> Service:
    """Return the service of this system.

    Raises:
        DaemonError: The system has no known service manager.
    """
    if sys.platform == "darwin":
        return LaunchdAgent(arguments=tuple(program_arguments()))
    if sys.platform.startswith("linux"):
        return SystemdUnit(arguments=tuple(program_arguments()))
    raise DaemonError(
        f"no service manager is known for {sys.platform}; start the daemon with `semanticd start`"
    )


@dataclass(frozen=True, slots=True)
class SystemdUnit:
    """A systemd user unit. `Type=notify`: ready when the model is; the watchdog restarts a daemon that hangs."""

    arguments: tuple[str, ...]
    folder: Path | None = None
    run: Run = run_program

    @property
    def path(self) -> Path:
        """Path of the unit file."""
        if self.folder is not None:
            return self.folder / UNIT
        base = os.environ.get("XDG_CONFIG_HOME", "").strip()
        return (Path(base) if base else Path.home() / ".config") / "systemd" / "user" / UNIT

    def text(self) -> str:
        """Return the unit."""
        command = " ".join(_systemd_word(word) for word in self.arguments)
        return f"""[Unit]
Description=semanticd: serves MLX language models and keeps every agent's KV cache
After=network.target

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
# Ready means that a model is loaded; the first start may have to fetch one.
TimeoutStartSec=infinity
# Running requests finish, then caches are written.
TimeoutStopSec=120
KillMode=mixed
WatchdogSec=60
Restart=on-failure
RestartSec=2
# Wrong settings: another start changes nothing.
RestartPreventExitStatus=2
LimitNOFILE={_DESCRIPTORS}
UMask=0077
NoNewPrivileges=yes

[Install]
WantedBy=default.target
"""

    def install(self, *, start: bool) -> Path:
        """Write the unit and enable it."""
        write_service_file(self.path, self.text().encode())
        self._systemctl("daemon-reload")
        self._systemctl("enable", UNIT)
        if start:
            # Not waiting: `Type=notify` would hold us until a model is downloaded.
            self._systemctl("restart", "--no-block", UNIT)
        return self.path

    def uninstall(self) -> Path | None:
        """Disable, stop and remove it."""
        if not self.path.exists():
            return None
        self.run(["systemctl", "--user", "disable", "--now", UNIT])
        self.path.unlink(missing_ok=True)
        self.run(["systemctl", "--user", "daemon-reload"])
        return self.path

    def status(self) -> dict[str, Any]:
        """Ask systemd."""
        installed = self.path.exists()
        state = self.run(["systemctl", "--user", "is-active", UNIT])[1] if installed else "inactive"
        enabled = installed and self.run(["systemctl", "--user", "is-enabled", UNIT])[0] == 0
        return {
            "manager": "systemd",
            "file": str(self.path),
            "installed": installed,
            "enabled": enabled,
            "running": state in ("active", "activating", "reloading"),
            "state": state.splitlines()[-1] if state else "unknown",
        }

    def _systemctl(self, *words: str) -> None:
        status, said = self.run(["systemctl", "--user", *words])
        if status != 0:
            raise DaemonError(
                f"the unit is at {self.path}, but `systemctl --user {' '.join(words)}` failed: "
                f"{said or f'status {status}'}; without a systemd user session, use `semanticd start`"
            )


@dataclass(frozen=True, slots=True)
class LaunchdAgent:
    """A launchd agent of this user; restarted when it fails, not when it was stopped."""

    arguments: tuple[str, ...]
    folder: Path | None = None
    log_folder: Path | None = None
    run: Run = run_program
    sleep: Callable[[float], None] = time.sleep

    @property
    def path(self) -> Path:
        """Path of the property list."""
        return (self.folder or Path.home() / "Library" / "LaunchAgents") / f"{LABEL}.plist"

    def text(self) -> str:
        """Return the property list."""
        logs = self.log_folder or Path.home() / "Library" / "Logs" / "semanticd"
        content = {
            "Label": LABEL,
            "ProgramArguments": list(self.arguments),
            "EnvironmentVariables": {"SEMANTIC_LOG_CONSOLE": "false"},
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "ThrottleInterval": 5,
            # Running requests finish, then caches are written.
            "ExitTimeOut": 120,
            "ProcessType": "Interactive",
            "SoftResourceLimits": {"NumberOfFiles": _DESCRIPTORS},
            "HardResourceLimits": {"NumberOfFiles": _DESCRIPTORS},
            "Umask": 0o077,
            "StandardOutPath": str(logs / "semanticd.out"),
            "StandardErrorPath": str(logs / "semanticd.out"),
        }
        return plistlib.dumps(content, sort_keys=False).decode()

    def install(self, *, start: bool) -> Path:
        """Write the property list and load it."""
        logs = self.log_folder or Path.home() / "Library" / "Logs" / "semanticd"
        logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_service_file(self.path, self.text().encode())
        if start:
            self.run(
                ["launchctl", "bootout", f"{self._domain}/{LABEL}"]
            )  # an older one; fails if there is none
            status, said = self._bootstrap()
            if status != 0:
                raise DaemonError(
                    f"the agent is at {self.path}, but `launchctl bootstrap` failed: {said or f'status {status}'}; "
                    "log in on the machine's own screen, or use `semanticd start`"
                )
        return self.path

    def _bootstrap(self) -> tuple[int, str]:
        """Load the agent; launchd refuses to for about five seconds after it unloaded an older one."""
        command = ["launchctl", "bootstrap", self._domain, str(self.path)]
        status, said = self.run(command)
        for _ in range(_BOOTSTRAP_RETRIES):
            if status == 0:
                break
            self.sleep(_BOOTSTRAP_PAUSE_S)
            status, said = self.run(command)
        return status, said

    def uninstall(self) -> Path | None:
        """Unload and remove it."""
        if not self.path.exists():
            return None
        self.run(["launchctl", "bootout", f"{self._domain}/{LABEL}"])
        self.path.unlink(missing_ok=True)
        return self.path

    def status(self) -> dict[str, Any]:
        """Ask launchd."""
        installed = self.path.exists()
        status, said = self.run(["launchctl", "print", f"{self._domain}/{LABEL}"]) if installed else (1, "")
        return {
            "manager": "launchd",
            "file": str(self.path),
            "installed": installed,
            "enabled": status == 0,
            "running": status == 0 and "state = running" in said,
            "state": "loaded" if status == 0 else "not loaded",
        }

    @property
    def _domain(self) -> str:
        return f"gui/{os.getuid()}"


def write_service_file(path: Path, content: bytes) -> None:
    """Write the file.

    Raises:
        DaemonError: The file cannot be written; the message has the reason.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise DaemonError(f"cannot write the service file {path}: {error.strerror or error}") from error


def _systemd_word(word: str) -> str:
    """Quote as systemd.service(5) has it; `%` and `$` would be expanded."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if any(character in " \t\"'\\" for character in word) else escaped
