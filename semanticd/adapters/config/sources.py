"""Sources of settings: flags, environment, TOML (`.env` is next door). Each source gives raw values by dotted name.

Nothing here judges a value. An unknown name is a mistake on a command line and in our own file, and the closest known
one is named; an unknown variable `SEMANTIC_…` may be another program's, and is only pointed out.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from semanticd.adapters.config.schema import SECTIONS, Declared, declared
from semanticd.adapters.config.small_file import read_small_file

# By name, because the standard library has it from Python 3.11 on and type checkers see one version only.
tomllib: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

ENV_PREFIX = "SEMANTIC_"
_SHORTEST_PART, _NUM_NAMED = 4, 3
"""Maximum characters of a typed word to search for in names, and maximum number of names shown."""
OTHER_VARIABLES = frozenset({"SEMANTIC_CONFIG_FILE"})
"""Variables of semanticd that are not settings: this one locates the settings file."""
MODEL_KEYS = (
    "sources",
    "description",
    "aliases",
    "context_length",
    "memory_estimate_bytes",
    "weights_bytes",
    "kv_bytes_per_token",
    "recommended",
    "tool_parser",
    "pooling",
    "thinking",
    "trust_remote_code",
    "pinned",
    "ttl_s",
    "defaults",
    "reference",
)
"""Keys of a `[models.NAME]` table."""

PROFILE_KEYS = ("model", "description", "defaults", "reference")
"""Keys of a `[profiles.NAME]` table."""


@dataclass(frozen=True, slots=True)
class FileRead:
    """A parsed file: the settings that it sets, those that it may not set, and the reason."""

    path: Path
    names: tuple[str, ...]
    ignored: tuple[str, ...] = ()
    reason: str = ""


@dataclass(slots=True)
class Source:
    """Raw values of one source: dotted name to value, and to the words that say where it stood."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    models: dict[str, Any] = field(default_factory=dict)
    profiles: dict[str, Any] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    file: FileRead | None = None

    def add(self, name: str, value: Any, origin: str) -> None:
        """Keep a value."""
        self.values[name] = value
        self.origins[name] = origin

    def drop(self, name: str) -> None:
        """Forget a value."""
        del self.values[name], self.origins[name]


def from_flags(flags: Mapping[str, Any]) -> Source:
    """Values by dotted name that the command line gave; None means not given."""
    source = Source()
    known = {one.name: one for one in declared()}
    for name, value in flags.items():
        if value is None:
            continue
        if name in known and known[name].secret:
            source.complaints.append(_no_flag(known[name]))
        elif name in known:
            source.add(name, value, f"flag {known[name].flag}")
        else:
            source.complaints.append(_unknown("flag setting", name, list(known)))
    return source


def parse_flags(arguments: Sequence[str], *, others: Sequence[str] = ()) -> dict[str, str]:
    """Read `--section-name value` and `--section-name=value`.

    `others` are flags of the command itself. They are not among the arguments; they are suggested for a
    mistyped one.

    Raises:
        ValueError: A flag is unknown or has no value.
    """
    known: dict[str, Declared] = {one.as_flag: one for one in declared()}
    result: dict[str, str] = {}
    rest = iter(arguments)
    for argument in rest:
        flag, equals, value = argument.partition("=")
        if not flag.startswith("--"):
            raise ValueError(f"unexpected argument {argument!r}; settings are given as --section-name VALUE")
        if flag not in known:
            names = [*others, *(name for name, one in known.items() if not one.secret)]
            raise ValueError(_unknown("flag", flag, names))
        if known[flag].secret:
            raise ValueError(_no_flag(known[flag]))
        if not equals:
            following = next(rest, None)
            if following is None:
                raise ValueError(f"flag {flag} needs a value: expected {known[flag].kind.expected}")
            value = following
        result[known[flag].name] = value
    return result


def from_environment(environ: Mapping[str, str], *, where: str = "environment") -> Source:
    """Values of `SEMANTIC_…` variables; other variables are not ours. An empty one counts as not set."""
    source = Source()
    known = {one.env: one for one in declared()}
    for variable, value in environ.items():
        if not variable.startswith(ENV_PREFIX) or variable in OTHER_VARIABLES:
            continue
        if variable not in known:
            source.warnings.append(_unknown(f"variable ({where})", variable, list(known)))
        elif value.strip():
            source.add(known[variable].name, value, f"{where} {variable}")
    return source


def from_toml(path: Path, *, required: bool) -> Source:
    """Values of a TOML file; `required` if the user named it, so that its absence is a mistake."""
    source = Source()
    try:
        text, _ = read_small_file(path)
    except FileNotFoundError:
        if required:
            source.complaints.append(f"SEMANTIC_CONFIG_FILE names {path}, which is not there")
        return source
    except (OSError, ValueError) as error:
        source.complaints.append(f"cannot read {path}: {error}")
        return source
    try:
        document = tomllib.loads(text)
    except RecursionError:
        source.complaints.append(f"{path} is nested too deeply")
        return source
    except ValueError as error:  # also a number of more digits than Python reads
        source.complaints.append(f"{path} is not TOML: {error}")
        return source
    if large := list(_large_numbers(document)):
        source.complaints += [
            f"{name} in {path} is a number that does not fit into 64 bits" for name in large
        ]
        return source
    for section, content in document.items():
        _read_table(source, path, section, content)
    tables = [f"models.{name}" for name in source.models] + [f"profiles.{name}" for name in source.profiles]
    source.file = FileRead(path, (*source.values, *tables))
    return source


def _large_numbers(value: object, name: str = "") -> Iterator[str]:
    """Yield the dotted names of whole numbers beyond TOML's own 64 bits, which no setting takes."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        yield name
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _large_numbers(inner, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        for inner in value:
            yield from _large_numbers(inner, name)


def _read_table(source: Source, path: Path, section: str, content: object) -> None:
    if section == "models" and isinstance(content, dict):
        for name, entry in content.items():
            _read_model(source, path, name, entry)
    elif section == "profiles" and isinstance(content, dict):
        for name, entry in content.items():
            _read_profile(source, path, name, entry)
    elif section not in SECTIONS:
        known_tables = [*SECTIONS, "models", "profiles"]
        source.complaints.append(_unknown(f"table or key in {path}", section, known_tables))
    elif not isinstance(content, dict):
        source.complaints.append(f"{section} in {path} must be a table: [{section}]")
    else:
        known = [one.key for one in declared() if one.section == section]
        for key, value in content.items():
            if key in known:
                source.add(f"{section}.{key}", value, str(path))
            else:
                source.complaints.append(_unknown(f"key in [{section}] of {path}", key, known))


def _read_model(source: Source, path: Path, name: str, entry: object) -> None:
    if not isinstance(entry, dict) or not isinstance(entry.get("sources"), list):
        source.complaints.append(
            f"[models.{name}] in {path} needs `sources`: a list of `hf:org/name`, folders or files"
        )
        return
    for key in entry:
        if key not in MODEL_KEYS:
            source.complaints.append(_unknown(f"key in [models.{name}] of {path}", key, list(MODEL_KEYS)))
    source.models[name] = entry


def _read_profile(source: Source, path: Path, name: str, entry: object) -> None:
    if not isinstance(entry, dict) or not isinstance(entry.get("model"), str):
        source.complaints.append(f"[profiles.{name}] in {path} needs `model`: the name of a model")
        return
    for key in entry:
        if key not in PROFILE_KEYS:
            source.complaints.append(_unknown(f"key in [profiles.{name}] of {path}", key, list(PROFILE_KEYS)))
    source.profiles[name] = entry


def _no_flag(one: Declared) -> str:
    return (
        f"{one.as_flag} is not taken: other users can read a program's arguments; set the variable {one.env}, or "
        f"`{one.key}` under [{one.section}] in the configuration file"
    )


def _unknown(what: str, name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.75) or _containing(name, known)
    hint = f"did you mean {' or '.join(close)}?" if close else "`semanticd config --all` lists every setting"
    return f"unknown {what}: {name}; {hint}"


def _containing(name: str, known: list[str]) -> list[str]:
    """Return the first names that have the typed one as a part: people leave the section out, or half of a name."""
    part = name.strip("-").removeprefix(ENV_PREFIX)
    return [one for one in known if part in one][:_NUM_NAMED] if len(part) >= _SHORTEST_PART else []
