"""Messages: what is refused, and old ones that must always be read."""

from __future__ import annotations

import msgpack
import pytest

from semanticd.control import messages as m

# Captured from protocol version 1; never change these, only add to them.
KEPT_MESSAGES = [
    ("84a17601a2696401a3636d64a568656c6c6fa46172677380", m.Command(1, "hello", {})),
    ("83a17601a2696401a3636d64a568656c6c6f", m.Command(1, "hello", {})),
    (
        "84a17601a2696407a26f6bc3a6726573756c7481a4706f6e67c3",
        m.Reply(7, result={"pong": True}),
    ),
    (
        "84a17601a26964c0a26f6bc2a56572726f7282a4636f6465af6672616d655f746f6f5f6c61726765a76d657373616765a16d",
        m.Reply(None, error=m.ErrorInfo("frame_too_large", "m")),
    ),
    (
        "85a17601a56576656e74a5746f6b656ea373756203a46461746181a474657874a24869a764726f7070656402",
        m.Event("token", 3, {"text": "Hi"}, 2),
    ),
]


@pytest.mark.parametrize(("kept", "message"), KEPT_MESSAGES)
def test_messages_of_the_first_version_are_read_for_ever(kept: str, message: m.Message) -> None:
    assert m.decode(bytes.fromhex(kept)) == message


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "`v`"),
        ({"v": True}, "`v`"),
        ({"v": "1"}, "`v`"),
        ({"v": 1}, "none of"),
        ({"v": 1, "cmd": "x"}, "`id`"),
        ({"v": 1, "cmd": "x", "id": 2**53}, "`id`"),
        ({"v": 1, "cmd": "", "id": 1}, "`cmd`"),
        ({"v": 1, "cmd": "x", "id": 1, "args": None}, "`args`"),
        ({"v": 1, "cmd": "x", "id": 1, "args": {1: 2}}, "text keys"),
        ({"v": 1, "ok": 1, "id": 1}, "`ok`"),
        ({"v": 1, "ok": True, "id": 1}, "`result`"),
        ({"v": 1, "ok": False, "id": 1, "error": "no"}, "`error`"),
        ({"v": 1, "ok": False, "id": 1, "error": {"code": "c"}}, "`message`"),
        ({"v": 1, "event": "token", "sub": 1}, "`data`"),
        ({"v": 1, "event": "token", "sub": -1, "data": {}}, "`sub`"),
        ([1], "list"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_message_is_refused_by_name(fields: object, words: str) -> None:
    with pytest.raises(m.MalformedMessageError, match=words):
        m.decode(msgpack.packb(fields))


@pytest.mark.parametrize(
    "payload",
    [
        b"\xdd\x00\xe4\xe1\xc0" + b"\x80" * 15_000_000,  # an array of 15 million empty maps
        b"\xdd\x00\xe4\xe1\xc0" + b"\x90" * 15_000_000,
        b"\x91" * 15_000_000,
        b"\x9f" * 15_000_000,
        b"\xdc\x03\xe7" * 5_000_000,  # each within the limit, one inside of the other
    ],
    ids=["maps", "lists", "nested", "wide", "announced"],
)
def test_no_payload_is_unpacked_that_holds_more_values_than_allowed(payload: bytes) -> None:
    with pytest.raises(m.MalformedMessageError, match="more than 1000 values"):
        m.decode(payload, max_values=1000)
    assert m.readable_id(payload, max_values=1000) is None


def test_a_long_text_is_one_value() -> None:
    command = m.Command(1, "agents.say", {"text": "x" * 100_000})
    assert m.decode(m.encode(command), max_values=9 + 2) == command


def test_a_newer_version_is_told_apart_from_nonsense() -> None:
    with pytest.raises(m.UnsupportedVersionError) as refused:
        m.decode(msgpack.packb({"v": 2, "id": 9, "something": "new"}))
    assert (refused.value.version, refused.value.request_id) == (2, 9)


def test_a_reply_is_ok_unless_it_has_an_error() -> None:
    assert m.Reply(1, result={}).ok
    assert not m.Reply(1, error=m.ErrorInfo("c", "m")).ok
