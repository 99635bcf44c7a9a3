"""Says how much CPU time a thread takes for one thing before others get their turn.

Counted in CPU time of that thread, which other processes and threads do not add to: how long others wait on a clock
depends on the machine's load, what is done before their turn does not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from semanticd.application.ports.inference import LoadedModel, ModelLoader
from semanticd.application.ports.models import InstalledModel

_RUN = "_run"
"""What the event loop calls for each callback: no public name sees them all."""


@dataclass(slots=True)
class CpuShare:
    """The longest share so far, and what was going on when it was taken."""

    longest_s: float = 0.0
    during: object = None
    number: int = 0
    now: object = None

    def took(self, seconds: float) -> None:
        """Note one share."""
        self.number += 1
        if seconds > self.longest_s:
            self.longest_s, self.during = seconds, self.now


@contextmanager
def callbacks_measured(share: CpuShare) -> Iterator[None]:
    """Note what each callback of the event loop takes, before the next one runs."""
    run = getattr(asyncio.Handle, _RUN)

    def measured(handle: Any) -> None:
        began = time.thread_time()
        try:
            run(handle)
        finally:
            share.took(time.thread_time() - began)

    setattr(asyncio.Handle, _RUN, measured)
    try:
        yield
    finally:
        setattr(asyncio.Handle, _RUN, run)


class _MeasuredRunner:
    """A model runner that notes what its thread did between two decode steps."""

    def __init__(self, runner: Any, share: CpuShare) -> None:
        self._runner = runner
        self._share = share
        self._ended_at: float | None = None

    def decode(self, group: int = 0) -> Any:
        """Run a step; the time since the last one, this one with it, is a share."""
        answer = self._runner.decode(group)
        ended_at = time.thread_time()
        if self._ended_at is not None:
            self._share.took(ended_at - self._ended_at)
        self._ended_at = ended_at
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)


class _MeasuringLoader:
    def __init__(self, loader: ModelLoader, share: CpuShare) -> None:
        self._loader = loader
        self._share = share

    def load(
        self, installed: InstalledModel, *, on_progress: Callable[[float], None]
    ) -> Generator[None, None, LoadedModel]:
        loaded = yield from self._loader.load(installed, on_progress=on_progress)
        return replace(loaded, runner=_MeasuredRunner(loaded.runner, self._share))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


def decode_steps_measured(share: CpuShare) -> Callable[[ModelLoader], Any]:
    """Return what makes a loader whose models note what the engine's thread does between two decode steps."""
    return lambda loader: _MeasuringLoader(loader, share)
