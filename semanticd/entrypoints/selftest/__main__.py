"""The self-test's own process: `python -m semanticd.entrypoints.selftest [--quick] [--model M]`, events on stdout.

Output of libraries goes to stderr, so that stdout holds nothing but one JSON object per line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from semanticd.adapters.config import load_settings
from semanticd.adapters.machine_record import MachineRecord
from semanticd.adapters.mlx.platform.blas import load_fast_blas
from semanticd.domain.errors import SemanticError
from semanticd.entrypoints.model_fit import default_model_name, machine_without_mlx, open_registry
from semanticd.entrypoints.selftest.checks import SelfTest
from semanticd.entrypoints.selftest.outcome import of_error
from semanticd.entrypoints.selftest.run import began, found, run, without_home

_INTERRUPTED = 130


def main() -> int:
    """Run the checks and write their events; returns the exit status, which is 0 for any findings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--model")
    options = parser.parse_args()
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    homes = [home] if len(home := str(Path.home())) > 1 else []

    def tell(event: Mapping[str, Any]) -> None:
        events.write(json.dumps(without_home(event, homes), ensure_ascii=False, default=str) + "\n")
        events.flush()

    load_fast_blas()  # before mlx.core is imported
    try:
        settings = load_settings().settings
        # Steps are compared with the library's, which give a token each.
        settings = replace(settings, mlx=replace(settings.mlx, speculation="off"))
        if options.model:
            settings = replace(settings, mlx=replace(settings.mlx, model_id=options.model))
        model = settings.mlx.model_id or default_model_name(
            open_registry(settings), machine_without_mlx(settings)
        )
        record = MachineRecord()
        tell(began(model, quick=options.quick))
        test = SelfTest(
            settings,
            model,
            quick=options.quick,
            record=record,
            progress=lambda stage, share: tell({"kind": "progress", "stage": stage, "share": share}),
        )
        asyncio.run(run(test, record, tell, quick=options.quick))
    except KeyboardInterrupt:
        return _INTERRUPTED
    except SemanticError as error:
        tell(found("settings", of_error(error), took_s=0.0))
        tell({"kind": "ended", "log": []})
    return 0


if __name__ == "__main__":
    sys.exit(main())
