"""Topics that show a state rather than a happening: their events hold the whole of it, at an interval while watched."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from semanticd.adapters.control.services import Facts, Services
from semanticd.application.ports.telemetry import Log
from semanticd.domain.errors import SemanticError


async def _status(services: Services) -> Facts | None:
    return await services.status.snapshot() if services.status else None


async def _agents(services: Services) -> Facts | None:
    return {"agents": await services.agents.list()} if services.agents else None


async def _requests(services: Services) -> Facts | None:
    return {"requests": await services.requests.list()} if services.requests else None


SNAPSHOTS: Final[Mapping[str, Callable[[Services], Awaitable[Facts | None]]]] = {
    "status": _status,
    "agents": _agents,
    "requests": _requests,
}


async def publish_snapshots(services: Services, *, interval_s: float, log: Log) -> None:
    """Publish watched states until cancelled; agents and requests only when they changed."""
    last: dict[str, Facts | None] = {}
    while services.events is not None:
        await asyncio.sleep(interval_s)
        for topic, take in SNAPSHOTS.items():
            if not services.events.wanted(topic):
                last.pop(topic, None)
                continue
            try:
                data = await take(services)
            except SemanticError as error:
                log.warning("snapshot_failed", topic=topic, reason=error.message)
                continue
            if data is not None and (topic == "status" or data != last.get(topic)):
                services.events.publish(topic, data)
                last[topic] = data
