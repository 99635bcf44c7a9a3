"""Ranks that hold no model: they join a real group over real sockets, and answer its steps as a test says.

```
ranks = ScriptedRanks(2)
ranks.joins(1, load=error("load", "its files are damaged"))
```
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

from semanticd.adapters.ranks.group import GroupOptions, RankGroup
from semanticd.adapters.ranks.handshake import PROTOCOL, Expected, Introduction, LinkKind
from semanticd.adapters.ranks.hosts import Hosts
from semanticd.adapters.ranks.joining import join
from semanticd.adapters.ranks.link import Link
from semanticd.adapters.ranks.wire import spec_out
from semanticd.domain.block import LostFile
from semanticd.domain.ids import ModelFingerprint
from semanticd.domain.model_cache_spec import LayerSpec, ModelCacheSpec
from tests.fakes.daemon_process import free_port
from tests.fakes.telemetry import RecordingLog

KEY = "the-key-of-all-ranks"
FINGERPRINT = ModelFingerprint("ab" * 32)
MEMORY_BYTES, STEP_S = 2000, 0.25
"""What each rank says with every answer: the bytes of its tensors, and the seconds of the step."""
_COMPUTED_BY = "mlx0.32-lm0.32-a1.1.1-cpu.x86_64"
_SPEC = ModelCacheSpec(
    fingerprint=FINGERPRINT,
    layers=(LayerSpec("attention", "2x8+8", bytes_per_token=100),),
    block_tokens=64,
    precision="exact",
    running_bytes_per_token=100,
)

Answer = tuple[Any, Any]
"""A step's result and its error, one of them None."""


def done(result: Any = None) -> Answer:
    """Return the answer of a step that was done."""
    return result, None


def error(word: str, message: str) -> Answer:
    """Return the answer of a step that failed; for the words see `wire`."""
    return None, [word, message, None]


LOADED = done(
    {
        "mode": "tensor",
        "spec": spec_out(_SPEC),
        "layout": "layout",
        "weights_bytes": 1000,
        "kv_budget_bytes": 1_000_000,
        "description": {},
    }
)


class ScriptedRanks:
    """A group that listens on this machine, and those who have joined it."""

    def __init__(self, world_size: int, *, timeout_s: float = 60.0) -> None:
        self.port = free_port()
        self.log = RecordingLog()
        options = GroupOptions(
            hosts=Hosts(tuple((f"127.0.0.1:{rank + 1}",) for rank in range(world_size))),
            port=self.port,
            key=KEY,
            timeout_s=timeout_s,
            expected=Expected("1.2.3", "cpu", _COMPUTED_BY, world_size),
        )
        self.group = RankGroup(options, log=self.log)
        self.group.start()
        self._links: list[tuple[int, Link]] = []
        self._num_joined = 0

    def joins(
        self, rank: int, *, lost: LostFile | None = None, pong: str | None = "", **answers: Answer | None
    ) -> None:
        """Let a rank join that does its steps; `answers` are others by the step's name, None: it says nothing.

        It has no blocks; `lost` is what happened to their files. `pong` answers a ping, None: nothing does.
        """
        self._num_joined += 1
        steps, blocks = (self._link(rank, kind) for kind in ("steps", "blocks"))
        self._links += [(rank, steps), (rank, blocks)]
        script: dict[str, Answer | None] = {"find": done(), "load": LOADED, **answers}
        threading.Thread(target=_answer, args=(steps, script), daemon=True).start()
        threading.Thread(target=_answer_blocks, args=(blocks, lost, pong), daemon=True).start()
        deadline = time.monotonic() + 60
        while rank in self.group.missing():
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def _link(self, rank: int, kind: str) -> Link:
        given: LinkKind = "steps" if kind == "steps" else "blocks"
        who = Introduction(
            protocol=PROTOCOL,
            version="1.2.3",
            rank=rank,
            kind=given,
            process=f"process-{self._num_joined}",
            device="cpu",
            computed_by=_COMPUTED_BY,
        )
        return join(("127.0.0.1", self.port), key=KEY, who=who)

    def leave(self, rank: int) -> None:
        """Let a rank end, as its process would."""
        for joined, link in self._links:
            if joined == rank:
                link.close()

    def close(self) -> None:
        """End all."""
        self.group.close()
        for _, link in self._links:
            link.close()


def _answer_blocks(blocks: Link, lost: LostFile | None, pong: str | None) -> None:
    """Answer as a rank whose disk has no blocks, because this happened to their files."""
    with contextlib.suppress(OSError, ValueError):
        blocks.wait_for_ever()
        while True:
            number, name, _ = blocks.receive()
            if name != "ping" or pong is not None:
                answers = {"read": [False, lost], "ping": pong}
                blocks.send([number, answers.get(name), None])


def _answer(steps: Link, script: dict[str, Answer | None]) -> None:
    with contextlib.suppress(OSError, ValueError):
        steps.wait_for_ever()
        while True:
            number, name, _, _ = steps.receive()
            answer = script[name]
            if answer is not None:
                steps.send([number, *answer, [0, {}, MEMORY_BYTES, STEP_S]])
