"""Agents as rows: pages by summary, looks that change nothing, and watchers that get what changed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from semanticd.application.services.agent_watch import MAX_WATCHED
from semanticd.domain.agent import Agent
from semanticd.domain.agent_summary import AgentQuery
from semanticd.domain.errors import AgentNotFoundError
from semanticd.domain.ids import AgentId, BlockHash
from tests.fakes.service_rig import ServiceRig
from tests.fakes.warm_store import MemoryAgentArchive


class CountingArchive(MemoryAgentArchive):
    """An archive that counts how many agents were read whole."""

    num_loaded = 0

    def load(self, agent_id: AgentId) -> Agent | None:
        """Read, and count."""
        self.num_loaded += 1
        return super().load(agent_id)


def archive_of(number: int) -> CountingArchive:
    archive = CountingArchive()
    for n in range(number):
        archive.save(Agent(AgentId(f"old-{n:04}"), 1.0, float(n), num_turns=1, model_id="one"))
    return archive


async def test_a_page_reads_no_agent_whole_and_leaves_memory_as_it_was() -> None:
    archive = archive_of(1500)
    async with ServiceRig(archive=archive) as rig:
        before = [agent.agent_id for agent in rig.engine_rig.agents.recent()]
        archive.num_loaded = 0
        page = await rig.agents.page(AgentQuery(limit=50))
        assert (page.num_agents, page.agents[0].id, page.next) == (1500, "old-1499", "old-1450")
        assert len(await rig.agents.list()) == 1500
        assert archive.num_loaded == 0
        await rig.agents.show("old-0001")
        await rig.agents.messages("old-0002")
        await rig.agents.why("old-0003")
        assert [agent.agent_id for agent in rig.engine_rig.agents.recent()] == before, "looking is no use"


async def test_pages_follow_one_another_in_every_order() -> None:
    async with ServiceRig(archive=archive_of(25)) as rig:
        await rig.say("hello", agent="new")
        for order in ("used", "created", "tokens", "turns", "name"):
            query = AgentQuery(limit=7, order=order)  # type: ignore[arg-type]
            seen: list[str] = []
            while True:
                page = await rig.agents.page(query)
                seen += [row.id for row in page.agents]
                if page.next is None:
                    break
                query = replace(query, after=page.next)
            assert len(seen) == len(set(seen)) == page.num_agents == 26, order
        assert [row.id for row in (await rig.agents.page(AgentQuery(name="ew"))).agents] == ["new"]
        with pytest.raises(AgentNotFoundError):
            await rig.agents.page(AgentQuery(after=AgentId("nobody")))


async def test_a_watcher_gets_all_agents_once_and_then_what_changed() -> None:
    async with ServiceRig(archive=archive_of(40)) as rig:
        watch = rig.agents.watch
        assert len((await watch.whole()).agents) == 40
        await rig.say("hello", agent="a")
        rig.engine_rig.idle()
        update = await watch.look()
        assert update is not None
        assert [(row.id, row.num_turns) for row in update.agents] == [("a", 1)]
        assert (update.num_agents, update.removed) == (41, ())
        assert await watch.look() is None, "nothing has happened"
        await rig.agents.delete("a")
        update = await watch.look()
        assert update is not None
        assert (update.agents, update.removed, update.num_agents) == ((), ("a",), 40)


async def test_rows_that_share_blocks_change_when_the_other_comes_and_goes() -> None:
    async with ServiceRig(archive=archive_of(3)) as rig:
        await rig.say("a long enough beginning that two agents have in common", agent="a")
        rig.engine_rig.idle()
        watch = rig.agents.watch
        await watch.whole()
        await rig.agents.fork("a", "b")
        update = await watch.look()
        assert update is not None
        rows = {row.id: row for row in update.agents}
        assert rows["a"].shared_with == ("b",)
        assert rows["a"].shared_hot_bytes == rows["b"].hot_bytes > 0
        await rig.agents.delete("b")
        update = await watch.look()
        assert update is not None
        assert [(row.id, row.shared_hot_bytes) for row in update.agents] == [("a", 0)]


async def test_a_watcher_is_sent_the_agents_used_last() -> None:
    async with ServiceRig(archive=archive_of(MAX_WATCHED + 20)) as rig:
        whole = await rig.agents.watch.whole()
        assert (len(whole.agents), whole.num_agents) == (MAX_WATCHED, MAX_WATCHED + 20)
        await rig.say("hello", agent="new")
        rig.engine_rig.idle()
        update = await rig.agents.watch.look()
        assert update is not None
        assert [row.id for row in update.agents] == ["new"]
        assert update.removed == ("old-0020",)


async def test_older_agents_take_the_places_of_those_that_are_deleted() -> None:
    async with ServiceRig(archive=archive_of(MAX_WATCHED + 1)) as rig:
        watch = rig.agents.watch
        whole = await watch.whole()
        assert "old-0000" not in {row.id for row in whole.agents}
        await rig.agents.delete("old-0001")
        update = await watch.look()
        assert update is not None
        assert ([row.id for row in update.agents], update.removed) == (["old-0000"], ("old-0001",))
        assert len((await watch.whole()).agents) == update.num_agents == MAX_WATCHED


async def test_a_change_of_an_agent_that_is_too_old_to_be_watched_is_not_reported() -> None:
    async with ServiceRig(archive=archive_of(MAX_WATCHED + 5)) as rig:
        watch = rig.agents.watch
        await watch.whole()
        await rig.agents.pin("old-0000")
        assert await watch.look() is None


async def test_a_row_names_few_of_many_that_share_its_blocks_and_counts_all() -> None:
    archive = archive_of(1)
    for n in range(40):
        archive.save(Agent(AgentId(f"s-{n:02}"), 1.0, 5.0, block_table=(BlockHash(b"h" * 32),)))
    async with ServiceRig(archive=archive) as rig:
        row = (await rig.agents.show("s-20")).agent
        assert (len(row.shared_with), row.num_shared_with) == (16, 39)
        assert "s-20" not in row.shared_with


async def test_every_agent_past_its_time_to_live_is_deleted_though_few_are_in_memory() -> None:
    archive = archive_of(5)
    async with ServiceRig(archive=archive) as rig:
        for n in range(700):
            agent = Agent(AgentId(f"ttl-{n}"), 1.0, 1.0)
            archive.save(replace(agent, config=replace(agent.config, ttl_s=1.0)))
        while await rig.agents.expire():
            pass
        assert len(archive.ids()) == 5


async def test_agents_of_clients_that_name_none_are_deleted_by_age_and_number() -> None:
    archive = archive_of(3)
    now = 10_000_000.0
    for n in range(30):
        archive.save(Agent(AgentId(f"anon-{n:02}"), 1.0, now - 100 * n, anonymous=True))
    async with ServiceRig(archive=archive) as rig:
        rig.clock.advance(now - rig.clock.wall())
        assert await rig.agents.prune_anonymous(max_agents=100, max_age_s=2000.0) == 10
        assert await rig.agents.prune_anonymous(max_agents=5, max_age_s=2000.0) == 15
        assert await rig.agents.prune_anonymous(max_agents=5, max_age_s=2000.0) == 0
        left = [agent_id for agent_id in archive.ids() if agent_id.startswith("anon")]
        assert left == ["anon-00", "anon-01", "anon-02", "anon-03", "anon-04"]
        assert len(archive.ids()) == 8, "those with a name stay"
