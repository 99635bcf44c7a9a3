"""The port of the machine's memory: its shortage, and the means to free some."""

from __future__ import annotations

from typing import Protocol

from semanticd.domain.memory_plan import Pressure


class MachineMemory(Protocol):
    """The memory of weights and KV: RAM, or a card's memory. Engine thread only, except `free_bytes`."""

    def pressure(self) -> Pressure:
        """Return how short of memory the machine is; takes less than a millisecond, never raises."""

    def free_bytes(self) -> int:
        """Return the bytes that may be taken now; callable from any thread."""

    def give_back(self) -> None:
        """Return freed memory that is kept for the next tensor to the system. Never raises."""

    def keep_resident(self, weights_bytes: int) -> None:
        """Keep the weights of loaded models resident where the machine has room for that. Never raises.

        To be called with what they will take before weights are loaded, so that nothing else is kept in their place.
        """


class AmpleMemory:
    """Memory that is never short."""

    def pressure(self) -> Pressure:
        """Return that it is not short."""
        return "none"

    def free_bytes(self) -> int:
        """Return a large number."""
        return 1 << 50

    def give_back(self) -> None:
        """Do nothing."""

    def keep_resident(self, weights_bytes: int) -> None:
        """Do nothing."""
