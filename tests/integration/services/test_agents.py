"""What can be done with agents, and what their blocks do meanwhile."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future

import pytest

from semanticd.application.ports.response_archive import StoredItem, StoredResponse
from semanticd.application.services import cache
from semanticd.application.services.agent_facts import DeletedAgent, ShownMessage
from semanticd.domain.agent import AgentConfig
from semanticd.domain.agent_summary import AgentQuery
from semanticd.domain.chat import Message
from semanticd.domain.deletion import refused_deletion
from semanticd.domain.errors import (
    AgentNotFoundError,
    CacheError,
    CancelledByCallerError,
    ConflictError,
    InvalidRequestError,
    RequestNotFoundError,
    StorageFullError,
)
from semanticd.domain.ids import AgentId
from tests.fakes.engine_rig import wait_until
from tests.fakes.model_runner import BYTES_PER_TOKEN
from tests.fakes.service_rig import LONG, ServiceRig
from tests.fakes.warm_store import MemoryAgentArchive

SYSTEM = Message.of("system", "A system text that takes up a few blocks of sixteen tokens each. " * 2)


async def settled(rig: ServiceRig) -> None:
    """Wait until everything is on disk."""
    await asyncio.to_thread(rig.engine_rig.idle)


def hot(rig: ServiceRig, agent: str) -> int:
    return rig.store.pool.agent_bytes(agent)  # type: ignore[arg-type]


@pytest.mark.parametrize("has_state", [False, True])
async def test_an_agent_goes_through_its_states(has_state: bool) -> None:
    async with ServiceRig(has_state=has_state) as rig:
        created = await rig.agents.create("a", AgentConfig(metadata={"team": "x"}))
        assert (created.state, created.tier) == ("cold", "cold")
        stream = await rig.begin([SYSTEM, Message.of("user", "hi")], agent="a")
        active = await rig.agents.show("a")
        assert (active.agent.state, active.agent.tier) == ("active", "cold"), "no turn has finished yet"
        await stream.aclose()
        await rig.say([SYSTEM, Message.of("user", "hi")], agent="a")
        await settled(rig)
        shown = await rig.agents.show("a")
        assert shown.agent.state == "hot"
        assert shown.metadata == {"team": "x"}
        assert shown.agent.num_turns == 1
        assert shown.agent.hot_bytes == shown.agent.warm_bytes > 0
        evicted = await rig.agents.evict("a")
        assert (evicted.agent.state, evicted.agent.hot_bytes) == ("warm", 0)
        assert evicted.freed_bytes == shown.agent.hot_bytes


async def test_a_name_is_taken_once_and_an_unnamed_agent_gets_one() -> None:
    async with ServiceRig() as rig:
        await rig.agents.create("a", AgentConfig())
        with pytest.raises(ConflictError, match="'a' exists already"):
            await rig.agents.create("a", AgentConfig())
        assert (await rig.agents.create(None, AgentConfig())).id.startswith("agent-")


async def test_an_unknown_agent_is_not_found() -> None:
    async with ServiceRig() as rig:
        for call in (rig.agents.show, rig.agents.why, rig.agents.delete, rig.agents.evict, rig.agents.pin):
            with pytest.raises(AgentNotFoundError, match="'nobody'"):
                await call("nobody")  # type: ignore[operator]


async def test_agents_are_listed_most_recently_used_first_and_old_ones_from_the_archive() -> None:
    async with ServiceRig() as rig:
        for name in ("a", "b", "c"):
            await rig.say("hi", agent=name)
            rig.clock.advance(1.0)
        assert [row.id for row in await rig.agents.list()] == ["c", "b", "a"]
        assert [row.id for row in (await rig.agents.page(AgentQuery(limit=2))).agents] == ["c", "b"]
    kept = rig.engine_rig
    async with ServiceRig(warm=kept.warm, archive=kept.archive) as restarted:
        assert {row.id for row in await restarted.agents.list()} == {"a", "b", "c"}
        assert (await restarted.agents.show("a")).agent.state == "warm"


async def test_a_deleted_agent_takes_its_stored_responses_along() -> None:
    async with ServiceRig() as rig:
        for agent in ("a", "b"):
            await rig.say("hello", agent=agent)
            items = (StoredItem(f"item-{agent}", b"{}"),)
            rig.responses.keep(
                StoredResponse(f"resp-{agent}", AgentId(agent), 1.0, b"{}", items, num_output=1)
            )
        await rig.agents.delete("a")
        assert await rig.responses.find("resp-a") is None
        assert await rig.responses.find("resp-b") is not None


@pytest.mark.parametrize("has_state", [False, True])
async def test_a_deleted_agent_takes_its_own_blocks_along_and_leaves_what_others_share(
    has_state: bool,
) -> None:
    async with ServiceRig(has_state=has_state) as rig:
        for name in ("a", "b"):
            await rig.say([SYSTEM, Message.of("user", f"I am {name} and say so at length")], agent=name)
        await settled(rig)
        store, warm = rig.store, rig.engine_rig.warm
        before = len(store.pool)
        deleted = await rig.agents.delete("a")
        assert deleted.freed_bytes > 0
        await settled(rig)
        assert len(store.pool) < before
        assert warm.stats().num_blocks == len(store.pool)
        again = await rig.say([SYSTEM, Message.of("user", "I am b and say so at length")], agent="b")
        assert again.usage.cache.computed_tokens == 1
        await rig.agents.delete("b")
        assert (len(store.pool), warm.stats().num_blocks) == (0, 0)
        with pytest.raises(AgentNotFoundError):
            await rig.agents.show("a")


async def test_of_several_calls_that_delete_an_agent_at_once_one_does_and_the_others_find_none() -> None:
    async with ServiceRig() as rig:
        await rig.say("hello", agent="a")
        await settled(rig)
        calls = await asyncio.gather(*(rig.agents.delete("a") for _ in range(5)), return_exceptions=True)
        done = [call for call in calls if not isinstance(call, AgentNotFoundError)]
        assert len(done) == 1
        assert isinstance(done[0], DeletedAgent)
        await rig.say("hello", agent="a")
        assert (await rig.agents.delete("a")).deleted, "a new one of that name is deleted again"


async def test_an_active_agent_is_neither_deleted_nor_rewound() -> None:
    async with ServiceRig() as rig:
        stream = await rig.begin("hi", agent="a")
        with pytest.raises(ConflictError):
            await rig.agents.delete("a")
        with pytest.raises(ConflictError):
            await rig.agents.rewind("a")
        await stream.aclose()


@pytest.mark.parametrize("new_id", ["has space", "a/b", "x" * 200, "stats"])
async def test_a_forks_id_obeys_the_rule_for_ids(new_id: str) -> None:
    async with ServiceRig() as rig:
        await rig.say("hello you", agent="a", conversation=True)
        with pytest.raises(InvalidRequestError) as refused:
            await rig.agents.fork("a", new_id)
        assert refused.value.param == "new_id"
        assert [row.id for row in (await rig.agents.page(AgentQuery())).agents] == ["a"]


async def test_a_fork_shares_all_blocks_and_goes_its_own_way() -> None:
    async with ServiceRig() as rig:
        await rig.say("hello you", agent="a", conversation=True)
        blocks = len(rig.store.pool)
        fork = await rig.agents.fork("a", "b")
        assert fork.shared_with == ("a",)
        assert len(rig.store.pool) == blocks
        (sharing,) = (await rig.agents.show("b")).sharing
        assert (sharing.agent, sharing.num_blocks) == ("a", blocks)
        assert sharing.bytes == rig.store.pool.hot_bytes
        one = await rig.say("left", agent="a", conversation=True)
        other = await rig.say("right", agent="b", conversation=True)
        assert one.usage.cache.computed_tokens < 30
        assert other.usage.cache.computed_tokens < 30
        assert [m.role for m in await rig.agents.messages("b")] == ["user", "assistant"] * 2
        assert (await rig.agents.fork("a")).id.startswith("a-fork-")
        with pytest.raises(ConflictError):
            await rig.agents.fork("a", "b")


@pytest.mark.parametrize("has_state", [False, True])
async def test_a_rewound_agent_goes_on_from_the_turn_it_is_back_at(has_state: bool) -> None:
    async with ServiceRig(has_state=has_state) as rig:
        first = await rig.say("one", agent="a", conversation=True)
        await rig.say("two", agent="a", conversation=True)
        await rig.say("three", agent="a", conversation=True)
        rewound = await rig.agents.rewind("a", 2)
        assert rewound.num_turns == 1
        messages = await rig.agents.messages("a")
        assert [m.content for m in messages] == ["one", first.choices[0].text]
        again = await rig.say("two", agent="a", conversation=True)
        assert again.usage.cache.computed_tokens <= len("euTWOea") + 1
        with pytest.raises(InvalidRequestError, match="has 2 turns to go back, not 5"):
            await rig.agents.rewind("a", 5)
        with pytest.raises(InvalidRequestError, match="at least 1"):
            await rig.agents.rewind("a", 0)
        await rig.agents.rewind("a", 2)
        assert await rig.agents.messages("a") == ()


async def test_a_rewound_agent_keeps_a_snapshot_within_its_first_block() -> None:
    rig = ServiceRig(has_state=True)
    rig.loader.block_tokens = 128
    async with rig:
        await rig.say("one", agent="a", conversation=True)
        first = (await rig.agents.agent("a")).snapshots
        await rig.say("two, and a good deal more of it " * 8, agent="a", conversation=True)
        await rig.agents.rewind("a")
        agent = await rig.agents.agent("a")
        assert len(agent.snapshots) == len(first) > 0
        for snapshot in agent.snapshots:
            assert snapshot.tail is not None
            assert {snapshot.state, snapshot.tail} <= set(agent.block_table)


async def test_the_refusal_of_a_busy_agent_says_how_to_cancel_it_and_that_works() -> None:
    async with ServiceRig() as rig:
        await rig.say("hello", agent="a b", conversation=True)
        stream = await rig.begin("hello again", agent="a b", conversation=True)
        other = await rig.open("hello", agent="other", sampling=LONG)
        (request,) = [row.id for row in await rig.requests.list() if row.agent == "a b"]
        for change in (
            lambda: rig.agents.delete("a b"),
            lambda: rig.agents.rewind("a b"),
            lambda: rig.say("hello", agent="a b", conversation=True),
        ):
            with pytest.raises(ConflictError) as refused:
                await change()
            assert request in refused.value.message
            assert "POST /v1/agents/a%20b/cancel" in refused.value.message
        assert (await rig.agents.cancel("a b")).requests == (request,)
        with pytest.raises(CancelledByCallerError):
            await stream.result()
        await stream.aclose()
        assert (await rig.agents.delete("a b")).deleted
        assert [row.agent for row in await rig.requests.list()] == ["other"]
        await other.aclose()
        with pytest.raises(AgentNotFoundError):
            await rig.agents.cancel("nobody")


@pytest.mark.parametrize("change", ["delete", "rewind"])
@pytest.mark.parametrize("by", ["agent", "request", "client"])
async def test_requests_that_are_cancelled_keep_no_call_from_their_agent(change: str, by: str) -> None:
    async with ServiceRig() as rig:
        await rig.say("hello", agent="a")
        stream = await rig.begin("hello again", agent="a")
        cancels = {
            "agent": lambda: rig.agents.cancel("a"),
            "request": lambda: rig.requests.cancel(str(stream.request_id)),
            "client": stream.aclose,
        }
        with rig.engine_rig.held():
            # The engine is in a step while the cancel comes, and the next call right behind it.
            cancelling = asyncio.ensure_future(cancels[by]())
            await asyncio.sleep(0)
            changing = asyncio.create_task(getattr(rig.agents, change)("a"))
            for _ in range(20):
                await asyncio.sleep(0)
            assert not changing.done()
        await changing
        await cancelling
        await stream.aclose()


async def test_a_cancel_is_answered_when_its_requests_are_over() -> None:
    async with ServiceRig() as rig:
        stream = await rig.begin("hello", agent="a")
        with rig.engine_rig.held():
            cancelling = asyncio.create_task(rig.agents.cancel("a"))
            for _ in range(20):
                await asyncio.sleep(0)
            assert not cancelling.done()
        assert (await cancelling).requests == (stream.request_id,)
        assert not rig.engine.running()
        await stream.aclose()


async def test_a_request_that_the_engine_has_not_taken_yet_is_cancelled_too() -> None:
    async with ServiceRig() as rig:
        await rig.say("hello", agent="a")
        with rig.engine_rig.held():
            stream = await rig.open("hello again", agent="a", sampling=LONG)
            assert not rig.engine.running()
            cancelling = asyncio.create_task(rig.agents.cancel("a"))
            for _ in range(20):
                await asyncio.sleep(0)
        assert (await cancelling).requests == (stream.request_id,)
        with pytest.raises(CancelledByCallerError):
            await stream.result()
        await stream.aclose()


async def test_an_agent_is_not_deleted_by_a_call_that_a_request_overtook() -> None:
    async with ServiceRig() as rig:
        await rig.say("hello", agent="a")
        agent = await rig.agents.agent("a")
        with rig.engine_rig.held():
            # The request is taken after the deletion asked whether there is one, and before it deletes.
            ask = rig.engine_rig.ask([5] * 300, agent="a", model="one", max_tokens=400)
            deletion = asyncio.create_task(rig.agents.delete("a"))
            assert not rig.engine.running()
            for _ in range(20):
                await asyncio.sleep(0)
        with pytest.raises(ConflictError, match="is answering request"):
            await deletion
        (turn,) = agent.turns
        assert (await rig.agents.agent("a")).turns[0].request_id == turn.request_id
        await asyncio.to_thread(ask.answer)


@pytest.mark.parametrize("conversation", [False, True])
async def test_a_finished_answer_is_read_after_its_agent_is_deleted(
    conversation: bool,
) -> None:
    async with ServiceRig(archive=MemoryAgentArchive()) as rig:
        stream = await rig.open("hello", agent="a", conversation=conversation)
        await asyncio.to_thread(wait_until, lambda: rig.engine.num_unanswered == 0)
        await rig.agents.delete("a")
        assert (await stream.result()).choices[0].text
        with pytest.raises(AgentNotFoundError):
            await rig.agents.agent("a")


async def test_an_agent_that_the_disk_does_not_delete_is_there_as_it_was() -> None:
    archive = MemoryAgentArchive()
    async with ServiceRig(archive=archive) as rig:
        said = await rig.say("hello", agent="a", conversation=True)
        await rig.agents.pin("a")
        archive.refuses = True
        with pytest.raises(
            StorageFullError,
            match=r"^agent 'a' is not deleted: the disk has no room .* `semanticd cache prune",
        ) as refused:
            await rig.agents.delete("a")
        assert "Its cached blocks and the responses stored for it are gone." in refused.value.message
        details = await rig.agents.show("a")
        assert (details.agent.num_turns, details.agent.pinned) == (1, True)
        assert len(await rig.agents.messages("a")) == 2
        rig.store.check_integrity()
        archive.refuses = False
        again = await rig.say("and now?", agent="a", conversation=True)
        assert again.usage.prompt_tokens > said.usage.prompt_tokens, "its conversation goes on"
        assert (await rig.agents.delete("a")).deleted
        with pytest.raises(AgentNotFoundError):
            await rig.agents.agent("a")


async def test_an_agent_whose_responses_the_disk_does_not_delete_loses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def refuse(agent_id: AgentId) -> None:
        raise refused_deletion("failed", f"agent {agent_id!r}, with the responses stored for it,")

    async with ServiceRig() as rig:
        await rig.say("hello, this is long enough to be a block or two", agent="c")
        await settled(rig)
        num_blocks = len(rig.cache.blocks())
        monkeypatch.setattr(rig.responses, "forget_agent", refuse)
        with pytest.raises(CacheError, match="is not deleted: the disk refuses") as refused:
            await rig.agents.delete("c")
        assert not isinstance(refused.value, StorageFullError)
        assert (await rig.agents.show("c")).agent.num_turns == 1
        assert len(rig.cache.blocks()) == num_blocks


async def test_a_change_that_the_disk_refused_holds_in_memory_and_says_so() -> None:
    archive = MemoryAgentArchive()
    async with ServiceRig(archive=archive) as rig:
        await rig.say("hello", agent="a", conversation=True)
        await rig.say("hello", agent="b")
        archive.refuses = True
        changed = [
            await rig.agents.create("made", AgentConfig()),
            await rig.agents.fork("b", "forked"),
            await rig.agents.pin("b"),
            await rig.agents.rewind("a", 1),
        ]
        assert all(one.unsaved for one in changed), "a retry would only find that it is done"
        assert all(one.unsaved for one in await rig.agents.list())
        assert {one.id for one in await rig.agents.list()} == {"a", "b", "made", "forked"}
        assert (await rig.agents.show("b")).agent.pinned
        assert not (await rig.agents.messages("a"))
        assert rig.status.cache().num_unsaved_agents == 4
        assert (await rig.agents.unpin("b")).unsaved
        archive.refuses = False
        unpinned = await rig.agents.unpin("b")
        assert (unpinned.pinned, unpinned.unsaved) == (False, False)
        assert rig.status.cache().num_unsaved_agents == 3


async def test_a_change_waits_for_no_disk_that_hangs() -> None:
    class HangingArchive(MemoryAgentArchive):
        def is_saved(self, agent_id: AgentId) -> Future[bool]:
            return Future()

    async with ServiceRig(archive=HangingArchive()) as rig:
        rig.agents.saved_within_s = 0.01
        assert (await rig.agents.create("a", AgentConfig())).id == "a"


async def test_of_two_agents_made_at_once_with_one_id_one_is_refused() -> None:
    async with ServiceRig(archive=MemoryAgentArchive()) as rig:
        calls = [rig.agents.create("a", AgentConfig()) for _ in range(8)]
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(one, ConflictError) for one in found) == 7
        calls = [rig.agents.fork("a", "b") for _ in range(8)]
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(one, ConflictError) for one in found) == 7


async def test_a_fork_is_kept_for_nobody_elses_time_to_live() -> None:
    async with ServiceRig() as rig:
        await rig.say("hello", agent="a", cache_ttl_s=3600.0)
        assert (await rig.agents.agent("a")).kept_until is not None
        await rig.agents.fork("a", "b")
        assert (await rig.agents.agent("b")).kept_until is None


async def test_a_pin_holds_the_blocks_until_it_is_taken_back_or_its_time_is_over() -> None:
    async with ServiceRig() as rig:
        await rig.say([SYSTEM, Message.of("user", "hi")], agent="a")
        await settled(rig)
        assert (await rig.agents.pin("a")).pinned
        assert (await rig.agents.evict("a")).freed_bytes == 0
        assert not (await rig.agents.unpin("a")).pinned
        assert (await rig.agents.evict("a")).freed_bytes > 0
        await rig.say([SYSTEM, Message.of("user", "hi")], agent="a")
        await settled(rig)
        await rig.agents.pin("a", ttl_s=10.0)
        rig.clock.advance(11.0)
        await rig.agents.expire()
        assert (await rig.agents.evict("a")).freed_bytes > 0


async def test_pins_never_leave_a_request_without_room_for_good() -> None:
    async with ServiceRig(budget_bytes=2048 * BYTES_PER_TOKEN) as rig:
        for agent in ("a", "b"):
            await rig.say(agent * 600, agent=agent)
        await settled(rig)
        await rig.agents.pin("a")
        with pytest.raises(
            ConflictError, match="pins keep at most 50% of the cache budget; unpin another agent"
        ) as refused:
            await rig.agents.pin("b")
        assert "take 0.1 MiB that is not pinned yet, and 0.0 MiB may be pinned now" in str(refused.value)
        assert not (await rig.agents.show("b")).agent.pinned
        await rig.say("a" * 1200, agent="a")
        await settled(rig)
        answer = await rig.say("y" * 900, agent="c")
        assert answer.choices[0].text


async def test_an_agent_leaves_when_its_time_to_live_is_over() -> None:
    async with ServiceRig() as rig:
        await rig.agents.create("short", AgentConfig(ttl_s=10.0))
        await rig.agents.create("long", AgentConfig())
        rig.clock.advance(11.0)
        assert await rig.agents.expire() == 1
        assert [row.id for row in await rig.agents.list()] == ["long"]


async def test_an_agent_whose_time_is_over_while_it_answers_leaves_afterwards() -> None:
    async with ServiceRig() as rig:
        await rig.agents.create("a", AgentConfig(ttl_s=10.0))
        await rig.agents.create("b", AgentConfig(ttl_s=10.0))
        stream = await rig.begin("hi", agent="a")
        rig.clock.advance(11.0)
        assert await rig.agents.expire() == 1
        await stream.aclose()
        await asyncio.to_thread(wait_until, lambda: rig.engine.num_unanswered == 0)
        assert await rig.agents.expire() == 1


async def test_a_conversation_that_clients_send_themselves_is_shown_as_its_transcript() -> None:
    async with ServiceRig() as rig:
        await rig.say("hi", agent="a")
        messages = await rig.agents.messages("a")
        text = "<|user|>hi<|end|><|assistant|>"
        assert messages[0] == ShownMessage("transcript", text, messages[0].num_tokens)


async def test_the_daemon_tells_what_it_does() -> None:
    async with ServiceRig() as rig:
        await rig.say([SYSTEM, Message.of("user", "hi")], agent="a")
        await rig.say([SYSTEM, Message.of("user", "hi")], agent="a")
        await settled(rig)
        snapshot = await rig.status.snapshot()
        assert (snapshot.fixed, snapshot.state, snapshot.model) == ({"version": "0"}, "ready", "one")
        assert snapshot.cache.hot_hit_tokens > 0
        assert snapshot.free_memory_bytes == rig.free_memory()
        assert snapshot.cache.num_hot_blocks == len(rig.store.pool)
        assert snapshot.engine.num_running == 0
        stream = await rig.begin("hello", agent="b")
        assert (await rig.status.snapshot()).engine.num_running == 1
        (row,) = await rig.requests.list()
        assert (row.agent, row.model) == ("b", "one")
        with pytest.raises(RequestNotFoundError):
            await rig.requests.cancel("unknown")
        await stream.aclose()


async def test_clear_leaves_the_ram_alone_where_the_disk_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise StorageFullError("the index refuses")

    async with ServiceRig() as rig:
        await rig.say([SYSTEM, Message.of("user", "hi")], agent="a")
        await settled(rig)
        num_blocks = len(rig.cache.blocks())
        monkeypatch.setattr(rig.engine_rig.warm, "clear", refuse)
        with pytest.raises(StorageFullError):
            await rig.cache.clear()
        assert num_blocks
        assert len(rig.cache.blocks()) == num_blocks


async def test_clear_takes_few_hot_blocks_between_two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "CLEARED_AT_ONCE", 2)
    async with ServiceRig() as rig:
        await rig.say([SYSTEM, Message.of("user", "hi")], agent="a")
        await settled(rig)
        blocks = rig.cache.blocks()
        at_once: list[int] = []
        clear = rig.store.clear

        def counted(*limit: int) -> int:
            before = len(rig.cache.blocks())
            freed = clear(*limit)
            at_once.append(before - len(rig.cache.blocks()))
            return freed

        monkeypatch.setattr(rig.store, "clear", counted)
        cleared = await rig.cache.clear()
        assert cleared.freed_hot_bytes == sum(block.num_bytes for block in blocks)
        assert sum(at_once) == len(blocks)
        assert max(at_once) == 2


async def test_the_cache_can_be_looked_at_checked_and_emptied() -> None:
    async with ServiceRig() as rig:
        await rig.say([SYSTEM, Message.of("user", "hi")], agent="a")
        await settled(rig)
        stats = await rig.cache.stats()
        assert len(stats.blocks) == stats.cache.num_hot_blocks
        assert {block.state for block in stats.blocks} == {"hot"}
        await rig.agents.pin("a")
        assert {block.state for block in rig.cache.blocks()} == {"pinned"}
        assert len(rig.cache.blocks(limit=2)) == 2
        report = await rig.cache.verify()
        assert (report.num_checked, report.num_broken) == (stats.cache.num_warm_blocks, 0)
        assert (await rig.cache.prune()).freed_bytes == 0
        await rig.agents.unpin("a")
        cleared = await rig.cache.clear()
        assert cleared.freed_hot_bytes > 0
        assert cleared.freed_warm_bytes > 0
        assert (await rig.say([SYSTEM, Message.of("user", "hi")], agent="a")).usage.cache.tier == "cold"
