"""Responses that clients go on from by id: over restarts, item by item, counted and compacted."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from semanticd.adapters.disk.responses.archive import DiskResponseArchive
from semanticd.adapters.http.app import create_app
from semanticd.adapters.http.core.config import HttpConfig
from semanticd.application.ports.response_archive import StoredResponse
from semanticd.application.services.stored_responses import StoredResponses
from semanticd.domain.chat import ChatPrompt, Message
from semanticd.domain.errors import PromptTooLongError
from semanticd.domain.generation import Finished, FinishReason, GenerationRequest, ThinkingDelta
from tests.fakes.asgi_client import Answer, AsgiClient
from tests.fakes.generator import ANONYMOUS, USAGE, ScriptedGenerator, ScriptedStream, call_script
from tests.fakes.http_server import serving
from tests.fakes.http_services import make_services
from tests.fakes.telemetry import ManualClock, RecordingLog

PNG = "data:image/png;base64," + "A" * 1000


@contextmanager
def daemon(path: Path, generator: ScriptedGenerator) -> Iterator[AsgiClient]:
    """Serve with what is stored in a file; leaving it is a stop."""
    archive = DiskResponseArchive.open(path, clock=ManualClock(), log=RecordingLog())
    services = make_services(generator, responses=StoredResponses(archive=archive), wall=ManualClock().wall)
    try:
        yield AsgiClient(create_app(services, HttpConfig()))
    finally:
        archive.close()


class SmallGenerator(ScriptedGenerator):
    """Has room for 1,500 characters."""

    async def open(self, request: GenerationRequest) -> ScriptedStream:
        """Refuse what is longer."""
        assert isinstance(request.prompt, ChatPrompt)
        size = sum(len(message.text) for message in request.prompt.messages)
        if size > 1500:
            raise PromptTooLongError(num_tokens=size, maximum=1500)
        return await ScriptedGenerator.open(self, request)


def prompt_of(generator: ScriptedGenerator) -> tuple[Message, ...]:
    prompt = generator.requests[-1].prompt
    assert isinstance(prompt, ChatPrompt)
    return prompt.messages


def body(text: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "input": text, **fields}


async def test_a_conversation_goes_on_by_id_and_by_item_after_a_restart(tmp_path: Path) -> None:
    script = [ThinkingDelta("hm"), "Hello", *call_script("weather", {"city": "Oslo"})]
    generator = ScriptedGenerator(script)
    with daemon(tmp_path / "r.sqlite", generator) as before:
        first = (await before.post("/v1/responses", body("weather?", user="ann"))).json
        shown = await before.get(f"/v1/responses/{first['id']}")
        assert shown.json == first
    with daemon(tmp_path / "r.sqlite", generator) as after:
        assert (await after.get(f"/v1/responses/{first['id']}")).json == first
        result = [{"type": "function_call_output", "call_id": "call_1", "output": "cold"}]
        again = body(result, previous_response_id=first["id"])
        assert (await after.post("/v1/responses", again)).status == 200
        messages = prompt_of(generator)
        assert [message.role for message in messages] == ["user", "assistant", "tool"]
        assert len(messages[1].parts) == 3
        assert generator.requests[-1].agent_id == "ann"
        by_reference = [
            {"role": "user", "content": "weather?"},
            *({"type": "item_reference", "id": item["id"]} for item in first["output"]),
            *result,
        ]
        assert (await after.post("/v1/responses", body(by_reference, store=False))).status == 200
        assert prompt_of(generator) == messages
        assert (await after.send("DELETE", f"/v1/responses/{first['id']}")).status == 200
    with daemon(tmp_path / "r.sqlite", generator) as again_after:
        assert (await again_after.get(f"/v1/responses/{first['id']}")).status == 404
        refused = await again_after.post("/v1/responses", body("x", previous_response_id=first["id"]))
        assert refused.json["error"]["code"] == "previous_response_not_found"


@pytest.mark.parametrize("agents", [{}, {"ann": {"user": "ann"}, "bob": {"user": "bob"}}])
async def test_an_id_that_a_client_chose_stands_for_its_item_in_that_conversation_only(
    tmp_path: Path, agents: dict[str, dict[str, str]]
) -> None:
    ann, bob = agents.get("ann", {}), agents.get("bob", {})
    generator = ScriptedGenerator(("Hello",))
    reference = {"type": "item_reference", "id": "msg_1"}
    with daemon(tmp_path / "r.sqlite", generator) as asked:
        first = (
            await asked.post(
                "/v1/responses", body([{"role": "user", "content": "ann's", "id": "msg_1"}], **ann)
            )
        ).json
        refused = await asked.post("/v1/responses", body([reference], **bob))
        assert (refused.status, refused.json["error"]["param"]) == (400, "input.0.id")
        assert "ann's" not in refused.content.decode()
        other = [{"role": "user", "content": "bob's", "id": "msg_1"}]
        assert (await asked.post("/v1/responses", body(other, **bob))).status == 200
    for _restart in range(2):
        with daemon(tmp_path / "r.sqlite", generator) as asked:
            onward = body([reference], previous_response_id=first["id"], **ann)
            assert (await asked.post("/v1/responses", onward)).status == 200
            assert [message.text for message in prompt_of(generator)] == ["ann's", "Hello", "ann's"]
            assert (await asked.post("/v1/responses", body([reference]))).status == 400


async def test_a_response_that_the_disk_does_not_delete_is_there_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    archive = DiskResponseArchive.open(path, clock=ManualClock(), log=RecordingLog())
    asked = AsgiClient(create_app(make_services(responses=StoredResponses(archive=archive)), HttpConfig()))
    url = f"/v1/responses/{(await asked.post('/v1/responses', body('hi'))).json['id']}"
    assert archive.flush(60)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "CREATE TRIGGER full BEFORE DELETE ON responses BEGIN SELECT raise(ABORT, 'full'); END"
        )
    refused = await asked.send("DELETE", url)
    # It is not full: making room would not help.
    assert refused.status == 500
    assert "is not deleted: the disk refuses" in refused.json["error"]["message"]
    assert (await asked.get(url)).status == 200
    archive.close()


@pytest.mark.parametrize("streams", [False, True])
async def test_a_stored_response_is_on_disk_before_its_answer_ends(tmp_path: Path, streams: bool) -> None:
    saving: Future[bool] = Future()
    asked_to_save = asyncio.Event()

    class SlowResponses(StoredResponses):
        def keep(self, response: StoredResponse) -> Future[bool]:
            super().keep(response)
            asked_to_save.set()
            return saving

    client = AsgiClient(create_app(make_services(responses=SlowResponses()), HttpConfig()))
    asking = asyncio.ensure_future(client.post("/v1/responses", body("hi", stream=streams)))
    await asyncio.wait_for(asked_to_save.wait(), 60)
    for _ in range(20):
        await asyncio.sleep(0)
    assert not asking.done()
    saving.set_result(True)
    answer = await asyncio.wait_for(asking, 60)
    assert (answer.status, "x-semantic-adjusted" in answer.headers) == (200, False)
    unstored = await client.post("/v1/responses", body("hi", stream=streams, store=False))
    assert unstored.status == 200


@pytest.mark.parametrize("streams", [False, True])
async def test_a_response_that_is_kept_in_memory_only_says_so_while_the_disk_refuses(
    tmp_path: Path, streams: bool
) -> None:
    path = tmp_path / "r.sqlite"
    archive = DiskResponseArchive.open(path, clock=ManualClock(), log=RecordingLog())
    responses = StoredResponses(archive=archive)
    asked = AsgiClient(create_app(make_services(responses=responses), HttpConfig()))

    async def ask() -> Answer:
        answer = await asked.post("/v1/responses", body("hi", stream=streams))
        assert answer.status == 200
        assert archive.flush(60)
        return answer

    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "CREATE TRIGGER full BEFORE INSERT ON responses BEGIN SELECT raise(ABORT, 'full'); END"
        )
        first = await ask()
        # A stream's headers are sent before there is anything to store.
        assert streams or first.headers["x-semantic-adjusted"] == "stored_in_memory_only=1"
        assert responses.num_refused == 1, "kept and tried again"
        assert (await ask()).headers["x-semantic-adjusted"] == "stored_in_memory_only=1"
        not_stored = await asked.post("/v1/responses", body("hi", store=False))
        assert "x-semantic-adjusted" not in not_stored.headers
        connection.execute("DROP TRIGGER full")
    await ask()
    assert "x-semantic-adjusted" not in (await ask()).headers
    assert responses.num_refused == 0, "what was refused is stored too"
    archive.close()


@pytest.mark.parametrize("streams", [False, True])
async def test_what_an_anonymous_caller_asked_goes_with_the_agent_that_holds_it(
    tmp_path: Path, streams: bool
) -> None:
    archive = DiskResponseArchive.open(tmp_path / "r.sqlite", clock=ManualClock(), log=RecordingLog())
    responses = StoredResponses(archive=archive)
    asked = AsgiClient(create_app(make_services(responses=responses), HttpConfig()))
    first = await asked.post("/v1/responses", body("my secret"))
    if streams:
        assert (await asked.post("/v1/responses", body("my secret", stream=True))).status == 200
    assert (await asked.get(f"/v1/responses/{first.json['id']}")).status == 200
    await responses.forget_agent(ANONYMOUS)
    assert (await asked.get(f"/v1/responses/{first.json['id']}")).status == 404
    archive.close()
    assert responses.num_bytes == 0
    for file in tmp_path.iterdir():
        assert b"my secret" not in file.read_bytes()


async def test_no_client_replaces_an_item_whose_id_the_server_made(tmp_path: Path) -> None:
    generator = ScriptedGenerator(("Hello",))
    with daemon(tmp_path / "r.sqlite", generator) as asked:
        first = (await asked.post("/v1/responses", body("hi"))).json
        listed = (await asked.get(f"/v1/responses/{first['id']}/input_items")).json
        made = [listed["data"][0]["id"], first["output"][0]["id"]]
        evil = [{"role": "user", "content": "evil", "id": item_id} for item_id in made]
        assert (await asked.post("/v1/responses", body(evil))).status == 200
        references = [{"type": "item_reference", "id": item_id} for item_id in made]
    for _restart in range(2):
        with daemon(tmp_path / "r.sqlite", generator) as asked:
            assert (await asked.post("/v1/responses", body(references, store=False))).status == 200
            assert [message.text for message in prompt_of(generator)] == ["hi", "Hello"]


async def test_what_a_response_answered_is_listed_in_pages(tmp_path: Path) -> None:
    generator = ScriptedGenerator(("Hello",))
    content = [{"type": "input_text", "text": "see"}, {"type": "input_image", "image_url": PNG}]
    with daemon(tmp_path / "r.sqlite", generator) as asked:
        talk = [
            {"role": "user", "content": content},
            {"role": "assistant", "content": "ok"},
            {"role": "user", "content": "hi"},
        ]
        first = (await asked.post("/v1/responses", body(talk))).json
        second = (await asked.post("/v1/responses", body("more", previous_response_id=first["id"]))).json
        path = f"/v1/responses/{second['id']}/input_items"
        listed = (await asked.get(f"{path}?order=asc")).json
        assert [item["role"] for item in listed["data"]] == ["user", "assistant", "user", "assistant", "user"]
        assert listed["data"][0]["content"][0] == {"type": "input_text", "text": "see"}
        assert listed["data"][0]["content"][1]["image_url"] is None, "what cannot be read is not stored"
        assert listed["data"][3]["id"] == first["output"][0]["id"]
        assert not listed["has_more"]
        ids = [item["id"] for item in listed["data"]]
        assert (listed["first_id"], listed["last_id"]) == (ids[0], ids[-1])
        newest = (await asked.get(f"{path}?limit=2")).json
        assert ([item["id"] for item in newest["data"]], newest["has_more"]) == (ids[:2:-1], True)
        rest = (await asked.get(f"{path}?limit=100&after={newest['last_id']}")).json
        assert [item["id"] for item in rest["data"]] == ids[2::-1]
        upto = (await asked.get(f"{path}?order=asc&before={ids[1]}")).json
        assert [item["id"] for item in upto["data"]] == ids[:1]
        again = (await asked.post("/v1/responses", body(talk))).json
        same = (await asked.get(f"/v1/responses/{again['id']}/input_items?order=asc")).json
        assert [item["id"] for item in same["data"]] == ids[:3], "equal items at equal places have equal ids"
        by_input = body([{"type": "item_reference", "id": ids[0]}, {"role": "user", "content": "?"}])
        assert (await asked.post("/v1/responses", by_input)).status == 200
        assert prompt_of(generator)[0].text.startswith("see\n[image omitted")


async def test_data_of_images_in_a_tools_result_is_not_stored(tmp_path: Path) -> None:
    generator = ScriptedGenerator(("Hello",))
    image = {"type": "input_image", "image_url": PNG, "detail": "auto"}
    file = {"type": "input_file", "file_data": PNG, "filename": "a.pdf"}
    shot = {"type": "computer_screenshot", "image_url": PNG}
    talk = [
        {"role": "user", "content": "look"},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {
            "type": "function_call_output",
            "call_id": "c1",
            "output": [{"type": "input_text", "text": "seen"}, image, file],
        },
        {"type": "computer_call", "call_id": "c2", "action": {"type": "screenshot"}},
        {"type": "computer_call_output", "call_id": "c2", "output": shot},
        {"type": "function_call", "call_id": "c3", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c3", "output": "plain"},
    ]
    with daemon(tmp_path / "r.sqlite", generator) as asked:
        first = (await asked.post("/v1/responses", body(talk))).json
        sent = prompt_of(generator)
        listed = await asked.get(f"/v1/responses/{first['id']}/input_items?order=asc")
        assert PNG not in listed.content.decode()
        outputs = [item["output"] for item in listed.json["data"] if "output" in item]
        assert outputs[0][0] == {"type": "input_text", "text": "seen"}
        assert [part["type"] for part in outputs[0]] == ["input_text", "input_image", "input_file"]
        assert outputs[0][2]["filename"] == "a.pdf"
        assert outputs[1:] == [{"type": "computer_screenshot"}, "plain"]
        assert (await asked.post("/v1/responses", body("on", previous_response_id=first["id"]))).status == 200
        assert prompt_of(generator)[: len(sent)] == sent, "the prompt goes on as it began"


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("limit=" + "9" * 5000, "limit"),
        ("order=up", "order"),
        ("after=msg_nowhere", "after"),
        ("before=msg_nowhere", "before"),
    ],
)
async def test_a_page_that_cannot_be_is_refused(query: str, param: str, tmp_path: Path) -> None:
    with daemon(tmp_path / "r.sqlite", ScriptedGenerator()) as asked:
        first = (await asked.post("/v1/responses", body("hi"))).json
        refused = await asked.get(f"/v1/responses/{first['id']}/input_items?{query}")
        assert (refused.status, refused.json["error"]["param"]) == (400, param)
        assert (await asked.get("/v1/responses/resp_no/input_items")).status == 404


async def test_a_prompts_tokens_are_counted_without_an_answer(tmp_path: Path) -> None:
    generator = ScriptedGenerator()
    with daemon(tmp_path / "r.sqlite", generator) as asked:
        first = (await asked.post("/v1/responses", body("hi"))).json
        num_requests = len(generator.requests)
        for fields in ({"model": "tiny"}, {}):
            counted = await asked.post("/v1/responses/input_tokens", {**fields, "input": "hello there"})
            assert counted.json["object"] == "response.input_tokens"
            assert counted.json["input_tokens"] > 0
        more = {"input": "hello there", "previous_response_id": first["id"]}
        longer = await asked.post("/v1/responses/input_tokens", more)
        assert longer.json["input_tokens"] > counted.json["input_tokens"]
        assert len(generator.requests) == num_requests
        assert (await asked.post("/v1/responses/input_tokens", {})).status == 400


async def test_a_conversation_is_compacted_into_what_the_user_said_and_a_sealed_summary(
    tmp_path: Path,
) -> None:
    generator = ScriptedGenerator(("The sum.",))
    talk = [
        {"role": "user", "content": "mend it"},
        {"role": "assistant", "content": "done"},
        {"role": "user", "content": "and test it"},
    ]
    tools = [{"type": "function", "name": "f", "parameters": {"type": "object"}}]
    with daemon(tmp_path / "r.sqlite", generator) as asked:
        made = await asked.post("/v1/responses/compact", body(talk, tools=tools, instructions="Be brief."))
        assert (made.status, made.json["object"]) == (200, "response.compaction")
        assert [message.text for message in prompt_of(generator)[:4]] == [
            "Be brief.",
            "mend it",
            "done",
            "and test it",
        ]
        prompt = generator.requests[-1].prompt
        assert isinstance(prompt, ChatPrompt)
        assert (len(prompt.tools), prompt.tool_choice.mode) == (1, "none"), "the beginning stays cached"
        output = made.json["output"]
        assert [item["type"] for item in output] == ["message", "message", "compaction"]
        assert "The sum." not in made.content.decode()
        assert made.json["usage"]["input_tokens"] > 0
        onward = [*output, {"role": "user", "content": "go on"}]
        assert (await asked.post("/v1/responses", body(onward))).status == 200
        said = [message.text for message in prompt_of(generator)]
        assert said[:2] == ["mend it", "and test it"]
        assert said[2].endswith("The sum.")
        assert said[3] == "go on"


@pytest.mark.parametrize(
    ("fields", "tokens", "words"), [({}, 1024, 614), ({"max_output_tokens": 300}, 300, 180)]
)
async def test_a_summary_is_as_long_as_the_client_allows_and_short_unless_it_says_so(
    tmp_path: Path, fields: dict[str, Any], tokens: int, words: int
) -> None:
    generator = ScriptedGenerator(("The sum.",))
    with daemon(tmp_path / "r.sqlite", generator) as asked:
        assert (await asked.post("/v1/responses/compact", body("mend it", **fields))).status == 200
        assert generator.requests[-1].sampling.max_tokens == tokens
        assert f"in at most {words} words" in prompt_of(generator)[-1].text


async def test_the_model_does_not_think_about_a_summary(tmp_path: Path) -> None:
    generator = ScriptedGenerator(("The sum.",))
    with daemon(tmp_path / "r.sqlite", generator) as asked:
        for fields in ({}, {"reasoning": {"effort": "high"}}):
            assert (await asked.post("/v1/responses/compact", body("mend it", **fields))).status == 200
            prompt = generator.requests[-1].prompt
            assert isinstance(prompt, ChatPrompt)
            assert prompt.template_options["enable_thinking"] is False


@pytest.mark.parametrize("stored", [False, True])
async def test_a_second_compaction_replaces_the_first_ones_summary(tmp_path: Path, stored: bool) -> None:
    generator = ScriptedGenerator(("The first sum.",))
    with daemon(tmp_path / "r.sqlite", generator) as asked:
        first = (await asked.post("/v1/responses/compact", body("mend it"))).json["output"]
        onward: dict[str, Any] = body([*first, {"role": "user", "content": "go on"}])
        if stored:
            made = (await asked.post("/v1/responses", onward)).json
            onward = body("and on", previous_response_id=made["id"])
        generator.script = ["The second sum."]
        second = (await asked.post("/v1/responses/compact", onward)).json["output"]
        assert "The first sum." in " ".join(message.text for message in prompt_of(generator))
        kept = [part["text"] for item in second[:-1] for part in item["content"]]
        assert kept == ["mend it", "go on", "and on"][: len(kept)]
        assert len(kept) == 2 + stored
        assert second[-1]["type"] == "compaction"
        assert (
            await asked.post("/v1/responses", body([*second, {"role": "user", "content": "?"}]))
        ).status == 200
        said = " ".join(message.text for message in prompt_of(generator))
        assert "The second sum." in said
        assert "The first sum." not in said


@pytest.mark.parametrize(
    ("script", "status", "words"),
    [
        ([ThinkingDelta("hm, what was it")], 503, "wrote no summary"),
        ([" \n"], 503, "wrote no summary"),
        (["The s", Finished(FinishReason.LENGTH, USAGE)], 400, "max_output_tokens"),
        ([ThinkingDelta("hm"), Finished(FinishReason.LENGTH, USAGE)], 400, "max_output_tokens"),
    ],
)
async def test_a_summary_that_is_empty_or_cut_off_replaces_no_conversation(
    tmp_path: Path, script: list[Any], status: int, words: str
) -> None:
    with daemon(tmp_path / "r.sqlite", ScriptedGenerator(script)) as asked:
        refused = await asked.post("/v1/responses/compact", body("mend it"))
        assert refused.status == status
        assert words in refused.json["error"]["message"]
        assert "output" not in refused.json


async def test_a_conversation_that_no_longer_fits_is_compacted_without_its_oldest_turns(
    tmp_path: Path,
) -> None:
    generator = SmallGenerator(("The sum.",))
    talk = [
        item
        for turn in range(10)
        for item in ({"role": "user", "content": f"{turn} " * 60}, {"role": "assistant", "content": "ok"})
    ]
    with daemon(tmp_path / "r.sqlite", generator) as asked:
        made = await asked.post("/v1/responses/compact", body(talk))
        assert made.status == 200
        assert "turns_dropped=" in made.headers["x-semantic-adjusted"]


def test_the_official_sdk_lists_counts_and_compacts(tmp_path: Path) -> None:
    archive = DiskResponseArchive.open(tmp_path / "r.sqlite", clock=ManualClock(), log=RecordingLog())
    services = make_services(responses=StoredResponses(archive=archive))
    with (
        serving(create_app(services, HttpConfig())) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as gpt,
    ):
        first = gpt.responses.create(model="tiny", input="hi")
        second = gpt.responses.create(model="tiny", input="more", previous_response_id=first.id)
        items = list(gpt.responses.input_items.list(second.id, limit=1, order="asc"))
        assert [item.type for item in items] == ["message"] * 3
        assert gpt.responses.input_tokens.count(model="tiny", input="hello").input_tokens > 0
        compacted = gpt.responses.compact(model="tiny", input="hello")
        assert compacted.output[-1].type == "compaction"
        onward: Any = [item.model_dump(exclude_none=True) for item in compacted.output]
        assert gpt.responses.create(model="tiny", input=onward).status == "completed"
    archive.close()
