"""Path of the control socket: one per user, in a folder that `SEMANTIC_RUNTIME_DIR` can move."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

APP: Final = "semanticd"
SOCKET_NAME: Final = "semanticd.sock"

MAX_SOCKET_PATH_BYTES: Final = 103
"""The longest socket path that every platform takes: 104 bytes on macOS, one of them for the closing zero."""


class SocketPathTooLongError(ValueError):
    """The runtime folder's path leaves no room for a Unix socket's name."""


def default_runtime_dir(environ: Mapping[str, str] | None = None) -> Path:
    """Return the folder of socket and pid file: `SEMANTIC_RUNTIME_DIR`, else the platform's per-user one.

    Linux: `$XDG_RUNTIME_DIR/semanticd`, else `/run/user/UID/semanticd`, else `/tmp/semanticd-UID`.
    macOS: `~/Library/Application Support/semanticd/run`; the system may empty folders of caches and temporary files.
    """
    environ = os.environ if environ is None else environ
    if chosen := environ.get("SEMANTIC_RUNTIME_DIR", "").strip():
        # `~` with the name of no user stays as it is, as in a shell.
        return Path(os.path.expanduser(chosen)).absolute()  # noqa: PTH111
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / APP / "run"
    if base := environ.get("XDG_RUNTIME_DIR", "").strip():
        return Path(base) / APP
    login = Path(f"/run/user/{os.getuid()}")
    # The server refuses a folder that is not this user's own, so a name that others can guess does no harm.
    return login / APP if os.access(login, os.W_OK) else Path(f"/tmp/{APP}-{os.getuid()}")  # noqa: S108


def socket_path_in(runtime_dir: Path) -> Path:
    """Return the socket's path in a folder.

    Raises:
        SocketPathTooLongError: Unix sockets allow no path of this length.
    """
    path = runtime_dir / SOCKET_NAME
    length = len(os.fsencode(path))
    if length > MAX_SOCKET_PATH_BYTES:
        raise SocketPathTooLongError(
            f"the control socket's path is {length} bytes long, and Unix sockets allow {MAX_SOCKET_PATH_BYTES}: "
            f"{path}; set SEMANTIC_RUNTIME_DIR to a shorter folder, for example /tmp/semanticd-{os.getuid()}"
        )
    return path


def default_socket_path(environ: Mapping[str, str] | None = None) -> Path:
    """Return the control socket's path for this user.

    Raises:
        SocketPathTooLongError: Unix sockets allow no path of this length.
    """
    return socket_path_in(default_runtime_dir(environ))
