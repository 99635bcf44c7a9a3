"""Connection of commands to the daemon, and the settings that they use."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semanticd.control.address import default_runtime_dir, socket_path_in
from semanticd.control.errors import DaemonNotRunningError, NoSocketError
from semanticd.domain.errors import ConfigurationError
from semanticd.entrypoints.cli.output import narrate

if TYPE_CHECKING:
    from semanticd.adapters.config import Settings
    from semanticd.control.client import ControlClient

LONG_COMMAND_TIMEOUT_S = 24 * 3600.0
"""Patience with commands that move gigabytes."""


def settings_or_defaults() -> Settings:
    """Return the settings; a mistake in them is reported, but must not prevent stopping a daemon."""
    from semanticd.adapters.config import PathSettings, Settings, load_settings

    try:
        return load_settings().settings
    except ConfigurationError as error:
        narrate(f"semanticd: {error.message}\n  using the default folders")
        return Settings(paths=PathSettings(runtime_dir=default_runtime_dir()))


def socket_path() -> Path:
    """Return the path of the daemon's control socket."""
    chosen = os.environ.get("SEMANTIC_RUNTIME_DIR", "").strip()
    folder = default_runtime_dir() if chosen else settings_or_defaults().paths.runtime_dir
    return socket_path_in(folder)


def connect(*, timeout_s: float | None = None) -> ControlClient:
    """Connect to the running daemon within `timeout_s` (None: the client's own).

    Raises:
        DaemonNotRunningError: No daemon is running, or, a `NoSocketError`, it has no socket.
    """
    path = socket_path()
    # Asked first, because it spares the commonest failure the import of the client.
    if not is_socket(path):
        _refuse_one_without_socket(path)
        raise DaemonNotRunningError(path, "no socket")
    from semanticd.control.client import CONNECT_TIMEOUT_S, ControlClient

    try:
        return ControlClient.connect(path, name="semanticd-cli", timeout_s=timeout_s or CONNECT_TIMEOUT_S)
    except DaemonNotRunningError:
        _refuse_one_without_socket(path)
        raise


def _refuse_one_without_socket(path: Path) -> None:
    from semanticd.adapters.process import PID_FILE, is_locked, running_pid

    pid_file = path.with_name(PID_FILE)
    if is_locked(pid_file):
        raise NoSocketError(path, running_pid(pid_file))


def is_socket(path: Path) -> bool:
    """Return whether a socket exists at this path, alive or stale."""
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False


def ask(cmd: str, *, reply_within_s: float | None = 30.0, **args: Any) -> dict[str, Any]:
    """Run one command on the daemon."""
    with connect() as client:
        return client.call(cmd, reply_within_s=reply_within_s, **args)
