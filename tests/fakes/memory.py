"""A machine's memory that is as short as a test says."""

from __future__ import annotations

from semanticd.domain.memory_plan import Pressure


class FakeMemory:
    """A `MachineMemory` that notes what is asked of it."""

    def __init__(self) -> None:
        """Begin with enough."""
        self.level: Pressure = "none"
        self.free = 1 << 40
        self.num_given_back = 0
        self.resident: list[int] = []
        """Bytes of weights that were to be kept, one for each change."""

    def pressure(self) -> Pressure:
        """Return what the test set."""
        return self.level

    def free_bytes(self) -> int:
        """Return what the test set."""
        return self.free

    def give_back(self) -> None:
        """Count it."""
        self.num_given_back += 1

    def keep_resident(self, weights_bytes: int) -> None:
        """Note it."""
        self.resident.append(weights_bytes)
