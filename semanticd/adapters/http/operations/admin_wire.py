"""Admin over HTTP: wire types."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct


class ModelName(Struct):
    """Body of the commands on one model."""

    model: Annotated[str, Meta(min_length=1)]
