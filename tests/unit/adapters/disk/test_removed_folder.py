"""The cache folder, or a file in it, is removed while a store uses it: what is stored afterwards survives a restart."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from semanticd.adapters.disk.agents.archive import DiskAgentArchive
from semanticd.adapters.disk.blocks.warm_store import DiskWarmStore, WarmOptions
from semanticd.adapters.disk.responses.archive import DiskResponseArchive
from semanticd.application.ports.response_archive import StoredItem, StoredResponse
from semanticd.domain.errors import CacheError
from semanticd.domain.ids import AgentId
from tests.fakes.agents import full_agent
from tests.fakes.blocks import make_chain, names, same
from tests.fakes.telemetry import ManualClock, RecordingLog


@dataclass
class Stores:
    """All that a daemon keeps in the folder."""

    warm: DiskWarmStore
    agents: DiskAgentArchive
    responses: DiskResponseArchive
    log: RecordingLog

    @property
    def events(self) -> list[str]:
        return [event for _, event, _ in self.log.lines]


@contextmanager
def stores(root: Path) -> Iterator[Stores]:
    log = RecordingLog()
    warm = DiskWarmStore.open(root, options=WarmOptions(verify_every_s=None), log=log)
    agents = DiskAgentArchive.open(warm.folder, write_queue=warm.write_queue, log=log)
    responses = DiskResponseArchive.open(
        warm.folder.responses, clock=ManualClock(), log=log, folder=warm.folder
    )
    try:
        yield Stores(warm, agents, responses, log)
    finally:
        responses.close()
        agents.close()
        warm.close()


def response(name: str) -> StoredResponse:
    items = (StoredItem(f"item-{name}", b"{}"),)
    return StoredResponse(name, AgentId("a"), 1_700_000_000.0, b"{}", items, num_output=1)


def remove(root: Path, what: str) -> None:
    if what == "folder":
        shutil.rmtree(root)
    elif what == "moved":
        root.rename(root.with_name("elsewhere"))
    else:
        for file in root.glob("*.sqlite*"):
            file.unlink()


@pytest.mark.parametrize("what", ["folder", "moved", "databases"])
def test_what_is_stored_after_the_folder_was_removed_is_there_after_a_restart(
    tmp_path: Path, what: str
) -> None:
    root = tmp_path / "caches"
    before = make_chain(3)
    with stores(root) as first:
        first.warm.write(before).result(60)
        first.agents.save(full_agent("before"))
        first.responses.save(response("before")).result(60)
        assert first.warm.flush(60)
        remove(root, what)
        # The first agent is saved again, with no more than what changed since.
        for agent in (full_agent("before"), full_agent("after")):
            first.agents.save(replace(agent, last_used_at=agent.last_used_at + 1))
            assert first.agents.is_saved(agent.agent_id).result(60)
        first.warm.write(before).result(60)
        assert first.responses.save(response("after")).result(60)
        assert first.warm.flush(60)
        assert first.warm.recovery is None or first.warm.recovery.wait(60)
        assert [first.warm.get(name) for name in names(before)] == [record.block for record in before]
        assert "agents_database_opened_anew" in first.events
        assert "responses_opened_anew" in first.events
        assert ("cache_folder_made_anew" in first.events) is (what != "databases")
    with stores(root) as again:
        assert sorted(again.agents.ids()) == ["after", "before"]
        for name in ("after", "before"):
            agent = full_agent(name)
            assert again.agents.load(agent.agent_id) == replace(agent, last_used_at=agent.last_used_at + 1)
        assert again.responses.load("after") == response("after")
        assert all(same(again.warm.read(r.block.block_hash).result(60), r) for r in before)


@pytest.mark.parametrize("what", ["folder", "moved", "lock"])
def test_the_folder_is_owned_again_before_another_daemon_takes_it(tmp_path: Path, what: str) -> None:
    root = tmp_path / "caches"
    with stores(root) as first:
        if what == "lock":
            (root / "lock").unlink()
        else:
            remove(root, what)
        first.agents.save(full_agent("a"))
        assert first.agents.is_saved(AgentId("a")).result(60)
        with pytest.raises(CacheError, match=r"the process with pid .* is using it"):
            DiskWarmStore.open(root)


def test_a_folder_that_another_daemon_has_taken_is_left_to_it_and_what_is_not_stored_is_said(
    tmp_path: Path,
) -> None:
    root = tmp_path / "caches"
    chain = make_chain(2)
    with stores(root) as first:
        remove(root, "folder")
        with stores(root) as second:
            second.agents.save(full_agent("theirs"))
            first.agents.save(full_agent("ours"))
            assert not first.agents.is_saved(AgentId("ours")).result(60)
            written = first.warm.write(chain).result(60)
            assert (written.num_refused, written.num_written) == (2, 0)
            assert second.agents.is_saved(AgentId("theirs")).result(60)
            assert second.agents.ids() == ["theirs"]
        # Once the other one has ended, it is stored after all.
        first.agents.save(full_agent("more"))
        assert first.agents.is_saved(AgentId("more")).result(60)
        assert first.agents.is_saved(AgentId("ours")).result(60)
        assert first.warm.write(chain).result(60).num_written == 2
    with stores(root) as again:
        assert sorted(again.agents.ids()) == ["more", "ours", "theirs"]
        assert all(same(again.warm.read(r.block.block_hash).result(60), r) for r in chain)
