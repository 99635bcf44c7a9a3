"""Topics that show a state rather than a happening, at an interval while watched.

Their events hold the whole state, except those of `agents.changes`: the first one holds the agents used last, those
that follow hold what changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from semanticd.adapters.control.services import EventsHub, Facts, Services
from semanticd.application.ports.telemetry import Log
from semanticd.application.services.plain import plain
from semanticd.control.messages import AGENT_CHANGES


async def _status(services: Services) -> object:
    return await services.status.snapshot() if services.status else None


async def _agents(services: Services) -> object:
    return await services.agents.watch.whole() if services.agents else None


async def _requests(services: Services) -> object:
    return {"requests": await services.requests.list()} if services.requests else None


SNAPSHOTS: Final[Mapping[str, Callable[[Services], Awaitable[object]]]] = {
    "status": _status,
    "agents": _agents,
    AGENT_CHANGES: _agents,
    "requests": _requests,
}


async def take_snapshot(services: Services, topic: str, *, log: Log) -> Facts | None:
    """Return the state that a topic shows; None when there is no service for it, or it failed (which is logged)."""
    try:
        state: Facts | None = plain(await SNAPSHOTS[topic](services))
        return state
    except Exception as error:  # noqa: BLE001 (one failed look must not end a watcher's subscription)
        log.warning("snapshot_failed", topic=topic, reason=repr(error))
        return None


async def publish_snapshots(services: Services, *, interval_s: float, log: Log) -> None:
    """Publish watched states until cancelled; agents and requests only when they changed."""
    last: dict[str, Facts | None] = {}
    while services.events is not None:
        await asyncio.sleep(interval_s)
        await _publish_agents(services, services.events, log=log)
        for topic in ("status", "requests"):
            if not services.events.wanted(topic):
                last.pop(topic, None)
                continue
            data = await take_snapshot(services, topic, log=log)
            if data is not None and (topic == "status" or data != last.get(topic)):
                services.events.publish(topic, data)
                last[topic] = data


async def _publish_agents(services: Services, events: EventsHub, *, log: Log) -> None:
    """Publish the changed agents, and the complete list to the subscribers of that topic."""
    if services.agents is None:
        return
    watch = services.agents.watch
    if not events.wanted("agents") and not events.wanted(AGENT_CHANGES):
        watch.stop()
        return
    try:
        update = await watch.look()
        if update is None:
            return
        events.publish(AGENT_CHANGES, plain(update))
        if events.wanted("agents"):
            events.publish("agents", plain(await watch.whole()))
    except Exception as error:  # noqa: BLE001 (one failed look must not end the others' subscriptions)
        log.warning("snapshot_failed", topic="agents", reason=repr(error))
