"""What can go wrong for a control client.

```
ControlError
├── DaemonNotRunning      nobody listens on the socket
├── UntrustedSocket       what lies or listens there is another user's
├── ProtocolMismatch      the daemon speaks another major version
├── ConnectionLost        the daemon went away, or sent what is not this protocol
├── ReplyTimeout          no reply within the time given
└── CommandFailed         the daemon says no: `code` and `message`
```
"""

from __future__ import annotations

from pathlib import Path


class ControlError(Exception):
    """Root of the control client's errors; the text is for people."""


class DaemonNotRunning(ControlError):  # noqa: N818 (the published name says the state)
    """Nobody listens on the socket."""

    def __init__(self, path: Path, reason: str) -> None:
        """Say where we looked and how to start one."""
        super().__init__(f"no daemon is running ({reason}: {path}); start one with `semanticd start`")
        self.path = path


class UntrustedSocket(ControlError):  # noqa: N818
    """The socket, its folder, or the process that listens on it belongs to another user: nothing was sent."""

    def __init__(self, path: Path, reason: str) -> None:
        """Say what is wrong with it and what to do."""
        super().__init__(
            f"not talking to the daemon at {path}: {reason}; set SEMANTIC_RUNTIME_DIR to a folder of your own"
        )
        self.path = path


class ProtocolMismatch(ControlError):  # noqa: N818
    """The daemon speaks another major version of the protocol."""


class ConnectionLost(ControlError):  # noqa: N818
    """The daemon closed the connection, or sent something that is not this protocol."""


class ReplyTimeout(ControlError):  # noqa: N818
    """The daemon did not reply in the time given; the command may still be running."""


class CommandFailed(ControlError):  # noqa: N818
    """The daemon answered with an error; `code` is stable and for programs."""

    def __init__(self, code: str, message: str) -> None:
        """Keep both."""
        super().__init__(message)
        self.code = code
        self.message = message
