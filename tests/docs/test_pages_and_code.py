"""What pages say of the code is so: settings, commands, causes of a miss, files, costs."""

from __future__ import annotations

import os
import re
import runpy
import sys
from pathlib import Path
from typing import get_args

import click
import pytest

from semantic_tui.preferences import default_file
from semanticd.adapters.config import load_settings
from semanticd.adapters.config.resolve import config_file_path
from semanticd.adapters.config.schema import declared
from semanticd.adapters.machine_record import default_record_path
from semanticd.domain.generation import MissCause
from semanticd.entrypoints.cli.chat import history_file
from semanticd.entrypoints.cli.launch_programs import PROGRAMS
from semanticd.entrypoints.cli.program import program

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
# Read before there are settings, by tests only, or by another program.
OTHER_VARIABLES = {"SEMANTIC_CONFIG_FILE", "SEMANTIC_TEST_KILLS", "SEMANTIC_SCHOLAR_API_KEY"}


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_variable_and_command_that_a_page_names_exists(path: Path) -> None:
    variables = set(re.findall(r"\bSEMANTIC_[A-Z_]*[A-Z]\b", _text(path)))
    assert variables - {one.env for one in declared()} - OTHER_VARIABLES == set()
    for words in re.findall(r"(?:`|^)semanticd ([a-z]+(?: [a-z]+)?)", _text(path), re.MULTILINE):
        first, _, second = words.partition(" ")
        command = program.get_command(click.Context(program), first)
        assert command is not None, f"semanticd {words}"
        if isinstance(command, click.Group) and second:
            assert second in command.list_commands(click.Context(command)), f"semanticd {words}"


@pytest.mark.skipif(sys.platform != "linux", reason="the page has macOS' folders in words")
def test_the_page_on_housekeeping_names_every_file_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [name for name in os.environ if name.startswith(("XDG_", "SEMANTIC_"))]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", "/home/me")
    settings = load_settings(environ={}, folder=Path("/")).settings
    left = [
        settings.agent.cache_dir,
        settings.paths.models_dir,
        settings.paths.log_dir,
        config_file_path({})[0],
        default_record_path(),
        history_file(),
        default_file(),
    ]
    page = _text(DOCS / "housekeeping.md").partition("\n## Free")[0]
    shown = [str(path).replace("/home/me", "~") for path in left]
    assert [path for path in shown if f"`{path}`" not in page] == []


def test_the_page_on_integrations_has_the_programs_as_launch_knows_them() -> None:
    rows = {
        cells[0].lower().replace(" ", "-"): cells
        for line in _text(DOCS / "integrations.md")
        .partition("| its own prompt |")[2]
        .partition("\n\n")[0]
        .splitlines()
        if len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 5
    }
    names = {"claude": "claude-code", "qwen": "qwen-code", "kilo": "kilo-code", "vscode": "vs-code"}
    for name, known in PROGRAMS.items():
        _, _, install, prompt, _ = rows[names.get(name, name)]
        assert install.strip("`") == known.install, name
        assert int(re.sub(r"\D", "", re.match("[0-9,]*", prompt)[0]) or 0) == known.prompt_tokens, name


def test_the_user_guide_explains_every_cause_of_a_miss() -> None:
    table = _text(DOCS / "user-guide.md").split("| cause | meaning |")[1].split("\n\n")[0]
    named = [cause for line in table.splitlines() for cause in re.findall(r"`(\w+)`", line.split(" | ")[0])]
    assert sorted(named) == sorted(get_args(MissCause))


def test_the_page_on_models_has_the_profiles_as_they_are() -> None:
    shipped = tomllib.loads(_text(ROOT / "semanticd/adapters/models/registry.toml"))["profiles"]
    table = _text(DOCS / "model-onboarding.md").split("| profile | model |")[1].split("\n\n")[0]
    shown = [
        tuple(cell.strip(" `") for cell in line.strip("|").split("|")) for line in table.splitlines()[2:]
    ]
    told = {False: "off", True: "on"}
    assert shown == [
        (
            name,
            one["model"],
            ", ".join(f"{key} {told.get(value, value)}" if key == "thinking" else f"{key} {value}"
                      for key, value in one["defaults"].items()),
            one["reference"],
        )
        for name, one in shipped.items()
    ]  # fmt: skip


def test_the_page_on_models_has_the_registry_as_it_is() -> None:
    shipped = tomllib.loads(_text(ROOT / "semanticd/adapters/models/registry.toml"))["models"]
    table = _text(DOCS / "model-onboarding.md").split("| model | context |")[1].split("\n\n")[0]
    shown = {}
    for line in table.splitlines()[2:]:
        name, context, parser, thinks, sampling, reference = (
            cell.strip(" `") for cell in line.strip("|").split("|")
        )
        shown[name] = (context, parser, thinks, sampling, reference)
    assert shown == {
        name: (
            f"{entry['context_length']:,}",
            entry.get("tool_parser", "by its files"),
            "yes" if entry.get("thinking") else "no",
            ", ".join(f"{key} {value}" for key, value in entry.get("defaults", {}).items())
            or "generation_config.json",
            entry["reference"],
        )
        for name, entry in shipped.items()
    }


def test_the_user_guide_names_every_adjustment() -> None:
    sources = "".join(_text(path) for path in sorted((ROOT / "semanticd/adapters/http").rglob("*.py")))
    named = set(re.findall(r'(?:\.note|Finding)\(\s*"(\w+)"', sources))
    named |= {f"{kind}_omitted" for kind in re.findall(r'\.omit\(\s*"(\w+)"', sources)}
    assert len(named) > 10
    table = _text(DOCS / "user-guide.md").split("| name | what |")[1].split("\n\n")[0]
    assert named - set(re.findall(r"`(\w+)`", table)) == set()


@pytest.mark.parametrize("room", ["domain", "application"])
def test_the_architecture_page_of_a_room_names_no_file_that_is_gone(room: str) -> None:
    table = _text(DOCS / "architecture" / f"{room}.md").split("|---|---|")[1].split("\n\n")[0]
    named = [name for line in table.splitlines() for name in re.findall(r"`(\w+)/?`", line.split(" | ")[0])]
    files = {path.stem for path in (ROOT / "semanticd" / room).iterdir() if not path.name.startswith("__")}
    assert len(named) == len(set(named))
    assert set(named) - files == set(), "lines without a file"


def test_the_files_that_architecture_pages_name_are_there() -> None:
    named = {
        path
        for page in sorted((DOCS / "architecture").glob("*.md"))
        for path in re.findall(
            r"`((?:adapters|application|domain|control|entrypoints)/[\w/]+\.py)`", _text(page)
        )
    }
    rooms = _text(DOCS / "architecture" / "application.md").split("|---|---|")[2].split("\n\n")[0]
    named |= {
        f"application/{name.replace('.', '/')}.py" for name in re.findall(r"`([a-z_]+\.[a-z_]+)`", rooms)
    }
    assert len(named) > 40
    assert {path for path in named if not (ROOT / "semanticd" / path).is_file()} == set()


def test_the_architecture_page_of_the_adapters_names_every_room() -> None:
    table = _text(DOCS / "architecture" / "adapters.md").split("|---|---|---|")[1].split("\n\n")[0]
    named = {name for line in table.splitlines() for name in re.findall(r"`(\w+)`", line.split(" | ")[0])}
    rooms = (ROOT / "semanticd" / "adapters").iterdir()
    assert named == {path.stem for path in rooms if not path.name.startswith("__")}


def test_the_capacity_tables_are_what_the_script_computes(capsys: pytest.CaptureFixture[str]) -> None:
    script = runpy.run_path(str(ROOT / "contrib/dev/checks/kv_capacity.py"))
    script["show"](script["MODELS"])
    computed = [line.replace(" x ", " × ") for line in capsys.readouterr().out.splitlines() if line]
    page = _text(DOCS / "operations.md").splitlines()
    assert [line for line in computed if line not in page] == []
    script["show_links"](script["MODELS"])
    page = _text(DOCS / "scaling.md").splitlines()
    assert [line for line in capsys.readouterr().out.splitlines() if line not in page] == []


def _cells(text: str) -> list[list[str]]:
    return [
        [re.sub(r" \(.*\)$", "", cell.strip()) for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]


def test_the_figures_that_open_the_readme_are_those_of_the_benchmark_page() -> None:
    readme = _text(ROOT / "README.md").split("\n## ")[0]
    sections = {part.split("\n")[0]: part for part in _text(DOCS / "benchmarks.md").split("\n## ")}
    measured = []
    for section, case, figure in (
        ("warm_ttft", "2048", "ttft"),
        ("restart_ttft", "2048", "ttft"),
        ("agents", "6x3", "total"),
    ):
        header, _, *rows = _cells(sections[section])
        [row] = [row for row in rows if row[:2] == [case, figure]]
        columns = ("semanticd", "mlx_lm.server, MKL and float32", "llama.cpp")
        measured.append([row[header.index(column)] for column in columns])
    assert [row[1:] for row in _cells(readme)[2:]] == measured
