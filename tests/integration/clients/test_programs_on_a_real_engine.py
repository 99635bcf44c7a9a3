"""Eight programs of `semanticd launch` against a real daemon whose model has random weights and a long context.

Such a model calls no tool by itself: a proxy has the first turn require one. The call that constrained decoding makes
is run by the program, and the turn that brings its result is found in the cache. Takes minutes, and a gigabyte of
programs: `make test-clients ARGS="-m clients"`.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from semanticd.entrypoints.cli.launch_programs import PROGRAMS, Launch, Service, Settings
from tests.fakes.daemon_process import DaemonProcess
from tests.fakes.steering_proxy import Steering, steering

pytestmark = [pytest.mark.clients, pytest.mark.slow, pytest.mark.timeout(900)]

SAY_IT = "echo from-the-tool"


def turns(daemon: DaemonProcess) -> list[dict[str, Any]]:
    """Return what every agent's last turn cost, the longest prompt last."""
    with httpx.Client(base_url=daemon.url, timeout=60) as http:
        agents = http.get("/v1/agents", params={"limit": 100}).json()["data"]
        costs = [http.get(f"/v1/agents/{agent['id']}/cache").json()["last"] for agent in agents]
    return sorted((cost for cost in costs if cost), key=lambda cost: int(cost["prompt_tokens"]))


def result_parts(body: dict[str, Any]) -> list[Any]:
    """Return what the tools said, in any dialect."""
    turns = body.get("messages") or body["input"]
    found = [
        turn for turn in turns if turn.get("role") == "tool" or turn.get("type") == "function_call_output"
    ]
    content = [part for turn in turns if isinstance(turn.get("content"), list) for part in turn["content"]]
    return found + [part for part in content if part.get("type") == "tool_result"]


def check_round_trip(daemon: DaemonProcess, steered: Steering) -> None:
    assert steered.results
    assert "from-the-tool" in json.dumps(result_parts(steered.results[-1]))
    last = turns(daemon)[-1]
    reused = last["reused_hot_tokens"] + last["restored_warm_tokens"]
    assert reused > last["prompt_tokens"] // 2, last


def test_claude_code_makes_a_tool_round_trip_whose_second_turn_is_a_hit(
    programs: Path, daemon: DaemonProcess, run: Callable[..., str]
) -> None:
    # The program itself; npm's own start script needs a postinstall step.
    found = [p for p in programs.glob("@anthropic-ai/claude-code-*/claude") if "musl" not in str(p)]
    if not found:
        pytest.skip("Claude Code has no program for this platform")
    # The full prompt is some 80,000 tokens of this model's small vocabulary; the bare one is some 5,000.
    options = ["--bare", "--output-format", "json", "--allowedTools", "Bash"]
    with steering(daemon.url, "Bash", {"command": SAY_IT, "description": "say it"}) as steered:
        written = run(
            [found[0], "-p", "say it with the shell", *options],
            ANTHROPIC_BASE_URL=steered.url,
            ANTHROPIC_AUTH_TOKEN="x",
            ANTHROPIC_MODEL="claude-tiny",
            CLAUDE_CODE_MAX_OUTPUT_TOKENS="8000",
            CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
        )
    answer = json.loads(written)
    assert not answer["is_error"]
    assert answer["num_turns"] >= 2
    assert answer["usage"]["cache_read_input_tokens"] > 0
    check_round_trip(daemon, steered)


def test_codex_makes_a_tool_round_trip_whose_second_turn_is_a_hit(
    programs: Path, daemon: DaemonProcess, home: Path, run: Callable[..., str]
) -> None:
    with steering(daemon.url, "exec_command", {"cmd": SAY_IT}) as steered:
        (home / ".codex").mkdir()
        (home / ".codex" / "config.toml").write_text(
            'model = "default"\nmodel_provider = "here"\n[model_providers.here]\nname = "here"\n'
            f'base_url = "{steered.url}/v1"\nwire_api = "responses"\nenv_key = "HERE_KEY"\n',
            encoding="utf-8",
        )
        options = ["--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]
        run([programs / ".bin" / "codex", "exec", *options, "say it with the shell"], HERE_KEY="x")
    check_round_trip(daemon, steered)


def test_opencode_makes_a_tool_round_trip_whose_second_turn_is_a_hit(
    programs: Path, daemon: DaemonProcess, home: Path, run: Callable[..., str]
) -> None:
    model = {"name": "default", "tool_call": True, "limit": {"context": 64000, "output": 400}}
    with steering(daemon.url, "bash", {"command": SAY_IT, "description": "say it"}) as steered:
        provider = {
            "npm": "@ai-sdk/openai-compatible",
            "name": "here",
            "options": {"baseURL": f"{steered.url}/v1", "apiKey": "x"},
            "models": {"default": model},
        }
        config = {
            "model": "here/default",
            "small_model": "here/default",
            "autoupdate": False,
            "provider": {"here": provider},
        }
        (home / "project" / "opencode.json").write_text(json.dumps(config), encoding="utf-8")
        run([programs / ".bin" / "opencode", "run", "say it with the shell"])
    check_round_trip(daemon, steered)


def launched(name: str, url: str) -> Launch:
    """Return what `semanticd launch` gives a program."""
    made = PROGRAMS[name].launch(Service(url, "tiny", 131_072))
    assert isinstance(made, Launch)
    return made


def test_qwen_code_makes_a_tool_round_trip_whose_second_turn_is_a_hit(
    programs: Path, daemon: DaemonProcess, run: Callable[..., str]
) -> None:
    with steering(daemon.url, "run_shell_command", {"command": SAY_IT, "is_background": False}) as steered:
        made = launched("qwen", steered.url)
        # With all of its own prompt it asks some 60,000 tokens of this model's small vocabulary.
        options = ["--bare", "--system-prompt", "Help.", "--yolo"]
        words = [programs / ".bin" / "qwen", *made.arguments, *options, "-p", "say it with the shell"]
        run(words, **made.environment)
    check_round_trip(daemon, steered)


def test_kilo_code_makes_a_tool_round_trip_whose_second_turn_is_a_hit(
    programs: Path, daemon: DaemonProcess, run: Callable[..., str]
) -> None:
    with steering(daemon.url, "bash", {"command": SAY_IT, "description": "say it"}) as steered:
        made = launched("kilo", steered.url)
        options = {"KILO_DISABLE_AUTOUPDATE": "1", "KILO_DISABLE_MODELS_FETCH": "1"}
        words = [programs / ".bin" / "kilo", "run", "--auto", "say it with the shell"]
        run(words, **made.environment, **options)
    check_round_trip(daemon, steered)


def test_cline_makes_a_tool_round_trip_whose_second_turn_is_a_hit(
    programs: Path, daemon: DaemonProcess, home: Path, run: Callable[..., str]
) -> None:
    with steering(daemon.url, "run_commands", {"commands": [SAY_IT]}) as steered:
        shown = PROGRAMS["cline"].launch(Service(steered.url, "tiny", 131_072))
        assert isinstance(shown, Settings)
        cline, data = programs / ".bin" / "cline", ["--data-dir", home / "cline"]
        run([cline, *shlex.split(shown.text)[1:], *data])
        run([cline, *data, "-t", "300", "say it with the shell"])
    check_round_trip(daemon, steered)


def test_llm_is_answered(python_programs: Path, daemon: DaemonProcess, run: Callable[..., str]) -> None:
    made = launched("llm", daemon.url)
    assert run([python_programs / "llm", "-o", "max_tokens", "8", "hello"], **made.environment).strip()


def test_aider_is_answered(python_programs: Path, daemon: DaemonProcess, run: Callable[..., str]) -> None:
    # Its answers have no bound of their own; the proxy gives them one.
    with steering(daemon.url, "", {}) as steered:
        made = launched("aider", steered.url)
        options = [
            "--no-git",
            "--yes-always",
            "--no-check-update",
            "--analytics-disable",
            "--no-show-release-notes",
        ]
        said = run([python_programs / "aider", *options, "--message", "hello"], **made.environment)
    assert "Tokens:" in said
