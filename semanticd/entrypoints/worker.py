"""The worker: starts this machine's rank, again whenever it ends, until it is stopped or refused."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Mapping
from types import FrameType
from typing import Any

from semanticd.adapters.config import load_settings
from semanticd.adapters.ranks.handshake import MIN_KEY_CHARACTERS
from semanticd.adapters.ranks.process import RankProcess
from semanticd.control.private_files import UMASK
from semanticd.control.python_command import python_module
from semanticd.domain.errors import ConfigurationError
from semanticd.entrypoints.rank_process import RankOrder


def main(address: str, *, rank: int, flags: Mapping[str, Any]) -> int:
    """Run until SIGINT or SIGTERM (status 0), or until the daemon refuses this rank (1).

    `address` is the daemon's, `HOST` or `HOST:PORT`.

    Raises:
        ConfigurationError: The settings or the address are invalid.
    """
    os.umask(UMASK)
    loaded = load_settings(flags=flags)
    for line in loaded.explained():
        sys.stderr.write(f"semanticd: {line}\n")
    settings = loaded.settings
    key = settings.distributed.key or ""
    if len(key) < MIN_KEY_CHARACTERS:
        raise ConfigurationError(
            f"a worker needs the daemon's key, at least {MIN_KEY_CHARACTERS} characters: set SEMANTIC_DISTRIBUTED_KEY"
        )
    ended = threading.Event()
    refused: list[bool] = []

    def refuse() -> None:
        refused.append(True)
        ended.set()

    process = RankProcess(
        python_module("semanticd.entrypoints.rank_process"),
        RankOrder(settings, rank, read_address(address, port=settings.distributed.port), key),
        monotonic=time.monotonic,
        on_refused=refuse,
    )

    def stop(number: int, frame: FrameType | None) -> None:
        ended.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    process.start()
    # With a limit, because Python sees no signal in the middle of a wait without one on every platform.
    while not ended.wait(1.0):
        pass
    process.close()
    return 1 if refused else 0


def read_address(text: str, *, port: int) -> tuple[str, int]:
    """Return host and port of `HOST`, `HOST:PORT` or `[ADDRESS]:PORT`.

    Raises:
        ConfigurationError: The text is not an address.
    """
    host, colon, rest = text.rpartition(":")
    if not colon or "]" in rest or (":" in host and not host.startswith("[")):
        host, rest = text, str(port)
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    is_port = re.fullmatch(r"[0-9]{1,5}", rest) is not None and 0 < int(rest) < 65536
    if not is_port or not _is_host(host):
        hint = ", without http:// or a path" if "/" in text else ""
        raise ConfigurationError(f"{text!r} is not the address of a daemon: give HOST or HOST:PORT{hint}")
    return host, int(rest)


def _is_host(text: str) -> bool:
    """Return whether a text can be a host name or is the address of one machine."""
    with contextlib.suppress(ValueError):
        ip = ipaddress.ip_address(text)
        return not ip.is_unspecified and not ip.is_multicast
    try:
        return re.fullmatch(r"[\w-]+(\.[\w-]+)*\.?", text) is not None and bool(text.encode("idna"))
    except UnicodeError:
        return False
