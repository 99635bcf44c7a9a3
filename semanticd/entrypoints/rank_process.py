"""A rank's process: it joins the daemon, loads its shard, computes the daemon's steps, and ends with its link.

Started by the daemon (rank 0) and by `semanticd worker` (the others), with its order on standard input, which stays
open: it ends too when that does. The fast BLAS is loaded before anything imports `mlx.core`.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import secrets
import signal
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from semanticd import __version__
from semanticd.adapters.config import Settings
from semanticd.adapters.disk.blocks.warm_store import DiskWarmStore
from semanticd.adapters.ranks.executor import StepExecutor
from semanticd.adapters.ranks.handshake import PROTOCOL, Introduction, LinkKind
from semanticd.adapters.ranks.joining import RefusedError, join
from semanticd.adapters.ranks.link import Link
from semanticd.adapters.ranks.member_loop import serve
from semanticd.adapters.ranks.messages import RankMessages
from semanticd.adapters.ranks.process import EXIT_REFUSED
from semanticd.adapters.ranks.shards import Shards
from semanticd.domain.errors import CacheError, SemanticError

if TYPE_CHECKING:
    from semanticd.entrypoints.shard_loading import MlxShardLoader

_RETRY_S = 1.0
_CLOSING_S = 20.0
"""Maximum seconds to write computed blocks after the daemon is gone."""


@dataclass(frozen=True, slots=True)
class RankOrder:
    """The start parameters of a rank's process."""

    settings: Settings
    rank: int
    address: tuple[str, int]
    """Address on which the daemon listens for ranks."""
    key: str


def main() -> int:
    """Run to the end of the link; returns the exit status."""
    # A terminal's Ctrl-C and a supervisor's stop reach every process of a group: the daemon still needs this one then.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # Trusted: it comes from the process that started this one, which is the same program.
    order: RankOrder = pickle.load(sys.stdin.buffer)  # noqa: S301
    store: list[DiskWarmStore] = []
    _end_with_parent(store)
    from semanticd.adapters.mlx.platform.blas import load_fast_blas
    from semanticd.adapters.mlx.platform.descriptors import import_mlx_lm

    load_fast_blas()
    import_mlx_lm()
    from semanticd.entrypoints.shard_loading import MlxShardLoader

    loader = MlxShardLoader(order.settings, rank=order.rank)
    messages = RankMessages(order.rank, order.address, retry_s=_RETRY_S, tell=_tell)
    try:
        process = secrets.token_hex(8)
        # Refused is said before anything else: another worker may have this rank's folder.
        steps = _join(order, loader, messages, kind="steps", process=process)
        if order.rank:
            store.append(_open_store(loader, messages))
        blocks = _join(order, loader, messages, kind="blocks", process=process)
    except SemanticError as error:
        messages.say(error.message)
        return EXIT_REFUSED if isinstance(error, RefusedError) else 1
    messages.joined()

    def waits_for() -> str:
        text = loader.waits_for()
        messages.waits_in_ring(text)
        return text

    shards = Shards(store[0] if store else None, waits_for=waits_for)
    executor = StepExecutor(loader, shards, rank=order.rank, tell=messages.say)

    def end(reason: str) -> None:
        messages.lost(reason)
        _end(store)

    serve(steps, blocks, executor=executor, shards=shards, on_end=end)
    return 0


def _join(
    order: RankOrder, loader: MlxShardLoader, messages: RankMessages, *, kind: LinkKind, process: str
) -> Link:
    """Try to connect until the daemon answers.

    Raises:
        RefusedError: The daemon refuses this rank.
    """
    device, computed_by = loader.identity()
    who = Introduction(
        protocol=PROTOCOL,
        version=__version__,
        rank=order.rank,
        kind=kind,
        process=process,
        device=device,
        computed_by=computed_by,
    )
    while True:
        try:
            return join(order.address, key=order.key, who=who)
        except OSError as error:
            messages.cannot_join(error)
        time.sleep(_RETRY_S)


def _open_store(loader: MlxShardLoader, messages: RankMessages) -> DiskWarmStore:
    """Try to open this rank's blocks until that is possible."""
    while True:
        try:
            return loader.open_store()
        except CacheError as error:
            messages.cannot_keep_blocks(error.message)
        time.sleep(_RETRY_S)


def _end_with_parent(store: list[DiskWarmStore]) -> None:
    def watch() -> None:
        with contextlib.suppress(OSError, ValueError):
            while os.read(sys.stdin.fileno(), 1):
                pass
        _end(store)

    threading.Thread(target=watch, name="semanticd-rank-parent", daemon=True).start()


def _end(store: list[DiskWarmStore]) -> None:
    """Write pending blocks and exit, regardless of the other threads."""
    limit = threading.Timer(_CLOSING_S, os._exit, args=(1,))
    limit.daemon = True
    limit.start()
    for one in store:
        one.close()
    os._exit(0)


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
