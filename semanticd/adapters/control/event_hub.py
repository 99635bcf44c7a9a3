"""EventHub: hands events to their subscribers. Publishing never blocks, from any thread.

A subscription holds at most so many events; when it is full the oldest goes and is counted, because a watcher wants
to see what is, not what was.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

MAX_QUEUED_EVENTS = 1024
"""Events that wait for one slow subscriber."""


class HubSubscription:
    """A bounded queue of events; made and read on the event loop's thread, filled from any."""

    def __init__(self, hub: EventHub, topics: frozenset[str], *, agent: str | None, max_queued: int) -> None:
        """Made by `EventHub.subscribe`."""
        self.topics = topics
        self._hub = hub
        self._agent = agent
        self._max_queued = max_queued
        self._queue: deque[tuple[str, dict[str, Any]]] = deque()
        self._num_dropped = 0
        self._lock = threading.Lock()
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self._wake_sent = False

    def offer(self, topic: str, data: Mapping[str, Any]) -> None:
        """Take an event, unless it is about another agent."""
        if self._agent is not None and data.get("agent", self._agent) != self._agent:
            return
        with self._lock:
            if len(self._queue) >= self._max_queued:
                self._queue.popleft()
                self._num_dropped += 1
            self._queue.append((topic, dict(data)))
            if self._wake_sent:
                return
            self._wake_sent = True
        try:
            self._loop.call_soon_threadsafe(self._ready.set)
        except RuntimeError:
            self.close()  # the loop is closed: no reader is left

    async def next(self) -> tuple[str, dict[str, Any], int]:
        """Wait for the next event: its topic, its data, and how many were lost since the one before."""
        while True:
            with self._lock:
                if self._queue:
                    topic, data = self._queue.popleft()
                    num_dropped, self._num_dropped = self._num_dropped, 0
                    return topic, data, num_dropped
                self._ready.clear()
                self._wake_sent = False
            await self._ready.wait()

    def close(self) -> None:
        """Stop listening."""
        self._hub.forget(self)


class EventHub:
    """Topics and their subscribers; fits the application's `EventBus` port."""

    def __init__(self, *, max_queued: int = MAX_QUEUED_EVENTS) -> None:
        """Let each subscription hold `max_queued` events."""
        self._max_queued = max_queued
        self._lock = threading.Lock()
        # Replaced, never changed: readers on other threads need no lock.
        self._subscriptions: tuple[HubSubscription, ...] = ()

    def publish(self, topic: str, data: Mapping[str, object]) -> None:
        """Hand an event to the topic's subscribers."""
        for subscription in self._subscriptions:
            if topic in subscription.topics:
                subscription.offer(topic, data)

    def wanted(self, topic: str) -> bool:
        """Return whether a topic has a subscriber; without one, costly events need not be built."""
        return any(topic in subscription.topics for subscription in self._subscriptions)

    def subscribe(self, topics: Iterable[str], *, agent: str | None = None) -> HubSubscription:
        """Listen to topics from now on; call it on the event loop's thread."""
        subscription = HubSubscription(self, frozenset(topics), agent=agent, max_queued=self._max_queued)
        with self._lock:
            self._subscriptions = (*self._subscriptions, subscription)
        return subscription

    def forget(self, subscription: HubSubscription) -> None:
        """Take a subscription out; harmless if it is out already."""
        with self._lock:
            self._subscriptions = tuple(one for one in self._subscriptions if one is not subscription)
