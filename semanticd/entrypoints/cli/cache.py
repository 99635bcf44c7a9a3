"""`semanticd cache`: the size of the KV cache by model or agent, and commands to shrink it."""

from __future__ import annotations

import sys
from typing import Any

import click

from semanticd.control.client import ControlClient
from semanticd.control.results import (
    AgentRow,
    CacheStats,
    FreedResult,
    ModelRow,
    ModelSizeRow,
    StatusResult,
    read,
    read_all,
    rows_in,
)
from semanticd.entrypoints.cli.daemon_link import LONG_COMMAND_TIMEOUT_S, ask, connect
from semanticd.entrypoints.cli.options import json_option
from semanticd.entrypoints.cli.output import in_bytes, narrate, print_json, print_table, print_text
from semanticd.entrypoints.cli.sizes import Size

_BY = ("model", "agent")


@click.group("cache", invoke_without_command=True)
@click.option("--by", type=click.Choice(_BY), help="Also show one row per model or agent.")
@json_option
@click.pass_context
def commands(context: click.Context, *, by: str | None, as_json: bool) -> None:
    """Show, prune or clear the KV cache in RAM and on disk.

    Without a command, shows the size of the cache. Rows of agents count a shared block once per agent; rows of models
    and the totals count it once.
    """
    if context.invoked_subcommand is not None:
        return
    with connect() as client:
        cache = read(StatusResult, client.call("status")).cache
        rows = _rows(client, by) if by is not None else []
    if as_json:
        print_json({"hot_bytes": cache.hot_bytes, "warm_bytes": cache.warm_bytes,
                    "warm_cap_bytes": cache.warm_cap_bytes, "rows": rows})  # fmt: skip
        return
    if by is not None:
        print_table(rows, _COLUMNS[by])
    print_text(summary(cache))


_COLUMNS = {
    "model": ("model", "layout", "num_blocks", "warm_bytes"),
    "agent": ("agent", "state", "num_tokens", "hot_bytes", "warm_bytes", "shared_hot_bytes", "pinned"),
}


def summary(cache: CacheStats) -> str:
    """Return both tiers in two lines."""
    cap = (
        f"of {in_bytes(cache.warm_cap_bytes)}"
        if cache.warm_cap_bytes
        else "(no limit: SEMANTIC_AGENT_CACHE_MAX_GB)"
    )
    return (
        f"RAM   {in_bytes(cache.used_bytes)} of {in_bytes(cache.budget_bytes)}, {cache.num_hot_blocks} blocks; "
        f"agents' texts {in_bytes(cache.text_bytes)}\n"
        f"disk  {in_bytes(cache.warm_bytes)} {cap}, {cache.num_warm_blocks} blocks"
    )


def _rows(client: ControlClient, by: str) -> list[dict[str, Any]]:
    if by == "agent":
        agents = read_all(AgentRow, rows_in(client.call("agents.list"), "agents"))
        return [
            {
                "agent": agent.id,
                "state": agent.state,
                "num_tokens": agent.num_tokens,
                "hot_bytes": agent.hot_bytes,
                "warm_bytes": agent.warm_bytes,
                "shared_hot_bytes": agent.shared_hot_bytes,
                "pinned": agent.pinned,
            }
            for agent in sorted(agents, key=lambda agent: (-agent.warm_bytes, -agent.hot_bytes, agent.id))
        ]
    names = {
        model.fingerprint: model.id
        for model in read_all(ModelRow, rows_in(client.call("models.list"), "models"))
        if model.fingerprint
    }
    return [
        {
            "model": names.get(one.fingerprint, f"not installed ({one.fingerprint[:12]})"),
            "layout": one.layout,
            "num_blocks": one.num_blocks,
            "warm_bytes": one.num_bytes,
        }
        for one in read_all(ModelSizeRow, rows_in(client.call("cache.sizes"), "models"))
    ]


@commands.command()
@click.argument("size", type=Size())
@click.option("--dry-run", "-n", is_flag=True, help="Remove nothing; print how much would be freed.")
@json_option
def prune(*, size: int, dry_run: bool, as_json: bool) -> None:
    """Shrink the cache on disk to SIZE, such as 2GB.

    The least recently used blocks are removed first; those of pinned agents stay. A removed block is computed again
    when it is needed. SIZE 0 removes all blocks that are not pinned.
    """
    pruned = ask("cache.prune", target_bytes=size, dry_run=dry_run, reply_within_s=LONG_COMMAND_TIMEOUT_S)
    if as_json:
        print_json({**pruned, "dry_run": dry_run})
        return
    print_text(f"{'would free' if dry_run else 'freed'} {in_bytes(read(FreedResult, pruned).freed_bytes)}")


@commands.command()
@click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")
@json_option
def clear(*, yes: bool, as_json: bool) -> None:
    """Drop all cached blocks in RAM and on disk; agents stay.

    Running requests continue; blocks in RAM that they use are kept until they end. Each agent's next turn computes its
    prompt again. If the disk refuses the deletion, the command fails, and no block leaves RAM.
    """
    if not yes:
        if not sys.stdin.isatty():
            raise click.ClickException("this drops the whole cache; confirm with --yes")
        cache = read(StatusResult, ask("status")).cache
        narrate(summary(cache))
        click.confirm(
            "drop all of it? every agent's next turn computes its prompt again", abort=True, err=True
        )
    cleared = ask("cache.clear", reply_within_s=LONG_COMMAND_TIMEOUT_S)
    if as_json:
        print_json(cleared)
        return
    freed = read(FreedResult, cleared)
    print_text(f"freed {in_bytes(freed.freed_hot_bytes)} in RAM, {in_bytes(freed.freed_warm_bytes)} on disk")
