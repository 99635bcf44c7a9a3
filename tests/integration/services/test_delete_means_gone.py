"""What is deleted, expired, rewound or cleared is in no file any more: all are searched for token ids and text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from semanticd.adapters.disk.agents.archive import DiskAgentArchive
from semanticd.adapters.disk.blocks.warm_store import DiskWarmStore, WarmOptions
from semanticd.domain.block import pack_token_ids
from semanticd.domain.chat import Message
from semanticd.domain.ids import AgentId
from tests.fakes.model_runner import HashRunner
from tests.fakes.service_rig import ServiceRig
from tests.fakes.tokenizer import CharTokenizer

FIRST, EDITED, LAST, OTHER = "zqxjkvbz", "wvutqzxw", "jkqzvxjk", "yzyxwvut"
"""Words that nothing else says; a block holds each of them several times."""


@dataclass
class Disk:
    """A rig over a real folder."""

    rig: ServiceRig
    store: DiskWarmStore
    archive: DiskAgentArchive
    folder: Path

    async def holds(self, word: str) -> list[str]:
        """Return the files in which a word is, as text or as token ids, once everything is written."""
        self.rig.engine_rig.idle()
        assert await asyncio.to_thread(self.store.flush, 20)
        assert await asyncio.to_thread(self.archive.flush, 20)
        ids = CharTokenizer().encode(word)
        forms = (word.encode(), pack_token_ids(ids), " ".join(map(str, ids)).encode())
        files = [path for path in sorted(self.folder.rglob("*")) if path.is_file()]
        return [path.name for path in files if any(form in path.read_bytes() for form in forms)]


@asynccontextmanager
async def on_disk(folder: Path, *, has_state: bool = False) -> AsyncIterator[Disk]:
    store = DiskWarmStore.open(folder, options=WarmOptions(verify_every_s=None))
    archive = DiskAgentArchive.open(store.folder, write_queue=store.write_queue)
    store.when_pruned(archive.forget_blocks)
    try:
        async with ServiceRig(
            warm=store, archive=archive, has_state=has_state, runner=HashRunner(has_state=has_state)
        ) as rig:
            yield Disk(rig, store, archive, folder)
    finally:
        archive.close()
        store.close()


def said(word: str) -> list[Message]:
    return [Message.of("user", f"{word} " * 12)]


async def leave_branches(disk: Disk, agent: str) -> None:
    """Leave blocks that no table names: of an edited history, and of an answer that was cancelled."""
    rig = disk.rig
    await rig.say(said(FIRST), agent=agent)
    await rig.say(said(EDITED), agent=agent)
    stream = await rig.begin(said(LAST), agent=agent)
    await stream.aclose()
    rig.engine_rig.idle()
    assert await disk.holds(FIRST)
    assert await disk.holds(EDITED)
    assert await disk.holds(LAST)


@pytest.mark.parametrize("has_state", [False, True])
async def test_a_deleted_agent_is_in_no_file_any_more(tmp_path: Path, has_state: bool) -> None:
    async with on_disk(tmp_path / "caches", has_state=has_state) as disk:
        await disk.rig.say(said(OTHER), agent="other")
        await leave_branches(disk, "a")
        await disk.rig.agents.delete("a")
        for word in (FIRST, EDITED, LAST):
            assert await disk.holds(word) == []
        assert await disk.holds(OTHER)
        again = await disk.rig.say(said(OTHER), agent="other")
        assert again.usage.cache.cached_tokens > 0


async def test_an_agent_whose_time_is_over_is_in_no_file_any_more_after_a_restart(tmp_path: Path) -> None:
    async with on_disk(tmp_path / "caches") as disk:
        await leave_branches(disk, "a")
        agent = await disk.rig.agents.agent("a")
        disk.archive.save(replace(agent, config=replace(agent.config, ttl_s=1.0)))
    async with on_disk(tmp_path / "caches") as disk:
        disk.rig.clock.advance(10**9)
        assert await disk.rig.agents.expire() == 1
        for word in (FIRST, EDITED, LAST):
            assert await disk.holds(word) == []


async def test_what_two_agents_said_stays_until_both_are_deleted(tmp_path: Path) -> None:
    async with on_disk(tmp_path / "caches") as disk:
        for agent in ("a", "b"):
            await disk.rig.say(said(FIRST), agent=agent)
            await disk.rig.say(said(EDITED), agent=agent)
        await disk.rig.agents.delete("a")
        assert await disk.holds(FIRST), "it is in b's past"
        assert await disk.holds(EDITED)
        await disk.rig.agents.delete("b")
        assert await disk.holds(FIRST) == []
        assert await disk.holds(EDITED) == []


@pytest.mark.parametrize("has_state", [False, True])
async def test_turns_that_were_rewound_are_in_no_file_any_more(tmp_path: Path, has_state: bool) -> None:
    async with on_disk(tmp_path / "caches", has_state=has_state) as disk:
        await disk.rig.say(f"{FIRST} " * 12, agent="a", conversation=True)
        await disk.rig.say(f"{LAST} " * 12, agent="a", conversation=True)
        assert await disk.holds(LAST)
        await disk.rig.agents.rewind("a", 1)
        assert await disk.holds(LAST) == []
        assert await disk.holds(FIRST)
        again = await disk.rig.say("go on", agent="a", conversation=True)
        assert again.usage.cache.cached_tokens >= 12 * len(FIRST), "what remains is cached"


async def test_after_clear_no_block_and_no_row_of_one_is_left(tmp_path: Path) -> None:
    async with on_disk(tmp_path / "caches") as disk:
        await leave_branches(disk, "a")
        await disk.rig.cache.clear()
        kept = {*await disk.holds(FIRST), *await disk.holds(EDITED), *await disk.holds(LAST)}
        assert kept <= {"agents.sqlite", "agents.sqlite-wal"}, "the conversation itself is the agent's"
        assert disk.archive.own_blocks(AgentId("nobody")) == []


async def test_a_broken_block_that_was_set_aside_goes_with_its_agent(tmp_path: Path) -> None:
    async with on_disk(tmp_path / "caches") as disk:
        await disk.rig.say(said(FIRST), agent="a")
        await disk.holds(FIRST)
        for path in disk.folder.rglob("*.safetensors"):
            data = bytearray(path.read_bytes())
            data[-1] ^= 1
            path.write_bytes(bytes(data))
        await asyncio.to_thread(lambda: disk.store.verify(fix=True))
        assert any((disk.folder / "quarantine").iterdir())
        await disk.rig.agents.delete("a")
        assert await disk.holds(FIRST) == []


async def test_pruned_blocks_are_forgotten_as_somebodys_past(tmp_path: Path) -> None:
    async with on_disk(tmp_path / "caches") as disk:
        await leave_branches(disk, "a")
        assert disk.archive.own_blocks(AgentId("a"))
        await asyncio.to_thread(lambda: disk.store.prune(target_bytes=0))
        await disk.holds(FIRST)
        table = (await disk.rig.agents.agent("a")).block_table
        assert set(disk.archive.own_blocks(AgentId("a"))) == set(table)
