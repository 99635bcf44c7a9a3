"""The facts about models: available, installed and loaded ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from semanticd.application.ports.inference import LoadedModel
from semanticd.application.ports.models import InstalledModel, ModelEntry, ModelSource
from semanticd.application.services.plain import FLAT, HIDDEN, IF_KNOWN
from semanticd.domain.ids import ModelFingerprint, ModelId
from semanticd.domain.memory_plan import DeviceMemory
from semanticd.domain.model_cache_spec import StoragePrecision
from semanticd.domain.model_name import is_gguf

_MEMORY_PER_WEIGHT_BYTE = 1.2
"""Memory a model takes per byte of its weights as they are held."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """One model; fields that only installed or loaded models have are None for others."""

    id: str
    created: int = 0
    """Time at which the model was loaded, seconds since the epoch; 0: it is not loaded."""
    owned_by: str = "semanticd"
    loaded: bool = False
    installed: bool = False
    current: bool = False
    description: str = ""
    context_length: int | None = None
    path: str | None = field(default=None, metadata=IF_KNOWN)
    start_name: str | None = field(default=None, metadata=IF_KNOWN)
    """The user's folder or file, by which a new daemon finds a model that it cannot find by its id."""
    size_bytes: int | None = field(default=None, metadata=IF_KNOWN)
    modified_at: float | None = field(default=None, metadata=IF_KNOWN)
    """Modification time of an installed model's weights, seconds since the epoch."""
    download_bytes: int | None = field(default=None, metadata=IF_KNOWN)
    """About what fetching it downloads; of a model that is not installed."""
    memory_needed_bytes: int | None = field(default=None, metadata=IF_KNOWN)
    fingerprint: ModelFingerprint | None = field(default=None, metadata=IF_KNOWN)
    weights_bytes: int | None = field(default=None, metadata=IF_KNOWN)
    bytes_per_token: int | None = field(default=None, metadata=IF_KNOWN)
    """Bytes of cache that a token takes in RAM; of a model that is not loaded, in 16 bits, as its config says."""
    precision: StoragePrecision | None = field(default=None, metadata=IF_KNOWN)
    warning: str | None = field(default=None, metadata=IF_KNOWN)
    """Of a loaded one: what its loader warns of, and what happened to its files since."""
    details: Mapping[str, Any] = field(default_factory=dict, metadata=FLAT)
    """The loader's facts about it: the device, its kind."""
    aliases: tuple[str, ...] = field(default=(), metadata=HIDDEN)
    """Other names that it answers to."""
    profiles: tuple[str, ...] = field(default=(), metadata=HIDDEN)
    """Names that it answers to with settings of their own."""

    @property
    def since(self) -> int:
        """Time of loading, else of its files' last write, in seconds since the epoch; 0 if it is not installed."""
        return self.created or int(self.modified_at or 0)


@dataclass(frozen=True, slots=True)
class PulledModel:
    """A model whose files are here now."""

    id: str
    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class RemovedModel:
    """A model whose files are gone: its name, the folder that was removed, and the user's own file, which stays."""

    id: str
    removed: bool
    freed_bytes: int
    path: str = ""
    kept: str | None = None


def removed_facts(entry: ModelEntry, found: InstalledModel | None, *, freed_bytes: int) -> RemovedModel:
    """Return the removed files of a model; the file that a folder was converted from is the user's, and stays.

    Looks whether that file is there.
    """
    kept = entry.source if is_gguf(entry.source) and Path(entry.source).expanduser().is_file() else None
    return RemovedModel(
        entry.name, removed=True, freed_bytes=freed_bytes, path=found.path if found else "", kept=kept
    )


_SENTENCE_CHARS = 300


def one_sentence(reason: str) -> str:
    """Return a reason as people read it: its first line, within a bound; the log has all of it."""
    lines = reason.strip().splitlines() or [""]
    first = lines[0].rstrip()
    if len(lines) == 1 and len(first) <= _SENTENCE_CHARS:
        return first
    return f"{first[:_SENTENCE_CHARS].rstrip(' :;,')} … (`semanticd logs` has the rest)"


@dataclass(frozen=True, slots=True)
class ModelInUse:
    """A model that is loaded now, and whether it answers requests for the default."""

    id: ModelId
    loaded: bool
    current: bool


@dataclass(frozen=True, slots=True)
class UnloadedModel:
    """A model that left memory."""

    id: ModelId
    loaded: bool


@dataclass(frozen=True, slots=True)
class SwappedModel:
    """The model that answers requests for the default now, and the one that did before (None: none did)."""

    id: ModelId
    current: bool
    previous: ModelId | None


def memory_needed(installed: InstalledModel, device: DeviceMemory | None) -> int:
    """Return about how many bytes a model takes on this device, by its content and not by its name."""
    return int(installed.held_bytes(device) * _MEMORY_PER_WEIGHT_BYTE)


def model_facts(
    source: ModelSource,
    *,
    fetched: Mapping[ModelId, InstalledModel],
    loaded: Mapping[ModelId, LoadedModel],
    loaded_at: Mapping[ModelId, float],
    current: ModelId | None,
    device: DeviceMemory | None,
    warnings: Mapping[ModelId, str],
) -> list[ModelFacts]:
    """Return all models, loaded ones first, then installed ones; reads folders, so not on the event loop.

    `fetched` are models found outside the source's folder; `loaded_at` is in seconds since the epoch; `warnings` are
    added to what loaders say.
    """
    installed = {model.model_id: model for model in source.installed()}
    installed.update({str(model_id): model for model_id, model in list(fetched.items())})
    found = {entry.name: known_facts(entry) for entry in source.entries()}
    for name, model in installed.items():
        facts = installed_facts(found.get(name) or ModelFacts(name), model, device)
        found[name] = facts if source.known_name(name) else replace(facts, start_name=model.entry.source)
    for model_id, loaded_model in loaded.items():
        found[model_id] = replace(
            _loaded(
                found.get(model_id) or ModelFacts(model_id), loaded_model, warning=warnings.get(model_id)
            ),
            created=int(loaded_at.get(model_id, 0)),
            current=model_id == current,
        )
    found = {name: replace(one, profiles=source.profiles_of(name)) for name, one in found.items()}
    return sorted(found.values(), key=lambda one: (not one.loaded, not one.installed, one.id))


def known_facts(entry: ModelEntry) -> ModelFacts:
    """Return the registry's facts about a model."""
    return ModelFacts(
        entry.name,
        description=entry.description,
        context_length=entry.context_length,
        aliases=entry.aliases,
        memory_needed_bytes=entry.memory_estimate_bytes,
        download_bytes=entry.weights_bytes,
    )


def installed_facts(
    facts: ModelFacts, model: InstalledModel, device: DeviceMemory | None = None
) -> ModelFacts:
    """Return a model's facts with those of its files."""
    return replace(
        facts,
        installed=True,
        path=model.path,
        size_bytes=model.size_bytes,
        modified_at=model.modified_at or None,
        download_bytes=None,
        memory_needed_bytes=memory_needed(model, device),
        context_length=model.context_length,
        fingerprint=model.fingerprint,
        bytes_per_token=model.kv_bytes_per_token or model.entry.kv_bytes_per_token,
    )


def warning_of(model: LoadedModel, more: str | None) -> str | None:
    """Return its loader's warning and other remarks, if any."""
    return "; ".join(filter(None, (model.description.get("warning"), more))) or None


def _loaded(facts: ModelFacts, model: LoadedModel, *, warning: str | None) -> ModelFacts:
    return replace(
        facts,
        loaded=True,
        installed=True,
        context_length=model.context_length,
        fingerprint=model.fingerprint,
        memory_needed_bytes=int(model.weights_bytes * _MEMORY_PER_WEIGHT_BYTE),
        weights_bytes=model.weights_bytes,
        bytes_per_token=model.runner.spec.bytes_per_token,
        precision=model.runner.spec.precision,
        warning=warning_of(model, warning),
        details={key: value for key, value in model.description.items() if key != "warning"},
    )
