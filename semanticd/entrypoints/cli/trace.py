"""`semanticd trace`: look at recorded requests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from semanticd.control.results import MissRow, read
from semanticd.entrypoints.cli.output import print_facts, print_json, print_table

if TYPE_CHECKING:
    from semanticd.bench.trace_file import Trace, TracedRequest

_WHO = ("request", "at", "dialect", "agent", "turns", "body_bytes", "status", "prompt", "hot", "warm")
_COST = ("computed", "output", "first_s", "seconds", "miss")


@click.group("trace")
def commands() -> None:
    """Show requests that the daemon recorded.

    The daemon records requests if SEMANTIC_TRACE_DIR is set. `semanticd bench replay` sends them to a server again.
    """


@commands.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--request", "-r", "number", type=click.IntRange(min=1), help="Show one request in full, by its number."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(*, file: Path, number: int | None, as_json: bool) -> None:
    """List a trace's requests with their agents, times and costs.

    FILE is a recorded trace, plain or compressed with gzip or xz.
    """
    from semanticd.bench.errors import BenchError
    from semanticd.bench.trace_file import load_trace

    try:
        trace = load_trace(file)
    except BenchError as error:
        raise click.ClickException(str(error)) from error
    if number is not None:
        _show_one(trace, number, as_json=as_json)
        return
    began = trace.requests[0].at if trace.requests else 0.0
    rows = [_row(index, request, began) for index, request in enumerate(trace.requests, 1)]
    if as_json:
        print_json({**trace.head, "requests": rows})
        return
    print_facts(_facts(trace))
    print_table(rows, [name for name in (*_WHO, *_COST) if any(row.get(name) is not None for row in rows)])


def _show_one(trace: Trace, number: int, *, as_json: bool) -> None:
    if number > len(trace.requests):
        raise click.ClickException(
            f"the trace has {len(trace.requests)} requests, numbered from 1; {number} is not one of them"
        )
    request = trace.requests[number - 1]
    facts = {
        "path": f"{request.path}?{request.query}" if request.query else request.path,
        "agent": request.agent,
        "headers": dict(request.headers),
        "answer": dict(request.answer),
    }
    if as_json:
        print_json({**facts, "body": request.body})
        return
    print_facts(facts)
    print_json(request.body)


def _facts(trace: Trace) -> dict[str, Any]:
    usages = [request.answer.get("usage") or {} for request in trace.requests]
    prompt = sum(int(usage.get("prompt_tokens", 0)) for usage in usages)
    reused = sum(
        int(usage.get("reused_hot_tokens", 0)) + int(usage.get("restored_warm_tokens", 0)) for usage in usages
    )
    return {
        "server": trace.head.get("server"),
        "began_at": trace.head.get("began_at"),
        "content": trace.head.get("content"),
        "requests": len(trace.requests),
        "agents": len({request.agent for request in trace.requests}),
        "prompt_tokens": prompt,
        "reused_ratio": reused / prompt if prompt else None,
    }


def _row(index: int, request: TracedRequest, began: float) -> dict[str, Any]:
    answer, usage = request.answer, request.answer.get("usage") or {}
    miss = read(MissRow, answer.get("miss"))
    turns = (
        request.body.get("messages") or request.body.get("input") if isinstance(request.body, dict) else None
    )
    return {
        "request": index,
        "at": f"{request.at - began:.2f}",
        "dialect": request.dialect,
        "agent": (request.agent or "")[:24] or None,
        "turns": len(turns) if isinstance(turns, list) else None,
        "body_bytes": len(json.dumps(request.body, ensure_ascii=False).encode("utf-8", "replace")),
        "status": answer.get("status"),
        "prompt": usage.get("prompt_tokens"),
        "hot": usage.get("reused_hot_tokens"),
        "warm": usage.get("restored_warm_tokens"),
        "computed": usage.get("computed_tokens"),
        "output": usage.get("completion_tokens"),
        "first_s": answer.get("first_s"),
        "seconds": answer.get("seconds"),
        "miss": f"{miss.cause}@{miss.position}" if miss.cause else None,
    }
