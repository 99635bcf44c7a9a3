"""The recipes say what `semanticd launch` does, and the formula what this version is."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from semanticd import __version__
from semanticd.entrypoints.cli.launch_programs import PROGRAMS, Launch, Service

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "contrib" / "recipes"
SERVICE = Service("http://127.0.0.1:8000", "default", 32_768)


def launched(name: str) -> Launch:
    made = PROGRAMS[name].launch(SERVICE)
    assert isinstance(made, Launch)
    return made


@pytest.mark.parametrize(("name", "file"), [("claude", "claude-code.sh"), ("aider", "aider.sh")])
def test_a_shell_recipe_sets_and_unsets_what_launch_does(name: str, file: str) -> None:
    exported, unset = {}, []
    for line in (RECIPES / file).read_text(encoding="utf-8").splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] == "export":
            variable, _, value = words[1].partition("=")
            exported[variable] = value
        elif words:
            assert words[0] == "unset", line
            unset += words[1:]
    assert exported == launched(name).environment
    assert tuple(unset) == launched(name).unset


def test_opencodes_recipe_is_what_launch_gives_it() -> None:
    written = json.loads((RECIPES / "opencode.json").read_text(encoding="utf-8"))
    assert written == json.loads(launched("opencode").environment["OPENCODE_CONFIG_CONTENT"])


def test_codexs_recipe_is_what_launch_gives_it() -> None:
    written = tomllib.loads((RECIPES / "codex.toml").read_text(encoding="utf-8"))
    made = launched("codex")
    settings = [value for option, value in zip(made.arguments[::2], made.arguments[1::2], strict=True)]
    assert written == tomllib.loads("\n".join(settings))
    assert written["model_providers"]["semanticd"]["env_key"] in made.environment


def test_every_recipe_is_listed_and_every_listed_one_exists() -> None:
    page = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")
    table = (RECIPES / "README.md").read_text(encoding="utf-8")
    there = {path.name for path in RECIPES.iterdir() if path.name != "README.md"}
    for text in (page, table):
        assert set(re.findall(r"contrib/recipes/([\w.-]+\w)", text)) == there
    for name in PROGRAMS:
        assert f"semanticd launch {name}" in table
        assert PROGRAMS[name].install in page


def test_the_formula_is_of_this_version_and_of_a_python_we_support() -> None:
    formula = (ROOT / "contrib" / "homebrew" / "semanticd.rb").read_text(encoding="utf-8")
    assert f"semanticd-{__version__}.tar.gz" in formula
    pythons = set(re.findall(r"python@?(3\.\d+)", formula))
    assert len(pythons) == 1, "one Python, named alike everywhere"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"Python :: {pythons.pop()}" in " ".join(project["classifiers"])
    for program in project["scripts"]:
        assert f'libexec/"bin/{program}"' in formula
    assert f'license "{project["license"]}"' in formula


def test_a_release_points_the_formula_at_its_sdist_and_changes_nothing_else() -> None:
    path = ROOT / "contrib" / "dev" / "generators" / "homebrew_formula.py"
    spec = importlib.util.spec_from_file_location("homebrew_formula", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    before = (ROOT / "contrib" / "homebrew" / "semanticd.rb").read_text(encoding="utf-8")
    after = module.pointed_at(before, url="https://host/semanticd-9.tar.gz", digest="f" * 64)
    changed = [new for old, new in zip(before.splitlines(), after.splitlines(), strict=True) if old != new]
    assert changed == ['  url "https://host/semanticd-9.tar.gz"', f'  sha256 "{"f" * 64}"']
