"""Recording of generation requests as received, for replays: off unless a folder is set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from semanticd.domain.generation import Usage


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """One generation request, and the costs of its answer."""

    request_id: str
    dialect: str
    """`anthropic`, `chat`, `completions`, `responses` or `agents`."""
    path: str
    query: str
    headers: Mapping[str, str]
    """Headers that affect the answer or identify the client, by lower-case name; never a key."""
    body: bytes
    """The JSON text, unpacked."""
    began_at: float
    """Seconds since the epoch, when the request's head had arrived."""
    seconds: float
    """Until the answer's last byte, or until the client left."""
    status: int
    """The answer's HTTP status; 0 where none was sent."""
    first_s: float | None = None
    """Until the answer's first text, thinking or call; None where there was none."""
    agent_id: str | None = None
    usages: tuple[Usage, ...] = field(default_factory=tuple)
    """Cost of each prompt of the request; empty if it was refused or cancelled."""


class RequestTraces(Protocol):
    """Takes recorded requests."""

    def record(self, request: RecordedRequest) -> None:
        """Keep a request; never waits for the disk."""
