"""A whole daemon whose model is spread over ranks, all on this machine: real processes, a real ring on 127.0.0.1.

```
async with RankedDaemon(tmp_path, model=folder, world_size=3) as daemon:
    answer = await daemon.chat("hello", agent="a")
```
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

from typing_extensions import Self

from semanticd.adapters.config import DistributedSettings, Settings
from semanticd.adapters.ranks.process import RankProcess
from semanticd.application.ports.inference import LoadedModel, ModelLoader
from semanticd.application.ports.models import InstalledModel
from semanticd.control.python_command import python_module
from semanticd.entrypoints.rank_process import RankOrder
from semanticd.entrypoints.ranks_upkeep import RanksUpkeep
from tests.fakes.daemon_process import free_port, ports
from tests.fakes.whole_daemon import WholeDaemon

KEY = "the-key-of-all-ranks"


# Bound seconds after they were chosen: not where other tests take theirs from.
_RING_PORTS = ports(10_000, 20_000)


def ring_port() -> int:
    """Return a port for a rank of the ring, another one at each call."""
    for port in _RING_PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("there is no free port")


async def eventually(condition: Callable[[], bool], *, deadline_s: float = 60.0) -> None:
    """Wait for what other processes do, and leave the processor to them; fails at the deadline."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, "it has not come true in time"
        await asyncio.sleep(0.02)


_TEXT = "Tell me of the sea, and of the people who live by it. " * 12


def settings(kv_bits: int | None = None) -> Settings:
    """Return settings with small blocks, which are stored in so many bits."""
    return Settings(mlx=replace(Settings().mlx, block_tokens=64, kv_bits=kv_bits))


async def ask(daemon: WholeDaemon) -> tuple[Any, int]:
    """Return the answer, and the prompt's tokens that were computed for it."""
    answer = await daemon.chat(_TEXT, agent="a", max_tokens=24, reasoning_effort="none")
    assert answer.status == 200, answer.content
    usage = answer.json["usage"]
    num_computed = usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
    return answer.json["choices"][0]["message"], num_computed


class Worker:
    """`semanticd worker` without its command line."""

    def __init__(self, home: Path, *, rank: int, port: int, settings: Settings, key: str = KEY) -> None:
        """Join the daemon on this machine's `port`; blocks lie under `home`."""
        paths = replace(settings.paths, runtime_dir=home / f"run-{rank}")
        own = replace(settings, paths=paths, agent=replace(settings.agent, cache_dir=home / f"caches-{rank}"))
        self._order = RankOrder(own, rank, ("127.0.0.1", port), key)
        self.cache_dir = home / f"caches-{rank}" / f"rank-{rank}"
        self.is_refused = False
        self.process = self._new()

    def _new(self) -> RankProcess:
        return RankProcess(
            python_module("semanticd.entrypoints.rank_process"),
            self._order,
            monotonic=time.monotonic,
            on_refused=self._refused,
        )

    def restart(self) -> None:
        """Begin again after `process.close`."""
        self.process = self._new()
        self.process.start()

    def _refused(self) -> None:
        self.is_refused = True

    def kill(self) -> None:
        """End its process as a power cut does."""
        pid = self.process.pid
        assert pid is not None, "the worker's process does not run"
        os.kill(pid, signal.SIGKILL)

    def pause(self) -> None:
        """Let its process stand still, as a machine that hangs."""
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGSTOP)


class HeldLoading:
    """Goes around the daemon's model loader: once the ranks have formed, the load stands still until `go_on` is set."""

    def __init__(self) -> None:
        """Hold the first load; `has_formed` is the daemon's."""
        self.has_formed: Callable[[], bool] = lambda: False
        self.held = threading.Event()
        self.go_on = threading.Event()
        self._loader: Any = None

    def __call__(self, loader: ModelLoader) -> Any:
        """Take the real loader, see `assembly.assemble`."""
        self._loader = loader
        return self

    def load(
        self, installed: InstalledModel, *, on_progress: Callable[[float], None]
    ) -> Generator[None, None, LoadedModel]:
        """Load, and stand still in the middle of it."""
        steps = self._loader.load(installed, on_progress=on_progress)
        with contextlib.closing(steps):
            while True:
                try:
                    next(steps)
                except StopIteration as finished:
                    loaded: LoadedModel = finished.value
                    return loaded
                while self.has_formed() and not self.go_on.is_set():
                    self.held.set()
                    yield
                    time.sleep(0.005)
                yield

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


class RankedDaemon(WholeDaemon):
    """Rank 0's daemon in this process, and its workers as processes."""

    def __init__(
        self,
        home: Path,
        *,
        model: Path,
        world_size: int = 3,
        limit_s: float = 60.0,
        settings: Settings | None = None,
        **options: Any,
    ) -> None:
        """Spread `model` over so many ranks."""
        home.mkdir(parents=True, exist_ok=True)
        hostfile = home / "hosts.json"
        hostfile.write_text(json.dumps([[f"127.0.0.1:{ring_port()}"] for _ in range(world_size)]))
        self.port = free_port()
        distributed = DistributedSettings(hosts=hostfile, key=KEY, port=self.port, timeout_s=limit_s)
        settings = replace(settings or Settings(), distributed=distributed)
        super().__init__(home, model=model, settings=settings, **options)
        assert self.parts.ranks is not None
        self.group = self.parts.ranks
        self.upkeep = RanksUpkeep(self.parts, self.group, self.settings, log=self.log)
        self._home = home
        self.workers = [
            Worker(home, rank=rank, port=self.port, settings=self.settings) for rank in range(1, world_size)
        ]
        self._watching: asyncio.Task[None] | None = None

    def use_worker(self, rank: int, settings: Settings, *, key: str = KEY) -> Worker:
        """Let a worker of other settings take a rank's place; before the start."""
        self.workers[rank - 1] = Worker(self._home, rank=rank, port=self.port, settings=settings, key=key)
        return self.workers[rank - 1]

    @contextlib.asynccontextmanager
    async def waiting(
        self, *, with_workers: bool, name: str | None = None
    ) -> AsyncIterator[asyncio.Task[None]]:
        """Start as the daemon does, whose first model comes when all ranks have joined; gives that task.

        `name` is the first model's, if it is another one.
        """
        self.parts.engine.start()
        self.upkeep.start()
        for worker in self.workers if with_workers else ():
            worker.process.start()
        loading = asyncio.create_task(self.upkeep.load_when_joined(name or str(self._model)))
        try:
            yield loading
        finally:
            loading.cancel()
            await self.__aexit__()

    async def __aenter__(self) -> Self:
        """Start all ranks and load the model."""
        try:
            self.upkeep.start()
            for worker in self.workers:
                worker.process.start()
            await asyncio.wait_for(self.upkeep.joined(), 180)
            await super().__aenter__()
        except BaseException:
            await self.__aexit__()
            raise
        self._watching = asyncio.create_task(self.upkeep.run())
        return self

    async def __aexit__(self, *error: object) -> None:
        """Stop the daemon, then the workers."""
        if self._watching is not None:
            self._watching.cancel()
        await super().__aexit__(*error)
        for worker in self.workers:
            await asyncio.to_thread(worker.process.close)

    async def written(self) -> None:
        """Wait until nothing is on its way to the disks."""
        store = self.parts.store
        await eventually(lambda: self.parts.engine.num_unanswered == 0 and store.num_writing == 0)

    async def lost(self) -> None:
        """Wait until the daemon has seen that a rank is gone."""
        await eventually(lambda: self.group.formation is None)

    async def serves(self) -> None:
        """Wait until it serves."""
        await eventually(
            lambda: self.group.formation is not None and self.parts.status.state() == "ready", deadline_s=120
        )
