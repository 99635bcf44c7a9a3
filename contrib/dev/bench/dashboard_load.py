"""The dashboard under load, and idle: run by hand, prints figures.

    python -m contrib.dev.bench.dashboard_load [--seconds 20]

A process of its own sends, over the real protocol, 50 agents, their states twice a second and 1,000 token events a
second; the daemon's own `EventHub` bounds the queue as in a real daemon. Measured are the time from a key to its drawn
screen (by the clock, and as CPU time, which a busy machine does not lengthen), drawings a second, dropped events, and
the CPU time of the dashboard alone. A second run is idle; two more go from screen to screen and measure memory. The
garbage collector is set as `semantic-tui` sets it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
from textual.events import Key

from semantic_tui.__main__ import shorten_collections
from semantic_tui.app import SCREENS, Dashboard
from semanticd.adapters.control.event_hub import EventHub
from semanticd.control import messages as m
from semanticd.control.framing import FrameReader, frame
from tests.fakes import control_script

NUM_AGENTS, TOKENS_PER_S, STATES_PER_S = 50, 1000, 2
TICK_S = 0.02
PAUSE_S = 0.1
"""Between two screen switches: what is drawn at most ten times a second must have its turn."""
SETTLED_AFTER = 200
"""Screen switches after which what is made once has been made."""
SHOWN = (("1", "dashboard"), ("2", "agent"), ("4", "requests"), ("5", "log"))
"""Keys that are pressed in turn, and their screens."""
_ANSWERS = control_script.answers()


def agents(step: int) -> list[dict[str, Any]]:
    """Return 50 agents of which ten change with every step."""
    rows = []
    for at in range(NUM_AGENTS):
        row = dict(control_script.agents()[at % 8])
        moved = step if at % 5 == step % 5 else 0
        row.update(
            id=f"agent-{at:02d}", num_tokens=1000 + at + moved, num_turns=moved, last_used_at=1000.0 - at
        )
        rows.append(row)
    return rows


class LoadDaemon:
    """Answers a dashboard, and publishes through the daemon's own bounded queues."""

    def __init__(self, *, busy: bool) -> None:
        """Publish tokens only when busy."""
        self.hub = EventHub()
        self._busy = busy

    async def serve(self, path: str) -> None:
        """Serve until cancelled."""
        server = await asyncio.start_unix_server(self._client, path)
        async with server:
            await self._publish()

    async def _publish(self) -> None:
        step, sent, started, told = 0, 0, time.monotonic(), 0.0
        while True:
            await asyncio.sleep(TICK_S)
            elapsed = time.monotonic() - started
            while self._busy and sent < elapsed * TOKENS_PER_S:
                data = {"agent": f"agent-{sent % NUM_AGENTS:02d}", "request": f"r-{sent % NUM_AGENTS}"}
                self.hub.publish("tokens", {**data, "text": f"word{sent} ", "num_tokens": sent // NUM_AGENTS})
                sent += 1
            if elapsed - told >= 1 / STATES_PER_S:
                told, step = elapsed, step + 1
                self.hub.publish("status", control_script.status(step if self._busy else 1))
                if self._busy:
                    self.hub.publish("agents", {"agents": agents(step)})

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frames, tasks = FrameReader(), []
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                for payload in frames.feed(data):
                    command = m.decode(payload)
                    assert isinstance(command, m.Command)
                    result = _ANSWERS.get(command.cmd, {})
                    if command.cmd == "hello":
                        result = {"server": "semanticd", "version": "load", "protocol": 1, "pid": 1}
                    if command.cmd == "agents.list":
                        result = {"agents": agents(0)}
                    if command.cmd == "subscribe":
                        topics = frozenset(command.args["topics"])
                        tasks.append(asyncio.create_task(self._send(writer, command.id, topics)))
                        result = {"sub": command.id}
                    writer.write(frame(m.encode(m.Reply(command.id, result))))
                    await writer.drain()
        for task in tasks:
            task.cancel()

    async def _send(self, writer: asyncio.StreamWriter, sub: int, topics: frozenset[str]) -> None:
        events = self.hub.subscribe(topics)
        with contextlib.suppress(ConnectionError):
            while True:
                topic, data, dropped = await events.next()
                writer.write(frame(m.encode(m.Event(m.EVENT_NAMES[topic], sub, data, dropped))))
                await writer.drain()


def run_daemon(path: str, busy: bool) -> None:
    """Be the daemon's process."""
    asyncio.run(LoadDaemon(busy=busy).serve(path))


def rss_mib() -> float:
    """Return the memory that this process has now, in MiB."""
    return psutil.Process().memory_info().rss / 2**20


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which this share of the values is."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


class KeyTimes:
    """How long keys took until their screen was drawn, by the clock and in CPU time, in milliseconds."""

    def __init__(self) -> None:
        """Begin with none."""
        self.wall: list[float] = []
        self.cpu: list[float] = []

    async def press(self, app: Dashboard, key: str, mode: str) -> None:
        """Press a screen's key and wait until that screen is drawn."""
        drawn = asyncio.Event()
        wall, cpu = time.monotonic(), time.process_time()
        # Not `pilot.press`, which waits until the process is idle: under load it never is.
        app.post_message(Key(key, key))
        while app.current_mode != mode or not app.screen.query("#keys"):  # noqa: ASYNC110 (textual has no event for it)
            await asyncio.sleep(0.002)
        app.screen.call_after_refresh(drawn.set)
        await drawn.wait()
        self.wall.append(1000 * (time.monotonic() - wall))
        self.cpu.append(1000 * (time.process_time() - cpu))

    def lines(self, name: str) -> Iterator[str]:
        """Yield the figures under a name."""
        for clock, values in (("by the clock", self.wall), ("in CPU time", self.cpu)):
            text = f"median {statistics.median(values):.0f} ms, 95th {percentile(values, 0.95):.0f} ms"
            yield f"  {name:<18} {text}, longest {max(values):.0f} ms {clock} ({len(values)} keys)"


async def watch(path: str, seconds: float, *, busy: bool) -> None:
    """Run a dashboard for some seconds, press keys, and print what was measured."""
    app, keys, first = Dashboard(Path(path)), KeyTimes(), KeyTimes()
    async with app.run_test(size=(160, 48)) as pilot:
        while not app.state.connected:
            await pilot.pause(0.05)
        if busy:
            for at in range(4):
                app.toggle_watched(f"agent-{at:02d}")
            app.switch_mode("agent")
        else:
            # As after a minute: sparklines that are full of the same stand still.
            app.state.take_history(control_script.history())
        await asyncio.sleep(3)
        before, started = time.process_time(), time.monotonic()
        draws, tokens = app.num_draws, app.state.num_token_events
        while time.monotonic() - started < seconds:
            if not busy:
                await asyncio.sleep(1)
                continue
            for key, mode in SHOWN:
                await (keys if len(first.wall) == len(SHOWN) else first).press(app, key, mode)
                await asyncio.sleep(0.3)
        took, used = time.monotonic() - started, time.process_time() - before
        print(f"{'busy' if busy else 'idle'} for {took:.0f} s")
        print(f"  cpu                {100 * used / took:6.1f} % of one core")
        print(f"  drawings           {(app.num_draws - draws) / took:6.1f} per s")
        if busy:
            state = app.state
            print(f"  token events       {(state.num_token_events - tokens) / took:6.0f} per s taken")
            print(f"  dropped, and shown {state.num_dropped:6d}")
            print("\n".join([*keys.lines("key to screen"), *first.lines("first opening")]))
            kept = sum(stream.num_chars for stream in state.streams.values())
            print(
                f"  kept               {kept / 1000:.0f} thousand characters of {len(state.streams)} streams"
            )


async def switch(path: str, times: int, name: str) -> None:
    """Go from screen to screen, and print how the memory grew after the first ones."""
    app, keys = Dashboard(Path(path)), KeyTimes()
    async with app.run_test(size=(160, 48)) as pilot:
        while not app.state.connected:
            await pilot.pause(0.05)
        app.toggle_watched("agent-00")
        first = rss_mib()
        for at in range(times):
            await keys.press(app, str(at % 6 + 1), SCREENS[at % 6])
            await asyncio.sleep(PAUSE_S)
            if at == SETTLED_AFTER - 1:
                gc.collect()
                first = rss_mib()
        gc.collect()
        print(f"{times} screen switches, {name} daemon")
        print(
            f"  memory             {rss_mib():.1f} MiB, {rss_mib() - first:+.1f} MiB since the first {SETTLED_AFTER}"
        )


def main() -> None:
    """Run busy, then idle, then go from screen to screen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="how long each part runs")
    parser.add_argument("--switches", type=int, default=1000, help="screen switches of the last part")
    parser.add_argument(
        "--part", default="all", help="busy, idle, switches-busy or switches-idle (default: all)"
    )
    given = parser.parse_args()
    shorten_collections()
    with tempfile.TemporaryDirectory(prefix="tui", dir="/tmp") as folder:
        parts = {"busy": True, "idle": False, "switches-busy": True, "switches-idle": False}
        for name, busy in parts.items():
            if given.part not in ("all", name):
                continue
            path = f"{folder}/{name}"
            daemon = multiprocessing.get_context("spawn").Process(
                target=run_daemon, args=(path, busy), daemon=True
            )
            daemon.start()
            try:
                if name.startswith("switches"):
                    asyncio.run(switch(path, given.switches, "a busy" if busy else "an idle"))
                else:
                    asyncio.run(watch(path, given.seconds, busy=busy))
            finally:
                daemon.kill()


if __name__ == "__main__":
    main()
