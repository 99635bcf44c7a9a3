"""`semanticd agents`: the owners of cached conversations."""

from __future__ import annotations

import difflib
import fnmatch
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from semanticd.control.errors import CommandFailedError, ControlError
from semanticd.control.results import (
    AgentRow,
    StatusResult,
    TurnRow,
    WhyResult,
    read,
    read_all,
    rows_in,
    step_text,
)
from semanticd.control.terminal_text import one_line
from semanticd.domain.errors import AgentNotFoundError
from semanticd.entrypoints.cli.daemon_link import LONG_COMMAND_TIMEOUT_S, ask, connect
from semanticd.entrypoints.cli.options import FiniteRange, absolute, json_option
from semanticd.entrypoints.cli.output import (
    in_bytes,
    narrate,
    print_facts,
    print_json,
    print_table,
    print_text,
)


@click.group("agents")
def commands() -> None:
    """Show, pin, fork, rewind, move and delete agents."""


_COLUMNS = (
    "id",
    "state",
    "num_tokens",
    "num_turns",
    "hot_bytes",
    "warm_bytes",
    "last_reuse_ratio",
    "last_ttft_ms",
    "pinned",
    "model",
)
_ORDERS: dict[str, tuple[Callable[[AgentRow], Any], bool]] = {
    "used": (lambda row: row.last_used_at, True),
    "size": (lambda row: row.hot_bytes + row.warm_bytes, True),
    "tokens": (lambda row: row.num_tokens, True),
    "turns": (lambda row: row.num_turns, True),
    "name": (lambda row: row.id, False),
    "state": (lambda row: row.state, False),
}
"""Values of `--sort`: the key of a row, and whether the largest comes first."""
_NUM_NAMED = 5
"""Agents that an error names at most."""
as_agent = click.argument("agent")


def ask_agent(cmd: str, agent: str, *, reply_within_s: float = 30.0, **args: Any) -> dict[str, Any]:
    """Run a command on one agent; where there is none of this id, the error names those that may be meant."""
    with connect() as client:
        try:
            return client.call(cmd, agent=agent, reply_within_s=reply_within_s, **args)
        except CommandFailedError as error:
            if error.code != AgentNotFoundError.code:
                raise
            known = [row.id for row in read_all(AgentRow, rows_in(client.call("agents.list"), "agents"))]
            raise ControlError(f"no agent has the id {agent!r}; {which_agent(agent, known)}") from error


def fork_of(agent: str, *, new_id: str | None = None) -> str:
    """Make a fork of an agent; returns its id."""
    made = read(AgentRow, ask_agent("agents.fork", agent, new_id=new_id)).id
    if not made:
        raise ControlError(f"the daemon forked {agent!r} but did not report the fork's id")
    return made


def which_agent(typed: str, known: Sequence[str]) -> str:
    """Return the remedy for an unknown agent id."""
    if any(character in typed for character in "*?["):
        matching = fnmatch.filter(known, typed)
        named = ", ".join([*matching[:_NUM_NAMED], *(["…"] if len(matching) > _NUM_NAMED else [])])
        would = f"would match {len(matching)} of {len(known)}: {named}" if matching else "would match none"
        return (
            f"this command takes one agent's id, not a pattern (it {would}); `semanticd agents list --json` prints "
            "all ids for a script"
        )
    if close := difflib.get_close_matches(typed, known, n=1):
        return f"did you mean {close[0]!r}?"
    return "list them with `semanticd agents list`" if known else "there are none yet"


@commands.command("list")
@json_option
@click.option(
    "--sort",
    "order",
    type=click.Choice(list(_ORDERS)),
    default="used",
    show_default=True,
    help="Order of rows.",
)
def list_agents(*, as_json: bool, order: str) -> None:
    """List all agents, most recently used first.

    The totals count shared blocks once.
    """
    with connect() as client:
        rows = rows_in(client.call("agents.list"), "agents")
        status = read(StatusResult, client.call("status"))
    key, largest_first = _ORDERS[order]
    typed = read_all(AgentRow, rows)
    ordered = sorted(range(len(rows)), key=lambda at: key(typed[at]), reverse=largest_first)
    rows = [rows[at] for at in ordered]
    if as_json:
        print_json({"agents": rows})
        return
    print_table(rows, _COLUMNS)
    narrate(
        f"{len(rows)} agent{'' if len(rows) == 1 else 's'}, {sum(row.num_tokens for row in typed)} tokens; "
        f"{in_bytes(status.cache.hot_bytes)} in RAM, {in_bytes(status.cache.warm_bytes)} on disk, "
        "shared blocks counted once"
    )


@commands.command()
@as_agent
@json_option
def show(*, agent: str, as_json: bool) -> None:
    """Show one agent: details, configuration, turns."""
    _print(ask_agent("agents.show", agent), as_json)


@commands.command()
@as_agent
@click.option(
    "--last", "num_turns", type=click.IntRange(min=1), default=1, show_default=True, help="Number of turns."
)
@json_option
def why(*, agent: str, num_turns: int, as_json: bool) -> None:
    """Explain what an agent's last turns reused and computed.

    A sentence explains where the time went and, after a cache miss, names the cause.
    """
    answer = ask_agent("agents.why", agent)
    if as_json:
        print_json(answer)
        return
    turns = read(WhyResult, answer).turns
    if not turns:
        print_text("no turn has finished yet")
    for turn in turns[-num_turns:]:
        print_text(explained(turn))


def explained(turn: TurnRow) -> str:
    """Return a turn as people read it: the verdict first, then the numbers, then where the prompt differed."""
    lines = [
        turn.verdict or "no verdict",
        f"  prompt {turn.prompt_tokens} tokens: {turn.reused_hot_tokens} from RAM, {turn.restored_warm_tokens} from "
        f"disk, {turn.computed_tokens} computed; answer {turn.completion_tokens} tokens ({turn.finish_reason})",
        f"  queue {turn.queue_ms:.0f} ms, restore {turn.restore_ms:.0f} ms, first token after "
        f"{turn.ttft_ms or 0:.0f} ms, decode {turn.decode_ms:.0f} ms"
        + (f", {per_step}" if (per_step := step_text(turn.tokens_per_step)) else ""),
    ]
    if turn.finish_reason == "kv_budget":
        lines.append(
            "  the answer was cut off because the KV budget was full: raise SEMANTIC_MLX_CACHE_BUDGET_MB"
        )
    if turn.miss is not None and turn.miss.cause != "first_request":
        lines.append(f"  left the cache at token {turn.miss.position}: {turn.miss.cause.replace('_', ' ')}")
        if turn.miss.found:
            lines.append(
                f"    expected {one_line(turn.miss.expected)!r}, found {one_line(turn.miss.found)!r}"
            )
        elif turn.miss.expected:
            # The prompt continues as before: the cache no longer had it.
            lines.append(f"    at {one_line(turn.miss.expected)!r}")
    return "\n".join(lines)


@commands.command()
@as_agent
@click.option(
    "--ttl",
    type=FiniteRange(min=0, min_open=True),
    help="Seconds until the pin ends; without it, the pin stays.",
)
@json_option
def pin(*, agent: str, ttl: float | None, as_json: bool) -> None:
    """Protect an agent's blocks from eviction."""
    _print(ask_agent("agents.pin", agent, ttl_s=ttl), as_json)


@commands.command()
@as_agent
@json_option
def unpin(*, agent: str, as_json: bool) -> None:
    """Allow eviction of an agent's blocks again."""
    _print(ask_agent("agents.unpin", agent), as_json)


@commands.command()
@as_agent
@click.argument("new_id", required=False)
@json_option
def fork(*, agent: str, new_id: str | None, as_json: bool) -> None:
    """Copy an agent: the same conversation, with shared blocks."""
    _print(ask_agent("agents.fork", agent, new_id=new_id), as_json)


@commands.command()
@as_agent
@click.option(
    "--turns", type=click.IntRange(min=1), default=1, show_default=True, help="Number of turns to forget."
)
@json_option
def rewind(*, agent: str, turns: int, as_json: bool) -> None:
    """Forget an agent's last turns; the rest stays cached."""
    _print(ask_agent("agents.rewind", agent, turns=turns), as_json)


@commands.command()
@as_agent
@json_option
def evict(*, agent: str, as_json: bool) -> None:
    """Move an agent's blocks from RAM to disk."""
    _print(ask_agent("agents.evict", agent, reply_within_s=LONG_COMMAND_TIMEOUT_S), as_json)


@commands.command()
@as_agent
@json_option
def delete(*, agent: str, as_json: bool) -> None:
    """Delete an agent and the blocks that only it uses."""
    _print(ask_agent("agents.delete", agent, reply_within_s=LONG_COMMAND_TIMEOUT_S), as_json)


@commands.command()
@as_agent
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--force", "-f", is_flag=True, help="Overwrite an existing file.")
@json_option
def export(*, agent: str, path: Path, force: bool, as_json: bool) -> None:
    """Write an agent export: the agent and its blocks in one file."""
    confirm_overwriting(path, force=force)
    result = ask_agent(
        "agents.export", agent, path=str(absolute(path)), reply_within_s=LONG_COMMAND_TIMEOUT_S
    )
    _print(result, as_json)


@commands.command("import")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--as", "new_id", help="Id of the new agent; default: the one in the export.")
@click.option(
    "--trust",
    is_flag=True,
    help="Let other agents share its blocks; only for your own exports: a forged one could change their answers.",
)
@json_option
def import_agent(*, path: Path, new_id: str | None, trust: bool, as_json: bool) -> None:
    """Read an agent export.

    Other agents do not share its blocks unless the file is trusted.
    """
    imported = ask(
        "agents.import",
        path=str(absolute(path)),
        new_id=new_id,
        trust=trust,
        reply_within_s=LONG_COMMAND_TIMEOUT_S,
    )
    _print(imported, as_json)


def confirm_overwriting(path: Path, *, force: bool) -> None:
    """Ask before a file is overwritten; without a terminal, raise `click.ClickException`."""
    if force or not absolute(path).exists():
        return
    if not sys.stdin.isatty():
        raise click.ClickException(f"{path} exists; --force overwrites it")
    click.confirm(f"{path} exists; overwrite it?", abort=True, err=True)


def _print(facts: Mapping[str, Any], as_json: bool) -> None:
    if facts.get("unsaved"):
        narrate(
            "the disk refused to store this: it holds in memory only, and a restart would undo it; make room, for "
            "example with `semanticd cache prune 2GB`, then it is tried again with the next turn of any agent"
        )
    if missing := facts.get("num_missing_blocks"):
        narrate(
            f"{missing} blocks are missing and not in the export: the importing daemon computes them again"
        )
    if as_json:
        print_json(facts)
    else:
        print_facts(facts)
