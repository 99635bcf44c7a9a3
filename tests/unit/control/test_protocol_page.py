"""The protocol page says what the code does: commands, arguments, topics, codes, limits, bytes."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from pathlib import Path

import semanticd.domain.errors as domain_errors
from semanticd.adapters.control.commands import COMMANDS
from semanticd.adapters.control.connection import CONNECTION_COMMANDS, ControlLimits
from semanticd.control import messages, results
from semanticd.control.framing import MAX_FRAME_BYTES, frame
from semanticd.domain.limits import LIMITS

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "formats" / "control-protocol.md").read_text()


def documented_commands() -> dict[str, tuple[set[str], set[str]]]:
    """Return required and optional arguments by command, as the page's table has them."""
    table = PAGE[PAGE.index("| command | arguments | result |") : PAGE.index("### Results")]
    found = {}
    for line in table.splitlines()[2:]:
        if not line.startswith("| `"):
            continue
        name, arguments = (cell.strip() for cell in line.split("|")[1:3])
        optional = set(re.findall(r"\[`(\w+)`\]", arguments))
        found[name.strip("`")] = (set(re.findall(r"`(\w+)`", arguments)) - optional, optional)
    return found


def test_every_command_is_documented_with_its_arguments() -> None:
    documented = documented_commands()
    assert set(documented) == {*COMMANDS, *CONNECTION_COMMANDS}
    for name, spec in COMMANDS.items():
        required = {one.name for one in spec.arguments if one.required}
        optional = {one.name for one in spec.arguments if not one.required}
        assert documented[name] == (required, optional), name


def test_every_topic_and_its_event_is_documented() -> None:
    for topic in messages.TOPICS:
        assert f"| `{topic}` | `{messages.EVENT_NAMES[topic]}` |" in PAGE


def test_every_code_is_documented() -> None:
    codes = {
        value.code
        for value in vars(domain_errors).values()
        if isinstance(value, type) and issubclass(value, domain_errors.SemanticError)
    }
    codes -= {
        "prompt_too_long",
        "request_too_large",
        "authentication_failed",
        "permission_denied",
        "rate_limited",
    }
    codes |= {
        messages.MALFORMED_FRAME,
        messages.FRAME_TOO_LARGE,
        messages.MALFORMED_MESSAGE,
        messages.HELLO_FIRST,
        messages.UNSUPPORTED_VERSION,
        messages.UNKNOWN_COMMAND,
        messages.INVALID_ARGUMENT,
        messages.NOT_AVAILABLE,
        messages.NOT_ALLOWED,
        messages.TOO_MANY_CLIENTS,
        messages.TOO_MANY_COMMANDS,
        messages.RESULT_TOO_LARGE,
    }
    assert {code for code in codes if f"`{code}`" not in PAGE} == set()


def test_the_limits_are_the_pages() -> None:
    limits = ControlLimits()
    assert f"{MAX_FRAME_BYTES:,}" in PAGE
    assert f"{LIMITS.command_values:,} values" in PAGE
    assert f"at most {limits.max_commands} at once" in PAGE
    assert f"Within {limits.hello_timeout_s:.0f} seconds" in PAGE
    assert f"within {limits.frame_timeout_s:.0f} seconds" in PAGE
    assert f"every {limits.snapshot_interval_s} s" in PAGE


def test_the_first_frame_is_what_the_page_spells() -> None:
    spelled = PAGE[PAGE.index("## A first frame") :].split("## From Python")[0]
    lines = re.findall(r"^    (.*)$", spelled, re.MULTILINE)
    text = "".join(
        re.findall(r"\b[0-9a-f]{2}\b", " ".join(line.split('"')[0].split("  length")[0] for line in lines))
    )
    text = text.replace("map", "")
    expected = frame(b"\x83\xa1v\x01\xa2id\x01\xa3cmd\xa5hello")
    assert bytes.fromhex(text) == expected
    assert messages.decode(expected[4:]) == messages.Command(1, "hello", {})


def test_every_key_of_a_result_is_documented() -> None:
    shapes = [shape for shape in vars(results).values() if isinstance(shape, type) and is_dataclass(shape)]
    assert results.StatusResult in shapes
    keys = {
        f"{shape.__name__}.{one.name}": one.metadata.get("key", one.name)
        for shape in shapes
        for one in fields(shape)
    }
    missing = {name for name, key in keys.items() if f"`{key}`" not in PAGE}
    assert missing == set()
