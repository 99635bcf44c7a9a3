"""`semanticd bench` as it is typed."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from semanticd.bench.scenarios import SCENARIOS
from semanticd.entrypoints.cli.program import program
from tests.architecture.test_import_hygiene import modules_after
from tests.fakes.chat_server import ChatServer
from tests.fakes.http_server import serving

SMALL = [
    *["--lengths", "20", "--streams", "1,2", "--agents", "2", "--turns", "2"],
    *["--decode-tokens", "4", "--prefill-tokens", "30", "--repeats", "1"],
]


def typed(*arguments: str) -> Result:
    return CliRunner().invoke(program, ["bench", *arguments])


def test_a_result_is_printed_and_kept_and_can_be_compared(tmp_path: Path) -> None:
    kept = tmp_path / "ours.json"
    restarted = tmp_path / "restarted"
    touch = shlex.join([sys.executable, "-c", f"open({str(restarted)!r}, 'w').close()"])
    with serving(ChatServer()) as url:
        ran = typed(
            *["--base-url", url, "--name", "ours", *SMALL, "--output", str(kept), "--restart-command", touch],
            *["-s", "cold_ttft", "-s", "restart_ttft", "-s", "agents"],
        )
    assert ran.exit_code == 0, ran.output
    assert "## restart_ttft" in ran.stdout
    assert "cold_ttft …" in ran.stderr
    assert restarted.exists()
    assert json.loads(kept.read_text())["server"]["model"] == "words"
    compared = typed("compare", str(kept), str(kept))
    assert "| cold_ttft | 20 | ttft |" in compared.stdout


def test_json_is_one_document_on_stdout() -> None:
    with serving(ChatServer()) as url:
        ran = typed("--base-url", url, *SMALL, "-s", "cold_ttft", "--json")
    figures = json.loads(ran.stdout)["figures"]
    assert {figure["metric"] for figure in figures} == {"ttft", "prefill_rate"}


def test_a_run_that_measured_nothing_fails() -> None:
    with serving(ChatServer()) as url:
        ran = typed("--base-url", url, *SMALL, "-s", "swap")
    assert ran.exit_code == 1
    assert "--swap-command" in ran.output


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--base-url http://127.0.0.1:9", "start the server"),
        ("--lengths 1,x", "such as 256,900,2048"),
        ("--lengths 0", "such as 256,900,2048"),
        ("-s nonsense", "cold_ttft"),
        ("compare one.json", "one.json"),
    ],
)
def test_a_wrong_line_says_what_to_do(line: str, message: str) -> None:
    ran = typed(*line.split())
    assert ran.exit_code != 0
    assert message in ran.output


def test_a_restart_command_that_fails_is_quoted(tmp_path: Path) -> None:
    with serving(ChatServer()) as url:
        ran = typed(
            "--base-url", url, *SMALL, "-s", "restart_ttft", "--restart-command", "echo broken >&2; exit 3"
        )
    assert ran.exit_code == 1
    assert "ended with status 3: broken" in ran.output


def test_the_help_names_every_scenario() -> None:
    said = typed("--help").output
    assert all(name in said for name in SCENARIOS)


def test_the_help_loads_no_client_and_no_model_library() -> None:
    program_text = "import runpy; runpy.run_module('semanticd', run_name='__main__', alter_sys=True)"
    loaded = modules_after(program_text, arguments=["bench", "--help"])
    assert "semanticd.bench.scenarios" in loaded
    assert loaded.isdisjoint({"httpx", "asyncio", "mlx", "numpy", "matplotlib", "falcon"})
