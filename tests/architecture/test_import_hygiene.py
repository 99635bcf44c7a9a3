"""What a program does not import, seen from inside a fresh interpreter.

The import contracts read source text; these tests ask `sys.modules`, and so also see what third parties
pull in.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

# Prints what is loaded when the program ends, however it ends: SystemExit comes from every command line.
WATCH = """
import atexit, json, sys
atexit.register(lambda: print("\\nLOADED " + json.dumps(sorted(sys.modules)), flush=True))
"""


def modules_after(program: str, *, arguments: Sequence[str] = ()) -> set[str]:
    """Run `program` in a fresh interpreter and return the names of all modules that it loaded."""
    ran = subprocess.run(
        [sys.executable, "-c", WATCH + program, *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = [line for line in ran.stdout.splitlines() if line.startswith("LOADED ")]
    assert lines, f"the program printed no list of modules:\n{ran.stdout}\n{ran.stderr}"
    assert "Traceback" not in ran.stderr, ran.stderr
    return set(json.loads(lines[-1].removeprefix("LOADED ")))


def test_the_control_language_loads_nothing_else_of_ours() -> None:
    loaded = modules_after("import semanticd.control.messages, semanticd.control.framing")
    ours = {name for name in loaded if name.split(".")[0] in {"semanticd", "semantic_tui"}}
    assert "semanticd.control" in ours
    assert {name for name in ours if not name.startswith("semanticd.control")} == {"semanticd"}


def test_status_loads_no_model_library_and_no_server() -> None:
    program = "import runpy; runpy.run_module('semanticd', run_name='__main__', alter_sys=True)"
    loaded = modules_after(program, arguments=["status"])
    assert "semanticd.entrypoints.cli" in loaded
    assert loaded.isdisjoint(
        {"mlx", "mlx_lm", "falcon", "uvicorn", "uvloop", "textual", "transformers", "numpy"}
    )


def test_the_dashboard_loads_neither_models_nor_the_server() -> None:
    loaded = modules_after("import semantic_tui")
    assert loaded.isdisjoint(
        {"mlx", "mlx_lm", "falcon", "uvicorn", "semanticd.domain", "semanticd.application"}
    )


def test_a_daemon_that_computes_alone_loads_nothing_of_ranks() -> None:
    loaded = modules_after("import semanticd.entrypoints.daemon, semanticd.entrypoints.assembly")
    assert "semanticd.entrypoints.bootstrap" in loaded
    assert {name for name in loaded if name.startswith("semanticd") and "rank" in name} == set()
    assert "semanticd.adapters.mlx.model.sharding" not in loaded


def test_the_composition_root_can_be_imported_without_loading_mlx() -> None:
    """The BLAS has to be chosen before `mlx.core` is imported, so importing us must not import it."""
    loaded = modules_after("import semanticd.entrypoints.cli")
    assert "mlx.core" not in loaded
