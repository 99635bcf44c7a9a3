"""Responses in memory are bounded in bytes, however few they are; the archive has the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from semanticd.adapters.disk.responses.archive import DiskResponseArchive
from semanticd.application.ports.response_archive import StoredItem, StoredResponse
from semanticd.application.services.stored_responses import StoredResponses
from semanticd.domain.errors import CacheError
from semanticd.domain.ids import AgentId
from tests.fakes.telemetry import ManualClock, RecordingLog


def stored(name: str, num_bytes: int, agent: str | None = None, *, shared: bool = False) -> StoredResponse:
    """Return a response whose document has so many bytes (at least 2), with an item or two of no size."""
    items = [StoredItem(f"item-{name}", b"{}")]
    if shared:
        items.insert(0, StoredItem("shared", b"{}"))
    return StoredResponse(
        name, None if agent is None else AgentId(agent), 1.7e9, b"x" * num_bytes, tuple(items), num_output=1
    )


async def names(responses: StoredResponses, *asked: str) -> list[str]:
    return [name for name in asked if await responses.find(name)]


async def test_the_oldest_responses_of_the_agent_that_kept_one_least_recently_go_first() -> None:
    responses = StoredResponses(max_per_agent=10, max_bytes=4000)
    for name, agent in (("a1", "a"), ("b1", "b"), ("a2", "a"), ("b2", "b")):
        responses.keep(stored(name, 1000, agent))
    assert 3000 < responses.num_bytes <= 4000
    assert await names(responses, "a1", "b1", "a2", "b2") == ["b1", "a2", "b2"]
    assert await responses.item("item-a1") is None
    responses.keep(stored("c", 3700, "c"))
    assert await names(responses, "b1", "a2", "b2", "c") == ["c"]
    assert await responses.forget("c")
    assert not await responses.forget("c")
    assert responses.num_bytes == 0


async def test_an_agent_has_so_many_responses_at_most() -> None:
    responses = StoredResponses(max_per_agent=2)
    for name, agent in (("a1", "a"), ("b1", "b"), ("a2", "a"), ("a3", "a")):
        responses.keep(stored(name, 10, agent))
    assert await names(responses, "a1", "b1", "a2", "a3") == ["b1", "a2", "a3"]


async def test_a_response_that_is_larger_than_all_room_is_not_kept_and_pushes_nothing_out() -> None:
    responses = StoredResponses(max_per_agent=10, max_bytes=1000)
    responses.keep(stored("small", 10))
    responses.keep(stored("large", 1001))
    assert await names(responses, "small", "large") == ["small"]


async def test_an_item_that_several_responses_share_stays_as_long_as_one_of_them() -> None:
    responses = StoredResponses()
    responses.keep(stored("first", 10, shared=True))
    responses.keep(stored("second", 10, shared=True))
    await responses.forget("first")
    assert await responses.item("shared") == b"{}"
    await responses.forget("second")
    assert await responses.item("shared") is None


@pytest.mark.parametrize("max_per_agent", [10, 1])
async def test_an_anonymous_callers_responses_go_with_the_agent_that_holds_them(
    tmp_path: Path, max_per_agent: int
) -> None:
    archive = DiskResponseArchive.open(tmp_path / "r.sqlite", clock=ManualClock(), log=RecordingLog())
    responses = StoredResponses(archive=archive, max_per_agent=max_per_agent)
    responses.keep(replace(stored("kept", 10), held_by=AgentId("y")))
    for name in ("x1", "x2"):
        responses.keep(replace(stored(name, 10), held_by=AgentId("x")))
    responses.keep(replace(stored("ann's", 10, "ann"), held_by=AgentId("ann.side-1")))
    for agent in ("x", "ann"):
        await responses.forget_agent(AgentId(agent))
        assert await names(responses, "x1", "x2", "kept") == ["kept"]
        assert await responses.item("item-x1") is None
    assert await names(responses, "ann's") == []
    assert archive.flush(60)
    assert [name for name in ("x1", "x2", "ann's", "kept") if archive.load(name)] == ["kept"]
    await responses.forget_agent(AgentId("y"))
    assert responses.num_bytes == 0
    archive.close()


async def test_what_left_memory_comes_from_the_archive_and_goes_with_its_agent(tmp_path: Path) -> None:
    archive = DiskResponseArchive.open(tmp_path / "r.sqlite", clock=ManualClock(), log=RecordingLog())
    responses = StoredResponses(archive=archive, max_per_agent=1)
    for name in ("a1", "a2"):
        responses.keep(stored(name, 10, "a"))
    responses.keep(stored("b1", 10, "b"))
    assert await names(responses, "a1", "a2", "b1") == ["a1", "a2", "b1"]
    assert await responses.forget("a1")
    assert await names(responses, "a1") == []
    await responses.forget_agent(AgentId("a"))
    assert archive.flush(60)
    assert await names(responses, "a1", "a2", "b1") == ["b1"]
    archive.close()


async def test_what_the_disk_does_not_delete_stays_in_memory_too(tmp_path: Path) -> None:
    archive = DiskResponseArchive.open(tmp_path / "r.sqlite", clock=ManualClock(), log=RecordingLog())
    responses = StoredResponses(archive=archive)
    responses.keep(stored("a1", 10, "a"))
    num_bytes = responses.num_bytes
    archive.close()
    for forget in (responses.forget("a1"), responses.forget_agent(AgentId("a"))):
        with pytest.raises(CacheError, match="is not deleted: the disk refuses"):
            await forget
        assert await names(responses, "a1") == ["a1"]
        assert responses.num_bytes == num_bytes
