"""Every script under `contrib` starts as it is typed: from the root of the checkout, without anything prepared.

How it is typed is read from the pages, the Makefile and the script's own first lines. What only a model or a daemon can
show is tested elsewhere; here a script has to parse, to find what it imports, and to answer `--help`.
"""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.tiny_folder import write_tiny_model

ROOT = Path(__file__).resolve().parents[2]
CONTRIB = ROOT / "contrib"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

COMMAND = re.compile(
    r"(?:(?:\$\(PY\)|\bpython3?) (?P<python>(?:-m )?[\w./-]+)|\bbash (?P<bash>[\w/.-]+)|\bnode (?P<node>[\w/.-]+))"
)
OURS = re.compile(r"(?:-m )?(?:contrib|tests|semanticd|semantic_tui)[./][\w./-]+")
SHOWS_ANOTHERS_OPTIONS = {"contrib/dev/bench/mlx_lm_float32.py"}
"""Programs that pass their options on to one of mlx-lm's, which answers `--help` itself."""
RECIPES = CONTRIB / "recipes"
RUN_ELSEWHERE = {
    "openai_sdk.py": "tests/e2e/test_recipes.py",
    "anthropic_sdk.py": "tests/e2e/test_recipes.py",
    "langchain_openai_chat.py": "tests/integration/clients/test_libraries.py",
    "openai_sdk.mjs": "tests/integration/clients/test_libraries.py",
}
"""Recipes talk to a daemon as soon as they start: the tests that give them one."""


WITHIN_S = 600.0
"""Maximum run time of a program. Most import MLX and transformers, which takes minutes on a busy machine."""
pytestmark = pytest.mark.timeout(WITHIN_S + 60)


def files(folder: Path, *suffixes: str) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in suffixes)


def short(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def is_program(path: Path) -> bool:
    return '__name__ == "__main__"' in text(path)


def typed_in(page: str) -> set[str]:
    """Return the commands in a text: `python x.py` or `python -m x`, `bash x.sh`, `node x.mjs`."""
    found: set[str] = set()
    for match in COMMAND.finditer(page):
        (program, target), *_ = [(name, made) for name, made in match.groupdict().items() if made]
        if OURS.fullmatch(target):
            found.add(f"{program} {target}".rstrip("."))
    return found


PYTHON = [path for path in files(CONTRIB, ".py") if path.parent != RECIPES]
SHELL = files(CONTRIB, ".sh", ".bash")
NODE = files(CONTRIB, ".mjs")
TYPED = sorted(
    set().union(*(typed_in(text(path)) for path in [*PAGES, ROOT / "Makefile", *PYTHON, *SHELL, *NODE]))
)


def target_of(command: str) -> Path:
    """Return the file that a command starts."""
    target = command.split()[-1]
    if " -m " not in command:
        return ROOT / target
    module = ROOT / target.replace(".", "/")
    return module / "__main__.py" if module.is_dir() else module.with_suffix(".py")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what is installed of this checkout and no more: neither `contrib` nor `tests`."""
    folder = tmp_path_factory.mktemp("installed")
    for package in ("semanticd", "semantic_tui"):
        (folder / package).symlink_to(ROOT / package)
    return folder


@pytest.fixture(scope="module")
def without_mlx(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A `PYTHONPATH` on which MLX cannot be imported: help must not wait for it, nor need it."""
    folder = tmp_path_factory.mktemp("without")
    (folder / "mlx").mkdir()
    (folder / "mlx" / "__init__.py").write_text("raise ImportError('MLX is imported before --help')")
    return f"{folder}{os.pathsep}{installed}"


def start(command: list[str], *, python_path: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**env, "PYTHONPATH": python_path, "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )


def test_the_commands_of_pages_are_found() -> None:
    page = "`python contrib/a.py [FOLDER]`, then\n\tbash contrib/b.sh\n@$(PY) -m contrib.dev.c\npython -m pip x.py"
    assert typed_in(page) == {"python contrib/a.py", "bash contrib/b.sh", "python -m contrib.dev.c"}


@pytest.mark.parametrize("command", TYPED)
def test_what_a_page_tells_to_start_is_there(command: str) -> None:
    assert target_of(command).is_file()


def test_every_program_says_how_it_is_typed() -> None:
    programs = {
        path for path in [*PYTHON, *files(CONTRIB / "dev", ".sh")] if path in SHELL or is_program(path)
    }
    assert {short(path) for path in programs - {target_of(command) for command in TYPED}} == set()


@pytest.mark.parametrize(
    "command", [one for one in TYPED if one.startswith(("python", "bash")) and "/recipes/" not in one]
)
def test_a_program_answers_help_as_it_is_typed(command: str, installed: Path, without_mlx: str) -> None:
    program, *target = command.split()
    interpreter = sys.executable if program == "python" else program
    others = target[-1] in SHOWS_ANOTHERS_OPTIONS
    ran = start([interpreter, *target, "--help"], python_path=str(installed) if others else without_mlx)
    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout) > 40, "it says what it does"
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("path", PYTHON, ids=short)
def test_a_script_finds_what_it_imports_also_later(path: Path, installed: Path) -> None:
    nodes = [one for one in ast.walk(ast.parse(text(path))) if isinstance(one, ast.Import | ast.ImportFrom)]
    imports = [line for line in map(ast.unparse, nodes) if "__future__" not in line]
    # Started as a file, a program has its own folder in first place, and not the one it is started in.
    places = [str(path.parent if f"python {short(path)}" in TYPED else ROOT)]
    if "sys.path.insert(0" in text(path):
        places.insert(0, str(ROOT))
    code = "\n".join([f"import sys; sys.path[:1] = {places}", *imports])
    ran = start([sys.executable, "-c", code], python_path=str(installed))
    assert ran.returncode == 0, ran.stderr


def test_the_accuracy_of_a_tiny_model_is_measured(tmp_path: Path, installed: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny")
    script = "contrib/dev/checks/kv_accuracy.py"
    ran = start([sys.executable, script, str(model)], python_path=str(installed))
    assert ran.returncode == 0, ran.stderr
    for stored in ("not stored", "exact", "q8", "q6", "q4"):
        assert f"| {stored} | " in ran.stdout


def test_no_call_of_a_chat_request_comes_back_to_the_file_that_it_came_from(installed: Path) -> None:
    ran = start(
        [sys.executable, "contrib/dev/checks/request_path.py", "--limit", "100"],
        python_path=str(installed),
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for file in (
        "adapters/http/openai/chat/parse.py",
        "application/engine/loop.py",
        "adapters/mlx/model/runner.py",
    ):
        assert re.search(rf"^path +{file} ", ran.stdout, re.MULTILINE), "all threads are traced"


def test_a_call_that_comes_back_is_seen() -> None:
    check = runpy.run_path(str(CONTRIB / "dev" / "checks" / "request_path.py"))
    seen: list[list[str] | None] = []

    def look() -> None:
        frame = inspect.currentframe()
        way = check["came_back"](frame and frame.f_back)
        seen.append(way and [check["short"](code) for code in way])

    def module(name: str, text: str, **names: object) -> dict[str, Any]:
        values: dict[str, Any] = {"look": look, **names}
        exec(compile(text, f"{check['PACKAGE']}{name}", "exec"), values)
        return values

    other = module("other.py", "def call(function):\n    look()\n    function()")
    one = module("one.py", "def begin():\n    call(end)\ndef end():\n    look()", call=other["call"])
    one["begin"]()
    assert seen == [None, ["one.py", "other.py", "one.py"]]


def test_calls_of_a_job_that_runs_at_intervals_are_counted_apart() -> None:
    check = runpy.run_path(str(CONTRIB / "dev" / "checks" / "request_path.py"))
    for file, function in check["TIMERS"].items():
        tree = ast.parse(text(ROOT / "semanticd" / file))
        functions = [one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
        assert function in {one.name for one in functions}, f"{file} has no {function}"
    seen: list[bool] = []
    code = "def trim():\n    look()\ndef other():\n    look()"
    names: dict[str, Any] = {"look": lambda: seen.append(check["by_timer"](inspect.currentframe()))}
    exec(compile(code, f"{check['PACKAGE']}adapters/mlx/platform/heap.py", "exec"), names)
    names["trim"]()
    names["other"]()
    assert seen == [True, False]


FOLDERS = sorted(
    {path.parent for path in files(CONTRIB, ".py") + files(ROOT / "tests", ".py") if is_program(path)}
)


@pytest.mark.parametrize("folder", FOLDERS, ids=short)
def test_no_file_hides_a_library_from_the_programs_beside_it(folder: Path) -> None:
    # A program's folder is searched before the standard library and before all that is installed.
    libraries = sys.stdlib_module_names | importlib.metadata.packages_distributions().keys()
    packages = {path.parent for path in folder.glob("*/__init__.py")}
    assert {path.stem for path in {*folder.glob("*.py"), *packages}} & libraries == set()


@pytest.mark.parametrize("path", [*SHELL, ROOT / ".ci" / "run"], ids=short)
def test_a_shell_script_can_be_read_by_bash(path: Path) -> None:
    ran = subprocess.run(
        ["bash", "-n", str(path)], capture_output=True, text=True, timeout=WITHIN_S, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize("path", files(RECIPES, ".sh"), ids=short)
def test_a_recipe_for_a_shell_can_be_sourced(path: Path) -> None:
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", 'source "$0"; true', str(path)],
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.parametrize("path", NODE, ids=short)
def test_a_javascript_file_can_be_read_by_node(path: Path) -> None:
    ran = subprocess.run(
        ["node", "--check", str(path)], capture_output=True, text=True, timeout=WITHIN_S, check=False
    )
    assert ran.returncode == 0, ran.stderr


def test_every_recipe_that_talks_to_a_daemon_is_run_by_a_test() -> None:
    assert {path.name for path in files(RECIPES, ".py", ".mjs")} == set(RUN_ELSEWHERE)
    for name, test in RUN_ELSEWHERE.items():
        assert name in text(ROOT / test), f"{test} does not run {name}"
