"""Command that restarts a daemon that ended: with its flags, and with the model that it had last. Pure."""

from __future__ import annotations

from pathlib import Path

from semantic_tui.state import WatchState
from semanticd.control.address import SOCKET_NAME
from semanticd.control.results import ConfigValue

_NOT_KEPT = ("server.log_console", "mlx.model_id", "paths.runtime_dir")
"""Settings that `start` itself sets, and those that are given from what is known here."""


def start_arguments(state: WatchState, socket: Path | None) -> list[str]:
    """Return the arguments of `semanticd start`; none where no daemon was seen.

    `socket` is the one that is watched, where one was given: the new daemon has to listen there.
    """
    kept = [row for row in state.settings if row.origin.startswith("flag ") and row.name not in _NOT_KEPT]
    arguments = [f"--{row.name.replace('.', '-').replace('_', '-')}={_value(row)}" for row in kept]
    if state.last_model:
        row = next((row for row in state.models if row.id == state.last_model), None)
        arguments.append(f"--model={(row.start_name if row else None) or state.last_model}")
    if socket is not None and socket.name == SOCKET_NAME:
        arguments.append(f"--paths-runtime-dir={socket.absolute().parent}")
    return arguments


def _value(row: ConfigValue) -> str:
    return ",".join(map(str, row.value)) if isinstance(row.value, list) else str(row.value)
