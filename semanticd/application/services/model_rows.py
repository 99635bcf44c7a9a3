"""The facts of all models: those that can be pulled, those that are installed, those that are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from semanticd.application.ports.inference import LoadedModel
from semanticd.application.ports.models import InstalledModel, ModelSource
from semanticd.domain.ids import ModelId

_MEMORY_PER_FILE_BYTE = 1.2
"""Memory a model takes per byte of its files, where the registry gives no estimate."""


def memory_needed(installed: InstalledModel) -> float:
    """Return the bytes a model takes: the registry's estimate, else a guess from its files."""
    return installed.entry.memory_estimate_bytes or installed.size_bytes * _MEMORY_PER_FILE_BYTE


def model_rows(
    source: ModelSource,
    *,
    fetched: Mapping[ModelId, InstalledModel],
    loaded: Mapping[ModelId, LoadedModel],
    loaded_at: Mapping[ModelId, float],
    current: ModelId | None,
) -> list[dict[str, Any]]:
    """Return one row per model, loaded ones first, then installed ones; reads folders, so not on the event loop.

    `fetched` are models found outside the source's folder; `loaded_at` is in seconds since the epoch.
    """
    installed = {model.model_id: model for model in source.installed()}
    installed.update({str(model_id): model for model_id, model in list(fetched.items())})
    rows: dict[str, dict[str, Any]] = {}
    for entry in source.entries():
        rows[entry.name] = _row(entry.name, description=entry.description, context=entry.context_length)
    for model_id, model in installed.items():
        row = rows.setdefault(str(model_id), _row(str(model_id)))
        row |= {
            "installed": True,
            "path": model.path,
            "size_bytes": model.size_bytes,
            "memory_needed_bytes": int(memory_needed(model)),
            "context_length": model.context_length,
            "fingerprint": model.fingerprint,
        }
    for model_id, loaded_model in loaded.items():
        row = rows.setdefault(str(model_id), _row(str(model_id)))
        row |= {
            "loaded": True,
            "installed": True,
            "current": model_id == current,
            "created": int(loaded_at.get(model_id, 0)),
            "context_length": loaded_model.context_length,
            "weights_bytes": loaded_model.weights_bytes,
            "fingerprint": loaded_model.fingerprint,
            "bytes_per_token": loaded_model.runner.spec.bytes_per_token,
            "precision": loaded_model.runner.spec.precision,
            **loaded_model.description,
        }
    return sorted(rows.values(), key=lambda row: (not row["loaded"], not row["installed"], row["id"]))


def _row(name: str, *, description: str = "", context: int | None = None) -> dict[str, Any]:
    return {
        "id": name,
        "created": 0,
        "owned_by": "semanticd",
        "loaded": False,
        "installed": False,
        "current": False,
        "description": description,
        "context_length": context,
    }
