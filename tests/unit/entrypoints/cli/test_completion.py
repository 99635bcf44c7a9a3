"""Completion scripts, tried in the shells that are here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from semanticd.entrypoints.cli.completion import SHELLS, script, words_of
from semanticd.entrypoints.cli.program import COMMANDS, program


def test_every_command_is_known_with_its_options() -> None:
    words = {one.path: one for one in words_of(program)}
    assert {name for name, _ in words[()].commands} == set(COMMANDS)
    assert {"pin", "import", "why"} <= {name for name, _ in words[("agents",)].commands}
    assert "--ttl" in {name for name, _ in words[("agents", "pin")].options}
    assert {"--generate", "--no-generate"} <= {name for name, _ in words[("doctor",)].options}


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_itself_can_read_its_script(shell: str, tmp_path: Path) -> None:
    file = tmp_path / f"completion.{shell}"
    file.write_text(script(shell, program))
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    subprocess.run([shell, "-n", str(file)], check=True, timeout=30)


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        (["semanticd", "st"], "start stop status"),
        (["semanticd", "models", ""], "info list load pull rm swap unload"),
        (["semanticd", "models", "swap", "--j"], "--json"),
        (["semanticd", "--runtime-dir", "/x", "agents", "p"], "pin"),
        (["semanticd", "models", "swap", "x"], ""),
    ],
)
def test_bash_offers_what_fits(line: list[str], offered: str, tmp_path: Path) -> None:
    file = tmp_path / "completion.bash"
    file.write_text(script("bash", program))
    words = " ".join(f"'{word}'" for word in line)
    asked = (
        f"source {file}; COMP_WORDS=({words}); COMP_CWORD={len(line) - 1}; _semanticd; echo ${{COMPREPLY[*]}}"
    )
    ran = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True, timeout=30)
    assert ran.stdout.strip() == offered
