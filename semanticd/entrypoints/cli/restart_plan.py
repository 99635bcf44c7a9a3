"""What a restart will do, decided while the daemon still runs: the flags to keep, what changes, and what forbids it.

Rule: a daemon that works is not stopped for one that cannot start. What can be checked from here is checked first:
the settings, the port, whether the model is known, here and fits.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from semanticd.adapters.config import Loaded, effective, load_settings
from semanticd.adapters.process import bind_listener
from semanticd.control.results import ConfigValue, StatusResult
from semanticd.domain.errors import DaemonError

_OF_THE_COMMAND = ("server.log_console",)
"""Settings that `start` itself sets."""


def kept_flags(shown: Sequence[ConfigValue], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flags to start with: those that the running daemon was started with, under those given now.

    `shown` are the rows of `config.show`; a secret is never a flag, so that no masked value is among them.
    """
    kept = {
        one.name: _as_typed(one.value)
        for one in shown
        if one.origin.startswith("flag ") and one.name not in _OF_THE_COMMAND
    }
    return {**kept, **given}


def _as_typed(value: Any) -> Any:
    return ",".join(map(str, value)) if isinstance(value, list) else value


def changes(shown: Sequence[ConfigValue], loaded: Loaded) -> list[str]:
    """Return a line for each setting that differs between the running daemon and the next one."""
    there = {one.name: one.value for one in shown}
    return [
        f"{one.name}: {there[one.name]!r} becomes {one.value!r} ({one.origin})"
        for one in effective(loaded)
        if one.name in there and there[one.name] != one.value and one.name not in _OF_THE_COMMAND
    ]


def check(shown: Sequence[ConfigValue], loaded: Loaded, status: StatusResult) -> None:
    """See that the next daemon can start, as far as can be seen while this one runs.

    Raises:
        DaemonError: Its port is another program's, or its model is not here or does not fit.
        ModelNotFoundError: Its model is not known.
    """
    settings = loaded.settings
    there = {one.name: one.value for one in shown}
    place = (settings.server.host, settings.server.port)
    if place != (there.get("server.host"), there.get("server.port")) and settings.server.port:
        with closing(bind_listener(*place)):
            pass
    name = settings.mlx.model_id
    if name is None or name == there.get("mlx.model_id"):
        return
    # The registry is heavy, therefore by name.
    model = importlib.import_module("semanticd.entrypoints.offline_models").open_models(settings).info(name)
    if not model.installed:
        raise DaemonError(
            f"the model {name} is not installed; `semanticd models pull {name}` fetches it while the daemon goes on"
        )
    needed = model.memory_needed_bytes or 0
    free = status.free_memory_bytes
    room = (free or 0) + sum(one.weights_bytes for one in status.models)
    if free and needed > room:
        raise DaemonError(
            f"the model {name} needs about {needed / 2**30:.1f} GiB and {room / 2**30:.1f} GiB are free without the "
            "present one; choose a smaller model"
        )


def plan(
    shown: Sequence[ConfigValue] | None, status: StatusResult | None, given: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Return the flags to start with and what changes; without a daemon (None) these are the flags given.

    Raises:
        SemanticError: The next daemon could not start; see `check`.
    """
    if shown is None or status is None:
        load_settings(flags=given)
        return dict(given), []
    flags = kept_flags(shown, given)
    loaded = load_settings(flags=flags)
    check(shown, loaded, status)
    return flags, changes(shown, loaded)
