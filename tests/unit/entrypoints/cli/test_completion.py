"""Completion scripts, tried in the shells that are here."""

from __future__ import annotations

import re
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
    subprocess.run([shell, "-n", str(file)], check=True, timeout=60)


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        (["semanticd", "st"], "start stop status"),
        (["semanticd", "models", ""], "fit info list load pull rm swap unload"),
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
    ran = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.strip() == offered


OFFERED = [("semanticd st", {"start", "stop", "status"}), ("semanticd models sw", {"swap"})]


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
@pytest.mark.parametrize(("line", "offered"), OFFERED)
def test_fish_offers_what_fits(line: str, offered: set[str], tmp_path: Path) -> None:
    file = tmp_path / "completion.fish"
    file.write_text(script("fish", program))
    asked = f"source {file}; complete -C '{line}'"
    ran = subprocess.run(
        ["fish", "--no-config", "-c", asked], capture_output=True, text=True, check=True, timeout=60
    )
    assert {told.split("\t")[0] for told in ran.stdout.splitlines()} == offered


# A shell in a shell: matches are listed only for typed input. `$1` script, `$2` line, `$3` word to wait for.
_ZSH = r"""
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "PS1= ; autoload -U compinit; compinit -u -D; source $1; bindkey '^X' list-choices; print REA''DY"
zpty -r -m shell heard '*READY*'
zpty -w -n shell "$2"$'\x18'
zpty -r -m shell heard "*$3 *-- *"
print -r -- "$heard"
zpty -d shell
"""


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
@pytest.mark.parametrize(("line", "offered"), OFFERED)
def test_zsh_offers_what_fits(line: str, offered: set[str], tmp_path: Path) -> None:
    file, asks = tmp_path / "completion.zsh", tmp_path / "asks.zsh"
    file.write_text(script("zsh", program))
    asks.write_text(_ZSH)
    command = ["zsh", "-f", str(asks), str(file), line, max(offered)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    told = set(re.findall(r"([a-z]+) +-- ", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", ran.stdout)))
    assert told == offered
