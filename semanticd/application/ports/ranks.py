"""The ranks that compute one model together, as the application sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

RankState = Literal["missing", "joined", "ready"]
"""Not there; waits for the others; computes with them."""


@dataclass(frozen=True, slots=True)
class RankFacts:
    """One of the machines that compute a model together."""

    rank: int
    address: str
    state: RankState
    memory_bytes: int
    """Bytes of its tensors: weights, blocks and running caches."""
    step_ms: float
    """Duration of its last step, in milliseconds; 0 before the first one since the model was loaded."""
    sent_bytes: int
    """Sent to it since it joined: steps, and blocks to restore. Traffic between ranks is not measured."""
    received_bytes: int
    """Received from it since it joined."""
    last_failure: str | None = None
    """Reason why the rank is not ready; None: unknown, or it is ready."""


class Ranks(Protocol):
    """The machines of the hostfile."""

    def facts(self) -> tuple[RankFacts, ...]:
        """Return the ranks in their order; waits for nothing."""

    def why_away(self) -> str | None:
        """Return why the model that is awaited is not there yet; None: it is, none is awaited, or it just loads.

        While it loads, a rank may wait for another one: that is a reason, whether it was awaited or not.
        """

    def why_taken(self, model_id: str) -> str | None:
        """Return why this model cannot be loaded now: the ranks compute another one; None: they do not."""

    @property
    def awaited(self) -> str | None:
        """Name of the model that is loaded as soon as all ranks have joined; None: there is none."""

    def give_up(self) -> None:
        """Load no model when all ranks have joined."""

    @property
    def num_failures(self) -> int:
        """Number of lost connections between the machines since the start."""
