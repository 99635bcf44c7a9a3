"""The line to the daemon: connect, subscribe, reconnect with back-off, and run commands.

Rule: events only change the `WatchState`; `on_change` is called after each, and its owner decides when to draw.
States and tokens have subscriptions of their own, so that a flood of tokens never pushes a status out of the queue.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from semantic_tui.more_agents import PAGE
from semantic_tui.state import WatchState
from semanticd.control.async_client import AsyncControlClient, EventSubscription
from semanticd.control.errors import (
    ControlError,
    DaemonNotRunningError,
    ProtocolMismatchError,
    UntrustedSocketError,
)
from semanticd.control.messages import AGENT_CHANGES
from semanticd.control.terminal_text import many_lines

BACK_OFF_S = (0.25, 0.5, 1.0, 2.0, 5.0)
NAME = "semantic-tui"
STATE_TOPICS = ("status", "agents", "requests", "models", "log")
CHANGE_ENDS = ("ready", "unloaded", "pulled", "failed")
"""Stages of a model after which the list of models is another."""
BATCH = 256
"""Events taken before other work gets its turn."""


def _topics(client: AsyncControlClient) -> list[str]:
    """Return the topics to watch: agents as changes, where the daemon has them."""
    agents = AGENT_CHANGES if AGENT_CHANGES in client.daemon.topics else "agents"
    return [agents if topic == "agents" else topic for topic in STATE_TOPICS]


class Connection:
    """Keeps a `WatchState` up to date for as long as `run` is awaited."""

    def __init__(
        self,
        socket: Path | None,
        state: WatchState,
        *,
        on_change: Callable[[], None],
        clock: Callable[[], float],
        back_off_s: tuple[float, ...] = BACK_OFF_S,
    ) -> None:
        """Watch the daemon at a socket (None: this user's)."""
        self._socket = socket
        state.where = "" if socket is None else f" at {socket}"
        self._state = state
        self._on_change = on_change
        self._clock = clock
        self._back_off_s = back_off_s
        self._client: AsyncControlClient | None = None
        self._hurry = asyncio.Event()

    async def run(self) -> None:
        """Connect again and again until cancelled."""
        failures = 0
        while True:
            try:
                await self._watch()
            except ControlError as error:
                failures = 1 if self._state.connected else failures + 1
                self._lost(error, self._back_off_s[min(failures, len(self._back_off_s)) - 1])
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), self._state.retry_in_s)
            self._hurry.clear()

    def retry_now(self) -> None:
        """Do not wait for the back-off."""
        self._hurry.set()

    def _lost(self, error: ControlError, retry_in_s: float) -> None:
        state = self._state
        if isinstance(error, DaemonNotRunningError):
            state.connection = "refused" if isinstance(error.__cause__, PermissionError) else "absent"
        elif isinstance(error, UntrustedSocketError):
            state.connection = "untrusted"
        elif isinstance(error, ProtocolMismatchError):
            state.connection = "mismatch"
        else:
            state.connection = "lost"
        state.reason, state.retry_in_s = many_lines(error), retry_in_s
        self._on_change()

    async def _watch(self) -> None:
        client = await AsyncControlClient.connect(self._socket, name=NAME)
        self._client = client
        try:
            state = self._state
            state.begin(client.daemon)
            states = await client.subscribe(_topics(client))
            tokens = await client.subscribe(["tokens"])
            await self._first_poll(client)
            state.connection, state.reason = "connected", ""
            state.last_heard_at = self._clock()
            self._on_change()
            await self._follow(states, tokens)
        finally:
            self._client = None
            await client.close()

    async def _first_poll(self, client: AsyncControlClient) -> None:
        state = self._state
        await self._refresh_agents(client)
        for cmd, event in (("requests.list", "requests"), ("status", "status")):
            # A daemon that is still starting has no engine yet; its events come later.
            with contextlib.suppress(ControlError):
                state.take(event, await client.call(cmd))
        with contextlib.suppress(ControlError):
            state.take_recent_log(await client.call("log.recent"))
        with contextlib.suppress(ControlError):
            state.take_settings(await client.call("config.show"))
        await self._refresh_models(client)

    async def _refresh_agents(self, client: AsyncControlClient) -> None:
        with contextlib.suppress(ControlError):
            # As many as the events hold: a list of thousands would be built, sent and parsed without use.
            self._state.take("agents", await client.call("agents.list", limit=PAGE))

    async def _refresh_models(self, client: AsyncControlClient) -> None:
        with contextlib.suppress(ControlError):
            self._state.take_models(await client.call("models.list"))
        self._on_change()

    async def _follow(self, *subscriptions: EventSubscription) -> None:
        tasks = [asyncio.create_task(self._read(one)) for one in subscriptions]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, events: EventSubscription) -> None:
        taken = 0
        async for event in events:
            served = self._state.status.model
            self._state.take(event.event, event.data, event.dropped)
            if event.dropped and event.event == "agents" and self._client is not None:
                # Rows that changed may be among what was lost.
                await self._refresh_agents(self._client)
            self._state.last_heard_at = self._clock()
            self._on_change()
            client = self._client
            ended = event.event == "model" and event.data.get("stage") in CHANGE_ENDS
            if client is not None and (ended or self._state.status.model != served):
                await self._refresh_models(client)
            taken += 1
            # The iterator does not yield to the loop while events wait; keys and the clock must have their turn.
            if taken % BATCH == 0:
                await asyncio.sleep(0)

    async def call(self, cmd: str, *, reply_within_s: float | None = 30.0, **args: Any) -> dict[str, Any]:
        """Run a command.

        Raises:
            ControlError: There is no connection, or the daemon refused the command.
        """
        client = self._client
        if client is None:
            raise ControlError(
                f"cannot run {cmd}: not connected to the daemon ({self._state.reason or 'connecting'})"
            )
        return await client.call(cmd, reply_within_s=reply_within_s, **args)
