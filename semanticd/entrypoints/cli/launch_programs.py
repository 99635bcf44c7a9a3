"""Which environment and arguments make a coding program talk to this daemon: one function per program.

Rule: nothing of the user's is changed. No file is written; what a program would read from its configuration file is
given in a variable or as an argument, which wins over the file for this one start.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

NO_KEY = "semanticd"
"""Programs want a key even where the daemon wants none."""

_OUTPUT_SHARE = 4
"""An answer may take a quarter of the context, so that there is room for the conversation."""
_MAX_OUTPUT_TOKENS = 32_000


@dataclass(frozen=True, slots=True)
class Service:
    """The daemon as a program sees it: URL without `/v1`, model name, its context in tokens, key if one is needed."""

    url: str
    model: str
    context_tokens: int
    api_key: str | None = None

    @property
    def key(self) -> str:
        """A key to send."""
        return self.api_key or NO_KEY

    @property
    def output_tokens(self) -> int:
        """Tokens that an answer may have."""
        return max(min(self.context_tokens // _OUTPUT_SHARE, _MAX_OUTPUT_TOKENS), 256)


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a program."""

    program: str
    environment: Mapping[str, str] = field(default_factory=dict)
    unset: tuple[str, ...] = ()
    """Variables of the user's that would lead the program elsewhere, or send a key here that belongs elsewhere."""
    arguments: tuple[str, ...] = ()
    """Arguments that go before the user's own."""
    defaults: Mapping[str, str] = field(default_factory=dict)
    """Variables that are set where the user has not set them."""
    arguments_if_known: tuple[str, ...] = ()
    """Flags that are given where the program's `--help` names them: older versions refuse them."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program that can be launched."""

    launch: Callable[[Service], Launch]
    install: str
    """The command that installs it."""
    prompt_tokens: int
    """About how many tokens its own prompt takes before the user says anything (SmolLM2's tokens)."""
    hint: str = ""
    """What helps where the model's context is too short for that."""


def claude(service: Service) -> Launch:
    """Claude Code: Anthropic's dialect; every model tier is the one that is served."""
    models = ("", "SMALL_FAST_", "DEFAULT_HAIKU_", "DEFAULT_SONNET_", "DEFAULT_OPUS_")
    return Launch(
        "claude",
        {
            "ANTHROPIC_BASE_URL": service.url,
            "ANTHROPIC_AUTH_TOKEN": service.key,
            **{f"ANTHROPIC_{tier}MODEL": service.model for tier in models},
            "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(service.output_tokens),
            "CLAUDE_CODE_AUTO_COMPACT_WINDOW": str(service.context_tokens),
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        },
        unset=("ANTHROPIC_API_KEY", "CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX"),
        # The folder's git status and date stand before the tools otherwise: a new process computes all of them again.
        defaults={"CLAUDE_CODE_DISABLE_GIT_INSTRUCTIONS": "1"},
        arguments_if_known=("--exclude-dynamic-system-prompt-sections",),
    )


def opencode(service: Service) -> Launch:
    """Opencode: chat completions through a provider of its own, given as configuration in a variable."""
    limit = {"context": service.context_tokens, "output": service.output_tokens}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "semanticd",
        "options": {"baseURL": f"{service.url}/v1", "apiKey": service.key},
        "models": {service.model: {"name": service.model, "tool_call": True, "limit": limit}},
    }
    name = f"semanticd/{service.model}"
    config = {
        "$schema": "https://opencode.ai/config.json",
        "model": name,
        "small_model": name,
        "provider": {"semanticd": provider},
    }
    return Launch("opencode", {"OPENCODE_CONFIG_CONTENT": json.dumps(config)})


def codex(service: Service) -> Launch:
    """Codex: the Responses API through a provider given as configuration on the command line."""
    provider = {
        "name": "semanticd",
        "base_url": f"{service.url}/v1",
        "wire_api": "responses",
        "env_key": "SEMANTICD_API_KEY",
    }
    settings: dict[str, str | int] = {
        "model": service.model,
        "model_provider": "semanticd",
        "model_context_window": service.context_tokens,
        **{f"model_providers.semanticd.{name}": value for name, value in provider.items()},
    }
    # A value is TOML; JSON's numbers and strings are.
    arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={json.dumps(value)}")]
    return Launch("codex", {"SEMANTICD_API_KEY": service.key}, arguments=tuple(arguments))


def aider(service: Service) -> Launch:
    """Aider: chat completions; `openai/` in a model's name says which dialect."""
    model = f"openai/{service.model}"
    return Launch(
        "aider",
        {
            "OPENAI_API_BASE": f"{service.url}/v1",
            "OPENAI_API_KEY": service.key,
            "AIDER_MODEL": model,
            "AIDER_WEAK_MODEL": model,
            "AIDER_SHOW_MODEL_WARNINGS": "false",
        },
        unset=("AIDER_OPENAI_API_BASE", "AIDER_OPENAI_API_KEY"),
    )


PROGRAMS: Mapping[str, Program] = {
    "claude": Program(
        claude, "npm install -g @anthropic-ai/claude-code", 20_000, "`-- --bare` leaves most of it out"
    ),
    "opencode": Program(opencode, "npm install -g opencode-ai", 8_000),
    "codex": Program(codex, "npm install -g @openai/codex", 10_000),
    "aider": Program(aider, "python -m pip install aider-install && aider-install", 3_000),
}
"""By the name that `semanticd launch` takes."""
