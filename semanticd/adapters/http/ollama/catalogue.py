"""Models as Ollama describes them: names with a tag, digests, details."""

from __future__ import annotations

from typing import Any

from semanticd.adapters.http.ollama.render import timestamp
from semanticd.application.services.model_facts import ModelFacts

_TAG = ":latest"
_FOREVER = "2318-01-01T00:00:00Z"
"""Expiry time of a model that stays in memory until an operator unloads it."""


def tagged(name: str) -> str:
    """Return a name with a tag: clients take one without for another model."""
    return name if ":" in name.rsplit("/", 1)[-1] else f"{name}{_TAG}"


def entry(model: ModelFacts) -> dict[str, Any]:
    """Return a model as `/api/tags` lists it."""
    return {
        "name": tagged(model.id),
        "model": tagged(model.id),
        "modified_at": timestamp(model.since),
        "size": model.size_bytes or model.weights_bytes or 0,
        "digest": model.fingerprint or "",
        "details": details(model),
    }


def running(model: ModelFacts) -> dict[str, Any]:
    """Return a loaded model as `/api/ps` lists it; on a unified memory, all of it is the GPU's."""
    on_gpu = model.details.get("device") == "gpu"
    return {
        **entry(model),
        "size": model.weights_bytes or model.size_bytes or 0,
        "size_vram": (model.weights_bytes or 0) if on_gpu else 0,
        "expires_at": _FOREVER,
        "context_length": model.context_length or 0,
    }


def details(model: ModelFacts) -> dict[str, Any]:
    """Return facts about a model's kind; unknown ones are empty."""
    family = str(model.details.get("model_type") or "")
    return {
        "parent_model": "",
        "format": "mlx",
        "family": family,
        "families": [family] if family else [],
        "parameter_size": "",
        "quantization_level": "",
    }


def description(model: ModelFacts) -> dict[str, Any]:
    """Return a model as `/api/show` describes it; clients read the context's length and the capabilities."""
    family = str(model.details.get("model_type") or "model")
    return {
        "license": "",
        "modelfile": f"FROM {model.id}\n",
        "parameters": "",
        "template": "",
        "details": details(model),
        "model_info": {
            "general.architecture": family,
            "general.basename": model.id,
            f"{family}.context_length": model.context_length or 0,
        },
        "capabilities": ["completion", "tools", *(["thinking"] if model.details.get("thinks") else [])],
        # Of a model that is not here there is no such time.
        **({"modified_at": timestamp(model.since)} if model.since else {}),
    }
