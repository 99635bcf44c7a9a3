"""What a model's name says by itself, without a look at the disk."""

from __future__ import annotations

HUB = "hf:"
"""How a name begins that is a repository of the Hugging Face Hub."""
_PATHS = (".", "~", "/")


def is_gguf(name: str) -> bool:
    """Whether a name is that of a GGUF file, in small letters or capitals."""
    return name.lower().endswith(".gguf")


def is_path(name: str) -> bool:
    """Whether a model's name is the path of a folder or file, whatever lies there."""
    return not name.startswith(HUB) and (name.startswith(_PATHS) or is_gguf(name))
