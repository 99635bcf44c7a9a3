"""One endpoint as the OpenAPI document describes it; each room lists its own in `endpoints.py`."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec import Struct


class Facts(Struct):
    """Facts as a JSON object; later versions may add to them."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One method of one path."""

    method: str
    path: str
    summary: str
    body: type[Struct] | None = None
    answer: type[Struct] = Facts
    status: int = 200
    streams: bool = False
    optional_body: bool = False
    query: tuple[str, ...] = ()
    content_type: str = "application/json"
    operation_id: str | None = None
    """None: made from method and path."""
