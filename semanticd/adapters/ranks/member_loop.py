"""The life of a rank's process once it has joined: steps on one thread, blocks on another, until a link ends.

The thread that computes takes its steps from the link itself: handing them on from another one costs more than a short
step. That link is not read while a step is computed; the other one is, and the daemon closes both.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

from semanticd.adapters.ranks.executor import StepExecutor
from semanticd.adapters.ranks.link import Link, LinkLostError
from semanticd.adapters.ranks.shards import Shards
from semanticd.adapters.ranks.wire import error_out


def serve(
    steps: Link, blocks: Link, *, executor: StepExecutor, shards: Shards, on_end: Callable[[str], None]
) -> None:
    """Answer the daemon; `on_end` is called once a link has ended, with the reason, and ends the process.

    It is called on any of the two threads. The step that runs then may never end: it waits for a rank that is gone.
    """
    ending, reasons = threading.Lock(), list[str]()

    def end(reason: str) -> None:
        # The thread that comes second waits: the process must not end while the first one still writes blocks.
        with ending:
            reasons.append(reason)
            if len(reasons) == 1:
                on_end(reason)

    def answer_blocks() -> None:
        try:
            blocks.wait_for_ever()
            while True:
                number, name, arguments = blocks.receive()
                _answer(blocks, shards, number, name, arguments)
        except (LinkLostError, OSError, ValueError) as error:
            end(str(error))

    threading.Thread(target=answer_blocks, name="semanticd-rank-blocks", daemon=True).start()
    try:
        steps.wait_for_ever()
        while True:
            steps.send(executor.answer(steps.receive()))
    except (LinkLostError, OSError, ValueError) as error:
        end(str(error))


def _answer(blocks: Link, shards: Shards, number: int, name: str, arguments: Any) -> None:
    def answer(result: Any, error: Any) -> None:
        with contextlib.suppress(LinkLostError):
            blocks.send([number, result, error])

    try:
        shards.handle(name, arguments, answer)
    except Exception as error:  # noqa: BLE001 (one question's own)
        answer(None, error_out(error))
