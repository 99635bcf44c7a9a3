"""Claude Code, Codex and opencode against a real daemon whose model has random weights and a long context.

Such a model calls no tool by itself, so here the programs get their answers and find their second turn in the cache;
that calls of their tools are valid is shown with the bodies they were seen to send, where a call is required.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from tests.fakes.daemon_process import DaemonProcess
from tests.fakes.tiny_folder import write_tiny_model

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]

REPOSITORY = Path(__file__).resolve().parents[3]
CAPTURED = REPOSITORY / "tests" / "data" / "http"
PROGRAMS = REPOSITORY / ".cache" / "clients" / "npm" / "node_modules"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    home = tmp_path_factory.mktemp("daemon")
    process = DaemonProcess(
        home,
        models_dir=home / "models",
        SEMANTIC_MLX_MODEL_ID=str(write_tiny_model(home / "tiny", context=131072)),
        SEMANTIC_MLX_CACHE_BUDGET_MB="768",
        SEMANTIC_RUNTIME_DIR=f"/tmp/smt-{os.getpid()}-clients",
    )
    process.start()
    yield process
    process.kill()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "project").mkdir()
    return tmp_path


def run(command: list[str], home: Path, **env: str) -> str:
    if not Path(command[0]).exists():
        pytest.skip("the client programs are not installed: `make test-clients` installs them first")
    done = subprocess.run(
        command,
        cwd=home / "project",
        env={"PATH": os.environ["PATH"], "HOME": str(home), **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def turns(daemon: DaemonProcess) -> list[dict[str, Any]]:
    """Return what every agent's last turn cost, the longest prompt last."""
    with httpx.Client(base_url=daemon.url, timeout=30) as http:
        agents = http.get("/v1/agents", params={"limit": 100}).json()["data"]
        costs = [http.get(f"/v1/agents/{agent['id']}/cache").json()["last"] for agent in agents]
    return sorted((cost for cost in costs if cost), key=lambda cost: int(cost["prompt_tokens"]))


def check_second_turn(daemon: DaemonProcess) -> None:
    last = turns(daemon)[-1]
    reused = last["reused_hot_tokens"] + last["restored_warm_tokens"]
    assert reused > last["prompt_tokens"] // 2, last


def test_claude_code_is_answered_and_its_second_turn_is_a_hit(daemon: DaemonProcess, home: Path) -> None:
    found = [p for p in PROGRAMS.glob("@anthropic-ai/claude-code-*/claude") if "musl" not in str(p)]
    if not found:
        pytest.skip("Claude Code is not installed here")
    env = {
        "ANTHROPIC_BASE_URL": daemon.url,
        "ANTHROPIC_AUTH_TOKEN": "x",
        "ANTHROPIC_MODEL": "claude-tiny",
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "8000",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
    # The full prompt is some 80,000 tokens of this model's small vocabulary; the bare one is some 5,000.
    options = ["--bare", "--output-format", "json"]
    first = json.loads(run([str(found[0]), "-p", "say something", *options], home, **env))
    assert first["usage"]["output_tokens"] > 0
    second = json.loads(run([str(found[0]), "-p", "and more", "--continue", *options], home, **env))
    usage = second["usage"]
    computed = usage["input_tokens"] + usage["cache_creation_input_tokens"]
    assert usage["cache_read_input_tokens"] > computed


def test_codex_is_answered_and_its_second_turn_is_a_hit(daemon: DaemonProcess, home: Path) -> None:
    (home / ".codex").mkdir()
    (home / ".codex" / "config.toml").write_text(
        'model = "default"\nmodel_provider = "here"\n[model_providers.here]\nname = "here"\n'
        f'base_url = "{daemon.url}/v1"\nwire_api = "responses"\nenv_key = "HERE_KEY"\n',
        encoding="utf-8",
    )
    program = [str(PROGRAMS / ".bin" / "codex"), "exec"]
    options = ["--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]
    run([*program, *options, "say something"], home, HERE_KEY="x")
    run([*program, "resume", "--last", *options, "and more"], home, HERE_KEY="x")
    check_second_turn(daemon)


def test_opencode_is_answered_and_its_second_turn_is_a_hit(daemon: DaemonProcess, home: Path) -> None:
    model = {"name": "default", "tool_call": True, "limit": {"context": 64000, "output": 48}}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "here",
        "options": {"baseURL": f"{daemon.url}/v1", "apiKey": "x"},
        "models": {"default": model},
    }
    config = {
        "model": "here/default",
        "small_model": "here/default",
        "autoupdate": False,
        "provider": {"here": provider},
    }
    (home / "project" / "opencode.json").write_text(json.dumps(config), encoding="utf-8")
    program = [str(PROGRAMS / ".bin" / "opencode"), "run"]
    run([*program, "say something"], home)
    run([*program, "--continue", "and more"], home)
    check_second_turn(daemon)


DIALECTS = {
    "/v1/messages": {"tool_choice": {"type": "any"}, "max_tokens": 700, "thinking": None, "stream": False},
    "/v1/chat/completions": {"tool_choice": "required", "max_tokens": 700, "stream": False},
    "/v1/responses": {"tool_choice": "required", "max_output_tokens": 700, "stream": False},
}


def first_capture_with_tools(path: Path) -> dict[str, Any]:
    captures = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return next(captured for captured in captures if captured["body"].get("tools"))


def schemas(body: dict[str, Any]) -> dict[str, Any]:
    """Return the schemas of the tools offered, by name, in any dialect."""
    found = {}
    for tool in body["tools"]:
        one = tool.get("function", tool)
        found[one.get("name", "")] = one.get("input_schema") or one.get("parameters")
    return found


def calls(answer: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return the calls made, in any dialect."""
    if "choices" in answer:
        made = answer["choices"][0]["message"]["tool_calls"]
        return [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in made]
    if "output" in answer:
        made = [item for item in answer["output"] if item["type"] == "function_call"]
        return [(item["name"], json.loads(item["arguments"])) for item in made]
    return [(block["name"], block["input"]) for block in answer["content"] if block["type"] == "tool_use"]


@pytest.mark.parametrize("path", sorted(CAPTURED.glob("*.jsonl")), ids=lambda path: path.stem)
def test_a_call_of_a_programs_own_tools_is_valid(daemon: DaemonProcess, path: Path) -> None:
    captured = first_capture_with_tools(path)
    body = {**captured["body"], **DIALECTS[captured["path"]]}
    headers = {k: v for k, v in captured["headers"].items() if k.lower() != "content-length"}
    response = httpx.post(f"{daemon.url}{captured['path']}", json=body, headers=headers, timeout=200)
    assert response.status_code == 200, response.text
    made = calls(response.json())
    assert made
    for name, arguments in made:
        jsonschema.validate(arguments, schemas(body)[name])
