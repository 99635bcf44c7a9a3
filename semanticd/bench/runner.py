"""Runs scenarios one after another against one server; the figures of each are stored at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime, timezone

from semanticd.bench.client import ChatClient
from semanticd.bench.errors import BenchError
from semanticd.bench.machine import describe_machine, load_average
from semanticd.bench.result import BenchResult
from semanticd.bench.scenarios import Skipped, scenario
from semanticd.bench.session import BenchSession


def new_result(target: str, session: BenchSession, **server: str) -> BenchResult:
    """Return an empty result of this machine and server."""
    return BenchResult(
        target=target,
        machine=describe_machine(),
        server={"model": session.client.model, **server},
        settings=asdict(session.settings),
        began_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


async def run_scenarios(
    session: BenchSession,
    names: Sequence[str],
    result: BenchResult,
    *,
    keep: Callable[[BenchResult], None],
) -> None:
    """Measure each scenario and put its figures into `result`; `keep` is called after each.

    A scenario that fails is noted as skipped with its reason, and the others continue; a server that cannot be reached
    at all raises `BenchError`.
    """
    await session.prepare()
    for name in names:
        session.tell(f"{name} …")
        began = time.perf_counter()
        result.load_average[name] = load_average()
        try:
            result.replace(name, await scenario(name)(session))
        except Skipped as reason:
            result.skipped[name] = str(reason)
            session.tell(f"{name}: not measured: {reason}")
        except BenchError as error:
            result.skipped[name] = str(error)
            session.tell(f"{name}: failed: {error}")
        result.durations_s[name] = round(time.perf_counter() - began, 2)
        keep(result)


async def first_model(client: ChatClient) -> str:
    """Return the first model that the server lists."""
    names = await client.models()
    if not names:
        raise BenchError(f"{client.base_url} lists no model; name it with --model")
    return names[0]
