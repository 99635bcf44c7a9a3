"""Rows about the engine and its edges, in groups that can be measured one at a time."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path

from contrib.dev.bench import edge_rows, warm_rows
from contrib.dev.bench.servers import ROOT, TARGETS, ServerProcess
from semanticd.bench.client import ChatClient
from semanticd.bench.machine import describe_machine, load_average
from semanticd.bench.result import BenchResult, Figure, load_result
from semanticd.bench.session import BenchSession, BenchSettings
from semanticd.bench.text import TextSource

RAW = "raw_mlx"
CPU_MATH = "cpu_math"
FORMS = "forms"
DRAFTS = "drafts"
GROUPS = (
    RAW,
    CPU_MATH,
    FORMS,
    DRAFTS,
    warm_rows.START,
    warm_rows.NAME,
    "prefill_http",
    edge_rows.HTTP,
    edge_rows.CONTROL,
    edge_rows.STORE,
)
DRAFTED = {1: ("edit", "prose", "call"), 4: ("edit", "prose")}
"""Workloads of `lookup_rates` by how many answers decode together."""
RAW_LENGTHS = (900, 2048)
SEED = 3


def measure_all(path: Path, *, say: Callable[[str], None], only: Sequence[str] = ()) -> None:
    """Measure what is missing in `path`, or the groups in `only`."""
    kept = {figure.scenario for figure in load_result(path).figures} if path.exists() else set()
    wanted = [group for group in GROUPS if (group in only if only else group not in kept)]
    if RAW in wanted:
        keep(path, RAW, raw_mlx(), say)
    if CPU_MATH in wanted:
        keep(path, CPU_MATH, cpu_math(), say)
    if FORMS in wanted:
        keep(path, FORMS, _rates(FORMS, "form_rates"), say)
    if DRAFTS in wanted:
        keep(path, DRAFTS, drafts(), say)
    if edge_rows.HTTP in wanted:
        keep(path, edge_rows.HTTP, asyncio.run(edge_rows.http_overhead()), say)
    if edge_rows.STORE in wanted:
        keep(path, edge_rows.STORE, edge_rows.store_start(), say)
    of_a_daemon = ("prefill_http", warm_rows.START, warm_rows.NAME, edge_rows.CONTROL)
    with_daemon = [group for group in of_a_daemon if group in wanted]
    if with_daemon:
        asyncio.run(_with_daemon(path, with_daemon, say))


def keep(path: Path, group: str, figures: Sequence[Figure], say: Callable[[str], None]) -> None:
    """Add a group's figures to the saved ones."""
    result = load_result(path) if path.exists() else _empty()
    result.replace(group, figures)
    result.load_average[group] = load_average()
    result.save(path)
    for figure in figures:
        say(f"{group}: {figure.case} {figure.metric} {figure.value:.4g} {figure.unit} {figure.note}")


def raw_mlx() -> list[Figure]:
    """Run mlx-lm alone."""
    return _rates(RAW, "raw_mlx", json.dumps(RAW_LENGTHS), json.dumps(warm_rows.PREFILL_BATCHES))


def cpu_math() -> list[Figure]:
    """Run the model with and without what we do in its place on the CPU."""
    return _rates(CPU_MATH, "cpu_math_rates")


def drafts() -> list[Figure]:
    """Decode with and without drafts, a step of each in turn: how many times faster, and whether answers were equal."""
    figures = []
    for rows, workloads in DRAFTED.items():
        only = [word for workload in workloads for word in ("--only", workload)]
        found = _json_of("lookup_rates", "--rows", str(rows), *only)
        for name, value in found.items():
            workload, _, metric = name.partition("/")
            case = f"{workload} × {rows}"
            figures.append(
                Figure(DRAFTS, case, metric, float(value), "ratio" if metric == "ratio" else "", False)
            )
    return figures


def _rates(group: str, module: str, *arguments: str) -> list[Figure]:
    return [
        Figure(group, name.partition("/")[2], f"{name.partition('/')[0]}_rate", rate, "tok/s", False)
        for name, rate in _json_of(module, *arguments).items()
    ]


def _json_of(module: str, *arguments: str) -> dict[str, float]:
    """Return what a module of this folder prints as its last line, run in a process of its own."""
    command = [sys.executable, "-m", f"contrib.dev.bench.{module}", *arguments]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found: dict[str, float] = json.loads(said.splitlines()[-1])
    return found


async def _with_daemon(path: Path, groups: Sequence[str], say: Callable[[str], None]) -> None:
    home = Path(tempfile.mkdtemp(prefix="bench-"))
    server = ServerProcess(TARGETS[0], home)
    turns: list[Figure] = []
    try:
        await server.start()
        async with ChatClient(
            server.url, model=server.launch.model, stop_token_ids=(2,), timeout_s=240
        ) as client:
            session = BenchSession(
                client=client,
                settings=BenchSettings(seed=SEED),
                text=TextSource(SEED),
                tell=say,
                restart=server.restart,
            )
            await session.wait_ready()
            await session.prepare()
            if edge_rows.CONTROL in groups:
                keep(path, edge_rows.CONTROL, await asyncio.to_thread(edge_rows.control_status, server), say)
            if "prefill_http" in groups:
                keep(path, "prefill_http", await warm_rows.prefill(session), say)
            if warm_rows.NAME in groups:
                turns = await warm_rows.restore(session, server)
            if warm_rows.START in groups:
                keep(path, warm_rows.START, await warm_rows.start(server), say)
    finally:
        await server.stop()
        shutil.rmtree(home, ignore_errors=True)
    if turns:
        # Without the daemon: the model alone, on an idle machine.
        steps = _json_of("step_times", json.dumps(warm_rows.sizes(turns)))
        keep(path, warm_rows.NAME, [*turns, *warm_rows.steps(steps)], say)


def _empty() -> BenchResult:
    return BenchResult(
        target="semanticd's engine and edges",
        machine=describe_machine(),
        server={},
        settings={},
        began_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
