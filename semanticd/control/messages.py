"""The messages between control clients and the daemon, and their encoding.

Rule: this file and its neighbours are the published protocol (docs/formats/control-protocol.md). Every message is
one msgpack map with `v`; the receiver ignores keys that it does not know, and refuses a map it cannot use.

    Command  {"v": 1, "id": 7, "cmd": "agents.show", "args": {"agent": "planner"}}
    Reply    {"v": 1, "id": 7, "ok": true, "result": {...}}
             {"v": 1, "id": 7, "ok": false, "error": {"code": "agent_not_found", "message": "..."}}
    Event    {"v": 1, "event": "token", "sub": 3, "data": {...}, "dropped": 0}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeGuard

import msgpack

PROTOCOL_VERSION: Final = 1
"""The major version that this package speaks; a newer one is refused with `unsupported_version`."""

FEATURES: Final = (
    "subscribe",
    "subscribe.agent",
    "models.progress",
    "doctor",
    "doctor.generate",
    "history",
    "log.recent",
    "requests.failures",
)
"""Capabilities beyond the commands themselves; clients test for membership, not order."""

AGENT_CHANGES: Final = "agents.changes"

TOPICS: Final = ("status", "agents", AGENT_CHANGES, "tokens", "requests", "models", "log")
"""Topics of subscriptions."""

EVENT_NAMES: Final[Mapping[str, str]] = {
    "status": "status",
    "agents": "agents",
    AGENT_CHANGES: "agents",
    "tokens": "token",
    "requests": "requests",
    "models": "model",
    "log": "log",
}
"""The `event` of each topic, named for what its data holds: one token, one model's progress, all agents."""

MAX_REQUEST_ID: Final = 2**53 - 1
"""The largest `id` and `sub`: what every language's numbers hold exactly."""

# Codes of the protocol itself. Everything else that fails carries the code of the domain error behind it.
MALFORMED_FRAME: Final = "malformed_frame"
FRAME_TOO_LARGE: Final = "frame_too_large"
MALFORMED_MESSAGE: Final = "malformed_message"
HELLO_FIRST: Final = "hello_first"
UNSUPPORTED_VERSION: Final = "unsupported_version"
UNKNOWN_COMMAND: Final = "unknown_command"
INVALID_ARGUMENT: Final = "invalid_argument"
NOT_AVAILABLE: Final = "not_available"
NOT_ALLOWED: Final = "not_allowed"
TOO_MANY_CLIENTS: Final = "too_many_clients"
TOO_MANY_COMMANDS: Final = "too_many_commands"
RESULT_TOO_LARGE: Final = "result_too_large"
INTERNAL_ERROR: Final = "internal_error"


class MalformedMessageError(ValueError):
    """A payload is not a message of this protocol; the text says which part is wrong."""


class UnsupportedVersionError(MalformedMessageError):
    """A message has a newer major version; `version` is the requested one and `request_id` its id, if readable."""

    def __init__(self, version: int, request_id: int | None) -> None:
        super().__init__(
            f"protocol version {version} is not supported; this side supports {PROTOCOL_VERSION}"
        )
        self.version = version
        self.request_id = request_id


@dataclass(frozen=True, slots=True)
class Command:
    """Client to daemon: do `cmd` with `args`; the reply carries the same `id`."""

    id: int
    cmd: str
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """Cause of a failed command: `code` is stable, for programs; `message` is for people."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Reply:
    """Daemon to client: the result of the command `id`, or its error. `id` is None when none could be read."""

    id: int | None
    result: Mapping[str, Any] | None = None
    error: ErrorInfo | None = None

    @property
    def ok(self) -> bool:
        """Whether the command succeeded."""
        return self.error is None


@dataclass(frozen=True, slots=True)
class Event:
    """Daemon to client: something happened that subscription `sub` asked for.

    `dropped` counts the events of this subscription that were lost since the one before, because the client read
    too slowly.
    """

    event: str
    sub: int
    data: Mapping[str, Any]
    dropped: int = 0


Message = Command | Reply | Event


def encode(message: Message) -> bytes:
    """Return the message as a msgpack map (without the frame's length).

    A result's integers beyond 64 bits, as a model may write them into a call's arguments, go as text.
    """
    default = None if isinstance(message, Command) else _digits
    packed: bytes = msgpack.packb(_as_map(message), use_bin_type=True, default=default)
    return packed


def _digits(value: object) -> str:
    if not isinstance(value, int):
        raise TypeError(f"cannot send {type(value).__name__}")
    return str(value)


def _as_map(message: Message) -> dict[str, Any]:
    if isinstance(message, Command):
        return {"v": PROTOCOL_VERSION, "id": message.id, "cmd": message.cmd, "args": dict(message.args)}
    if isinstance(message, Event):
        return {
            "v": PROTOCOL_VERSION,
            "event": message.event,
            "sub": message.sub,
            "data": dict(message.data),
            "dropped": message.dropped,
        }
    head = {"v": PROTOCOL_VERSION, "id": message.id}
    if message.error is None:
        return {**head, "ok": True, "result": dict(message.result or {})}
    return {**head, "ok": False, "error": {"code": message.error.code, "message": message.error.message}}


def decode(payload: bytes, *, max_values: int | None = None) -> Message:
    """Return the message in a frame's payload; with `max_values` only if it holds no more of them.

    Raises:
        UnsupportedVersionError: It speaks a newer major version.
        MalformedMessageError: It is not msgpack, not a message, or holds too many values.
    """
    if max_values is not None and has_more_values(payload, max_values):
        raise MalformedMessageError(
            f"the payload holds more than {max_values} values (maps, lists, their keys and elements)"
        )
    fields = _unpack(payload)
    _check_version(fields)
    if "cmd" in fields:
        return _command(fields)
    if "event" in fields:
        return _event(fields)
    if "ok" in fields:
        return _reply(fields)
    raise MalformedMessageError("the map has none of `cmd`, `ok` and `event`")


def has_more_values(payload: bytes, limit: int) -> bool:
    """Return whether msgpack holds more values than `limit`: maps, lists, their keys and elements, and one.

    A value may be one byte and takes up to 64 in memory, so they are counted before any is built. The announced length
    of a map or a list counts at once: no more than `limit` values are looked at.
    """
    if len(payload) <= limit:
        return False
    unpacker = msgpack.Unpacker(max_buffer_size=len(payload))
    unpacker.feed(payload)
    number, missing = 0, 1
    try:
        while missing and number + missing <= limit:
            number, missing = number + 1, missing - 1 + _inner_values(unpacker, payload[unpacker.tell()])
    except (IndexError, ValueError, msgpack.exceptions.UnpackException):
        return False  # not msgpack, or cut off: the decoder fails at the same byte
    return number + missing > limit


def _inner_values(unpacker: msgpack.Unpacker, first_byte: int) -> int:
    """Pass a map's or a list's head, or the whole of anything else; return how many values follow that belong to it."""
    if 0x80 <= first_byte <= 0x8F or first_byte in (0xDE, 0xDF):
        return 2 * int(unpacker.read_map_header())
    if 0x90 <= first_byte <= 0x9F or first_byte in (0xDC, 0xDD):
        return int(unpacker.read_array_header())
    unpacker.skip()
    return 0


def _unpack(payload: bytes) -> dict[str, Any]:
    try:
        # msgpack bounds every inner size by the payload's own, so that a forged header allocates nothing.
        fields = msgpack.unpackb(payload, raw=False, strict_map_key=False)
    except RecursionError:
        raise MalformedMessageError("the payload is nested too deeply") from None
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise MalformedMessageError(
            f"the payload is not msgpack: {str(error) or type(error).__name__}"
        ) from None
    if not isinstance(fields, dict):
        raise MalformedMessageError(f"the payload is a {type(fields).__name__}, not a map")
    return fields


def _check_version(fields: Mapping[str, Any]) -> None:
    version = fields.get("v")
    if not _is_count(version) or version < 1:
        raise MalformedMessageError("`v` must be a whole number from 1 (the protocol version)")
    if version > PROTOCOL_VERSION:
        raise UnsupportedVersionError(version, _request_id(fields))


def _request_id(fields: Mapping[str, Any]) -> int | None:
    value = fields.get("id")
    return value if _is_count(value) else None


def readable_id(payload: bytes, *, max_values: int | None = None) -> int | None:
    """Return the `id` of a payload that may not be a message, so that its sender can be answered; else None."""
    if max_values is not None and has_more_values(payload, max_values):
        return None
    try:
        return _request_id(_unpack(payload))
    except MalformedMessageError:
        return None


def _command(fields: Mapping[str, Any]) -> Command:
    args = fields.get("args", {})
    if not isinstance(args, dict) or not all(isinstance(key, str) for key in args):
        raise MalformedMessageError("`args` must be a map with text keys")
    return Command(_count(fields, "id"), _text(fields, "cmd"), args)


def _reply(fields: Mapping[str, Any]) -> Reply:
    number = None if fields.get("id") is None else _count(fields, "id")
    if fields["ok"] is True:
        return Reply(number, result=_map(fields, "result"))
    if fields["ok"] is not False:
        raise MalformedMessageError("`ok` must be true or false")
    error = _map(fields, "error")
    return Reply(number, error=ErrorInfo(_text(error, "code"), _text(error, "message")))


def _event(fields: Mapping[str, Any]) -> Event:
    return Event(
        _text(fields, "event"),
        _count(fields, "sub"),
        _map(fields, "data"),
        _count(fields, "dropped") if "dropped" in fields else 0,
    )


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_REQUEST_ID


def _count(fields: Mapping[str, Any], key: str) -> int:
    value = fields.get(key)
    if not _is_count(value):
        raise MalformedMessageError(f"`{key}` must be a whole number from 0 to {MAX_REQUEST_ID}")
    return value


def _text(fields: Mapping[str, Any], key: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str) or not value:
        raise MalformedMessageError(f"`{key}` must be text")
    return value


def _map(fields: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = fields.get(key)
    if not isinstance(value, dict):
        raise MalformedMessageError(f"`{key}` must be a map")
    return value
