"""The errors of control clients.

```
ControlError
├── DaemonNotRunningError    no process listens on the socket
├── UntrustedSocketError     what lies or listens there is another user's
├── ProtocolMismatchError    the daemon speaks another major version
├── ConnectionLostError      the daemon went away, or sent what is not this protocol
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


class ReplyTimeoutError(ControlError):
    """The daemon did not reply in the time given; the command may still be running."""


class CommandFailedError(ControlError):
    """The daemon answered with an error; `code` is stable and for programs."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
