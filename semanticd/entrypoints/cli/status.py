"""`semanticd status`: the daemon's state; exit status 3 when no daemon is running."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import click

from semanticd.control.errors import DaemonNotRunningError, NoSocketError
from semanticd.control.request_text import wait_text
from semanticd.control.results import (
    CacheStats,
    PeerFacts,
    RankFacts,
    RequestRow,
    StatusResult,
    drafts_text,
    read,
    read_all,
    rows_in,
    step_text,
)
from semanticd.domain.errors import NO_MODEL_LOADED
from semanticd.entrypoints.cli import EXIT_NOT_RUNNING
from semanticd.entrypoints.cli.daemon_link import connect
from semanticd.entrypoints.cli.options import FiniteRange, json_option
from semanticd.entrypoints.cli.output import (
    clear_screen,
    in_bytes,
    in_time,
    narrate,
    print_json,
    print_line,
    print_text,
)

_MAX_WAITING = 8
"""Waiting requests that have a line of their own."""


@click.command()
@json_option
@click.option("--watch", "-w", is_flag=True, help="Refresh until interrupted.")
@click.option(
    "--interval",
    type=FiniteRange(min=0.1),
    default=1.0,
    show_default=True,
    help="Refresh interval in seconds.",
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
                    requests = rows_in(client.call("requests.list"), "requests")
                    text = render(read(StatusResult, snapshot), read_all(RequestRow, requests))
                    print_text(text, at_once=True)
                if not watch:
                    return
                time.sleep(interval)
    except NoSocketError:
        raise
    except DaemonNotRunningError as error:
        if as_json:
            print_json({"state": "stopped"})
        narrate(f"semanticd: {error}")
        sys.exit(EXIT_NOT_RUNNING)


def render(status: StatusResult, requests: Sequence[RequestRow] = ()) -> str:
    """Return the snapshot as a few lines for people; of the requests, those that wait."""
    engine, cache = status.engine, status.cache
    state = status.state.replace("_", " ")
    lines = [
        f"semanticd {status.version}: {state}, up {in_time(status.uptime_s)}, pid {status.pid}",
        f"address  {status.address}",
        f"socket   {status.socket}",
        f"model    {status.model or _no_model(status)}{_computed_in(status)}{_stage(status)}",
    ]
    lines += [f"warning  {model.id}: {model.warning}" for model in status.models if model.warning]
    if status.model_error:
        lines.append(f"failed   the last change of models: {status.model_error}")
    lines += [
        f"         {model.id} loaded ({in_bytes(model.weights_bytes)})"
        for model in status.models
        if not model.current
    ]
    cap = cache.warm_cap_bytes
    lines += [
        f"engine   {engine.num_running} running, {engine.num_waiting} waiting; "
        f"prefill {engine.prefill_tokens_per_s:.0f} tok/s, decode {engine.decode_tokens_per_s:.1f} tok/s"
        + (f", {per_step}" if engine.batch_size and (per_step := step_text(engine.tokens_per_step)) else ""),
        *_waiting(requests),
        f"hot      {in_bytes(cache.used_bytes)} of {in_bytes(cache.budget_bytes)}, "
        f"{cache.num_hot_blocks} blocks ({cache.num_shared_blocks} shared)"
        + (
            f"; memory is short, {in_bytes(cache.planned_bytes)} planned"
            if cache.planned_bytes > cache.budget_bytes
            else ""
        ),
        f"warm     {in_bytes(cache.warm_bytes)}{f' of {in_bytes(cap)}' if cap else ''}, "
        f"{cache.num_warm_blocks} blocks"
        + (
            f" (looking through the folder, {cache.recovered_share:.0%})"
            if cache.recovered_share is not None
            else ""
        )
        + (
            f", {in_bytes(cache.free_disk_bytes)} free on the volume"
            if cache.free_disk_bytes is not None
            else ""
        )
        + (f"; {nothing}" if (nothing := keeps_nothing(status)) is not None else ""),
        f"tokens   {cache.hot_hit_tokens} reused hot, {cache.warm_hit_tokens} restored warm, "
        f"{cache.computed_tokens} computed",
    ]
    lines += [
        f"{'peers' if number == 0 else '':<8} {_peer(peer)}" for number, peer in enumerate(status.peers)
    ]
    lines += [
        f"{'ranks' if number == 0 else '':<8} {_rank(rank)}" for number, rank in enumerate(status.ranks)
    ]
    if cache.folder_problem is not None:
        lines.append(f"folder   {cache.folder_problem}")
    if (unsaved := unsaved_text(cache)) is not None:
        lines.append(f"unsaved  {unsaved}")
    if (outcomes := status.outcomes) is not None:
        lines.append(
            f"requests {outcomes.num_answered} answered, {outcomes.num_failed} failed, "
            f"{outcomes.num_refused} refused"
        )
    if drafts := drafts_text(engine):
        lines.append(f"guessed  {drafts}")
    if (savings := status.savings) is not None:
        lines.append(
            f"saved    {in_time(savings.saved_s)} of prefill by {savings.reused_tokens} tokens, "
            f"{in_time(savings.today.saved_s)} of it today; {savings.recomputed_tokens} tokens recomputed "
            "after an eviction"
        )
    return "\n".join(lines)


def _waiting(requests: Sequence[RequestRow]) -> list[str]:
    """Return the requests that wait, oldest first, and what for; only the first ones have a line."""
    waiting = [row for row in requests if row.state == "waiting"]
    lines = [f"{row.agent or '-'}: {wait_text(row)}" for row in waiting[:_MAX_WAITING]]
    if len(waiting) > len(lines):
        lines.append(f"and {len(waiting) - len(lines)} more")
    return [f"{'waiting' if number == 0 else '':<8} {line}" for number, line in enumerate(lines)]


def _peer(peer: PeerFacts) -> str:
    """Return one peer in a line."""
    text = (
        f"{peer.address}: {peer.state}, asked about {peer.num_asked} prompts, "
        f"{peer.num_blocks} blocks ({in_bytes(peer.num_bytes)}) read"
    )
    if peer.bytes_per_s is not None:
        text += f" at {in_bytes(int(peer.bytes_per_s))}/s"
    if peer.num_failures:
        text += f", {peer.num_failures} failures; last: {peer.last_failure}"
    return text


def _rank(rank: RankFacts) -> str:
    """Return one of the machines that compute together in a line."""
    if rank.state != "ready":
        return f"{rank.rank} at {rank.address}: {rank.state}" + (
            f"; {rank.last_failure}" if rank.last_failure else ""
        )
    return (
        f"{rank.rank} at {rank.address}: ready, {in_bytes(rank.memory_bytes)}, "
        + (f"last step {rank.step_ms:.1f} ms, " if rank.step_ms else "no step yet, ")
        + f"{in_bytes(rank.sent_bytes)} sent, {in_bytes(rank.received_bytes)} received"
    )


def keeps_nothing(status: StatusResult) -> str | None:
    """Return why the warm tier keeps no whole block of the current model; None where it may."""
    cap = status.cache.warm_cap_bytes
    current = next((model for model in status.models if model.current), None)
    if not cap or current is None or current.block_bytes <= cap:
        return None
    return (
        f"keeps no whole block: one of {current.id} takes {in_bytes(current.block_bytes)}, more than the cap; "
        "raise SEMANTIC_AGENT_CACHE_MAX_GB"
    )


def unsaved_text(cache: CacheStats) -> str | None:
    """Return the data that the disk refused, with the remedy; None where it refused nothing."""
    counts = ((cache.num_unsaved_agents, "agent"), (cache.num_unsaved_responses, "response"))
    parts = [f"{number} {name}{'s' if number > 1 else ''}" for number, name in counts if number]
    if not parts:
        return None
    reason = (
        "the disk refused them; is it full? See `semanticd logs`"
        if cache.folder_problem is None
        else "the cache folder is gone"
    )
    return f"{' and '.join(parts)} in memory only: {reason}"


def _computed_in(status: StatusResult) -> str:
    current = next((model for model in status.models if model.current), None)
    return f", computed in {current.compute_dtype}" if current is not None and current.compute_dtype else ""


def _stage(status: StatusResult) -> str:
    if status.model_stage == "idle":
        return ""
    return f" ({status.model_stage} {100 * status.model_progress:.0f} %)"


def _no_model(status: StatusResult) -> str:
    """Return the text in place of a model where none is loaded; one may be loading, or come with its machines."""
    if status.model_away is not None:
        return f"- {status.model_away}"
    return f"- {NO_MODEL_LOADED}" if status.state == "no_model" and status.model_stage == "idle" else "-"
