"""Third-party programs against the HTTP edge: one tool round trip each, and schemathesis over the reference.

They are installed once into `.cache/clients` through their ordinary registries, and only here (`make test-clients`).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from semanticd.adapters.http.app import create_app
from semanticd.adapters.http.http_config import HttpConfig
from semanticd.domain.chat import ChatPrompt, ToolResultPart
from semanticd.domain.generation import GenerationRequest, ThinkingDelta
from tests.fakes.generator import Script, ScriptedGenerator, call_script
from tests.fakes.http_server import serving
from tests.fakes.http_services import make_services

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]

CLIENTS = Path(__file__).resolve().parents[3] / ".cache" / "clients"

NPM_PACKAGES = (
    "openai@6",
    "@anthropic-ai/sdk@1",
    "@anthropic-ai/claude-code@2.1.197",
    "@openai/codex@0.169.0",
    "opencode-ai@1.18.33",
)

SHELL_TOOLS: dict[str, dict[str, object]] = {
    "Bash": {"command": "echo from-the-tool", "description": "say it"},
    "bash": {"command": "echo from-the-tool", "description": "say it"},
    "exec_command": {"cmd": "echo from-the-tool"},
}

ANSWER = "The tool said it."


def use_the_shell(request: GenerationRequest) -> Script:
    """Call the client's shell once, then answer."""
    prompt = request.prompt
    if not isinstance(prompt, ChatPrompt):
        return ["Hello"]
    if any(message.role == "tool" for message in prompt.messages):
        return [ANSWER]
    for tool in prompt.tools:
        if tool.name in SHELL_TOOLS:
            return [ThinkingDelta("hm"), "Let me see. ", *call_script(tool.name, SHELL_TOOLS[tool.name])]
    return ["A title"]


@pytest.fixture
def generator() -> ScriptedGenerator:
    return ScriptedGenerator(use_the_shell)


@pytest.fixture
def url(generator: ScriptedGenerator) -> Iterator[str]:
    with serving(create_app(make_services(generator), HttpConfig())) as address:
        yield address


@pytest.fixture(scope="module")
def npm() -> Path:
    """The folder with the Node programs, installed once."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    folder = CLIENTS / "npm"
    stamp = folder / "installed.json"
    wanted = json.dumps(NPM_PACKAGES)
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != wanted:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text('{"private": true, "type": "module"}', encoding="utf-8")
        subprocess.run(["npm", "install", "--no-audit", "--no-fund", *NPM_PACKAGES], cwd=folder, check=True)
        stamp.write_text(wanted, encoding="utf-8")
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home and project folder of their own."""
    (tmp_path / "project").mkdir()
    return tmp_path


def run(command: list[str], home: Path, **env: str) -> str:
    done = subprocess.run(
        command,
        cwd=home / "project",
        env={"PATH": os.environ["PATH"], "HOME": str(home), **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check_round_trip(generator: ScriptedGenerator, output: str) -> None:
    assert ANSWER in output
    results = [
        part
        for request in generator.requests
        if isinstance(request.prompt, ChatPrompt)
        for message in request.prompt.messages
        for part in message.parts
        if isinstance(part, ToolResultPart)
    ]
    assert any("from-the-tool" in result.content for result in results)


def test_claude_code_completes_a_tool_round_trip(
    npm: Path, url: str, generator: ScriptedGenerator, home: Path
) -> None:
    # The program itself; npm's own start script needs a postinstall step.
    programs = [
        p for p in npm.glob("node_modules/@anthropic-ai/claude-code-*/claude") if "musl" not in str(p)
    ]
    if not programs:
        pytest.skip("Claude Code has no program for this platform")
    output = run(
        [str(programs[0]), "-p", "say it with the shell", "--allowedTools", "Bash"],
        home,
        ANTHROPIC_BASE_URL=url,
        ANTHROPIC_AUTH_TOKEN="x",
        ANTHROPIC_MODEL="tiny",
        CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
    )
    check_round_trip(generator, output)


def test_codex_completes_a_tool_round_trip(
    npm: Path, url: str, generator: ScriptedGenerator, home: Path
) -> None:
    (home / ".codex").mkdir()
    (home / ".codex" / "config.toml").write_text(
        'model = "tiny"\nmodel_provider = "here"\n[model_providers.here]\nname = "here"\n'
        f'base_url = "{url}/v1"\nwire_api = "responses"\nenv_key = "HERE_KEY"\n',
        encoding="utf-8",
    )
    command = [str(npm / "node_modules" / ".bin" / "codex"), "exec", "--skip-git-repo-check"]
    output = run(
        [*command, "--dangerously-bypass-approvals-and-sandbox", "say it with the shell"], home, HERE_KEY="x"
    )
    check_round_trip(generator, output)


def test_opencode_completes_a_tool_round_trip(
    npm: Path, url: str, generator: ScriptedGenerator, home: Path
) -> None:
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "here",
        "options": {"baseURL": f"{url}/v1", "apiKey": "x"},
        "models": {"tiny": {"name": "tiny", "tool_call": True, "limit": {"context": 32000, "output": 4000}}},
    }
    config = {
        "model": "here/tiny",
        "small_model": "here/tiny",
        "autoupdate": False,
        "provider": {"here": provider},
    }
    (home / "project" / "opencode.json").write_text(json.dumps(config), encoding="utf-8")
    output = run([str(npm / "node_modules" / ".bin" / "opencode"), "run", "say it with the shell"], home)
    check_round_trip(generator, output)


NODE_SDKS = """
import OpenAI from 'openai';
import Anthropic from '@anthropic-ai/sdk';
const url = process.env.URL_HERE;
const openai = new OpenAI({ baseURL: url + '/v1', apiKey: 'x', maxRetries: 0 });
const anthropic = new Anthropic({ baseURL: url, authToken: 'x', apiKey: null, maxRetries: 0 });
const messages = [{ role: 'user', content: 'hi' }];
const schema = { type: 'object', properties: { command: { type: 'string' } } };
const chat = openai.chat.completions.stream({ model: 'tiny', messages,
  tools: [{ type: 'function', function: { name: 'bash', parameters: schema } }] });
const response = openai.responses.stream({ model: 'tiny', input: 'hi',
  tools: [{ type: 'function', name: 'bash', parameters: schema, strict: false }] });
const message = anthropic.messages.stream({ model: 'tiny', max_tokens: 10, messages,
  tools: [{ name: 'bash', input_schema: schema }] });
const missing = await openai.chat.completions.create({ model: 'none', messages }).catch((e) => e);
console.log(JSON.stringify({
  chat: (await chat.finalChatCompletion()).choices[0].message,
  response: (await response.finalResponse()).output,
  message: (await message.finalMessage()).content,
  missing: [missing.constructor.name, missing.status, missing.code],
}));
"""


def test_the_node_sdks_read_all_three_streams(npm: Path, url: str, home: Path) -> None:
    script = npm / "sdks.mjs"
    script.write_text(NODE_SDKS, encoding="utf-8")
    read = json.loads(run(["node", str(script)], home, URL_HERE=url))
    assert read["chat"]["content"] == "Let me see. "
    assert read["chat"]["tool_calls"][0]["function"]["name"] == "bash"
    assert [item["type"] for item in read["response"]] == ["reasoning", "message", "function_call"]
    assert [block["type"] for block in read["message"]] == ["thinking", "text", "tool_use"]
    assert read["message"][2]["input"] == SHELL_TOOLS["bash"]
    assert read["missing"] == ["NotFoundError", 404, "model_not_found"]


@pytest.fixture(scope="module")
def schemathesis() -> Path:
    """The schemathesis program, in an environment of its own."""
    folder = CLIENTS / "schemathesis"
    program = folder / "bin" / "schemathesis"
    if not program.is_file():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(folder / "bin" / "pip"), "install", "-q", "schemathesis>=4,<5"], check=True)
    return program


def test_schemathesis_finds_no_5xx_and_no_violation_of_the_reference(
    schemathesis: Path, url: str, home: Path
) -> None:
    # Not checked: that every body the schema allows is accepted. Tools to choose from, or one of two fields,
    # are conditions that the wire types do not say.
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    output = run(
        [
            *(str(schemathesis), "run", f"{url}/openapi.json", "--checks", checks, "--seed", "1"),
            *(
                "--phases",
                "coverage,fuzzing",
                "--max-examples",
                "20",
                "--exclude-path-regex",
                "import|export",
            ),
        ],
        home,
    )
    num_passed = int(output.rsplit(" passed", 1)[0].rsplit(" ", 1)[1])
    assert num_passed >= 2000
