"""The errors of control clients.

```
ControlError
├── DaemonNotRunningError    no process listens on the socket
│   └── NoSocketError        none does, but a daemon runs
├── UntrustedSocketError     what lies or listens there is another user's
├── ProtocolMismatchError    the daemon speaks another major version
├── ConnectionLostError      the daemon went away, or sent what is not this protocol
│   └── ForeignProtocolError what listens there is another program
├── ReplyTimeoutError        no reply within the time given
└── CommandFailedError       the daemon says no: `code` and `message`
```
"""

from __future__ import annotations

from pathlib import Path


class ControlError(Exception):
    """Root of the control client's errors; the text is for people."""


class DaemonNotRunningError(ControlError):
    """No process listens on the socket."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"no daemon is running ({reason}: {path}); start one with `semanticd start`")
        self.path = path


class NoSocketError(DaemonNotRunningError):
    """No process listens on the socket, but a daemon has the lock of its folder; `pid` is None if it is not known."""

    def __init__(self, path: Path, pid: int | None) -> None:
        ControlError.__init__(
            self,
            f"a daemon is running (pid {pid or 'unknown'}), but it does not listen on {path}: it starts, it ends, or "
            "the socket was removed, which it makes again within seconds; if this stays, use `semanticd restart --now`",
        )
        self.path, self.pid = path, pid


class UntrustedSocketError(ControlError):
    """The socket, its folder, or the process that listens on it belongs to another user: nothing was sent."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"not talking to the daemon at {path}: {reason}; set SEMANTIC_RUNTIME_DIR to a folder of your own"
        )
        self.path = path


class ProtocolMismatchError(ControlError):
    """The daemon speaks another major version of the protocol."""


class ConnectionLostError(ControlError):
    """The daemon closed the connection, or sent something that is not this protocol."""


class ForeignProtocolError(ConnectionLostError):
    """The bytes received are not this protocol: another program listens there."""


class ReplyTimeoutError(ControlError):
    """The daemon did not reply in the time given; the command may still be running."""


class CommandFailedError(ControlError):
    """The daemon answered with an error; `code` is stable and for programs."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
