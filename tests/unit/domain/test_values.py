"""The small values: agents, layouts, reports, messages, errors."""

from __future__ import annotations

import pytest

from semanticd.domain import errors
from semanticd.domain.agent import MAX_TURNS_KEPT, Agent, AgentConfig, Turn
from semanticd.domain.chat import ChatPrompt, Message, TextPart, ThinkingPart, ToolChoice, ToolSpec
from semanticd.domain.generation import CacheReport, GenerationRequest, Timings
from semanticd.domain.ids import AgentId, ModelFingerprint, RequestId
from semanticd.domain.model_cache_spec import LayerSpec, ModelCacheSpec


def turn(number: int, **more: object) -> Turn:
    fields: dict[str, object] = {
        "request_id": RequestId(f"r{number}"),
        "finished_at": float(number),
        "prompt_tokens": 10,
        "completion_tokens": 20,
        "num_segments": 2,
        "cache": CacheReport(prompt_tokens=10, reused_hot_tokens=4, computed_tokens=6),
        "timings": Timings(ttft_ms=5.0, decode_ms=100.0),
        "finish_reason": "stop",
    }
    return Turn(**(fields | more))  # type: ignore[arg-type]


def agent(**more: object) -> Agent:
    return Agent(AgentId("a"), created_at=1.0, last_used_at=2.0, **more)  # type: ignore[arg-type]


def test_an_agent_keeps_its_last_turns_and_counts_all() -> None:
    one = agent()
    for number in range(MAX_TURNS_KEPT + 5):
        one = one.with_turn(turn(number), now=float(number))
    assert len(one.turns) == MAX_TURNS_KEPT
    assert one.turns[-1].request_id == f"r{MAX_TURNS_KEPT + 4}"
    assert (one.num_turns, one.last_used_at) == (MAX_TURNS_KEPT + 5, MAX_TURNS_KEPT + 4)


def test_a_pin_holds_for_good_or_until_its_time() -> None:
    assert not agent().is_pinned(0.0)
    assert agent(pinned=True).is_pinned(1e12)
    assert agent(pinned_until=10.0).is_pinned(9.9)
    assert not agent(pinned_until=10.0).is_pinned(10.0)


def test_an_agent_with_a_time_to_live_ends_that_long_after_its_last_use() -> None:
    assert agent().expires_at() is None
    assert agent(config=AgentConfig(ttl_s=5.0)).expires_at() == 7.0


def test_a_report_names_the_coldest_tier_it_touched() -> None:
    assert CacheReport(prompt_tokens=5, computed_tokens=5).tier == "cold"
    assert CacheReport(prompt_tokens=5, reused_hot_tokens=5).tier == "hot"
    warm = CacheReport(prompt_tokens=5, reused_hot_tokens=2, restored_warm_tokens=3)
    assert (warm.tier, warm.cached_tokens) == ("warm", 5)


def spec(*layers: LayerSpec, **more: object) -> ModelCacheSpec:
    fields: dict[str, object] = {
        "fingerprint": ModelFingerprint("ab" * 32),
        "layers": layers,
        "block_tokens": 256,
        "precision": "exact",
        "running_bytes_per_token": 64,
    }
    return ModelCacheSpec(**(fields | more))  # type: ignore[arg-type]


ATTENTION = LayerSpec("attention", "h4d64", bytes_per_token=32, first_token_bytes=8)
STATE = LayerSpec("state", "s16", state_bytes=100)


def test_a_layout_is_another_for_every_precision_block_size_and_shape() -> None:
    layouts = {
        spec(ATTENTION).layout,
        spec(ATTENTION, ATTENTION).layout,
        spec(STATE).layout,
        spec(LayerSpec("sliding", "h4d64")).layout,
        spec(ATTENTION, precision="q8").layout,
        spec(ATTENTION, block_tokens=128).layout,
        spec(ATTENTION, compute_revision="mlx0.32").layout,
        spec(ATTENTION, compute_revision="mlx0.33").layout,
    }
    assert len(layouts) == 8
    digest = spec(ATTENTION).layout.rpartition("-")[2]
    assert spec(ATTENTION).layout == f"v1-exact-b256-{digest}"
    # Of four bits there were others, whose blocks have other names.
    assert spec(ATTENTION, precision="q4").layout == f"v2-q4-b256-{digest}"
    assert spec(ATTENTION).root != spec(ATTENTION, fingerprint=ModelFingerprint("cd" * 32)).root


def test_a_layout_counts_what_it_costs() -> None:
    mixed = spec(ATTENTION, STATE, ATTENTION)
    assert (len(mixed.layers), mixed.bytes_per_token, mixed.state_bytes) == (3, 64, 100)
    assert mixed.stored_bytes(10) == 640
    assert mixed.stored_bytes(10, begins=True) == 656
    assert not mixed.cuts_anywhere
    assert spec(ATTENTION).cuts_anywhere


def test_a_message_joins_its_text_and_nothing_else() -> None:
    message = Message("assistant", (TextPart("a"), ThinkingPart("hidden"), TextPart("b")))
    assert message.text == "ab"
    assert Message.of("user", "hi").text == "hi"


@pytest.mark.parametrize(
    ("tools", "mode", "offered"),
    [((), "auto", False), (("t",), "auto", True), (("t",), "none", False), (("t",), "required", True)],
)
def test_tools_are_offered_when_there_are_some_and_they_may_be_called(
    tools: tuple[str, ...], mode: str, offered: bool
) -> None:
    prompt = ChatPrompt((), tuple(ToolSpec(name) for name in tools), ToolChoice(mode))  # type: ignore[arg-type]
    assert GenerationRequest(RequestId("r"), "m", prompt).tools_offered is offered


def test_every_error_has_a_code_a_parent_that_is_drawn_and_keeps_its_message() -> None:
    drawn = errors.__doc__ or ""
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, errors.SemanticError):
            assert name in drawn, f"{name} is missing in the drawing"
            if kind in (errors.PromptTooLongError, errors.AgentBusyError):
                continue
            made = kind("what went wrong", param="field")
            assert (made.message, made.param, str(made)) == ("what went wrong", "field", "what went wrong")


def test_a_prompt_that_is_too_long_says_so_in_the_words_that_agents_compact_on() -> None:
    error = errors.PromptTooLongError(num_tokens=210_000, maximum=200_000)
    assert error.message == "prompt is too long: 210000 tokens > 200000 maximum"
    assert (error.num_tokens, error.maximum) == (210_000, 200_000)


def test_what_may_be_tried_again_says_when() -> None:
    assert errors.QueueFullError("full", retry_after_s=2.5).retry_after_s == 2.5
