"""Which model requests go to while others are loaded and leave."""

from __future__ import annotations

import asyncio

from semanticd.application.services.model_use import ModelUse
from semanticd.domain.ids import ModelId
from tests.fakes.telemetry import ManualClock

ONE, TWO, THREE = ModelId("one"), ModelId("two"), ModelId("three")
LOADED = (ONE, TWO, THREE)


async def test_another_loaded_model_becomes_current_after_an_unload() -> None:
    use = ModelUse(ManualClock())
    use.current = ONE
    with use.leaving(TWO, loaded=LOADED):
        assert use.current == ONE
        with use.leaving(ONE, loaded=LOADED):
            assert use.current == THREE
            assert [one for one in LOADED if use.is_leaving(one)] == [ONE, TWO]
    assert not any(use.is_leaving(one) for one in LOADED)


async def test_a_model_is_held_until_the_last_request_for_it_was_submitted() -> None:
    use = ModelUse(ManualClock())
    with use.held(ONE):
        with use.held(ONE):
            assert use.is_held(ONE)
        assert use.is_held(ONE)
        assert not use.is_held(TWO)
    assert not use.is_held(ONE)


async def test_a_model_is_idle_since_it_was_loaded_or_named_last() -> None:
    clock = ManualClock()
    use = ModelUse(clock)
    use.note_loaded(ONE)
    clock.advance(5)
    assert use.idle_s(ONE) == 5
    with use.held(ONE):
        assert use.idle_s(ONE) == 0
    use.forget(ONE)
    assert (use.idle_s(ONE), dict(use.loaded_at)) == (0, {})


async def test_requests_wait_while_they_are_held_back_also_when_that_ends_by_an_error() -> None:
    use = ModelUse(ManualClock())
    await use.wait_until_open()
    try:
        with use.closed():
            waiting = asyncio.create_task(use.wait_until_open())
            await asyncio.sleep(0)
            assert not waiting.done()
            raise ValueError
    except ValueError:
        await waiting
