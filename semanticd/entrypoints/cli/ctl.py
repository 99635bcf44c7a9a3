"""`semanticd ctl`: any command of the control protocol, for scripts."""

from __future__ import annotations

import json
from typing import Any

import click

from semanticd.entrypoints.cli.daemon_link import LONG_COMMAND_TIMEOUT_S, connect
from semanticd.entrypoints.cli.options import FiniteRange, json_option
from semanticd.entrypoints.cli.output import print_facts, print_json, print_line

_HELP = """Run a command of the control protocol.

Example: `semanticd ctl agents.pin agent=planner ttl_s=60`. A value that is JSON (true, 60, [..], "text") is read as
JSON, any other as text. `ctl subscribe TOPIC...` prints events as NDJSON; `ctl hello` lists commands and topics.
"""


@click.command(help=_HELP)
@click.argument("command", metavar="CMD")
@click.argument("arguments", metavar="[KEY=VALUE | TOPIC]...", nargs=-1)
@json_option
@click.option("--agent", help="With `subscribe`: only tokens of this agent.")
@click.option(
    "--timeout",
    type=FiniteRange(min=0.1),
    default=LONG_COMMAND_TIMEOUT_S,
    help="Seconds to wait for the reply.",
)
def ctl(
    *, command: str, arguments: tuple[str, ...], as_json: bool, agent: str | None, timeout: float
) -> None:
    """Run any command of the control protocol."""
    given = list(arguments)
    if command == "subscribe":
        _subscribe(given, agent)
        return
    args = read_arguments(given)
    with connect() as client:
        result = client.call(command, reply_within_s=timeout, **args)
    if as_json:
        print_json(result)
    else:
        print_facts(result)


def _subscribe(topics: list[str], agent: str | None) -> None:
    with connect() as client:
        for event in client.subscribe(topics, agent=agent):
            print_line({"event": event.event, "data": event.data, "dropped": event.dropped})


def read_arguments(given: list[str]) -> dict[str, Any]:
    """Read `key=value` words.

    Raises:
        ValueError: A word is not `key=value`; the message names it.
    """
    args: dict[str, Any] = {}
    for word in given:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ValueError(f"{word!r} is not KEY=VALUE")
        if not key.isidentifier() or key in ("cmd", "reply_within_s", "on_event", "self"):
            raise ValueError(f"no command has an argument named {key!r}")
        args[key] = _value(value)
    return args


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
