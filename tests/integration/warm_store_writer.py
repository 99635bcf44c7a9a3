"""A process that only writes to a warm store until it is killed, for test_warm_store_crash.

It waits for lines `<seed> <cap_bytes> <die_at>` on stdin and forks a writer for each (starting Python again every time
would take most of the test): `die_at` > 0 makes the writer end without a word at that step (a file made,
synced or renamed, a folder synced);
otherwise the test kills it. A writer records what the store reported as durable in the file `acks`, which survives it.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

from semanticd.adapters.disk.agents.archive import DiskAgentArchive
from semanticd.adapters.disk.blocks.warm_store import DiskWarmStore, WarmOptions
from semanticd.domain.agent import Agent
from semanticd.domain.ids import AgentId, BlockHash
from semanticd.domain.transcript import Segment, Transcript
from tests.fakes.blocks import make_chain, names
from tests.fakes.disk import FaultyFileSystem

BLOCK_BYTES = 8192
NUM_AGENTS = 4


def agent_after(number: int, num_turns: int, table: tuple[BlockHash, ...]) -> Agent:
    """Return what agent `number` is after so many turns; its text follows from the two."""
    segments = tuple(Segment(f"agent {number} turn {turn} ", (number, turn)) for turn in range(num_turns))
    return Agent(
        AgentId(f"agent-{number}"), 1.0, float(num_turns), transcript=Transcript(segments), block_table=table
    )


def write_until_killed(folder: Path, *, seed: int, cap_bytes: int | None, die_at: int) -> None:
    """Write agents' blocks and records in random groups, for ever."""
    fs = FaultyFileSystem()
    num_operations = 0

    def count(operation: str) -> None:
        nonlocal num_operations
        num_operations += operation in ("create", "sync", "rename")
        if num_operations == die_at:
            os._exit(9)

    fs.before = count
    store = DiskWarmStore.open(folder, options=WarmOptions(cap_bytes=cap_bytes), fs=fs)
    archive = DiskAgentArchive.open(store.folder, write_queue=store.write_queue)
    acks = os.open(folder / "acks", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(acks, b"started\n")
    choose = random.Random(seed)
    while True:
        number = choose.randrange(NUM_AGENTS)
        known = archive.load(AgentId(f"agent-{number}"))
        num_turns = 1 + (len(known.transcript.segments) if known else 0)
        chain = make_chain(2 * num_turns, start=number, num_bytes=BLOCK_BYTES)
        futures = [store.write(chain)]
        if choose.random() < 0.3:
            store.delete(names(make_chain(2, start=50 + choose.randrange(5), num_bytes=BLOCK_BYTES)))
            futures.append(store.write(make_chain(2, start=50 + choose.randrange(5), num_bytes=BLOCK_BYTES)))
        archive.save(agent_after(number, num_turns, tuple(names(chain))))
        if choose.random() < 0.7:
            for future in futures:
                future.result(60)
            os.write(acks, b"".join(b"block %s\n" % name.hex().encode() for name in names(chain)))
            archive.flush()
            os.write(acks, b"agent %d %d\n" % (number, num_turns))


def main() -> None:
    """Fork a writer for each line on stdin and say its pid, then how it ended."""
    folder = Path(sys.argv[1])
    for line in sys.stdin:
        seed, cap_bytes, die_at = map(int, line.split())
        pid = os.fork()
        if pid == 0:
            write_until_killed(folder, seed=seed, cap_bytes=cap_bytes or None, die_at=die_at)
        print(pid, flush=True)
        os.waitpid(pid, 0)
        print("dead", flush=True)


if __name__ == "__main__":
    main()
