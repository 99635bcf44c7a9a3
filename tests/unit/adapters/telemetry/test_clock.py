"""`semanticd.adapters.telemetry.clock`: dates that do not go back, on a machine whose date is set."""

from __future__ import annotations

from semanticd.adapters.telemetry import SystemClock
from semanticd.adapters.telemetry.clock import LAST_BELIEVED, MOST_AHEAD_S, RELEASED
from tests.fakes.telemetry import SettableDate


def test_a_date_that_is_set_back_does_not_go_back_and_goes_on_with_the_seconds() -> None:
    machine = SettableDate()
    clock = SystemClock(monotonic=machine.monotonic, wall=machine.wall)
    began = clock.wall()
    machine.advance(10.0)
    machine.date -= 3600.0
    assert clock.wall() == began + 10.0
    machine.advance(5.0)
    assert clock.wall() == began + 15.0
    machine.date += 3600.0
    assert clock.wall() == began + 15.0, "set right again"


def test_a_date_that_is_set_ahead_is_followed_as_after_a_sleep() -> None:
    machine = SettableDate()
    clock = SystemClock(monotonic=machine.monotonic, wall=machine.wall)
    began = clock.wall()
    machine.date += 86_400.0
    assert clock.wall() == began + 86_400.0


def test_dates_of_earlier_runs_are_not_gone_behind() -> None:
    machine = SettableDate()
    clock = SystemClock(monotonic=machine.monotonic, wall=machine.wall)
    assert clock.not_before(machine.date - 5.0) == 0.0
    assert clock.not_before(LAST_BELIEVED + 1.0) == 0.0, "damage"
    newest = machine.date + 600.0
    assert clock.not_before(newest) == 600.0
    machine.advance(10.0)
    assert clock.wall() == newest + 10.0
    machine.date = newest + 60.0
    assert clock.wall() == newest + 60.0


def test_one_run_with_a_date_in_the_future_sets_no_later_one_ahead() -> None:
    machine = SettableDate(date=RELEASED + 1.0)
    clock = SystemClock(monotonic=machine.monotonic, wall=machine.wall)
    assert clock.not_before(machine.date + MOST_AHEAD_S + 1.0) == 0.0
    assert clock.wall() == machine.date
    assert clock.not_before(machine.date + MOST_AHEAD_S) == MOST_AHEAD_S


def test_a_date_from_before_the_release_is_wrong_by_any_length() -> None:
    machine = SettableDate(date=0.0)
    clock = SystemClock(monotonic=machine.monotonic, wall=machine.wall)
    assert clock.not_before(RELEASED) == RELEASED


def test_a_clock_of_the_machine_tells_its_date() -> None:
    clock = SystemClock()
    first = clock.wall()
    assert first > 1_700_000_000.0
    assert clock.wall() >= first
    assert clock.monotonic() <= clock.monotonic()
