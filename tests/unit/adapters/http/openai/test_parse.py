"""What OpenAI requests (chat, plain, responses) mean, in the domain's words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from semanticd.adapters.http.core.body import to_wire
from semanticd.adapters.http.openai.chat import parse as openai_chat_parse
from semanticd.adapters.http.openai.chat.wire import ChatRequest
from semanticd.adapters.http.openai.completions import parse as completions_parse
from semanticd.adapters.http.openai.completions.wire import CompletionRequest
from semanticd.adapters.http.openai.responses import parse as openai_responses_parse
from semanticd.adapters.http.openai.responses.parse import Parsed
from semanticd.adapters.http.openai.responses.wire import InputItem, ResponsesRequest
from semanticd.domain.chat import (
    ChatPrompt,
    Message,
    TextPart,
    TextPrompt,
    ThinkingPart,
    TokenPrompt,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
)
from semanticd.domain.errors import InvalidRequestError, UnsupportedError
from semanticd.domain.generation import GenerationRequest
from semanticd.domain.ids import RequestId

HELLO = [{"role": "user", "content": "hello"}]
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def chat(**fields: Any) -> GenerationRequest:
    body = to_wire({"model": "tiny", "messages": HELLO, **fields}, ChatRequest)
    return openai_chat_parse.parse(body, request_id=RequestId("r"), agent_id=None, priority="interactive")


def plain(**fields: Any) -> list[GenerationRequest]:
    body = to_wire({"model": "tiny", "prompt": "once", **fields}, CompletionRequest)
    return completions_parse.parse(
        body, request_id=RequestId("r"), agent_id=None, priority="interactive", max_prompts=3
    )


def responses(earlier: Sequence[InputItem] = (), **fields: Any) -> Parsed:
    body = to_wire({"model": "tiny", "input": "hello", **fields}, ResponsesRequest)
    return openai_responses_parse.parse(
        body, earlier=earlier, request_id=RequestId("r"), agent_id=None, priority="interactive"
    )


def chat_messages(request: GenerationRequest) -> tuple[Message, ...]:
    assert isinstance(request.prompt, ChatPrompt)
    return request.prompt.messages


def test_chat_messages_of_every_role_are_understood() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    turns = [
        {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "user", "content": "weather?", "name": "ann"},
        {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "cold"},
    ]
    assert chat_messages(chat(messages=turns)) == (
        Message("system", (TextPart("a"), TextPart("b"))),
        Message.of("user", "weather?"),
        Message("assistant", (ThinkingPart("hm"), ToolCallPart("c1", "weather", {"city": "Oslo"}))),
        Message("tool", (ToolResultPart("c1", "cold"),)),
    )


@pytest.mark.parametrize("arguments", ["{oops", "[1]", "null", "5"])
def test_arguments_that_a_model_got_wrong_may_be_sent_back(arguments: str) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    turns = [*HELLO, {"role": "assistant", "tool_calls": [call]}]
    part = chat_messages(chat(messages=turns))[1].parts[0]
    assert isinstance(part, ToolCallPart)
    assert part.arguments == {"arguments": arguments}


def test_arguments_may_be_an_object_in_every_dialect() -> None:
    given = {"city": "Oslo", "days": 2}
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": given}}
    turns = [*HELLO, {"role": "assistant", "tool_calls": [call]}]
    part = chat_messages(chat(messages=turns))[1].parts[0]
    item = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": given}
    assert part == ToolCallPart("c1", "weather", given) == responses(input=[item]).messages[0].parts[0]


def test_thinking_and_calls_are_read_by_their_other_names() -> None:
    turns = [
        *HELLO,
        {
            "role": "assistant",
            "content": None,
            "reasoning": "hm",
            "function_call": {"name": "weather", "arguments": '{"city": "Oslo"}'},
        },
        {"role": "function", "name": "weather", "content": "cold"},
    ]
    assert chat_messages(chat(messages=turns))[1:] == (
        Message("assistant", (ThinkingPart("hm"), ToolCallPart("weather", "weather", {"city": "Oslo"}))),
        Message("tool", (ToolResultPart("weather", "cold"),)),
    )


PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
UNREAD = "[image omitted: this model reads text only]"


@pytest.mark.parametrize(
    "after",
    [
        [{"role": "assistant", "content": "nice"}, *HELLO],
        [{"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "c1", "content": "x"}],
        HELLO,
    ],
)
def test_chat_replaces_an_image_of_an_earlier_turn_by_words(after: list[dict[str, Any]]) -> None:
    turns = [{"role": "user", "content": [{"type": "text", "text": "see"}, PICTURE]}, *after]
    request = chat(messages=turns)
    assert chat_messages(request)[0].text == f"see\n{UNREAD}"
    assert request.adjustments == ("image_omitted=1",)


def test_chat_replaces_what_a_tool_answered_and_what_a_client_passes_on_for_it() -> None:
    file = {"type": "file", "file": {"filename": "a.pdf", "file_data": "AAAA"}}
    turns = [
        *HELLO,
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": [PICTURE, file]},
        {"role": "user", "content": [PICTURE]},
    ]
    request = chat(messages=turns)
    result = ToolResultPart("c1", f"{UNREAD}\n[file a.pdf omitted: this model reads text only]")
    assert chat_messages(request)[2:] == (Message("tool", (result,)), Message.of("user", UNREAD))
    assert request.adjustments == ("image_omitted=2", "file_omitted=1")


def test_responses_replace_what_a_tool_showed_and_refuse_what_the_user_shows() -> None:
    shown = [{"type": "input_image", "image_url": "data:image/png;base64,AAAA"}]
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "see"}, *shown]},
        {"type": "function_call", "call_id": "c1", "name": "view_image", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": shown},
    ]
    parsed = responses(input=items)
    assert parsed.messages[0].text == f"see\n{UNREAD}"
    assert parsed.messages[2].parts == (ToolResultPart("c1", UNREAD),)
    assert parsed.request.adjustments == ("image_omitted=2",)
    with pytest.raises(UnsupportedError) as caught:
        responses(input=[*items, {"type": "message", "role": "assistant", "content": "a"}, items[0]])
    assert caught.value.param == "input.4.content.1"


def test_calls_of_openais_own_tools_that_a_client_ran_are_read_as_calls() -> None:
    items = [
        {"role": "user", "content": "go"},
        {
            "type": "local_shell_call",
            "call_id": "c1",
            "status": "completed",
            "action": {"type": "exec", "command": ["ls"]},
        },
        {"type": "local_shell_call_output", "id": "c1", "output": "a.txt"},
        {"type": "apply_patch_call", "call_id": "c2", "operation": {"type": "delete_file", "path": "a.txt"}},
        {"type": "apply_patch_call_output", "call_id": "c2", "status": "completed", "output": "done"},
        {"type": "shell_call", "call_id": "c3", "action": {"commands": ["ls"]}},
        {"type": "shell_call_output", "call_id": "c3", "output": [{"stdout": "", "stderr": "no"}]},
    ]
    assert responses(input=items).messages[1:] == (
        Message("assistant", (ToolCallPart("c1", "local_shell", {"type": "exec", "command": ["ls"]}),)),
        Message("tool", (ToolResultPart("c1", "a.txt"),)),
        Message("assistant", (ToolCallPart("c2", "apply_patch", {"type": "delete_file", "path": "a.txt"}),)),
        Message("tool", (ToolResultPart("c2", "done"),)),
        Message("assistant", (ToolCallPart("c3", "shell", {"commands": ["ls"]}),)),
        Message("tool", (ToolResultPart("c3", '[{"stdout": "", "stderr": "no"}]'),)),
    )


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (
            {"type": "web_search_call", "id": "w", "action": {"type": "search", "query": "fish"}},
            '[web_search_call {"action": {"query": "fish", "type": "search"}}]',
        ),
        (
            {
                "type": "mcp_call",
                "id": "m",
                "name": "f",
                "server_label": "s",
                "arguments": "{}",
                "output": "ok",
            },
            '[mcp_call {"arguments": "{}", "name": "f", "output": "ok", "server_label": "s"}]',
        ),
        (
            {"type": "mcp_list_tools", "id": "m", "server_label": "s"},
            '[mcp_list_tools {"server_label": "s"}]',
        ),
        (
            {"type": "code_interpreter_call", "id": "c", "code": "1+1", "outputs": None, "container_id": "x"},
            '[code_interpreter_call {"code": "1+1"}]',
        ),
    ],
)
def test_what_ran_at_openai_is_described_in_words(item: dict[str, Any], words: str) -> None:
    parsed = responses(input=[{"role": "user", "content": "go"}, item, {"role": "user", "content": "on"}])
    assert parsed.messages[1] == Message.of("assistant", words)
    assert parsed.request.adjustments == (f"{item['type']}_as_text=1",)


def test_an_item_reference_stands_for_the_item_and_an_unknown_one_is_named() -> None:
    body = to_wire(
        {
            "model": "m",
            "input": [{"type": "item_reference", "id": "msg_1"}, {"role": "user", "content": "on"}],
        },
        ResponsesRequest,
    )
    kept = {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "a"}],
    }
    ids: dict[str, Any] = {"request_id": RequestId("r"), "agent_id": None, "priority": "interactive"}
    parsed = openai_responses_parse.parse(body, earlier=(), look_up={"msg_1": kept}.get, **ids)
    assert parsed.messages == (Message.of("assistant", "a"), Message.of("user", "on"))
    with pytest.raises(InvalidRequestError, match="Item with id 'msg_1' not found") as caught:
        openai_responses_parse.parse(body, earlier=(), **ids)
    assert caught.value.param == "input.0.id"


def test_chat_sampling_is_translated_whole() -> None:
    sampling = chat(
        max_completion_tokens=5,
        max_tokens=9,
        temperature=0,
        top_p=0.5,
        stop=["a", ""],
        seed=7,
        presence_penalty=1,
        frequency_penalty=-1,
        logit_bias={"12": -100},
        logprobs=True,
        top_logprobs=2,
    ).sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p) == (5, 0, 0.5)
    assert (sampling.stop, sampling.seed, sampling.logit_bias) == (("a",), 7, {12: -100})
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (1, -1)
    assert (sampling.logprobs, sampling.top_logprobs) == (True, 2)


@pytest.mark.parametrize(
    ("choice", "meaning"),
    [
        ("auto", ToolChoice()),
        ("none", ToolChoice("none")),
        ("required", ToolChoice("required")),
        ({"type": "function", "function": {"name": "weather"}}, ToolChoice("required", ("weather",))),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "auto",
                    "tools": [{"type": "function", "function": {"name": "weather"}}],
                },
            },
            ToolChoice("auto", ("weather",)),
        ),
    ],
)
def test_chat_tool_choice_keeps_its_meaning(choice: object, meaning: ToolChoice) -> None:
    prompt = chat(tools=[WEATHER], tool_choice=choice).prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.tool_choice == meaning


def test_parallel_calls_can_be_forbidden() -> None:
    prompt = chat(tools=[WEATHER], parallel_tool_calls=False).prompt
    assert isinstance(prompt, ChatPrompt)
    assert not prompt.tool_choice.parallel


@pytest.mark.parametrize(
    "fields",
    [
        {"tool_choice": "required"},
        {"tools": [WEATHER], "tool_choice": "sometimes"},
        {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "other"}}},
        {"tools": [{"type": "web_search"}]},
        {"tools": [WEATHER, WEATHER]},
        {"response_format": {"type": "json_schema"}},
        {"top_logprobs": 2},
        {"logit_bias": {"x": 1}},
        {"logit_bias": {"1": 101}},
        {"functions": [{}]},
        {"modalities": ["audio"]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"messages": [{"role": "user", "content": None}]},
    ],
)
def test_chat_refuses_what_it_cannot_do_with_the_field(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        chat(**fields)
    assert caught.value.param


@pytest.mark.parametrize("name", ["messages", "tools", "chat_template", "add_generation_prompt", "tokenize"])
def test_what_the_request_says_itself_is_no_option_of_the_chat_template(name: str) -> None:
    with pytest.raises(InvalidRequestError, match="not an option of the chat template") as caught:
        chat(chat_template_kwargs={"enable_thinking": False, name: []})
    assert caught.value.param == f"chat_template_kwargs.{name}"
    kept = chat(chat_template_kwargs={"enable_thinking": False, "documents": [], "preserve_thinking": True})
    assert isinstance(kept.prompt, ChatPrompt)
    assert kept.prompt.template_options.keys() == {"enable_thinking", "documents", "preserve_thinking"}


@pytest.mark.parametrize(
    ("given", "kind"),
    [({"type": "text"}, None), ({"type": "json_object"}, "json_object")],
)
def test_chat_response_format_becomes_a_constraint(given: object, kind: str | None) -> None:
    constraint = chat(response_format=given).constraint
    assert (constraint.kind if constraint else None) == kind


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("fields", "kind", "form"),
    [
        ({"response_format": {"type": "json_object"}}, "json_object", None),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, "json_schema", SCHEMA),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
            "json_schema",
            SCHEMA,
        ),
        ({"guided_json": SCHEMA}, "json_schema", SCHEMA),
        ({"guided_json": json.dumps(SCHEMA)}, "json_schema", SCHEMA),
        ({"json_schema": SCHEMA}, "json_schema", SCHEMA),
        ({"structured_outputs": {"json": SCHEMA}}, "json_schema", SCHEMA),
        ({"structured_outputs": {"json_object": True}}, "json_object", None),
        ({"guided_regex": "[ab]+"}, "regex", "[ab]+"),
        ({"structured_outputs": {"regex": "[ab]+"}}, "regex", "[ab]+"),
        ({"guided_choice": ["yes", 'n"o']}, "lark", 'start: "yes" | "n\\"o"\n'),
        ({"structured_outputs": {"choice": ["yes"]}}, "lark", 'start: "yes"\n'),
        ({"guided_grammar": 'root ::= "a"'}, "lark", 'root ::= "a"'),
        ({"grammar": 'root ::= "a"'}, "lark", 'root ::= "a"'),
        ({"structured_outputs": {"grammar": 'start: "a"'}}, "lark", 'start: "a"'),
    ],
)
def test_a_form_is_enforced_by_whatever_name_it_is_asked_for(
    fields: dict[str, Any], kind: str, form: object
) -> None:
    for request in (chat(**fields), plain(**fields)[0], responses(**fields).request):
        constraint = request.constraint
        assert constraint is not None
        assert constraint.kind == kind
        assert form in (constraint.schema, constraint.grammar)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": "[]"}, "guided_json"),
        ({"guided_choice": []}, "guided_choice"),
        ({"structured_outputs": {"choice": [""]}}, "structured_outputs.choice"),
        ({"structured_outputs": {"structural_tag": {}}}, "structured_outputs.structural_tag"),
        ({"guided_json": SCHEMA, "guided_regex": "a"}, "guided_regex"),
        ({"response_format": {"type": "json_object"}, "grammar": "start: A"}, "grammar"),
    ],
)
def test_a_form_that_is_none_or_two_is_refused(fields: dict[str, Any], param: str) -> None:
    for read in (chat, plain, responses):
        with pytest.raises(InvalidRequestError) as caught:
            read(**fields)  # type: ignore[operator]
        assert caught.value.param == param


def test_a_plain_prompt_has_four_forms() -> None:
    assert [request.prompt for request in plain()] == [TextPrompt("once")]
    assert [request.prompt for request in plain(prompt=[1, 2])] == [TokenPrompt((1, 2))]
    several = plain(prompt=["a", [3]])
    assert [request.prompt for request in several] == [TextPrompt("a"), TokenPrompt((3,))]
    assert len({request.request_id for request in several}) == 2


def test_a_plain_prompt_can_be_scored_alone() -> None:
    (request,) = plain(echo=True, logprobs=1, max_tokens=0)
    assert request.echo
    assert not request.parse_output
    assert (request.sampling.max_tokens, request.sampling.logprobs, request.sampling.top_logprobs) == (
        0,
        True,
        1,
    )
    assert plain(logprobs=0)[0].sampling.logprobs
    assert plain()[0].sampling.max_tokens == 16


@pytest.mark.parametrize(
    "fields",
    [
        {"suffix": "end"},
        {"best_of": 3},
        {"prompt": []},
        {"prompt": [[]]},
        {"prompt": [1, "a"]},
        {"prompt": [True]},
        {"prompt": [1, -1]},
        {"prompt": [{}]},
        {"prompt": ["a"] * 4},
    ],
)
def test_plain_completions_refuse_what_they_cannot_do(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        plain(**fields)
    assert caught.value.param


def test_the_items_of_one_assistant_turn_become_one_message_again() -> None:
    items = [
        {"role": "developer", "content": "be brief"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "weather?"}]},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "let me see"}]},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "c2", "name": "patch", "input": "x"},
        {"type": "function_call_output", "call_id": "c1", "output": "cold"},
        {
            "type": "custom_tool_call_output",
            "call_id": "c2",
            "output": [{"type": "input_text", "text": "ok"}],
        },
        {"type": "web_search_call", "id": "ws", "status": "completed"},
    ]
    parsed = responses(input=items, instructions="system")
    turn = (
        ThinkingPart("hm"),
        TextPart("let me see"),
        ToolCallPart("c1", "weather", {}),
        ToolCallPart("c2", "patch", {"input": "x"}),
    )
    assert parsed.messages == (
        Message.of("system", "be brief"),
        Message.of("user", "weather?"),
        Message("assistant", turn),
        Message("tool", (ToolResultPart("c1", "cold"),)),
        Message("tool", (ToolResultPart("c2", "ok"),)),
    )
    assert chat_messages(parsed.request)[0] == Message.of("system", "system")


def test_an_earlier_conversation_goes_before_the_new_input_but_after_the_instructions() -> None:
    earlier = [InputItem(role="user", content="a"), InputItem(role="assistant", content="b")]
    parsed = responses(earlier, instructions="i")
    assert [message.text for message in chat_messages(parsed.request)] == ["i", "a", "b", "hello"]


def test_each_form_names_the_field_that_asks_for_it() -> None:
    form = {"type": "json_schema", "name": "x", "schema": {}}
    asked = [
        (chat(response_format={"type": "json_object"}), "response_format"),
        (chat(guided_regex="a"), "guided_regex"),
        (chat(structured_outputs={"choice": ["a"]}), "structured_outputs.choice"),
        (plain(json_schema={})[0], "json_schema"),
        (responses(text={"format": form}).request, "text.format.schema"),
        (responses(text={"format": {"type": "json_object"}}).request, "text.format"),
    ]
    assert [request.constraint.param for request, _ in asked if request.constraint] == [
        param for _, param in asked
    ]


@pytest.mark.parametrize("role", ["user", "developer"])
def test_a_message_without_any_content_is_an_empty_one(role: str) -> None:
    parsed = responses([InputItem(role="user", content="a")], input=[{"role": role, "content": []}])
    assert [message.text for message in chat_messages(parsed.request)] == ["a", ""]


def test_a_web_search_that_a_chat_asks_for_is_left_out_and_said() -> None:
    assert chat(web_search_options={}).adjustments == ("web_search_omitted=1",)


def test_tools_of_the_responses_dialect_get_flat_names_and_hosted_ones_are_left_out() -> None:
    tools = [
        {"type": "function", "name": "f", "parameters": None, "strict": None},
        {"type": "custom", "name": "patch", "format": {"type": "text"}},
        {"type": "namespace", "name": "ns", "tools": [{"type": "function", "name": "f"}]},
        {"type": "web_search"},
        {"type": "web_search_preview_2025_03_11"},
        {"type": "file_search", "vector_store_ids": ["vs_1"]},
        {"type": "code_interpreter", "container": {"type": "auto"}},
    ]
    parsed = responses(tools=tools, tool_choice={"type": "custom", "name": "patch"})
    assert [tool.name for tool in parsed.tools.specs] == ["f", "patch", "ns__f"]
    assert parsed.tools.behind("ns__f").namespace == "ns"
    assert parsed.request.adjustments == (
        "web_search_omitted=2",
        "file_search_omitted=1",
        "code_interpreter_omitted=1",
    )
    assert isinstance(parsed.request.prompt, ChatPrompt)
    assert parsed.request.prompt.tool_choice == ToolChoice("required", ("patch",))


@pytest.mark.parametrize(
    "fields",
    [
        {"input": []},
        {"input": [{"content": "x"}]},
        {"input": [{"role": "user"}]},
        {"input": [{"type": "item_reference", "id": "x"}]},
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        {"input": [{"type": "function_call", "name": "f"}]},
        {"input": [{"type": "function_call_output", "output": "x"}]},
        {"tools": [{"type": "mcp", "server_label": "x"}]},
        {"tools": [{"type": "function"}]},
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function", "name": "x"}},
        {"text": {"format": {"type": "json_schema", "name": "x"}}},
        {"background": True},
        {"conversation": "conv_1"},
    ],
)
def test_responses_refuse_what_they_cannot_do_with_the_field(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        responses(**fields)
    assert caught.value.param


def test_a_custom_tools_regular_expression_and_grammar_are_enforced_and_told() -> None:
    def tool(**form: Any) -> Any:
        found = responses(tools=[{"type": "custom", "name": "sum", "format": form}])
        assert found.request.adjustments == ()
        return found.tools.specs[0]

    regex = tool(type="grammar", syntax="regex", definition="[0-9]+")
    assert (regex.strict, regex.input_grammar) == (True, "")
    assert regex.parameters["properties"]["input"]["pattern"] == "^(?:[0-9]+)$"
    lark = tool(type="grammar", syntax="lark", definition="start: /[0-9]+/")
    assert (lark.strict, lark.input_grammar) == (True, "start: /[0-9]+/")
    assert "start: /[0-9]+/" in lark.parameters["properties"]["input"]["description"]
    assert not tool(type="text").strict


@pytest.mark.parametrize(
    "form", [{"syntax": "ebnf", "definition": "x"}, {"syntax": "lark"}, {"definition": "x"}]
)
def test_a_grammar_that_is_none_is_refused(form: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match="lark or regex"):
        responses(tools=[{"type": "custom", "name": "sum", "format": {"type": "grammar", **form}}])
