"""Stored responses are bounded in bytes, however few they are."""

from __future__ import annotations

import pytest

from semanticd.adapters.http.openai.responses.render import begin
from semanticd.adapters.http.openai.responses.store import (
    PreviousResponseNotFoundError,
    ResponseStore,
    StoredResponse,
    estimated_bytes,
)
from semanticd.adapters.http.openai.responses.wire import ResponsesRequest
from semanticd.domain.chat import Message, TextPart, ToolCallPart, ToolResultPart
from semanticd.domain.ids import AgentId


def stored(name: str, num_bytes: int, agent: str | None = None) -> StoredResponse:
    asked = ResponsesRequest(model="tiny", input="hi")
    response = begin(asked, response_id=name, created=0, model="tiny")
    response.output.append({"id": f"item-{name}"})
    return StoredResponse(response, (), None if agent is None else AgentId(agent), num_bytes)


def test_the_oldest_responses_of_the_agent_that_kept_one_least_recently_go_first() -> None:
    store = ResponseStore(max_per_agent=10, max_bytes=100)
    for name, agent in (("a1", "a"), ("b1", "b"), ("a2", "a"), ("b2", "b")):
        store.keep(stored(name, 30, agent))
    assert store.num_bytes == 90
    with pytest.raises(PreviousResponseNotFoundError):
        store.previous("a1")
    assert store.item("item-a1") is None
    store.keep(stored("c", 100, "c"))
    assert (store.num_bytes, store.previous("c").num_bytes) == (100, 100)
    store.forget("c")
    assert store.num_bytes == 0
    store.keep(stored("d", 100))
    assert store.previous("d").num_bytes == 100


def test_an_agent_has_so_many_responses_at_most() -> None:
    store = ResponseStore(max_per_agent=2)
    for name, agent in (("a1", "a"), ("b1", "b"), ("a2", "a"), ("a3", "a")):
        store.keep(stored(name, 1, agent))
    assert [store.previous(name).response.id for name in ("b1", "a2", "a3")] == ["b1", "a2", "a3"]
    with pytest.raises(PreviousResponseNotFoundError):
        store.previous("a1")


def test_a_response_that_is_larger_than_all_room_is_not_kept_and_pushes_nothing_out() -> None:
    store = ResponseStore(max_per_agent=10, max_bytes=100)
    store.keep(stored("small", 10))
    store.keep(stored("large", 101))
    assert store.previous("small").num_bytes == 10
    with pytest.raises(PreviousResponseNotFoundError):
        store.previous("large")


def test_every_text_counts() -> None:
    parts = (
        TextPart("x" * 10_000),
        ToolResultPart("1", "y" * 10_000),
        ToolCallPart("1", "f", {"a": "z" * 10_000}),
    )
    assert estimated_bytes([Message("user", parts)], 10_000) > 50_000
    assert estimated_bytes([], 0) == 0
