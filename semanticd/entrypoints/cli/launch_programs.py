"""Environment and arguments that make a program talk to this daemon: one function per program.

Rule: nothing of the user's is changed. No file is written; what a program would read from its configuration file is
given in a variable or as an argument, which wins over the file for this one start. Of programs that read it from a
file alone, the settings are shown, with the file's place.
"""

from __future__ import annotations

import json
import shlex
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
    """Command line and environment of a program."""

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
class Settings:
    """The settings for a program's own file, which only the user changes."""

    text: str
    place: str
    """File or dialog that they belong in, as words that follow "put this into"."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program that can be launched, or whose settings can be shown."""

    launch: Callable[[Service], Launch | Settings]
    install: str
    """The command that installs it."""
    prompt_tokens: int
    """About how many tokens its own prompt takes before the user says anything (SmolLM2's tokens)."""
    hint: str = ""
    """Advice if the model's context is too short."""


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
    config = {"$schema": "https://opencode.ai/config.json", **_provider_of_opencode(service)}
    return Launch("opencode", {"OPENCODE_CONFIG_CONTENT": json.dumps(config)})


def kilo(service: Service) -> Launch:
    """Kilo Code's CLI, which is made of opencode and reads the same from a variable of its own."""
    return Launch("kilo", {"KILO_CONFIG_CONTENT": json.dumps(_provider_of_opencode(service))})


def _provider_of_opencode(service: Service) -> dict[str, object]:
    limit = {"context": service.context_tokens, "output": service.output_tokens}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "semanticd",
        "options": {"baseURL": f"{service.url}/v1", "apiKey": service.key},
        "models": {service.model: {"name": service.model, "tool_call": True, "limit": limit}},
    }
    name = f"semanticd/{service.model}"
    return {"model": name, "small_model": name, "provider": {"semanticd": provider}}


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


def qwen(service: Service) -> Launch:
    """Qwen Code: chat completions."""
    return Launch(
        "qwen", {**_openai(service), "OPENAI_MODEL": service.model}, arguments=("--auth-type", "openai")
    )


def goose(service: Service) -> Launch:
    """Goose: chat completions; it puts host and path together itself."""
    return Launch(
        "goose",
        {
            "GOOSE_PROVIDER": "openai",
            "GOOSE_MODEL": service.model,
            "GOOSE_CONTEXT_LIMIT": str(service.context_tokens),
            "OPENAI_HOST": service.url,
            "OPENAI_BASE_PATH": "v1/chat/completions",
            "OPENAI_API_KEY": service.key,
        },
    )


def llm(service: Service) -> Launch:
    """The `llm` command: a name that it knows of OpenAI's models, which the daemon answers with its current one."""
    return Launch("llm", {**_openai(service), "LLM_MODEL": "gpt-4o-mini"}, unset=("OPENAI_API_BASE",))


def open_webui(service: Service) -> Launch:
    """Open WebUI: a server for browsers, with this daemon behind it."""
    return Launch(
        "open-webui",
        {
            "OPENAI_API_BASE_URL": f"{service.url}/v1",
            "OPENAI_API_KEY": service.key,
            "ENABLE_OLLAMA_API": "false",
            "DEFAULT_MODELS": service.model,
        },
        unset=("OPENAI_API_BASE_URLS", "OPENAI_API_KEYS"),
        arguments=("serve",),
    )


def cline(service: Service) -> Settings:
    """Cline keeps its provider in its own folder, where this command puts it."""
    words = ["cline", "auth", "openai", "-k", service.key, "-m", service.model, "-b", f"{service.url}/v1"]
    return Settings(shlex.join(words) + "\n", "a shell, once; `cline` uses it from then on")


def crush(service: Service) -> Settings:
    """Crush reads commands of its own."""
    provider = ["provider", "add", "semanticd", "--type", "openai-compat", "--base-url", f"{service.url}/v1"]
    model = ["model", "add", f"semanticd/{service.model}", "--name", service.model]
    lines = [[*provider, "--api-key", service.key], [*model, "--context-window", str(service.context_tokens)]]
    return Settings("".join(f"{shlex.join(line)}\n" for line in lines), "~/.config/crush/crushrc")


def zed(service: Service) -> Settings:
    """Zed: a provider that speaks chat completions; its key is asked for by Zed, or read from a variable."""
    able = {"tools": True, "images": False, "parallel_tool_calls": True, "prompt_cache_key": True}
    model = {
        "name": service.model,
        "max_tokens": service.context_tokens,
        "max_output_tokens": service.output_tokens,
        "capabilities": able,
    }
    provider = {"api_url": f"{service.url}/v1", "available_models": [model]}
    settings = {
        "language_models": {"openai_compatible": {"semanticd": provider}},
        "agent": {"default_model": {"provider": "semanticd", "model": service.model}},
    }
    place = "Zed's settings.json (`zed: open settings file`), and any key into the variable SEMANTICD_API_KEY"
    return Settings(json.dumps(settings, indent=2) + "\n", place)


def vscode(service: Service) -> Settings:
    """VS Code's chat: an endpoint of one's own; its key is asked for by VS Code."""
    model = {
        "id": service.model,
        "name": service.model,
        "url": f"{service.url}/v1/chat/completions",
        "toolCalling": True,
        "vision": False,
        "maxInputTokens": service.context_tokens - service.output_tokens,
        "maxOutputTokens": service.output_tokens,
    }
    group = {
        "name": "semanticd",
        "vendor": "customendpoint",
        "apiType": "chat-completions",
        "models": [model],
    }
    place = "chatLanguageModels.json (`Chat: Open Language Models (JSON)`), next to the existing groups"
    return Settings(json.dumps([group], indent=2) + "\n", place)


def _openai(service: Service) -> dict[str, str]:
    """Return what OpenAI's own library reads."""
    return {"OPENAI_BASE_URL": f"{service.url}/v1", "OPENAI_API_KEY": service.key}


PROGRAMS: Mapping[str, Program] = {
    "claude": Program(
        claude, "npm install -g @anthropic-ai/claude-code", 20_000, "`-- --bare` leaves most of it out"
    ),
    "opencode": Program(opencode, "npm install -g opencode-ai", 8_000),
    "codex": Program(codex, "npm install -g @openai/codex", 9_000),
    "aider": Program(aider, "python -m pip install aider-install && aider-install", 3_000),
    "qwen": Program(qwen, "npm install -g @qwen-code/qwen-code", 15_000),
    "kilo": Program(kilo, "npm install -g @kilocode/cli", 10_000),
    "goose": Program(goose, "see https://github.com/aaif-goose/goose", 8_000),
    "llm": Program(llm, "pipx install llm", 0),
    "open-webui": Program(open_webui, "pipx install open-webui", 0),
    "cline": Program(cline, "npm install -g cline", 10_000),
    "crush": Program(crush, "npm install -g @charmland/crush", 12_000),
    "zed": Program(zed, "see https://zed.dev", 5_000),
    "vscode": Program(vscode, "see https://code.visualstudio.com", 15_000),
}
"""By the name that `semanticd launch` takes."""
