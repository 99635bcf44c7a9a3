"""What many agents and long contexts cost: the real engine, store, archive and SQLite over a model that is none.

    python -m contrib.dev.bench.scale [--agents 10 100 1000] [--tokens 8192 32768 131072] [--listed 5000]

Each row is the median of some runs on a folder that is made for it, in milliseconds unless it says otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from semanticd.adapters.disk.agents.archive import DiskAgentArchive
from semanticd.adapters.disk.blocks.index import BlockIndex
from semanticd.adapters.disk.blocks.index_rows import NewBlock
from semanticd.adapters.disk.blocks.warm_store import DiskWarmStore, WarmOptions
from semanticd.domain.agent import Agent
from semanticd.domain.agent_summary import AgentQuery
from semanticd.domain.block import Block
from semanticd.domain.block_pool import BlockPool
from semanticd.domain.ids import AgentId, BlockHash, ModelFingerprint, ModelId, SequenceId
from semanticd.domain.scheduler import Scheduler, SchedulerLimits
from semanticd.domain.sequence import Sequence, SequenceEvent
from semanticd.domain.transcript import Segment, Transcript
from tests.fakes.model_runner import HashRunner
from tests.fakes.service_rig import ServiceRig

BLOCK_TOKENS = 256
ROOT = BlockHash(b"\1" * 32)
FINGERPRINT = ModelFingerprint("ab" * 32)
SPEC = HashRunner(block_tokens=BLOCK_TOKENS).spec


def say(row: str, value: float, unit: str = "ms") -> None:
    """Print a row."""
    sys.stdout.write(f"{row:74} {value:10.3f} {unit}\n")
    sys.stdout.flush()


def milliseconds(work: Callable[[], object], runs: int = 5) -> float:
    """Return the median time of a call."""
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


async def milliseconds_async(work: Callable[[], Awaitable[object]], runs: int = 5) -> float:
    """Return the median time of an awaited call."""
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        await work()
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


@dataclass
class LoopDelay:
    """The longest time that the event loop gave a waiting task no turn, in milliseconds."""

    longest_ms: float = 0.0

    async def watch(self) -> None:
        """Measure until cancelled."""
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            self.longest_ms = max(self.longest_ms, 1000 * (time.perf_counter() - began) - 1)


@contextmanager
def folder() -> Iterator[Path]:
    """Make a folder, and remove it."""
    path = Path(tempfile.mkdtemp(prefix="scale-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def chain(number: int, parent: BlockHash = ROOT) -> list[Block]:
    """Return so many blocks, one after the other."""
    blocks = []
    for _ in range(number):
        block = Block(BlockHash(os.urandom(32)), parent, (), 1000)
        blocks.append(block)
        parent = block.block_hash
    return blocks


def decisions(num_waiting: int, num_tokens: int) -> None:
    """The scheduler while followers of one prefix wait for their leader."""
    scheduler = Scheduler(limits=SchedulerLimits(), block_tokens=BLOCK_TOKENS)
    head = [n % 50_000 for n in range(num_tokens)]
    for number in range(num_waiting):
        ids = (*head, *[number] * 20)
        scheduler.add(
            Sequence(
                SequenceId(number + 1),
                agent_id=AgentId(str(number)),
                model_id=ModelId("m"),
                prompt_ids=ids,
                max_new_tokens=1,
                arrived_at=float(number),
                chain=SPEC.chain(ids),
            )
        )
    scheduler.sequences()[0].apply(SequenceEvent.ADMITTED)
    say(
        f"decide(), first, {num_waiting} wait, {num_tokens} tokens",
        milliseconds(lambda: scheduler.decide(1e3), 1),
    )
    say("decide(), then", milliseconds(lambda: scheduler.decide(1e3), 50))


def pool(num_agents: int, num_tokens: int) -> None:
    """The pool's books at a turn's end and while the engine idles."""
    own, shared = max(num_tokens // BLOCK_TOKENS - 100, 1), chain(100)
    books = BlockPool(budget_bytes=10**12)
    tables = {}
    for block in shared:
        books.insert(block, dirty=False)
    for n in range(num_agents):
        blocks = [*shared, *chain(own, shared[-1].block_hash)]
        for block in blocks[100:]:
            books.insert(block, dirty=True)
        tables[AgentId(str(n))] = tuple(block.block_hash for block in blocks)
        books.set_table(AgentId(str(n)), tables[AgentId(str(n))])
    agent, table = next(iter(tables.items()))
    name = f"{num_agents} agents, {num_tokens} tokens"
    say(f"pool: next dirty block of {len(books)}, {name}", milliseconds(lambda: next(books.to_write()), 50))
    say(f"pool: an agent's share, {name}", milliseconds(lambda: books.share(agent), 50))
    say(f"pool: coldest agent, {name}", milliseconds(lambda: books.coldest_agents(1), 20))
    say(f"pool: ledger, {name}", milliseconds(books.ledger, 50))
    say(f"pool: a turn's table and touch, {name}", milliseconds(lambda: _turn(books, agent, table), 20))


def _turn(books: BlockPool, agent: AgentId, table: tuple[BlockHash, ...]) -> None:
    books.set_table(agent, table)
    books.touch(table)


def index(num_conversations: int) -> None:
    """Lookups under one system prompt."""
    with folder() as path:
        found = BlockIndex(path / "index.sqlite")
        rows = [
            NewBlock(
                Block(BlockHash(os.urandom(32)), ROOT, tuple(range(256)), 1),
                FINGERPRINT,
                "l",
                1,
                float(n % 997),
            )
            for n in range(num_conversations)
        ]
        found.add(rows)
        names = [row.block.block_hash for row in rows[:512]]
        say(
            f"index: children of a parent with {num_conversations}",
            milliseconds(lambda: found.children(ROOT)),
        )
        say("index: bytes of 512 blocks", milliseconds(lambda: found.block_bytes(names)))
        found.close()


def starts(num_files: int) -> None:
    """Opening a folder with so many blocks after each kind of end, and looking through it in the background."""
    with folder() as path:
        store = DiskWarmStore.open(path)
        names = [BlockHash(os.urandom(32)) for _ in range(num_files)]
        found = BlockIndex(store.folder.index)
        for first in range(0, num_files, 1000):
            found.add(
                NewBlock(Block(name, ROOT, tuple(range(16)), 1), FINGERPRINT, "l", 1, 1.0)
                for name in names[first : first + 1000]
            )
        found.close()
        for name in names:
            file = store.folder.block_path(FINGERPRINT, name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        store.close()
        for end in ("clean", "unclean"):
            if end == "unclean":
                (store.folder.root / "unclean").touch()
            began = time.perf_counter()
            store = DiskWarmStore.open(path)
            say(f"start with {num_files} files after a {end} end", 1000 * (time.perf_counter() - began))
            if store.recovery is not None:
                store.recovery.wait()
                say("  looked through in the background", 1000 * (time.perf_counter() - began))
            store.close()


def agent_of(number: int, num_tokens: int) -> Agent:
    """Return an agent with a conversation and a table."""
    table = tuple(block.block_hash for block in chain(num_tokens // BLOCK_TOKENS))
    segments = (Segment("w " * num_tokens, tuple(range(num_tokens))),)
    return Agent(
        AgentId(f"agent-{number}"),
        created_at=1.0,
        last_used_at=float(number),
        model=FINGERPRINT,
        model_id="one",
        num_turns=1,
        transcript=Transcript(segments),
        block_table=table,
    )


async def lists(num_agents: int, num_tokens: int) -> None:
    """A page of agents, and what a watcher costs."""
    with folder() as path:
        store = DiskWarmStore.open(path, options=WarmOptions(verify_every_s=None))
        archive = DiskAgentArchive.open(store.folder, write_queue=store.write_queue)
        for n in range(num_agents):
            archive.save(agent_of(n, num_tokens))
        archive.flush()
        async with ServiceRig(warm=store, archive=archive) as rig:
            delay = LoopDelay()
            watching = asyncio.create_task(delay.watch())
            name = f"{num_agents} agents of {num_tokens} tokens"
            query = AgentQuery(limit=50)
            say(f"list of 50 of {name}", await milliseconds_async(lambda: rig.agents.page(query)))
            say("  event loop held at most", delay.longest_ms)
            await rig.agents.watch.whole()
            await rig.agents.watch.look()
            delay.longest_ms = 0.0
            agents = rig.engine_rig.agents

            async def update() -> None:
                agents.update(AgentId(f"agent-{num_agents - 1}"), lambda agent: agent)
                await rig.agents.watch.look()

            say(f"watcher's update, one changed of {name}", await milliseconds_async(update))
            say("  event loop held at most", delay.longest_ms)
            watching.cancel()
        archive.close()
        store.close()


def main() -> None:
    """Print all rows."""
    doc = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(
        prog="scale", description=f"{doc} Run: python -m contrib.dev.bench.scale"
    )
    parser.add_argument("--agents", type=int, nargs="*", default=[10, 100, 1000])
    parser.add_argument("--tokens", type=int, nargs="*", default=[8192, 32_768, 131_072])
    parser.add_argument("--listed", type=int, default=5000)
    parser.add_argument("--files", type=int, default=400_000)
    arguments = parser.parse_args()
    for num_tokens in arguments.tokens:
        for num_agents in arguments.agents:
            if num_agents * num_tokens <= 30_000_000:
                decisions(min(num_agents, 200), num_tokens)
                pool(num_agents, num_tokens)
    index(50_000)
    starts(arguments.files)
    asyncio.run(lists(arguments.listed, 2048))
    asyncio.run(lists(200, 131_072))


if __name__ == "__main__":
    main()
