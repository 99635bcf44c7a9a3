"""From sources to one `Settings`: the first source that has a value wins, and all mistakes are reported together."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import platformdirs

from semanticd.adapters.config.dotenv import from_dotenv
from semanticd.adapters.config.schema import APP, SECTIONS, Declared, Settings, declared, read_setting
from semanticd.adapters.config.sources import FileRead, Source, from_environment, from_flags, from_toml
from semanticd.domain.errors import ConfigurationError

MASK = "********"


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings and, by dotted name, where each that is not a default came from."""

    settings: Settings
    origins: Mapping[str, str]
    config_file: Path
    files: tuple[FileRead, ...] = ()
    """The files that were read, and what each set."""
    warnings: tuple[str, ...] = ()
    """Ignored names: variables that are not semanticd's, and settings that a file may not set."""

    def explained(self) -> list[str]:
        """Return a line per file that was read, with the names of its settings, and one per warning; no values."""
        lines = [
            f"settings from {file.path}: {', '.join(file.names) or 'it sets nothing'}" for file in self.files
        ]
        return lines + [f"warning: {warning}" for warning in self.warnings]


@dataclass(frozen=True, slots=True)
class Effective:
    """One setting in effect, ready to be shown: a plain value, masked if it is secret."""

    name: str
    value: Any
    origin: str
    env: str
    flag: str
    meaning: str
    expected: str


_RANKS_KEY_CHARACTERS = 16
"""Fewer could be guessed by a program that has recorded a handshake."""


def config_file_path(environ: Mapping[str, str]) -> tuple[Path, bool]:
    """Return the TOML file's path and whether the user named it.

    Raises:
        ConfigurationError: It begins with `~` and the name of no user.
    """
    named = environ.get("SEMANTIC_CONFIG_FILE", "").strip()
    if named:
        try:
            return Path(named).expanduser().absolute(), True
        except RuntimeError as error:
            raise ConfigurationError(
                f"SEMANTIC_CONFIG_FILE = {named!r} names the home of an unknown user"
            ) from error
    return Path(platformdirs.user_config_dir(APP, appauthor=False)) / "config.toml", False


def load_settings(
    *,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Loaded:
    """Read all sources; `flags` go by dotted name, `folder` (default: the working folder) is where `.env` lies.

    Raises:
        ConfigurationError: Anything is unknown, badly formed or contradictory; the message has a line for each.
    """
    environ = os.environ if environ is None else environ
    path, required = config_file_path(environ)
    sources = [
        from_flags(flags or {}),
        from_environment(environ),
        from_dotenv((folder or Path.cwd()) / ".env"),
        from_toml(path, required=required),
    ]
    complaints = [complaint for source in sources for complaint in source.complaints]
    values, origins = _merge(sources, complaints)
    settings = Settings(
        models=sources[-1].models,
        profiles=sources[-1].profiles,
        **{section: cls(**values.get(section, {})) for section, cls in SECTIONS.items()},
    )
    complaints += _contradictions(settings)
    warnings = [warning for source in sources for warning in source.warnings]
    if complaints:
        # An ignored variable, such as a misspelled one, may be the cause.
        complaints += warnings
        raise ConfigurationError("cannot use the settings:\n" + "\n".join(f"  - {one}" for one in complaints))
    files = tuple(source.file for source in sources if source.file is not None)
    warnings += [
        f"{file.path} may not set {', '.join(file.ignored)}: {file.reason}; set it in the environment or in {path}"
        for file in files
        if file.ignored
    ]
    return Loaded(settings, origins, path, files, tuple(warnings))


def _merge(sources: list[Source], complaints: list[str]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    values: dict[str, dict[str, Any]] = {}
    origins: dict[str, str] = {}
    for one in declared():
        source = next((s for s in sources if one.name in s.values), None)
        if source is None:
            continue
        raw, origin = source.values[one.name], source.origins[one.name]
        try:
            values.setdefault(one.section, {})[one.key] = one.read(raw)
        except ValueError:
            shown = MASK if one.secret else repr(raw)
            complaints.append(f"{one.name} = {shown} ({origin}): expected {one.kind.expected}")
        else:
            origins[one.name] = origin
    return values, origins


def _contradictions(settings: Settings) -> list[str]:
    found = []
    server, mlx = settings.server, settings.mlx
    if not is_loopback(server.host) and not settings.security.api_key:
        found.append(
            f"server.host = {server.host!r} can be reached from other machines and no API key is set: set "
            "SEMANTIC_API_KEY (`semanticd key new` makes one) and, for clients that use a name instead of an IP "
            "address, SEMANTIC_SERVER_ALLOWED_HOSTS; or leave SEMANTIC_SERVER_HOST at 127.0.0.1"
        )
    if "*" in server.cors_origins and not settings.security.api_key:
        found.append(
            "server.cors_origins = '*' lets every web page that the user opens call this server, and no API key is "
            "set: set SEMANTIC_API_KEY, or name the origins"
        )
    if server.ollama_port is not None and server.ollama_port == server.port:
        found.append(
            f"server.ollama_port = {server.ollama_port} is server.port too, on which Ollama's API is served already: "
            "leave SEMANTIC_SERVER_OLLAMA_PORT out, or change one of the two"
        )
    foreign = [url for url in settings.agent.peers if not is_loopback(urlsplit(url).hostname or "")]
    if foreign and not (settings.security.peer_key or settings.security.api_key):
        found.append(
            f"agent.peers names another machine ({foreign[0]}), which serves no blocks without a key: set "
            "SEMANTIC_PEER_KEY, or the same SEMANTIC_API_KEY on all machines"
        )
    if settings.distributed.hosts is not None:
        found += _of_ranks(settings)
    if mlx.max_queue_per_agent > mlx.max_queue:
        found.append(
            f"mlx.max_queue_per_agent = {mlx.max_queue_per_agent} is larger than mlx.max_queue = {mlx.max_queue}"
        )
    return found


def _of_ranks(settings: Settings) -> list[str]:
    found = []
    if len(settings.distributed.key or "") < _RANKS_KEY_CHARACTERS:
        found.append(
            "distributed.hosts names machines that compute one model together, and they have no key of at least "
            f"{_RANKS_KEY_CHARACTERS} characters: set SEMANTIC_DISTRIBUTED_KEY to the same on all of them "
            "(`semanticd key new` makes one)"
        )
    if settings.agent.peers:
        found.append(
            "agent.peers and distributed.hosts are both set: a model that is spread over several machines reads no "
            "blocks of others; leave SEMANTIC_PEERS out"
        )
    return found


def is_loopback(host: str) -> bool:
    """Return whether an address is reachable only from this machine; `localhost` is the only accepted name."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def effective(loaded: Loaded) -> list[Effective]:
    """Return every setting with its value and origin, secrets masked."""
    return [
        Effective(
            name=one.name,
            value=_plain(read_setting(loaded.settings, one.name), one),
            origin=loaded.origins.get(one.name, "default"),
            env=one.env,
            flag=one.flag,
            meaning=one.meaning,
            expected=one.kind.expected,
        )
        for one in declared()
    ]


def _plain(value: Any, one: Declared) -> Any:
    if one.secret:
        return MASK if value else None
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value
