"""What each program is given; the programs themselves read the same in tests/integration/clients."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from semanticd.entrypoints.cli.launch import as_commands, reachable
from semanticd.entrypoints.cli.launch_programs import PROGRAMS, Launch, Service

SERVICE = Service("http://127.0.0.1:8000", "org/a-model", 32_768, "sk-1")


@pytest.mark.parametrize("name", list(PROGRAMS))
def test_every_program_is_given_the_url_the_model_and_the_key(name: str) -> None:
    made = PROGRAMS[name].launch(SERVICE)
    given = " ".join([*made.environment.values(), *made.arguments])
    assert made.program == name
    assert SERVICE.url in given
    assert "org/a-model" in given
    assert "sk-1" in given


@pytest.mark.parametrize("name", list(PROGRAMS))
def test_a_daemon_without_keys_still_gets_one_because_programs_insist(name: str) -> None:
    made = PROGRAMS[name].launch(Service("http://127.0.0.1:8000", "m", 32_768))
    assert "semanticd" in " ".join(made.environment.values())


def test_claude_serves_every_tier_with_the_model_and_asks_for_no_more_than_fits() -> None:
    environment = PROGRAMS["claude"].launch(SERVICE).environment
    models = {value for name, value in environment.items() if name.endswith("MODEL")}
    assert models == {"org/a-model"}
    assert environment["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:8000", "without /v1: the program adds it"
    assert int(environment["CLAUDE_CODE_MAX_OUTPUT_TOKENS"]) == 8192
    assert "ANTHROPIC_API_KEY" in PROGRAMS["claude"].launch(SERVICE).unset, "a real key must not come here"


def test_opencodes_configuration_names_the_model_it_offers() -> None:
    config = json.loads(PROGRAMS["opencode"].launch(SERVICE).environment["OPENCODE_CONFIG_CONTENT"])
    provider, _, model = config["model"].partition("/")
    offered = config["provider"][provider]
    assert offered["models"][model]["limit"] == {"context": 32_768, "output": 8192}
    assert offered["options"]["baseURL"] == "http://127.0.0.1:8000/v1"


def test_codexs_settings_are_toml_values_before_the_users_arguments() -> None:
    arguments = PROGRAMS["codex"].launch(SERVICE).arguments
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
