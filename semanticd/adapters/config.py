"""Settings: flags > environment > .env > TOML > defaults; every unknown or bad one is named with what was expected.

Each setting has one name in three spellings: `SEMANTIC_MLX_CACHE_BUDGET_MB` in the environment and `.env`,
`cache_budget_mb` under `[mlx]` in TOML, `mlx.cache_budget_mb` for flags and in listings. Values are read once, at
the composition root, and handed on as values.
"""

from __future__ import annotations

import difflib
import os
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import platformdirs
from dotenv import dotenv_values
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from semanticd.domain.errors import ConfigurationError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # the same library, before it entered the standard one

_APP = "semanticd"
_PREFIX = "SEMANTIC_"
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}
CONFIG_FILE_VARIABLE = "SEMANTIC_CONFIG_FILE"


def _runtime_dir() -> Path:
    with warnings.catch_warnings():
        # Without XDG_RUNTIME_DIR the library warns and takes a private folder under /tmp, which is what we want.
        warnings.simplefilter("ignore")
        return Path(platformdirs.user_runtime_dir(_APP))


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MlxSettings(_Section):
    """The engine and its models (`SEMANTIC_MLX_…`)."""

    model_id: str | None = Field(None, description="Model to serve; default: by platform and memory.")
    cache_budget_mb: int = Field(
        4096, ge=16, description="Budget of hot blocks, running batches and writes, in MiB."
    )
    max_batch_size: int = Field(5, ge=1, le=256, description="Sequences that run at the same time.")
    kv_bits: Literal[4, 8] | None = Field(None, description="Storage precision of blocks; unset: exact.")
    block_tokens: int = Field(256, ge=16, le=4096, description="Tokens in a full block.")
    prefill_chunk: int = Field(
        256, ge=16, le=8192, description="Most tokens of a prompt computed in one step."
    )
    decode_share: float = Field(
        0.5, ge=0.0, le=1.0, description="Least share of time for decode under contention."
    )
    max_stall_ms: int = Field(
        300, ge=10, le=60_000, description="Longest prefill step while others decode, in ms."
    )
    max_queue: int = Field(256, ge=1, description="Requests running or waiting before new ones get 503.")
    max_queue_per_agent: int = Field(32, ge=1, description="The same for one agent, before it gets 429.")
    canonicalize: bool = Field(
        True, description="Drop volatile header lines and sort tool schemas in prompts."
    )
    load_on_demand: bool = Field(False, description="Load an installed model when a request names it.")


class AgentSettings(_Section):
    """Agents and their cache on disk (`SEMANTIC_AGENT_…`)."""

    max_agents_in_memory: int = Field(
        5, ge=1, description="Agents whose blocks stay in RAM; others go to disk."
    )
    cache_dir: Path = Field(Path("~/.semantic/caches"), description="Folder of blocks and agents.")
    cache_max_gb: float = Field(50.0, ge=0, description="Cap of the folder in GiB; 0: no cap.")
    write_policy: Literal["always", "second_use", "off"] = Field(
        "always", description="Which blocks go to disk."
    )
    write_budget_gb_per_day: float = Field(0.0, ge=0, description="Most GiB written per day; 0: no limit.")
    verify_every_hours: float = Field(24.0, ge=0, description="Hours between checks of all files; 0: never.")


class ServerSettings(_Section):
    """The HTTP server (`SEMANTIC_SERVER_…`)."""

    host: str = Field("127.0.0.1", description="Address to listen on; others than loopback need an API key.")
    port: int = Field(8000, ge=1, le=65535, description="Port to listen on.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Least level that is logged."
    )
    log_format: Literal["json", "console"] = Field("json", description="Form of the log file.")
    rate_limit_per_agent: int = Field(0, ge=0, description="Requests per minute and agent; 0: no limit.")
    rate_limit_global: int = Field(0, ge=0, description="Requests per minute and key; 0: no limit.")
    cors_origins: tuple[str, ...] = Field((), description="Origins that browsers may call from.")
    allowed_hosts: tuple[str, ...] = Field((), description="More names accepted in the Host header.")
    model_patterns: tuple[str, ...] = Field(
        ("default", "claude-*", "gpt-*"), description="Model names that stand for the current model."
    )
    max_body_mb: int = Field(32, ge=1, description="Largest request body in MiB.")
    drain_timeout_s: float = Field(30.0, ge=0, description="Longest wait for running requests when stopping.")

    @field_validator("cors_origins", "allowed_hosts", "model_patterns", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value


class SecuritySettings(_Section):
    """Keys (`SEMANTIC_API_KEY`, `SEMANTIC_ADMIN_KEY`)."""

    api_key: SecretStr = Field(SecretStr(""), description="API keys, comma separated; none: loopback only.")
    admin_key: SecretStr = Field(
        SecretStr(""), description="Key of /admin; none: loopback without API key only."
    )

    @property
    def api_keys(self) -> tuple[str, ...]:
        """The API keys, one by one."""
        return tuple(part.strip() for part in self.api_key.get_secret_value().split(",") if part.strip())


class PathSettings(_Section):
    """Folders (`SEMANTIC_MODELS_DIR`, `SEMANTIC_RUNTIME_DIR`, `SEMANTIC_LOG_DIR`)."""

    models_dir: Path = Field(
        default_factory=lambda: Path(platformdirs.user_data_dir(_APP)) / "models",
        description="Models' files.",
    )
    runtime_dir: Path = Field(default_factory=_runtime_dir, description="Socket and pid file.")
    log_dir: Path = Field(
        default_factory=lambda: Path(platformdirs.user_log_dir(_APP)), description="Log files."
    )
    models_file: Path | None = Field(None, description="Your own model registry (TOML).")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from (`flag`, `environment`, `.env`, `config file`, `default`), and its name there."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings, and where each came from (by `section.field`; those not listed are defaults)."""

    mlx: MlxSettings
    agent: AgentSettings
    server: ServerSettings
    security: SecuritySettings
    paths: PathSettings
    origins: Mapping[str, Origin]


SECTIONS: dict[str, type[_Section]] = {
    "mlx": MlxSettings,
    "agent": AgentSettings,
    "server": ServerSettings,
    "security": SecuritySettings,
    "paths": PathSettings,
}


def variable_of(section: str, field: str) -> str:
    """Return a setting's name in the environment."""
    middle = "" if section in {"security", "paths"} else f"{section.upper()}_"
    return f"{_PREFIX}{middle}{field.upper()}"


_BY_VARIABLE = {
    variable_of(section, field): (section, field)
    for section, model in SECTIONS.items()
    for field in model.model_fields
}


def load_settings(
    flags: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    dotenv: Path | None = None,
    config_file: Path | None = None,
) -> Settings:
    """Read all sources; `flags` are `section.field` → value, with None meaning not given.

    Raises:
        ConfigurationError: One or more settings are unknown or bad; the message names each.
    """
    environ = os.environ if environ is None else environ
    named = environ.get(CONFIG_FILE_VARIABLE)
    file = config_file or (Path(named).expanduser() if named else None)
    values: dict[str, tuple[Any, Origin]] = {}
    problems: list[str] = []
    values.update(_from_toml(file, problems))
    values.update(_from_variables(_read_dotenv(dotenv or Path(".env")), ".env", problems))
    values.update(_from_variables(environ, "environment", problems))
    for path, value in (flags or {}).items():
        if value is not None:
            values[path] = (value, Origin("flag", "--" + path.split(".")[-1].replace("_", "-")))
    sections = {name: _validated(name, model, values, problems) for name, model in SECTIONS.items()}
    if not problems:
        problems += _contradictions(sections)
    if problems:
        raise ConfigurationError("; ".join(problems))
    origins = {path: origin for path, (_, origin) in values.items()}
    return Settings(**sections, origins=origins)  # type: ignore[arg-type]


def _read_dotenv(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    return {key: value for key, value in dotenv_values(path).items() if value is not None}


def _from_variables(
    variables: Mapping[str, str], kind: str, problems: list[str]
) -> dict[str, tuple[Any, Origin]]:
    found: dict[str, tuple[Any, Origin]] = {}
    for name, value in variables.items():
        if not name.startswith(_PREFIX) or name == CONFIG_FILE_VARIABLE or name.startswith(f"{_PREFIX}TEST_"):
            continue
        where = _BY_VARIABLE.get(name)
        if where is None:
            problems.append(f"unknown setting {name} ({kind}){_suggest(name, list(_BY_VARIABLE))}")
        elif value != "":
            found[".".join(where)] = (value, Origin(kind, name))
    return found


def _from_toml(file: Path | None, problems: list[str]) -> dict[str, tuple[Any, Origin]]:
    path = file or Path(platformdirs.user_config_dir(_APP)) / "config.toml"
    if not path.is_file():
        if file is not None:
            problems.append(f"the config file {path} does not exist ({CONFIG_FILE_VARIABLE})")
        return {}
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, OSError) as error:
        problems.append(f"cannot read the config file {path}: {error}")
        return {}
    found: dict[str, tuple[Any, Origin]] = {}
    for section, table in tables.items():
        model = SECTIONS.get(section)
        if model is None or not isinstance(table, dict):
            problems.append(f"unknown section [{section}] in {path}{_suggest(section, list(SECTIONS))}")
            continue
        for field, value in table.items():
            if field not in model.model_fields:
                hint = _suggest(field, list(model.model_fields))
                problems.append(f"unknown setting {section}.{field} in {path}{hint}")
            else:
                found[f"{section}.{field}"] = (value, Origin("config file", str(path)))
    return found


def _validated(
    name: str, model: type[_Section], values: Mapping[str, tuple[Any, Origin]], problems: list[str]
) -> _Section | None:
    given = {
        field: values[f"{name}.{field}"][0] for field in model.model_fields if f"{name}.{field}" in values
    }
    try:
        return model(**given)
    except ValidationError as error:
        for one in error.errors():
            field = str(one["loc"][0])
            origin = values[f"{name}.{field}"][1] if f"{name}.{field}" in values else Origin("default", field)
            shown = "(secret)" if name == "security" else repr(one["input"])
            message = one["msg"][0].lower() + one["msg"][1:]
            problems.append(f"{origin.name} ({origin.kind}) is {shown}: {message}")
        return None


def _contradictions(sections: Mapping[str, Any]) -> list[str]:
    server: ServerSettings = sections["server"]
    security: SecuritySettings = sections["security"]
    if server.host not in _LOOPBACK and not security.api_keys:
        return [
            f"SEMANTIC_SERVER_HOST is {server.host!r}, which others can reach: set SEMANTIC_API_KEY as well, or listen "
            "on 127.0.0.1"
        ]
    return []


def _suggest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def effective(settings: Settings) -> list[dict[str, Any]]:
    """Return every setting with its value (secrets masked), origin and meaning."""
    rows = []
    for section, model in SECTIONS.items():
        values = getattr(settings, section)
        for field, described in model.model_fields.items():
            value = getattr(values, field)
            if isinstance(value, SecretStr):
                value = "********" if value.get_secret_value() else ""
            elif isinstance(value, Path):
                value = str(value)
            elif isinstance(value, tuple):
                value = ",".join(value)
            origin = settings.origins.get(f"{section}.{field}", Origin("default", ""))
            rows.append(
                {
                    "setting": f"{section}.{field}",
                    "variable": variable_of(section, field),
                    "value": value,
                    "origin": origin.kind,
                    "from": origin.name,
                    "meaning": described.description or "",
                }
            )
    return rows
