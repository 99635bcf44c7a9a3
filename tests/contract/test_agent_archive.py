"""What every agent archive promises, on disk and in memory alike."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from semanticd.adapters.disk.agents.archive import DiskAgentArchive
from semanticd.adapters.disk.blocks.warm_store import DiskWarmStore
from semanticd.application.ports.agent_archive import AgentArchive
from semanticd.domain.agent import Agent, AgentConfig
from semanticd.domain.agent_summary import AgentQuery
from semanticd.domain.ids import AgentId, BlockHash
from semanticd.domain.transcript import Segment, Transcript
from tests.fakes.agents import full_agent
from tests.fakes.warm_store import MemoryAgentArchive


@pytest.fixture(params=["memory", "disk, still queued", "disk, durable"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AgentArchive]:
    if request.param == "memory":
        yield MemoryAgentArchive()
        return
    store = DiskWarmStore.open(tmp_path / "caches")
    opened = DiskAgentArchive.open(store.folder, write_queue=store.write_queue)
    if request.param == "disk, durable":
        save, delete = opened.save, opened.delete

        def save_now(agent: Agent) -> None:
            save(agent)
            assert opened.flush(60)

        def delete_now(agent_id: AgentId) -> None:
            delete(agent_id)
            assert opened.flush(60)

        opened.save, opened.delete = save_now, delete_now  # type: ignore[method-assign]
    yield opened
    opened.close()
    store.close()


def test_an_agent_comes_back_as_it_was_saved(archive: AgentArchive) -> None:
    agent = full_agent()
    archive.save(agent)
    assert archive.load(agent.agent_id) == agent


def test_the_newest_save_wins(archive: AgentArchive) -> None:
    agent = full_agent()
    archive.save(agent)
    newer = replace(
        agent,
        last_used_at=50.0,
        transcript=agent.transcript.extended(Segment(" more", (8, 9))),
        block_table=(*agent.block_table[:-1], BlockHash(b"n" * 32), BlockHash(b"m" * 32)),
    )
    archive.save(newer)
    assert archive.load(agent.agent_id) == newer


def test_an_agent_may_shrink(archive: AgentArchive) -> None:
    agent = full_agent()
    archive.save(agent)
    rewound = replace(
        agent,
        transcript=Transcript(agent.transcript.segments[:1]),
        messages=agent.messages[:1],
        block_table=(),
        turns=agent.turns[:1],
        num_turns=agent.num_turns - 1,
    )
    archive.save(rewound)
    assert archive.load(agent.agent_id) == rewound


def test_an_unknown_agent_is_none(archive: AgentArchive) -> None:
    assert archive.load(AgentId("nobody")) is None
    archive.delete(AgentId("nobody"))
    assert archive.ids() == []


def test_ids_come_most_recently_used_first(archive: AgentArchive) -> None:
    for name, used in (("a", 2.0), ("b", 9.0), ("c", 5.0)):
        archive.save(Agent(AgentId(name), 1.0, used))
    assert archive.ids() == ["b", "c", "a"]
    assert [agent.agent_id for agent in archive.load_recent(max_agents=2, max_bytes=1 << 30)] == ["b", "c"]


def test_a_deleted_agent_is_gone(archive: AgentArchive) -> None:
    agent = full_agent()
    archive.save(agent)
    archive.delete(agent.agent_id)
    assert archive.load(agent.agent_id) is None
    assert (archive.ids(), archive.holders(agent.block_table[0])) == ([], [])
    archive.save(agent)
    assert archive.load(agent.agent_id) == agent


def test_holders_are_the_agents_whose_table_names_the_block_or_named_it_before(archive: AgentArchive) -> None:
    shared, own = BlockHash(b"s" * 32), BlockHash(b"o" * 32)
    archive.save(Agent(AgentId("a"), 1.0, 1.0, block_table=(shared, own)))
    archive.save(Agent(AgentId("b"), 1.0, 2.0, block_table=(shared,)))
    assert set(archive.holders(shared)) == {"a", "b"}
    assert archive.holders(own) == ["a"]
    archive.save(Agent(AgentId("a"), 1.0, 3.0, block_table=(shared,)))
    assert archive.holders(own) == ["a"]
    assert archive.own_blocks(AgentId("a")) == [own]
    assert archive.own_blocks(AgentId("b")) == []
    archive.note_block(AgentId("b"), own)
    assert archive.own_blocks(AgentId("a")) == []
    archive.forget_blocks([own], agent_id=AgentId("b"))
    archive.delete(AgentId("b"))
    archive.scrub()
    assert wait_for(lambda: set(archive.own_blocks(AgentId("a"))) == {shared, own})
    archive.forget_all_blocks()
    assert wait_for(lambda: archive.own_blocks(AgentId("a")) == [shared])


@pytest.mark.parametrize(
    ("used_before", "max_agents", "limit", "expected"),
    [
        (-1.0, 2, 3, ["a0", "a1", "a2"]),
        (-1.0, 2, 100, [f"a{at}" for at in range(8)]),
        (-1.0, 10, 3, []),
        (-1.0, 99, 3, []),
        (4.0, 99, 2, ["a0", "a1"]),
        (4.0, 4, 100, [f"a{at}" for at in range(6)]),
        (4.0, 9, 100, [f"a{at}" for at in range(5)]),
    ],
)
def test_of_too_many_anonymous_agents_the_longest_unused_are_named_first(
    archive: AgentArchive, used_before: float, max_agents: int, limit: int, expected: list[str]
) -> None:
    for at in (3, 7, 0, 9, 5, 1, 8, 4, 6, 2):
        archive.save(Agent(AgentId(f"a{at}"), 1.0, float(at), anonymous=True))
        archive.save(Agent(AgentId(f"named{at}"), 1.0, float(at)))

    def found() -> list[AgentId]:
        return archive.surplus_anonymous(used_before=used_before, max_agents=max_agents, limit=limit)

    assert wait_for(lambda: found() == expected), f"what was queued is stored by now: {found()}"


def test_blocks_that_another_agent_has_or_had_are_not_an_agents_own(archive: AgentArchive) -> None:
    shared, left, noted, own, unknown = (BlockHash(letter * 32) for letter in (b"s", b"l", b"n", b"o", b"u"))
    archive.save(Agent(AgentId("a"), 1.0, 1.0, block_table=(shared, left, noted, own)))
    archive.save(Agent(AgentId("b"), 1.0, 2.0, block_table=(shared, left)))
    archive.save(Agent(AgentId("b"), 1.0, 3.0, block_table=(shared,)))
    archive.note_block(AgentId("b"), noted)
    found = archive.own_among(AgentId("a"), [shared, left, noted, own, unknown])
    assert found.result(60) == [own, unknown]


def wait_for(condition: Callable[[], bool]) -> bool:
    """Poll until what was queued is done; a busy disk takes seconds for a commit."""
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        threading.Event().wait(0.005)
    return condition()


def test_pinned_agents_are_found_however_long_ago_they_were_used(archive: AgentArchive) -> None:
    long_name = AgentConfig(metadata={"looks": '"pinned":true'})
    archive.save(Agent(AgentId("for good"), 1.0, 1.0, pinned=True))
    archive.save(Agent(AgentId("for a time"), 1.0, 3.0, pinned_until=99.0))
    archive.save(Agent(AgentId("not"), 1.0, 2.0, config=long_name))
    archive.save(Agent(AgentId("no more"), 1.0, 5.0, pinned=True))
    archive.save(Agent(AgentId("no more"), 1.0, 6.0))
    archive.save(Agent(AgentId("deleted"), 1.0, 7.0, pinned=True))
    archive.delete(AgentId("deleted"))
    assert [agent.agent_id for agent in archive.pinned()] == ["for good", "for a time"]
    assert archive.pinned()[0] == archive.load(AgentId("for good"))


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("plan",), ["Planner-2", "planner-1"]),
        (("PLANNER", "qwen"), ["Planner-2"]),
        (("er-1", "smol"), ["coder-1", "planner-1"]),
        (("100%",), ["100%_done"]),
        (("plan", "nothing"), []),
    ],
)
def test_a_search_finds_words_in_ids_and_models_in_either_case(
    archive: AgentArchive, words: tuple[str, ...], found: list[str]
) -> None:
    for at, (name, model) in enumerate(
        [("planner-1", "SmolLM2"), ("coder-1", "SmolLM2"), ("100%_done", "one"), ("Planner-2", "Qwen3")]
    ):
        archive.save(Agent(AgentId(name), 1.0, float(at), model_id=model))
    page = archive.page(AgentQuery(words=words, limit=1))
    assert page.num_agents == len(found)
    every = archive.page(AgentQuery(words=words)).summaries
    assert [summary.agent_id for summary in every] == found
