"""`semanticd status`: what the daemon does; exit status 3 when there is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

import click

from semanticd.control.errors import DaemonNotRunningError
from semanticd.entrypoints.cli import EXIT_NOT_RUNNING
from semanticd.entrypoints.cli.daemon_link import connect
from semanticd.entrypoints.cli.options import json_option
from semanticd.entrypoints.cli.output import (
    clear_screen,
    in_bytes,
    in_time,
    narrate,
    print_json,
    print_line,
    print_text,
)


@click.command()
@json_option
@click.option("--watch", "-w", is_flag=True, help="Go on until interrupted.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    default=1.0,
    show_default=True,
    help="Seconds between two looks.",
)
def status(*, as_json: bool, watch: bool, interval: float) -> None:
    """Show the daemon's state, model, engine and cache."""
    try:
        with connect() as client:
            while True:
                snapshot = client.call("status")
                if as_json:
                    (print_line if watch else print_json)(snapshot)
                else:
                    if watch:
                        clear_screen()
                    print_text(render(snapshot), at_once=True)
                if not watch:
                    return
                time.sleep(interval)
    except DaemonNotRunningError as error:
        if as_json:
            print_json({"state": "stopped"})
        narrate(f"semanticd: {error}")
        sys.exit(EXIT_NOT_RUNNING)


def render(status: Mapping[str, Any]) -> str:
    """Return the snapshot as a few lines for people."""
    engine: Mapping[str, Any] = status.get("engine") or {}
    cache: Mapping[str, Any] = status.get("cache") or {}
    lines = [
        f"semanticd {status.get('version')}: {status.get('state')}, up {in_time(status.get('uptime_s') or 0)}, "
        f"pid {status.get('pid')}",
        f"address  {status.get('address')}",
        f"socket   {status.get('socket')}",
        f"model    {status.get('model') or '-'}{_stage(status)}",
    ]
    lines += [
        f"         {model.get('id')} loaded ({in_bytes(model.get('weights_bytes') or 0)})"
        for model in status.get("models") or []
        if not model.get("current")
    ]
    if engine:
        lines.append(
            f"engine   {engine.get('num_running', 0)} running, {engine.get('num_waiting', 0)} waiting; "
            f"prefill {engine.get('prefill_tokens_per_s') or 0:.0f} tok/s, "
            f"decode {engine.get('decode_tokens_per_s') or 0:.1f} tok/s"
        )
    if cache:
        used = (
            (cache.get("hot_bytes") or 0)
            + (cache.get("running_bytes") or 0)
            + (cache.get("in_flight_bytes") or 0)
        )
        cap = cache.get("warm_cap_bytes")
        lines.append(
            f"hot      {in_bytes(used)} of {in_bytes(cache.get('budget_bytes') or 0)}, "
            f"{cache.get('num_hot_blocks', 0)} blocks ({cache.get('num_shared_blocks', 0)} shared)"
        )
        lines.append(
            f"warm     {in_bytes(cache.get('warm_bytes') or 0)}{f' of {in_bytes(cap)}' if cap else ''}, "
            f"{cache.get('num_warm_blocks', 0)} blocks"
        )
        lines.append(
            f"tokens   {cache.get('hot_hit_tokens', 0)} reused hot, {cache.get('warm_hit_tokens', 0)} restored warm, "
            f"{cache.get('computed_tokens', 0)} computed"
        )
    outcomes: Mapping[str, Any] = status.get("outcomes") or {}
    if outcomes:
        lines.append(
            f"requests {outcomes.get('num_answered', 0)} answered, {outcomes.get('num_failed', 0)} failed, "
            f"{outcomes.get('num_refused', 0)} refused"
        )
    savings: Mapping[str, Any] = status.get("savings") or {}
    if savings:
        lines.append(
            f"saved    {in_time(savings.get('saved_s') or 0)} of prefill by {savings.get('reused_tokens', 0)} tokens; "
            f"{savings.get('recomputed_tokens', 0)} tokens computed again after an eviction"
        )
    return "\n".join(lines)


def _stage(status: Mapping[str, Any]) -> str:
    error = status.get("model_error")
    stage = status.get("model_stage")
    parts = []
    if stage and stage != "idle":
        parts.append(f"{stage} {100 * float(status.get('model_progress') or 0):.0f} %")
    if error:
        parts.append(f"last error: {error}")
    return f" ({'; '.join(parts)})" if parts else ""
