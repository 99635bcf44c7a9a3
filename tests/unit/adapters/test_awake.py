"""A Mac is kept awake while requests live, and no longer."""

from __future__ import annotations

from collections.abc import Sequence

from semanticd.adapters.awake import LINGER_S, Awake, Holder
from tests.fakes.telemetry import RecordingLog


class FakeHolder:
    """A program that runs until it is asked to end."""

    def __init__(self) -> None:
        """Begin to run."""
        self.status: int | None = None

    def poll(self) -> int | None:
        """Return its exit status; None while it runs."""
        return self.status

    def terminate(self) -> None:
        """End it."""
        self.status = -15

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit status."""
        return self.status or 0


class FakeSystem:
    """Starts such programs."""

    def __init__(self) -> None:
        """Begin without any."""
        self.commands: list[Sequence[str]] = []
        self.holders: list[FakeHolder] = []

    def spawn(self, command: Sequence[str]) -> Holder:
        """Start one."""
        self.commands.append(command)
        self.holders.append(FakeHolder())
        return self.holders[-1]

    @property
    def num_running(self) -> int:
        """Programs that have not ended."""
        return sum(holder.status is None for holder in self.holders)


def test_one_assertion_is_held_while_requests_live_and_a_while_longer() -> None:
    system = FakeSystem()
    awake = Awake(log=RecordingLog(), spawn=system.spawn, platform="darwin", pid=42)
    awake.note(0, now=0.0)
    assert system.num_running == 0
    for now in (1.0, 3.0, 5.0):
        awake.note(2, now=now)
    assert system.commands == [("caffeinate", "-i", "-w", "42")]
    awake.note(0, now=7.0)
    assert system.num_running == 1, "the next request of a conversation mostly comes soon"
    awake.note(0, now=5.0 + LINGER_S)
    assert system.num_running == 0
    awake.note(1, now=100.0)
    assert system.num_running == 1
    awake.close()
    awake.close()
    assert system.num_running == 0


def test_a_program_that_was_killed_is_started_again() -> None:
    system = FakeSystem()
    awake = Awake(log=RecordingLog(), spawn=system.spawn, platform="darwin")
    awake.note(1, now=0.0)
    system.holders[0].status = -9
    awake.note(1, now=2.0)
    assert (len(system.holders), system.num_running) == (2, 1)


def test_a_system_without_the_program_is_told_once() -> None:
    log = RecordingLog()

    def missing(command: Sequence[str]) -> Holder:
        raise FileNotFoundError(2, "No such file or directory")

    awake = Awake(log=log, spawn=missing, platform="darwin")
    awake.note(1, now=0.0)
    awake.note(1, now=2.0)
    assert log.events("warning") == ["not_kept_awake"]
    assert not awake.needed


def test_other_systems_are_left_alone() -> None:
    system = FakeSystem()
    awake = Awake(log=RecordingLog(), spawn=system.spawn, platform="linux")
    awake.note(1, now=0.0)
    assert not awake.needed
    assert system.commands == []
