"""What an Anthropic request means, in the domain's words."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from semanticd.adapters.http.anthropic.parse import parse
from semanticd.adapters.http.anthropic.wire import MessagesRequest
from semanticd.adapters.http.core.body import to_wire
from semanticd.domain.chat import (
    ChatPrompt,
    Message,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
)
from semanticd.domain.errors import InvalidRequestError, UnsupportedError
from semanticd.domain.generation import GenerationRequest
from semanticd.domain.ids import RequestId

HELLO = [{"role": "user", "content": "hello"}]
WEATHER = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}


def read(*, version: str | None = "2023-06-01", **fields: Any) -> GenerationRequest:
    body = to_wire({"model": "tiny", "max_tokens": 100, "messages": HELLO, **fields}, MessagesRequest)
    return parse(body, request_id=RequestId("r"), agent_id=None, priority="interactive", version=version)


def messages(**fields: Any) -> tuple[Message, ...]:
    prompt = read(**fields).prompt
    assert isinstance(prompt, ChatPrompt)
    return prompt.messages


def test_system_blocks_come_first_and_stay_apart() -> None:
    system = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert messages(system=system) == (
        Message("system", (TextPart("a"), TextPart("b"))),
        Message.of("user", "hello"),
    )


def test_a_system_message_may_stand_in_the_middle() -> None:
    turns = [*HELLO, {"role": "system", "content": "now be brief"}]
    assert [message.role for message in messages(messages=turns)] == ["user", "system"]


def test_tool_results_leave_a_user_turn_for_a_message_of_their_own_in_order() -> None:
    turns = [
        {"role": "user", "content": "weather?"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "let me see"},
                {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Oslo"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "cold"}]},
                {"type": "tool_result", "tool_use_id": "t2", "content": "no", "is_error": True},
                {"type": "text", "text": "and tomorrow?"},
            ],
        },
    ]
    assert messages(messages=turns)[1:] == (
        Message(
            "assistant",
            (
                ThinkingPart("hm", "s"),
                TextPart("let me see"),
                ToolCallPart("t1", "weather", {"city": "Oslo"}),
            ),
        ),
        Message("tool", (ToolResultPart("t1", "cold"), ToolResultPart("t2", "no", True))),
        Message.of("user", "and tomorrow?"),
    )


def test_cache_control_marks_the_message_it_stands_in_and_the_longest_time_wins() -> None:
    mark = {"type": "ephemeral"}
    request = read(
        system=[{"type": "text", "text": "s", "cache_control": {**mark, "ttl": "1h"}}],
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "a"}]},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": [{"type": "text", "text": "c", "cache_control": mark}]},
        ],
    )
    assert request.cache_breakpoints == (0, 3)
    assert request.cache_ttl_s == 3600.0


def test_cache_control_at_the_top_marks_the_end() -> None:
    request = read(system="s", cache_control={"type": "ephemeral"})
    assert request.cache_breakpoints == (1,)
    assert request.cache_ttl_s == 300.0


def test_text_documents_are_read_and_others_refused() -> None:
    source = {"type": "text", "media_type": "text/plain", "data": "contents"}
    turn = {"role": "user", "content": [{"type": "document", "title": "T", "source": source}]}
    assert messages(messages=[turn])[0].text == "T\ncontents"
    for block in (
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}},
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": ""}},
    ):
        with pytest.raises(UnsupportedError) as caught:
            read(messages=[{"role": "user", "content": [block]}])
        assert (caught.value.param or "").startswith("messages.0.content.0")


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
PDF = {
    "type": "document",
    "title": "a.pdf",
    "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"},
}
UNREAD = "[image omitted: this model reads text only]"


def test_what_a_tool_showed_and_what_was_shown_before_is_replaced_by_words() -> None:
    call = {"type": "tool_use", "id": "t1", "name": "Read", "input": '{"path": "a.png"}'}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [IMAGE, PDF]}
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "see"}, IMAGE]},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [result, IMAGE]},
    ]
    request = read(messages=turns)
    assert isinstance(request.prompt, ChatPrompt)
    words = f"{UNREAD}\n[document a.pdf omitted: this model reads text only]"
    assert request.prompt.messages == (
        Message("user", (TextPart("see"), TextPart(UNREAD))),
        Message("assistant", (ToolCallPart("t1", "Read", {"path": "a.png"}),)),
        Message("tool", (ToolResultPart("t1", words),)),
        Message.of("user", UNREAD),
    )
    assert request.adjustments == ("image_omitted=3", "document_omitted=1")


def test_what_the_user_shows_now_is_refused_with_its_place() -> None:
    turns = [*HELLO, {"role": "assistant", "content": "hi"}, {"role": "user", "content": [IMAGE]}]
    with pytest.raises(UnsupportedError, match="text only") as caught:
        read(messages=[*turns, {"role": "system", "content": "be brief"}])
    assert caught.value.param == "messages.2.content.0"


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (
            {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "fish"}},
            '[server_tool_use {"input": {"query": "fish"}, "name": "web_search"}]',
        ),
        (
            {
                "type": "web_search_tool_result",
                "tool_use_id": "s",
                "content": [{"type": "web_search_result", "url": "u", "encrypted_content": "AAAA"}],
            },
            '[web_search_tool_result {"content": [{"type": "web_search_result", "url": "u"}]}]',
        ),
        ({"type": "compaction", "content": "They spoke of fish."}, "They spoke of fish."),
    ],
)
def test_what_ran_at_anthropic_is_described_in_words(block: dict[str, Any], words: str) -> None:
    turns = [*HELLO, {"role": "assistant", "content": [block]}, *HELLO]
    assert messages(messages=turns)[1] == Message.of("assistant", words)


@pytest.mark.parametrize("name", ["temperature", "top_p", "top_k"])
def test_sampling_is_refused_from_the_new_version_on_and_works_before(name: str) -> None:
    with pytest.raises(InvalidRequestError, match="not accepted"):
        read(version="2026-10-21", **{name: 1})
    for version in ("2023-06-01", None):
        assert getattr(read(version=version, **{name: 1}).sampling, name) == 1


def test_a_document_in_an_assistant_turn_is_refused_from_the_new_version_on() -> None:
    block = {"type": "document", "source": {"type": "text", "data": "x"}}
    turns = [*HELLO, {"role": "assistant", "content": [block]}]
    assert messages(messages=turns)[1].text == "x"
    with pytest.raises(InvalidRequestError, match="document"):
        read(version="2026-10-21", messages=turns)


@pytest.mark.parametrize(
    ("choice", "meaning"),
    [
        (None, ToolChoice()),
        ({"type": "auto"}, ToolChoice()),
        ({"type": "any", "disable_parallel_tool_use": True}, ToolChoice("required", parallel=False)),
        ({"type": "tool", "name": "weather"}, ToolChoice("required", ("weather",))),
        ({"type": "none"}, ToolChoice("none")),
    ],
)
def test_tool_choice_keeps_its_meaning(choice: object, meaning: ToolChoice) -> None:
    prompt = read(tools=[WEATHER], tool_choice=choice).prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.tool_choice == meaning
    assert [tool.name for tool in prompt.tools] == ["weather"]


@pytest.mark.parametrize(
    ("tool", "name", "arguments"),
    [
        ({"type": "bash_20250124", "name": "bash"}, "bash", {"command": "ls"}),
        ({"type": "bash_20250124"}, "bash", {"restart": True}),
        (
            {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool", "max_characters": 9},
            "str_replace_based_edit_tool",
            {"command": "view", "path": "a.py", "view_range": [1, -1]},
        ),
        (
            {"type": "text_editor_20250124", "name": "str_replace_editor"},
            "str_replace_editor",
            {"command": "undo_edit", "path": "a.py"},
        ),
        (
            {"type": "memory_20250818", "name": "memory"},
            "memory",
            {"command": "rename", "old_path": "/memories/a", "new_path": "/memories/b"},
        ),
    ],
)
def test_tools_that_the_client_runs_are_offered_with_their_arguments(
    tool: dict[str, Any], name: str, arguments: dict[str, Any]
) -> None:
    prompt = read(tools=[tool, WEATHER], tool_choice={"type": "tool", "name": name}).prompt
    assert isinstance(prompt, ChatPrompt)
    assert [spec.name for spec in prompt.tools] == [name, "weather"]
    assert prompt.tools[0].description
    jsonschema.validate(arguments, dict(prompt.tools[0].parameters))
    assert prompt.tool_choice == ToolChoice("required", (name,))


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "computer_20250124", "name": "computer"}]},
        {"tools": [{"type": "code_execution_20250825", "name": "code_execution"}]},
        {"tool_choice": {"type": "any"}},
        {"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "other"}},
        {"tools": [WEATHER, WEATHER]},
        {"tools": [{"name": "x"}]},
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        {"mcp_servers": [{"type": "url"}]},
        {"stop_sequences": [" "]},
        {"thinking": {"type": "enabled"}},
        {"thinking": {"type": "enabled", "budget_tokens": 100}},
        {"thinking": {"type": "sometimes"}},
        {"top_p": 0},
        {"messages": [{"role": "assistant", "content": [{"type": "tool_result", "tool_use_id": "t"}]}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "tool_use", "id": "t", "name": "n", "input": {}}]}
            ]
        },
    ],
)
def test_what_contradicts_itself_or_cannot_be_done_is_refused_with_its_field(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read(**fields)
    assert caught.value.param


def test_thinking_is_asked_of_the_template_and_bounded() -> None:
    request = read(thinking={"type": "enabled", "budget_tokens": 50}, output_config={"effort": "low"})
    assert isinstance(request.prompt, ChatPrompt)
    assert request.prompt.template_options == {"enable_thinking": True, "reasoning_effort": "low"}
    assert request.thinking_budget == 50


def test_an_output_format_is_enforced() -> None:
    schema = {"type": "object"}
    form = {"type": "json_schema", "schema": schema}
    for fields, param in (
        ({"output_config": {"format": form}}, "output_config.format.schema"),
        ({"output_format": form}, "output_format.schema"),
    ):
        constraint = read(**fields).constraint
        assert constraint is not None
        assert constraint.param == param
        assert (constraint.kind, constraint.schema) == ("json_schema", schema)
