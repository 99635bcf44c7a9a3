"""The client's half of the protocol without I/O: which reply answers which command, which event goes where.

Both clients, the blocking and the asyncio one, feed their bytes in here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from semanticd.control import messages as m
from semanticd.control.errors import (
    CommandFailedError,
    ConnectionLostError,
    ControlError,
    ForeignProtocolError,
    ProtocolMismatchError,
)
from semanticd.control.framing import FrameError, FrameReader, FrameTooLargeError, frame


class ClientExchange:
    """Numbers commands and reads replies and events."""

    def __init__(self) -> None:
        self._frames = FrameReader()
        self._next_id = 1

    def command(self, cmd: str, args: Mapping[str, Any]) -> tuple[int, bytes]:
        """Return a new command's id and its frame; arguments that are None are left out.

        Raises:
            CommandFailedError: The arguments cannot be encoded or are larger than a frame.
        """
        number, self._next_id = self._next_id, self._next_id + 1
        given = {name: value for name, value in args.items() if value is not None}
        try:
            return number, frame(m.encode(m.Command(number, cmd, given)))
        except FrameTooLargeError as error:
            raise CommandFailedError(m.FRAME_TOO_LARGE, f"cannot send {cmd}: {error}") from error
        except (TypeError, ValueError, OverflowError) as error:
            raise CommandFailedError(
                m.INVALID_ARGUMENT, f"cannot send {cmd}: an argument cannot be encoded: {error}"
            ) from error

    def receive(self, data: bytes) -> Iterator[m.Reply | m.Event]:
        """Yield the replies and events that bytes complete.

        Raises:
            ForeignProtocolError: The bytes are not the control protocol.
        """
        try:
            for payload in self._frames.feed(data):
                message = m.decode(payload)
                if isinstance(message, m.Command):
                    raise m.MalformedMessageError("the daemon sent a command")
                yield message
        except (FrameError, m.MalformedMessageError) as error:
            raise ForeignProtocolError(
                f"what was received is not the control protocol of semanticd ({error})"
            ) from error


def subscription_in(result: Mapping[str, Any]) -> int:
    """Return the number of a subscription from the result of `subscribe`.

    Raises:
        ConnectionLostError: The result has no number.
    """
    number = result.get("sub")
    if not isinstance(number, int) or isinstance(number, bool):
        raise ConnectionLostError(f"the daemon assigned no number to the subscription: {number!r}")
    return number


def result_of(reply: m.Reply) -> dict[str, Any]:
    """Return a reply's result.

    Raises:
        ControlError: The reply is an error.
    """
    if reply.error is None:
        return dict(reply.result or {})
    raise as_exception(reply.error)


def as_exception(error: m.ErrorInfo) -> ControlError:
    """Return the exception that an error stands for."""
    if error.code == m.UNSUPPORTED_VERSION:
        return ProtocolMismatchError(
            f"this client speaks control protocol {m.PROTOCOL_VERSION}, the daemon another: {error.message}; "
            "restart the daemon after upgrading: `semanticd restart`"
        )
    return CommandFailedError(error.code, error.message)
