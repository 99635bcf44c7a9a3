"""The life of a rank's process once it has joined: steps on one thread, blocks on another, until a link ends."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any

from semanticd.adapters.ranks.executor import StepExecutor
from semanticd.adapters.ranks.link import Link, LinkLostError
from semanticd.adapters.ranks.shards import Shards
from semanticd.adapters.ranks.wire import error_out


def serve(
    steps: Link, blocks: Link, *, executor: StepExecutor, shards: Shards, on_end: Callable[[], None]
) -> None:
    """Answer the daemon; `on_end` is called once a link has ended, on a thread of its own, and ends the process.

    The step that runs then may never end: it waits for a rank that is gone.
    """
    todo: queue.SimpleQueue[Any] = queue.SimpleQueue()
    ended = threading.Event()

    def end() -> None:
        if not ended.is_set():
            ended.set()
            on_end()

    def receive() -> None:
        with contextlib.suppress(LinkLostError, OSError, ValueError):
            steps.wait_for_ever()
            while True:
                todo.put(steps.receive())
        end()

    def answer_blocks() -> None:
        with contextlib.suppress(LinkLostError, OSError, ValueError):
            blocks.wait_for_ever()
            while True:
                number, name, arguments = blocks.receive()
                _answer(blocks, shards, number, name, arguments)
        end()

    for one, label in ((receive, "steps"), (answer_blocks, "blocks")):
        threading.Thread(target=one, name=f"semanticd-rank-{label}", daemon=True).start()
    with contextlib.suppress(LinkLostError):
        while True:
            steps.send(executor.answer(todo.get()))
    end()


def _answer(blocks: Link, shards: Shards, number: int, name: str, arguments: Any) -> None:
    def answer(result: Any, error: Any) -> None:
        with contextlib.suppress(LinkLostError):
            blocks.send([number, result, error])

    try:
        shards.handle(name, arguments, answer)
    except Exception as error:  # noqa: BLE001 (one question's own)
        answer(None, error_out(error))
