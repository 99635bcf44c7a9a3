"""The plan of a restart, made while the daemon still runs: the flags to keep, the changes, and obstacles.

Rule: a daemon that works is not stopped for one that cannot start. Everything that can be checked from here is checked
first: the settings, the ports, and whether the model is known, installed and fits.
"""

from __future__ import annotations

import importlib
import ipaddress
import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from semanticd.adapters.config import Loaded, effective, load_settings
from semanticd.adapters.process import bind_listener
from semanticd.control.results import ConfigValue, StatusResult
from semanticd.domain.errors import DaemonError
from semanticd.domain.size_text import at_least, at_most

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
        DaemonError: One of its ports is another program's, or its model is not here or does not fit now.
        ModelTooLargeError: Its model does not fit on this machine.
        ModelNotFoundError: Its model is not known.
    """
    settings = loaded.settings
    there = {one.name: one.value for one in shown}
    ports = [port for port in (settings.server.port, settings.server.ollama_port) if port]
    held = [_port_of(status.address), there.get("server.port"), there.get("server.ollama_port")]
    _check_places(settings.server.host, ports, held_by=str(there.get("server.host")), held=held)
    name = settings.mlx.model_id
    if name is None:
        return
    # The registry is heavy, therefore by name.
    model = importlib.import_module("semanticd.entrypoints.offline_models").open_models(settings).info(name)
    if not model.installed:
        raise DaemonError(
            f"the model {name} is not installed; `semanticd models pull {name}` fetches it while the daemon runs"
        )
    if name == there.get("mlx.model_id"):
        return
    importlib.import_module("semanticd.entrypoints.model_fit").refuse_what_never_fits(settings, name)
    # Packed, where that is all that fits.
    needed = model.size_bytes or 0
    free = status.free_memory_bytes
    room = (free or 0) + sum(one.weights_bytes for one in status.models)
    if free and needed > room:
        raise DaemonError(
            f"the model {name} needs about {at_least(needed)} and {at_most(room)} are free without the "
            "present one; choose a smaller model"
        )


def _check_places(host: str, ports: Sequence[int], *, held_by: str, held: Sequence[object]) -> None:
    """See that a host's ports can be listened on, except `held` ones, at which the running daemon listens."""
    with ExitStack() as stack:
        for port in ports:
            is_held = port in held and _is_in_the_way(held_by, host)
            if is_held and host == held_by:
                continue
            # While the daemon holds the port, only the host can be checked.
            stack.callback(bind_listener(host, 0 if is_held else port).close)


def _is_in_the_way(held_by: str, host: str) -> bool:
    """Return whether a listener at `held_by` blocks the same port at `host`."""
    if held_by == host:
        return True
    one, other = _address_of(held_by), _address_of(host)
    if one is None or other is None:
        return False
    return one == other or one.is_unspecified or other.is_unspecified


def _address_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = socket.getaddrinfo(host.strip("[]"), 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return ipaddress.ip_address(str(found[0][4][0]).partition("%")[0])
    except (OSError, ValueError):
        return None


def _port_of(address: str) -> int | None:
    port = address.rpartition(":")[2]
    return int(port) if port.isdecimal() else None


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
