"""What was pinned before a restart is protected before anything is written, however many agents came since."""

from __future__ import annotations

import pytest

from semanticd.application.cache import agent_registry
from semanticd.domain.agent import Agent
from semanticd.domain.ids import AgentId
from tests.fakes.blocks import make_chain
from tests.fakes.engine_rig import EngineRig
from tests.fakes.warm_store import MemoryAgentArchive, MemoryWarmStore


def test_an_old_pinned_agent_outlives_a_prune_after_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_registry, "MAX_AGENTS_KEPT", 3)
    pinned, timed, over, other = (make_chain(2, start=start) for start in (1, 2, 3, 4))
    warm, archive = MemoryWarmStore(), MemoryAgentArchive()
    for name, chain, pin in (
        ("pinned", pinned, {"pinned": True}),
        ("timed", timed, {"pinned_until": 2e9}),
        ("over", over, {"pinned_until": 5.0}),
        ("other", other, {}),
    ):
        warm.write(chain).result()
        table = tuple(record.block.block_hash for record in chain)
        archive.save(Agent(AgentId(name), 1.0, 1.0, block_table=table, **pin))
    for number in range(5):
        archive.save(Agent(AgentId(f"recent-{number}"), 1.0, 100.0 + number))
    with EngineRig(warm=warm, archive=archive) as rig:
        warm.prune(target_bytes=0)
        assert {agent.agent_id for agent in rig.agents.recent()} >= {"pinned", "timed", "recent-4"}
    for chain, kept in ((pinned, True), (timed, True), (over, False), (other, False)):
        assert [warm.get(record.block.block_hash) is not None for record in chain] == [kept, kept]
