"""What each program is given; the programs themselves read the same in tests/integration/clients."""

from __future__ import annotations

import json
import shlex
from itertools import pairwise

import pytest

from semanticd.entrypoints.cli.launch import as_commands, reachable
from semanticd.entrypoints.cli.launch_programs import PROGRAMS, Launch, Service, Settings

SERVICE = Service("http://127.0.0.1:8000", "org/a-model", 32_768, "sk-1")
SHOWN = ("cline", "crush", "zed", "vscode")
STARTED = [name for name in PROGRAMS if name not in SHOWN]


def launched(name: str, service: Service = SERVICE) -> Launch:
    made = PROGRAMS[name].launch(service)
    assert isinstance(made, Launch)
    return made


def shown(name: str) -> Settings:
    made = PROGRAMS[name].launch(SERVICE)
    assert isinstance(made, Settings)
    return made


def test_thirteen_programs_are_known() -> None:
    assert (len(STARTED), len(SHOWN)) == (9, 4)


@pytest.mark.parametrize("name", STARTED)
def test_every_program_is_given_the_url_the_model_and_the_key(name: str) -> None:
    made = launched(name)
    given = " ".join([*made.environment.values(), *made.arguments])
    assert made.program == name
    assert SERVICE.url in given
    # llm knows no other names than OpenAI's; the daemon answers to one of them with its current model.
    assert ("gpt-4o-mini" if name == "llm" else "org/a-model") in given
    assert "sk-1" in given


@pytest.mark.parametrize("name", STARTED)
def test_a_daemon_without_keys_still_gets_one_because_programs_insist(name: str) -> None:
    made = launched(name, Service("http://127.0.0.1:8000", "m", 32_768))
    assert "semanticd" in " ".join(made.environment.values())


@pytest.mark.parametrize("name", SHOWN)
def test_settings_that_are_shown_have_the_url_and_the_model(name: str) -> None:
    made = shown(name)
    assert f"{SERVICE.url}/v1" in made.text
    assert "org/a-model" in made.text
    assert made.text.endswith("\n")
    assert made.place


def test_editors_are_told_what_fits_and_get_no_key_into_a_file() -> None:
    zed, vscode = json.loads(shown("zed").text), json.loads(shown("vscode").text)
    (model,) = zed["language_models"]["openai_compatible"]["semanticd"]["available_models"]
    assert (model["max_tokens"], model["max_output_tokens"], model["capabilities"]["images"]) == (
        32_768,
        8192,
        False,
    )
    (model,) = vscode[0]["models"]
    assert (model["maxInputTokens"], model["maxOutputTokens"], model["vision"]) == (24_576, 8192, False)
    assert "sk-1" not in shown("zed").text + shown("vscode").text


def test_crushs_lines_and_clines_command_are_quoted() -> None:
    service = Service("http://127.0.0.1:8000", "a model", 4096, "it's")
    for name in ("cline", "crush"):
        made = PROGRAMS[name].launch(service)
        assert isinstance(made, Settings)
        words = shlex.split(made.text)
        assert "it's" in words
        assert {"a model", "semanticd/a model"} & set(words)


def test_claude_serves_every_tier_with_the_model_and_asks_for_no_more_than_fits() -> None:
    environment = launched("claude").environment
    models = {value for name, value in environment.items() if name.endswith("MODEL")}
    assert models == {"org/a-model"}
    assert environment["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:8000", "without /v1: the program adds it"
    assert int(environment["CLAUDE_CODE_MAX_OUTPUT_TOKENS"]) == 8192
    assert "ANTHROPIC_API_KEY" in launched("claude").unset, "a real key must not come here"


@pytest.mark.parametrize(("name", "variable"), [("opencode", "OPENCODE"), ("kilo", "KILO")])
def test_opencodes_configuration_names_the_model_it_offers(name: str, variable: str) -> None:
    config = json.loads(launched(name).environment[f"{variable}_CONFIG_CONTENT"])
    provider, _, model = config["model"].partition("/")
    offered = config["provider"][provider]
    assert offered["models"][model]["limit"] == {"context": 32_768, "output": 8192}
    assert offered["options"]["baseURL"] == "http://127.0.0.1:8000/v1"


def test_codexs_settings_are_toml_values_before_the_users_arguments() -> None:
    arguments = launched("codex").arguments
    settings = dict(value.split("=", 1) for option, value in pairwise(arguments) if option == "-c")
    assert json.loads(settings["model_providers.semanticd.wire_api"]) == "responses"
    assert json.loads(settings["model_context_window"]) == 32_768
    assert json.loads(settings["model_provider"]) == "semanticd"


@pytest.mark.parametrize(
    ("context", "output"), [(1_000_000, 32_000), (32_768, 8192), (2048, 512), (100, 256)]
)
def test_an_answer_may_take_a_quarter_of_the_context(context: int, output: int) -> None:
    assert Service("http://x", "m", context).output_tokens == output


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://0.0.0.0:8123", "http://127.0.0.1:8123"),
        ("http://[::]:8123", "http://[::1]:8123"),
        ("http://192.168.1.4:80", "http://192.168.1.4:80"),
    ],
)
def test_an_address_that_means_everywhere_is_reached_here(address: str, url: str) -> None:
    assert reachable(address) == url


def test_shell_commands_are_quoted() -> None:
    made = Launch("prog", {"A": "it's $HOME"}, unset=("B", "C"), arguments=("-c", 'x="y z"'))
    assert as_commands(made, ("--flag", "a b")).splitlines() == [
        "unset B C",
        "export A='it'\"'\"'s $HOME'",
        "# prog -c 'x=\"y z\"' --flag 'a b'",
    ]
