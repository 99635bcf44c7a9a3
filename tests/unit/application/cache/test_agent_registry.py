from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from semanticd.application.cache import agent_registry
from semanticd.application.cache.agent_cache import AgentCache
from semanticd.application.cache.agent_cache_store import AgentCacheStore
from semanticd.application.cache.agent_registry import AgentRegistry
from semanticd.application.cache.agent_tables import AgentTables
from semanticd.domain.agent import Agent, AgentConfig
from semanticd.domain.errors import AgentNotFoundError
from semanticd.domain.ids import AgentId, BlockHash, ModelFingerprint
from semanticd.domain.transcript import Segment, Transcript
from tests.fakes.blocks import make_chain, names
from tests.fakes.telemetry import ManualClock, RecordingLog, RecordingMetrics
from tests.fakes.warm_store import MemoryAgentArchive, MemoryWarmStore

MODEL = ModelFingerprint("ab" * 32)


def make_store(warm: MemoryWarmStore | None = None) -> AgentCacheStore:
    return AgentCacheStore(
        budget_bytes=1000,
        warm=warm,
        post=lambda action: None,
        metrics=RecordingMetrics(),
        log=RecordingLog(),
    )


def make(
    archive: MemoryAgentArchive | None,
    clock: ManualClock | None = None,
    store: AgentCacheStore | None = None,
) -> AgentRegistry:
    store = store or make_store()
    tables = AgentTables(store=store, warm=None, max_agents_in_memory=10, log=RecordingLog())
    return AgentRegistry(
        cache=AgentCache(store, tables), archive=archive, clock=clock or ManualClock(), post=lambda run: run()
    )


def agent(name: str, **more: object) -> Agent:
    return Agent(AgentId(name), created_at=1.0, last_used_at=2.0, **more)  # type: ignore[arg-type]


def test_an_agent_is_found_again_after_a_restart_with_its_text_and_its_blocks() -> None:
    archive = MemoryAgentArchive()
    kept = agent(
        "a",
        model=MODEL,
        transcript=Transcript((Segment("hello", (1, 2)),)),
        block_table=(BlockHash(b"b" * 32),),
        pinned=True,
    )
    make(archive).save(kept)
    store = make_store()
    again = make(archive, store=store)
    assert again.find(AgentId("a")) == kept
    assert again.transcripts(MODEL).match("hello you").num_chars == 5
    assert store.pool.table(AgentId("a")) == kept.block_table
    assert store.pool.is_pinned_agent(AgentId("a"))


def test_an_agent_that_left_memory_is_read_from_the_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_registry, "MAX_AGENTS_KEPT", 2)
    archive, store = MemoryAgentArchive(), make_store()
    registry = make(archive, store=store)
    for name in ("a", "b", "c"):
        registry.save(agent(name, block_table=(BlockHash(name.encode() * 32),)))
    assert [one.agent_id for one in registry.recent()] == ["c", "b"]
    assert store.pool.table(AgentId("a")) == ()
    assert registry.get(AgentId("a")).agent_id == "a"
    assert [one.agent_id for one in registry.recent()] == ["a", "c"]


def test_agents_whose_texts_take_too_much_leave_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    archive, store = MemoryAgentArchive(), make_store()
    registry = make(archive, store=store)
    shared = Segment("system", tuple(range(6)))

    def talk(name: str) -> Agent:
        own = Segment(name * 1000, tuple(range(1000)))
        return agent(name, model=MODEL, transcript=Transcript((shared, own)))

    monkeypatch.setattr(agent_registry, "MAX_TEXT_BYTES", 2 * talk("a").transcript.num_bytes)
    for name in ("a", "b", "c"):
        registry.save(talk(name))
    assert [one.agent_id for one in registry.recent()] == ["c", "b"]
    assert store.text_bytes == 2 * talk("a").transcript.num_bytes
    assert registry.get(AgentId("a")).transcript == talk("a").transcript
    assert [one.agent_id for one in registry.recent()] == ["a", "c"]
    registry.delete(AgentId("c"))
    assert store.text_bytes == talk("a").transcript.num_bytes
    again = make_store()
    assert len(make(archive, store=again).recent()) == 2
    assert again.text_bytes <= agent_registry.MAX_TEXT_BYTES


def test_agents_that_begin_alike_hold_that_once() -> None:
    archive = MemoryAgentArchive()
    for name in ("a", "b"):
        head = Segment("system", tuple(range(6)))
        archive.save(agent(name, model=MODEL, transcript=Transcript((head, Segment(name, (1,))))))
    first, second = make(archive).recent()
    assert first.transcript.segments[0] is second.transcript.segments[0]


def test_pinned_agents_stay_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_registry, "MAX_AGENTS_KEPT", 1)
    registry = make(None)
    registry.create(AgentId("pinned"), AgentConfig(), pinned=True)
    registry.create(AgentId("also"), AgentConfig(), pinned=True)
    assert len(registry.recent()) == 2
    registry.create(AgentId("plain"), AgentConfig(), pinned=False)
    assert {one.agent_id for one in registry.recent()} == {"pinned", "also"}


def test_without_an_archive_agents_live_in_memory_only() -> None:
    registry = make(None)
    made = registry.get_or_create(AgentId("a"), anonymous=True)
    assert made.anonymous
    assert registry.get_or_create(AgentId("a")) is made
    assert [one.agent_id for one in registry.recent()] == ["a"]
    assert registry.own_blocks(AgentId("a")) == []
    registry.delete(AgentId("a"))
    assert registry.find(AgentId("a")) is None
    with pytest.raises(AgentNotFoundError, match="'a'"):
        registry.update(AgentId("a"), lambda one: one)


def test_an_unreadable_agent_is_as_if_it_were_not_there() -> None:
    archive = MemoryAgentArchive()
    make(archive).save(agent("a"))
    archive.break_agent(AgentId("a"))
    assert make(archive).find(AgentId("a")) is None


def test_an_agents_own_blocks_are_those_that_no_archived_agent_names() -> None:
    archive = MemoryAgentArchive()
    registry = make(archive)
    shared, own = BlockHash(b"s" * 32), BlockHash(b"o" * 32)
    registry.save(agent("a", block_table=(shared, own)))
    registry.save(agent("b", block_table=(shared,)))
    assert registry.own_blocks(AgentId("a")) == [own]


def test_blocks_that_version_0_1_0_left_behind_an_agents_table_are_its_own() -> None:
    chain, other = make_chain(3), make_chain(1, start=100)
    warm = MemoryWarmStore()
    warm.write([*chain, *other])
    warm.catch_up()
    registry = make(MemoryAgentArchive(), store=make_store(warm))
    registry.save(agent("a", block_table=(chain[0].block.block_hash,)))
    assert registry.own_blocks(AgentId("a")) == names(chain)


def test_a_held_agent_stays_in_memory_until_every_request_has_let_it_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(agent_registry, "MAX_AGENTS_KEPT", 1)
    registry = make(MemoryAgentArchive())
    held = [AgentId("a")]
    registry.save(agent("a"))
    for _request in range(2):
        registry.hold(held)
    registry.save(agent("b"))
    assert registry.is_in_memory(AgentId("a"))
    registry.release(held)
    registry.save(agent("c"))
    assert registry.is_in_memory(AgentId("a"))
    registry.release(held)
    registry.save(agent("d"))
    assert not registry.is_in_memory(AgentId("a"))
    assert registry.find(AgentId("a")) is not None


class SlowArchive(MemoryAgentArchive):
    """While an agent is loaded, something else happens once."""

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: Callable[[], object] = lambda: None
        self.num_loads = 0

    def load(self, agent_id: AgentId) -> Agent | None:
        """Load, and let it happen before the caller has the answer."""
        self.num_loads += 1
        found = super().load(agent_id)
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        return found


def test_an_agent_that_there_is_none_of_is_asked_for_once_while_it_is_held() -> None:
    archive = SlowArchive()
    registry = make(archive)
    registry.hold([AgentId("new")])
    assert archive.num_loads == 1
    assert registry.find(AgentId("new")) is None
    assert registry.get_or_create(AgentId("new")).num_turns == 0
    assert archive.num_loads == 1
    registry.release([AgentId("new")])


def test_an_agent_that_is_deleted_while_it_is_loaded_does_not_come_back() -> None:
    archive = SlowArchive()
    registry = make(archive)
    make(archive).save(agent("a"))
    archive.meanwhile = lambda: registry.delete(AgentId("a"))
    assert registry.find(AgentId("a")) is None
    assert not registry.is_in_memory(AgentId("a"))


def test_an_agent_that_is_saved_while_it_is_held_for_the_first_time_is_there() -> None:
    archive = SlowArchive()
    registry = make(archive)
    archive.meanwhile = lambda: registry.save(agent("a", num_turns=7))
    registry.hold([AgentId("a")])
    found = registry.find(AgentId("a"))
    assert found is not None
    assert found.num_turns == 7


def test_a_pin_with_a_time_is_let_go_when_it_is_over() -> None:
    clock = ManualClock()
    store = make_store()
    registry = make(None, clock, store)
    registry.save(replace(agent("a", block_table=(BlockHash(b"x" * 32),)), pinned_until=clock.wall() + 10.0))
    registry.renew_pins()
    assert store.pool.is_pinned_agent(AgentId("a"))
    clock.advance(11.0)
    registry.renew_pins()
    assert not store.pool.is_pinned_agent(AgentId("a"))


def test_a_pin_that_made_way_for_the_agents_own_turn_is_renewed() -> None:
    store = make_store()
    registry = make(None, ManualClock(), store)
    registry.save(replace(agent("a", block_table=(BlockHash(b"x" * 32),)), pinned=True))
    assert registry.let_pin_go(AgentId("a"))
    assert not store.pool.is_pinned_agent(AgentId("a"))
    assert store.pool.is_kept_agent(AgentId("a")), "its blocks leave after those of others"
    assert not registry.let_pin_go(AgentId("a"))
    registry.renew_pins()
    assert store.pool.is_pinned_agent(AgentId("a"))


def test_a_pin_that_made_way_is_not_renewed_while_the_agents_turn_runs() -> None:
    store = make_store()
    registry = make(None, ManualClock(), store)
    registry.save(replace(agent("a", block_table=(BlockHash(b"x" * 32),)), pinned=True))
    registry.hold([AgentId("a")])
    registry.let_pin_go(AgentId("a"))
    registry.renew_pins()
    assert not store.pool.is_pinned_agent(AgentId("a"))
