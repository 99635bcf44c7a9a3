"""Every import contract in pyproject.toml is kept by the code, and each is seen to break when it is violated.

A contract that cannot break protects nothing: a renamed module or a typing error in a name would leave it
passing for ever. So each test here plants one violation in a copy of the packages and asks the linter.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("semanticd", "semantic_tui")
CONFIGURATION = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
CONTRACTS = {contract["name"]: contract for contract in CONFIGURATION["tool"]["importlinter"]["contracts"]}

# Contract → lines to append, by file. A file that is not there yet is made: a layer contract is exhaustive and refuses
# it. (Most upward imports would also break the contract against cycles; each test here breaks one contract only.)
VIOLATIONS: Mapping[str, Mapping[str, str]] = {
    "Hexagon: entrypoints > adapters > application > (domain | control)": {
        "semanticd/domain/ids.py": "import semanticd.bench",
    },
    "Adapters do not know one another": {
        "semanticd/adapters/disk/__init__.py": "import semanticd.adapters.models",
    },
    "The domain is pure": {
        "semanticd/domain/ids.py": "import random",
    },
    "The application names no technology": {
        "semanticd/application/ports/inference.py": "import numpy",
    },
    "MLX lives in one room": {
        "semanticd/adapters/disk/__init__.py": "import mlx.core",
    },
    "The dashboard speaks only the control protocol": {
        "semantic_tui/__init__.py": "import semanticd.domain.ids",
    },
    "The daemon does not know the dashboard": {
        "semanticd/bench/__init__.py": "import textual",
    },
    "status/stop never load the server stack": {
        "semanticd/entrypoints/cli/__init__.py": "import falcon",
    },
    "Domain reading order": {
        "semanticd/domain/stop_matcher.py": "import semanticd.domain.transcript",
    },
    "Application rooms": {
        "semanticd/application/planted.py": "",
    },
    "Engine reading order": {
        "semanticd/application/engine/metrics.py": "import semanticd.application.engine.queue",
    },
    "Cache reading order": {
        "semanticd/application/cache/planted.py": "",
    },
    "HTTP rooms": {
        "semanticd/adapters/http/planted.py": "",
    },
    "HTTP core reading order": {
        "semanticd/adapters/http/core/rate_limit.py": "import semanticd.adapters.http.core.config",
    },
    "HTTP dialects do not know one another": {
        "semanticd/adapters/http/openai/chat/resource.py": "import semanticd.adapters.http.anthropic.wire",
    },
    "A dialect's reading order": {
        "semanticd/adapters/http/openai/chat/parse.py": "import semanticd.adapters.http.openai.chat.render",
    },
    "Disk rooms": {
        "semanticd/adapters/disk/planted.py": "",
    },
    "Peers' reading order": {
        "semanticd/adapters/peers/link.py": "import semanticd.adapters.peers.connection",
    },
    "MLX rooms": {
        "semanticd/adapters/mlx/platform/heap.py": "import semanticd.adapters.mlx.constraints.thinking_gate",
    },
    "No cycles among siblings": {
        "semanticd/control/planted_one.py": "import semanticd.control.planted_two",
        "semanticd/control/planted_two.py": "import semanticd.control.planted_one",
    },
}


@pytest.fixture
def copied_packages(tmp_path: Path) -> Path:
    """A folder with a copy of our packages and of pyproject.toml, free to be spoilt."""
    for package in PACKAGES:
        shutil.copytree(
            REPOSITORY / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "*.so")
        )
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    return tmp_path


def broken_contracts(root: Path) -> set[str]:
    """Run the linter on the packages in `root` and return the names of the contracts that broke."""
    linter = Path(sys.executable).with_name("lint-imports")
    environment = {**os.environ, "PYTHONPATH": str(root), "COLUMNS": "200", "NO_COLOR": "1"}
    ran = subprocess.run(
        [linter, "--no-logo", "--no-cache"],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    verdicts = dict(re.findall(r"^(.+?) (KEPT|BROKEN)(?: .*)?$", ran.stdout, flags=re.MULTILINE))
    assert set(verdicts) == set(CONTRACTS), (
        f"the linter did not judge every contract:\n{ran.stdout}\n{ran.stderr}"
    )
    broken = {name for name, verdict in verdicts.items() if verdict == "BROKEN"}
    assert (ran.returncode != 0) == bool(broken)
    return broken


@pytest.fixture(scope="module")
def broken_already() -> set[str]:
    """The contracts that the code breaks as it is: none, or the first test says which."""
    return broken_contracts(REPOSITORY)


def test_the_code_keeps_every_contract(broken_already: set[str]) -> None:
    assert broken_already == set()


def test_every_contract_has_a_planted_violation() -> None:
    assert set(VIOLATIONS) == set(CONTRACTS)


@pytest.mark.parametrize("contract", VIOLATIONS)
def test_a_planted_violation_breaks_its_contract_and_no_other(
    contract: str, copied_packages: Path, broken_already: set[str]
) -> None:
    for path, line in VIOLATIONS[contract].items():
        with (copied_packages / path).open("a", encoding="utf-8") as module:
            module.write(f"\n{line}\n")
    assert broken_contracts(copied_packages) == {contract} | broken_already


def names_in(contract: str, key: str) -> set[str]:
    """The last components of the modules that `contract` lists under `key`."""
    return {module.rsplit(".", 1)[-1] for module in CONTRACTS[contract][key]}


def test_every_adapter_room_but_one_is_kept_from_mlx() -> None:
    rooms = {
        path.stem
        for path in (REPOSITORY / "semanticd" / "adapters").iterdir()
        if not path.name.startswith(("_", ".")) and (path.is_dir() or path.suffix == ".py")
    }
    assert rooms - {"mlx"} <= names_in("MLX lives in one room", "source_modules")


def test_every_dialect_is_independent_of_the_others() -> None:
    http = REPOSITORY / "semanticd" / "adapters" / "http"
    rooms = {str(path.parent.relative_to(REPOSITORY)).replace("/", ".") for path in http.rglob("resource.py")}
    assert rooms == set(CONTRACTS["HTTP dialects do not know one another"]["modules"])
