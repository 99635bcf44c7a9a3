"""What clients get: all that the services publish, and something sensible of anything else."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from semanticd.adapters.disk.agents.export_file import DiskAgentExportFile
from semanticd.application.services import agent_facts, model_facts, outcomes, savings, status_facts
from semanticd.application.services.plain import plain
from semanticd.control import results
from semanticd.control.results import read, read_all
from semanticd.domain.generation import CacheMiss
from tests.fakes.agents_service import agent_facts as example_agent
from tests.fakes.service_rig import ServiceRig


def keys(kind: Any) -> list[str]:
    return [one.metadata.get("key", one.name) for one in fields(kind)]


@pytest.mark.parametrize(
    ("published", "read_as"),
    [
        (status_facts.DraftSourceFacts, results.DraftSourceFacts),
        (status_facts.EngineFacts, results.EngineFacts),
        (status_facts.CacheFacts, results.CacheStats),
        (status_facts.LoadedModelFacts, results.LoadedModelFacts),
        (status_facts.RequestFacts, results.RequestRow),
        (outcomes.OutcomeFacts, results.OutcomeFacts),
        (outcomes.Failure, results.FailureRow),
        (savings.SavedFacts, results.SavedFacts),
        (agent_facts.AgentFacts, results.AgentRow),
    ],
)
def test_clients_get_every_field_that_a_service_publishes(published: Any, read_as: Any) -> None:
    is_class = [one.metadata.get("published") == "class" for one in fields(published)]
    names = [one.name for one in fields(published)]
    assert keys(read_as) == [
        "class" if changed else name for name, changed in zip(names, is_class, strict=True)
    ]


def test_clients_get_every_key_of_a_model() -> None:
    hidden = {"details", "aliases", "profiles"}
    assert keys(results.ModelRow) == [
        one.name for one in fields(model_facts.ModelFacts) if one.name not in hidden
    ]


def test_what_clients_read_of_a_turn_is_published() -> None:
    published = {*keys(agent_facts.TurnFacts), *keys(agent_facts.TurnReport)}
    assert set(keys(results.TurnRow)) <= published
    assert set(keys(results.MissRow)) == set(keys(CacheMiss))


def test_what_clients_read_of_an_agent_and_its_messages_is_published() -> None:
    shown = {*keys(agent_facts.AgentFacts), *keys(agent_facts.AgentDetails), "class"}
    assert set(keys(results.AgentResult)) <= shown
    assert keys(results.SharedBlocks) == keys(agent_facts.SharedBlocks)
    assert keys(results.MessageRow) == keys(agent_facts.ShownMessage)
    parts = {
        *keys(agent_facts.ShownText), *keys(agent_facts.ShownThinking),
        *keys(agent_facts.ShownToolCall), *keys(agent_facts.ShownToolResult),
    }  # fmt: skip
    assert set(keys(results.MessagePart)) == parts


def test_a_message_is_read_as_text_or_as_parts_and_a_series_keeps_its_gaps() -> None:
    part = {"type": "tool_call", "name": "run", "arguments": {"path": "x"}}
    assert read(results.MessageRow, {"role": "user", "content": "hi"}).content == "hi"
    assert read(results.MessageRow, {"content": [part]}).content == (
        results.MessagePart(type="tool_call", name="run", arguments={"path": "x"}),
    )
    assert read(results.MessageRow, {"content": 7}).content == ""
    series = {"ttft_ms": [1, None, "x", 2.5], "odd": 7}
    assert read(results.HistoryResult, {"series": series}).series == {"ttft_ms": (1.0, None, None, 2.5)}


async def test_a_status_is_read_as_it_was_published() -> None:
    async with ServiceRig(export_file=DiskAgentExportFile()) as rig:
        await rig.say("hello", agent="a")
        snapshot = await rig.status.snapshot()
        (row,) = await rig.agents.list()
    status = read(results.StatusResult, plain(snapshot))
    assert (status.version, status.state, status.model) == ("0", "ready", "one")
    engine = plain(snapshot.engine)
    sources = tuple(results.DraftSourceFacts(**one) for one in engine.pop("draft_sources"))
    assert status.engine == results.EngineFacts(**engine, draft_sources=sources)
    assert status.cache == results.CacheStats(**plain(snapshot.cache))
    assert [model.weights_bytes for model in status.models] == [one.weights_bytes for one in snapshot.models]
    assert status.savings is not None
    assert status.savings.today.reused_tokens == snapshot.savings.today.reused_tokens
    assert status.outcomes == results.OutcomeFacts(num_answered=0)
    assert read(results.AgentRow, plain(row)).priority == row.priority


def test_missing_fields_get_defaults_and_unknown_ones_are_dropped() -> None:
    status = read(results.StatusResult, {"state": "ready", "cache": {"hot_bytes": 5, "quantum": 1}, "new": 2})
    assert (status.state, status.cache.hot_bytes, status.cache.budget_bytes) == ("ready", 5, 0)
    assert (status.outcomes, status.savings, status.free_memory_bytes) == (None, None, None)
    assert status.engine == results.EngineFacts()


@pytest.mark.parametrize("odd", [None, 7, "x", [], [1], {"state": 5}, {"cache": "x"}, {"models": {"a": 1}}])
def test_anything_at_all_can_be_read(odd: object) -> None:
    assert read(results.StatusResult, odd) == results.StatusResult()


def test_values_of_another_type_have_their_default() -> None:
    strange = {"hot_bytes": "many", "budget_bytes": float("nan"), "warm_bytes": 2.0, "evictions": [1], "x": 1}
    assert read(results.CacheStats, strange) == results.CacheStats(warm_bytes=2)
    assert read(results.AgentRow, {"shared_with": ["a", 5], "pinned": 1}).shared_with == ("a",)
    assert [row.id for row in read_all(results.AgentRow, [{"id": "a"}, 7, plain(example_agent("b"))])] == [
        "a",
        "b",
    ]
    assert read_all(results.AgentRow, "rows") == ()
