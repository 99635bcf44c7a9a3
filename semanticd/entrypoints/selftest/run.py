"""Runs the checks one after another, and says what happens as events that a report is made of.

Events are mappings with a `kind`: `began` (what is tested, on what), `check` (one begins), `progress` (a model is
fetched or loaded), `found` (its outcome), `ended`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from semanticd import __version__
from semanticd.adapters.machine_record import MachineRecord
from semanticd.application.services.plain import plain
from semanticd.bench.machine import describe_machine, load_average
from semanticd.entrypoints.selftest.checks import Check, SelfTest
from semanticd.entrypoints.selftest.outcome import Outcome, of_error, skipped

FORMAT = 1
Tell = Callable[[Mapping[str, Any]], None]


def began(model: str, *, quick: bool) -> dict[str, Any]:
    """Return the event that a self-test begins: versions, machine and model, and nothing that names a user."""
    return {
        "kind": "began",
        "format": FORMAT,
        "semanticd": __version__,
        "began_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "quick": quick,
        "model": Path(model).name if os.sep in model else model,
        "machine": describe_machine(),
        "load_average": round(load_average(), 2),
    }


async def run(test: SelfTest, record: MachineRecord, tell: Tell, *, quick: bool) -> None:
    """Run all checks; none of them can end the others."""
    record.begin_run()
    try:
        for check in test.checks():
            tell({"kind": "check", "name": check.name})
            record.checking(check.name)
            started = time.perf_counter()
            outcome = await _outcome(check, loaded=test.daemon.is_running, quick=quick)
            tell(found(check.name, outcome, took_s=time.perf_counter() - started))
    finally:
        # Also where the user interrupts it; only a crash leaves the name of the check behind.
        record.checking(None)
        await test.daemon.stop()
    tell({"kind": "ended", "log": sorted(set(test.daemon.log.events))})


async def _outcome(check: Check, *, loaded: bool, quick: bool) -> Outcome:
    if quick and not check.in_quick:
        return skipped("not in a quick self-test")
    if check.needs_model and not loaded:
        return skipped("the model was not loaded")
    try:
        return await check.run()
    except Exception as error:  # noqa: BLE001 (whatever an unknown machine raises is the finding)
        return of_error(error)


def found(name: str, outcome: Outcome, *, took_s: float) -> dict[str, Any]:
    """Return the event of a check's outcome."""
    return {
        "kind": "found",
        "name": name,
        "verdict": outcome.verdict,
        "message": outcome.message,
        "figures": plain(outcome.figures),
        "took_s": round(took_s, 2),
    }


def without_home(value: Any, homes: Sequence[str]) -> Any:
    """Return a value in which no text names the user's home folder, so that it can be posted."""
    if isinstance(value, str):
        for home in homes:
            value = value.replace(home, "~")
        return value
    if isinstance(value, Mapping):
        return {key: without_home(item, homes) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_home(item, homes) for item in value]
    return value
