"""Requests through the public door: from a conversation to events, and back again the next turn."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from semanticd.application.generation import stream as stream_module
from semanticd.application.generation.places import ReadingPlaces
from semanticd.application.services.agent_facts import ShownToolCall
from semanticd.domain.agent import AgentConfig
from semanticd.domain.chat import (
    ChatPrompt,
    Message,
    TextPart,
    TextPrompt,
    ThinkingPart,
    TokenPrompt,
    ToolChoice,
    ToolSpec,
)
from semanticd.domain.errors import (
    CancelledByCallerError,
    ConflictError,
    EngineError,
    InvalidRequestError,
    ModelNotFoundError,
    PromptTooLongError,
    QueueFullError,
)
from semanticd.domain.generation import (
    Finished,
    FinishReason,
    ModelDefaults,
    OutputConstraint,
    SamplingParams,
    Started,
    TextDelta,
    ThinkingDelta,
)
from semanticd.domain.ids import AgentId
from semanticd.domain.limits import LIMITS
from tests.fakes.asgi_client import until
from tests.fakes.engine_rig import EngineRig, wait_until
from tests.fakes.model_runner import continuation
from tests.fakes.service_rig import LONG, ServiceRig
from tests.fakes.tokenizer import CharTokenizer, PairTokenizer, PlainParser

SYSTEM = Message.of("system", "You answer in riddles, and never in less than a word. " * 4)
TOOL = ToolSpec("weather", "tells the weather")


def user(text: str) -> Message:
    return Message.of("user", text)


def assistant(text: str) -> Message:
    return Message.of("assistant", text)


def script(rig: ServiceRig, text: str) -> None:
    rig.runner.script = CharTokenizer().encode(text)


async def test_an_answer_comes_as_events_that_add_up_to_the_result() -> None:
    async with ServiceRig() as rig:
        stream = await rig.open("hello", agent="a")
        events = [event async for event in stream]
        assert isinstance(events[0], Started)
        assert isinstance(events[-1], Finished)
        text = "".join(event.text for event in events if isinstance(event, TextDelta))
        again = await rig.say("hello", agent="a")
        assert again.choices[0].text == text
        assert (again.model, again.agent_id) == ("one", "a")
        ids = CharTokenizer().encode("<|user|>hello<|end|><|assistant|>")
        assert text == CharTokenizer().decode(continuation(ids, 8, seed=1))


@pytest.mark.parametrize("has_state", [False, True])
@pytest.mark.parametrize("tokenizer", [CharTokenizer(), PairTokenizer()])
async def test_no_token_of_an_answer_is_computed_again_when_a_client_sends_it_back_as_text(
    tokenizer: CharTokenizer, has_state: bool
) -> None:
    async with ServiceRig(tokenizer=tokenizer, has_state=has_state) as rig:
        script(rig, "an answer that no tokenizer would spell like this")
        talk = [SYSTEM, user("what is it?")]
        for turn in range(4):
            answer = await rig.say(talk, sampling=SamplingParams(temperature=0, max_tokens=80))
            cache = answer.usage.cache
            if turn:
                # New are the end of the line, the question and the head of the answer, nothing else.
                assert (
                    cache.computed_tokens
                    <= len(tokenizer.encode("<|user|>and then?<|end|><|assistant|>")) + 1
                )
            talk += [assistant(answer.choices[0].text), user("and then?")]


async def test_after_a_restart_a_conversation_goes_on_where_it_was() -> None:
    talk = [SYSTEM, user("what is it?")]
    async with ServiceRig(tokenizer=PairTokenizer()) as rig:
        answer = await rig.say(talk)
    talk += [assistant(answer.choices[0].text), user("and?")]
    kept = rig.engine_rig
    async with ServiceRig(tokenizer=PairTokenizer(), warm=kept.warm, archive=kept.archive) as restarted:
        answer = await restarted.say(talk)
        assert answer.usage.cache.tier == "warm"
        assert answer.usage.cache.computed_tokens <= len("uand?ea") + 1


async def test_a_server_side_conversation_needs_only_the_new_message() -> None:
    async with ServiceRig() as rig:
        await rig.agents.create("a", AgentConfig(system="Be kind.", tools=(TOOL,)))
        first = await rig.say("hello", agent="a", conversation=True)
        second = await rig.say("and now?", agent="a", conversation=True)
        full = ChatPrompt(
            (
                Message.of("system", "Be kind."),
                user("hello"),
                assistant(first.choices[0].text),
                user("and now?"),
            ),
            tools=(TOOL,),
        )
        assert second.usage.prompt_tokens == await rig.generate.count_tokens("", full)
        messages = await rig.agents.messages("a")
        assert [message.role for message in messages] == ["user", "assistant"] * 2
        assert messages[1].content == first.choices[0].text


async def test_a_system_message_of_the_first_request_stays_in_a_server_side_conversation() -> None:
    async with ServiceRig() as rig:
        first = await rig.say([SYSTEM, user("hello")], agent="a", conversation=True)
        second = await rig.say("and now?", agent="a", conversation=True)
        full = ChatPrompt((SYSTEM, user("hello"), assistant(first.choices[0].text), user("and now?")))
        assert second.usage.prompt_tokens == await rig.generate.count_tokens("", full)


async def test_a_server_side_conversation_keeps_thinking_and_calls() -> None:
    async with ServiceRig() as rig:
        script(rig, "~let me see~it rains")
        sampling = SamplingParams(temperature=0, max_tokens=100)
        result = await rig.say("weather?", agent="a", conversation=True, sampling=sampling)
        assert (result.choices[0].thinking, result.choices[0].text) == ("let me see", "it rains")
        script(rig, 'call:weather {"city": "Ulm"}')
        result = await rig.say("and in Ulm?", agent="a", conversation=True, sampling=sampling)
        assert result.choices[0].reason is FinishReason.TOOL_CALLS
        assert result.choices[0].tool_calls[0].arguments == {"city": "Ulm"}
        kept = rig.engine_rig.agents.get("a").messages  # type: ignore[arg-type]
        assert kept[1].parts == (ThinkingPart("let me see"), TextPart("it rains"))
        assert kept[3].parts == result.choices[0].tool_calls
        (call,) = result.choices[0].tool_calls
        shown = await rig.agents.messages("a")
        assert shown[3].content == (ShownToolCall("tool_call", call.call_id, call.name, call.arguments),)


async def test_thinking_is_an_event_of_its_own() -> None:
    async with ServiceRig() as rig:
        script(rig, "~hm~yes")
        stream = await rig.open("hello", sampling=SamplingParams(temperature=0, max_tokens=50))
        events = [event async for event in stream]
        assert "".join(e.text for e in events if isinstance(e, ThinkingDelta)) == "hm"
        assert "".join(e.text for e in events if isinstance(e, TextDelta)) == "yes"
        raw = await rig.say(
            "hello", parse_output=False, sampling=SamplingParams(temperature=0, max_tokens=50)
        )
        assert raw.choices[0].text == "~hm~yes"


async def test_an_anonymous_conversation_is_found_again_by_how_it_begins() -> None:
    async with ServiceRig() as rig:
        first = await rig.say([SYSTEM, user("hello")])
        second = await rig.say([SYSTEM, user("hello"), assistant(first.choices[0].text), user("more")])
        other = await rig.say([SYSTEM, user("good evening")])
        assert first.agent_id == second.agent_id != other.agent_id
        assert str(first.agent_id).startswith("anon-")
        rows = {row.id: row for row in await rig.agents.list()}
        assert rows[first.agent_id].anonymous
        for prompt in (TextPrompt("once upon"), TokenPrompt((1, 2, 3))):
            assert (await rig.say(prompt)).agent_id == (await rig.say(prompt)).agent_id


async def test_a_header_that_changes_does_not_make_another_anonymous_agent() -> None:
    async with ServiceRig() as rig:
        header = "x-anthropic-billing-header: cc_version=2.1; cch={};"
        results = [
            await rig.say([Message.of("system", header.format(mark)), user("hello")]) for mark in ("1a", "2b")
        ]
        assert results[0].agent_id == results[1].agent_id


async def test_a_stop_string_does_not_stop_inside_of_thinking() -> None:
    async with ServiceRig() as rig:
        script(rig, "~first STOP then~go on STOP here")
        sampling = SamplingParams(temperature=0, max_tokens=60, stop=("STOP",))
        choice = (await rig.say("hello", sampling=sampling)).choices[0]
        assert (choice.thinking, choice.text) == ("first STOP then", "go on ")
        assert (choice.reason, choice.stop_sequence) == (FinishReason.STOP_SEQUENCE, "STOP")


async def test_an_answer_that_the_client_began_is_continued_without_doubled_white_space() -> None:
    async with ServiceRig() as rig:
        script(rig, " fine<|end|>")
        for begun, rest in (("It is ", "fine"), ("It is", " fine")):
            stream = await rig.open([user("how?"), assistant(begun)], agent=f"a{len(begun)}")
            result = await stream.result()
            assert result.choices[0].text == rest
            prompt = CharTokenizer().encode("<|user|>how?<|end|><|assistant|>It is")
            assert result.usage.prompt_tokens == len(prompt)


async def test_several_choices_share_the_prompt_and_differ_by_their_seed() -> None:
    async with ServiceRig() as rig:
        sampling = SamplingParams(temperature=1.0, max_tokens=12, seed=5)
        result = await rig.say([SYSTEM, user("hello")], num_choices=3, sampling=sampling)
        texts = [choice.text for choice in result.choices]
        assert len(set(texts)) == 3
        again = await rig.say([SYSTEM, user("hello")], num_choices=3, sampling=sampling)
        assert [choice.text for choice in again.choices] == texts
        assert result.usage.completion_tokens == 36
        assert rig.engine_rig.agents.get(result.agent_id).num_turns == 2


async def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers() -> None:
    async with ServiceRig(context_length=100) as rig:
        with pytest.raises(PromptTooLongError, match="prompt is too long: 104 tokens > 99 maximum"):
            await rig.open("x" * 101)
        fitting = await rig.say("x" * 90, sampling=SamplingParams(temperature=0))
        assert fitting.choices[0].reason is FinishReason.LENGTH
        assert fitting.usage.completion_tokens == 100 - 93


async def test_what_cannot_be_a_prompt_is_refused() -> None:
    async with ServiceRig() as rig:
        with pytest.raises(InvalidRequestError, match="empty"):
            await rig.open(TextPrompt(""))
        with pytest.raises(InvalidRequestError, match="token id 99999 is outside"):
            await rig.open(TokenPrompt((1, 99999)))
        with pytest.raises(InvalidRequestError, match="tool result"):
            await rig.open([Message.of("tool", "x")])
        with pytest.raises(InvalidRequestError, match="cannot be compiled"):
            await rig.open("x", constraint=OutputConstraint("regex", grammar="("))
        with pytest.raises(ModelNotFoundError, match="loaded: one"):
            await rig.open("x", model="nobody")
        assert rig.engine.num_unanswered == 0


async def test_a_model_answers_to_all_its_names() -> None:
    async with ServiceRig() as rig:
        for name in ("", "one", "ONE"):
            assert (await rig.say("hello", model=name)).model == "one"


async def test_a_required_tool_is_enforced_while_sampling() -> None:
    async with ServiceRig() as rig:
        prompt = ChatPrompt((user("weather?"),), (TOOL,), ToolChoice("required"))
        stream = await rig.begin(prompt, sampling=SamplingParams(temperature=0, max_tokens=100_000))
        room = rig.engine.running()[0].submission.max_new_tokens
        constraint = OutputConstraint("tool_call", max_tokens=room)
        assert rig.engine.running()[0].submission.constraint == constraint
        await stream.aclose()


async def test_closing_a_stream_early_cancels_its_request() -> None:
    async with ServiceRig() as rig:
        stream = await rig.begin("hello", num_choices=2)
        async for event in stream:
            if isinstance(event, TextDelta):
                break
        await stream.aclose()
        await stream.aclose()
        await asyncio.to_thread(wait_until, lambda: rig.engine.num_unanswered == 0)
        assert rig.runner.calls["decode"] < LONG.max_tokens


async def test_a_request_cancelled_from_elsewhere_ends_with_an_error() -> None:
    async with ServiceRig() as rig:
        stream = await rig.begin("hello")
        rows = await rig.requests.list()
        assert rows[0].id == stream.request_id
        await rig.requests.cancel(str(stream.request_id))
        with pytest.raises(CancelledByCallerError):
            await stream.result()


async def test_when_one_choice_fails_the_request_fails_and_nothing_goes_on() -> None:
    async with ServiceRig() as rig:
        rig.runner.fail("start_decode", after=1)
        stream = await rig.begin("hello", num_choices=3)
        with pytest.raises(EngineError):
            await stream.result()
        await asyncio.to_thread(wait_until, lambda: rig.engine.num_unanswered == 0)
        assert rig.runner.calls["decode"] < LONG.max_tokens


async def test_a_full_queue_is_said_before_any_event() -> None:
    async with ServiceRig(max_queue=2) as rig:
        busy = await rig.begin("hello", agent="a")
        with pytest.raises(QueueFullError):
            await rig.open("hello", num_choices=2)
        await busy.aclose()
        await asyncio.to_thread(wait_until, lambda: rig.engine.num_unanswered == 0)
        assert (await rig.say("hello", num_choices=2)).choices[1].text


async def test_log_probabilities_come_with_the_text_of_a_chat() -> None:
    async with ServiceRig() as rig:
        script(rig, "~hm~yes")
        result = await rig.say("hello", sampling=SamplingParams(temperature=0, max_tokens=50, logprobs=True))
        entries = result.choices[0].logprobs
        assert "".join(entry.text for entry in entries).startswith("~hm~yes")


async def test_a_kept_prefix_outlives_its_request_for_the_time_the_client_asked_for() -> None:
    async with ServiceRig() as rig:
        await rig.say([SYSTEM, user("hello")], agent="a", cache_ttl_s=300.0)
        agent = (await rig.agents.show("a")).agent
        assert (agent.kept, agent.pinned) == (True, False)
        rig.clock.advance(301.0)
        assert not (await rig.agents.show("a")).agent.kept


async def test_where_a_layer_cannot_be_cut_agents_share_their_system_text() -> None:
    async with ServiceRig(has_state=True) as rig:
        await rig.say([SYSTEM, user("hello")], agent="a")
        other = await rig.say([SYSTEM, user("good evening")], agent="b")
        assert other.usage.cache.cached_tokens >= len(SYSTEM.text)
        assert rig.runner.calls["copy_state"] >= 2


@pytest.mark.parametrize(
    ("messages", "head"),
    [
        ([SYSTEM, user("hi")], f"<|system|>{SYSTEM.text}<|end|><|user|>"),
        ([SYSTEM, user("You"), assistant("0" * 900), user("x")], f"<|system|>{SYSTEM.text}<|end|><|user|>"),
        ([user("x" * 500)], "<|user|>"),
    ],
)
async def test_how_much_of_a_prompt_is_system_text_is_counted_exactly(
    messages: list[Message], head: str
) -> None:
    async with ServiceRig() as rig:
        stream = await rig.begin(messages, agent="a")
        assert rig.engine.running()[0].submission.system_tokens == len(CharTokenizer().encode(head))
        await stream.aclose()


async def test_the_conversation_goes_on_after_a_title_without_a_miss() -> None:
    async with ServiceRig() as rig:
        main = [SYSTEM, user("what is it?")]
        answer = await rig.say(main, agent="a")
        await rig.say([Message.of("system", "Write a title."), user("what is it?")], agent="a")
        main += [assistant(answer.choices[0].text), user("and?")]
        cache = (await rig.say(main, agent="a")).usage.cache
        assert cache.miss is None
        assert cache.reused_hot_tokens > cache.computed_tokens


async def test_other_conversations_under_an_agents_id_never_replace_its_own() -> None:
    title = [Message.of("system", "Write a title."), user("mend the test")]
    sub_agent = ChatPrompt((Message.of("system", "You search files."), user("find it")), tools=(TOOL,))
    async with ServiceRig() as rig:
        main = ChatPrompt((SYSTEM, user("mend the test")), tools=(TOOL,))
        first = await rig.say(title, agent="a")
        answer = await rig.say(main, agent="a")
        second = await rig.say(title, agent="a")
        for other in (sub_agent, "quota", TextPrompt("def f():")):
            assert (await rig.say(other, agent="a")).agent_id.startswith("a.side-")
        assert (first.agent_id, answer.agent_id) == ("a", "a")
        assert second.agent_id.startswith("a.side-")
        shown = "".join(str(message.content) for message in await rig.agents.messages("a"))
        assert "mend the test" in shown
        assert "title" not in shown
        await rig.agents.fork("a", "fork")
        assert (await rig.agents.show("fork")).agent.num_tokens == (
            await rig.agents.show("a")
        ).agent.num_tokens

        more = replace(main, messages=(*main.messages, assistant(answer.choices[0].text), user("thanks")))
        again = await rig.say(more, agent="a")
        assert (again.agent_id, again.usage.cache.miss) == ("a", None)
        assert again.usage.cache.computed_tokens < again.usage.cache.reused_hot_tokens
        await rig.agents.rewind("a")
        assert "thanks" not in str(await rig.agents.messages("a"))
        assert (await rig.say(title, agent="a")).usage.cache.miss is None


async def test_of_two_first_requests_at_once_the_title_gives_way_whichever_ends_first() -> None:
    title = [Message.of("system", "Write a title."), user("mend the test")]
    main = ChatPrompt((SYSTEM, user("mend the test")), tools=(TOOL,))
    for first, last in ((title, main), (main, title)):
        async with ServiceRig() as rig:
            late = await rig.begin(last, agent="a")
            await rig.say(first, agent="a")
            rig.runner.before = None
            await late.result()
            shown = "".join(str(message.content) for message in await rig.agents.messages("a"))
            assert "riddles" in shown
            assert "title" not in shown


async def test_a_main_conversation_is_known_again_after_a_restart() -> None:
    main = ChatPrompt((SYSTEM, user("mend the test")), tools=(TOOL,))
    async with ServiceRig() as rig:
        await rig.say(main, agent="a")
    kept = rig.engine_rig
    async with ServiceRig(warm=kept.warm, archive=kept.archive) as restarted:
        await restarted.say([Message.of("system", "Write a title."), user("mend the test")], agent="a")
        assert "title" not in str(await restarted.agents.messages("a"))


async def test_a_miss_is_explained_in_the_clients_words() -> None:
    async with ServiceRig() as rig:
        await rig.say([Message.of("system", "Today is 2026-11-23. " + SYSTEM.text), user("hi")], agent="a")
        changed = [Message.of("system", "Today is 2026-11-24. " + SYSTEM.text), user("hi")]
        miss = (await rig.say(changed, agent="a")).usage.cache.miss
        assert miss is not None
        assert miss.cause == "date_changed"
        last = (await rig.agents.why("a")).last
        assert last is not None
        assert last.turn.miss == miss
        logged = [fields for _, event, fields in rig.engine_rig.log.lines if event == "prompt_cache"]
        assert [line["miss"] for line in logged] == ["first_request", "date_changed"]
        assert logged[1]["miss_at"] == miss.position


async def test_a_conversation_that_goes_on_with_another_model_is_told_why_nothing_was_reused() -> None:
    async with ServiceRig() as rig:
        await rig.models.load("two")
        await rig.say("hello", agent="a", model="one")
        miss = (await rig.say("hello", agent="a", model="two")).usage.cache.miss
        assert miss is not None
        assert miss.cause == "model_changed"


async def test_what_was_made_equal_in_a_prompt_is_reported_with_what_it_cost() -> None:
    class Tidy(CharTokenizer):
        def canonical_changes(self, prompt: ChatPrompt) -> tuple[str, ...]:
            return ("volatile_header",)

    async with ServiceRig(tokenizer=Tidy()) as rig:
        assert (await rig.say("hello", agent="a")).usage.cache.canonicalized == ("volatile_header",)
        last = (await rig.agents.why("a")).last
        assert last is not None
        assert last.turn.canonicalized == ("volatile_header",)
        raw = await rig.say(TextPrompt("hello"), agent="b")
        assert raw.usage.cache.canonicalized == ()


async def test_tokens_of_thinking_are_counted_apart() -> None:
    async with ServiceRig() as rig:
        script(rig, "~let me see~it rains")
        usage = (await rig.say("weather?", sampling=SamplingParams(temperature=0))).usage
        # A token is a character; the marker that ends the thinking belongs to the thinking or to what follows.
        assert usage.reasoning_tokens in (len("~let me see"), len("~let me see~"))
        assert usage.completion_tokens == len("~let me see~it rains") + 1


async def test_calls_that_could_not_be_read_are_counted_and_logged() -> None:
    class Unreadable(CharTokenizer):
        def output_parser(self, prompt: ChatPrompt, *, choice: int = 0) -> PlainParser:
            parser = super().output_parser(prompt, choice=choice)
            parser.num_parse_failures = 2
            return parser

    async with ServiceRig(tokenizer=Unreadable()) as rig:
        await rig.say("hello")
        assert rig.engine_rig.metrics.counters["tool_parse_failures_total",] == 2
        assert "tool_call_not_parsed" in rig.engine_rig.log.events("warning")


async def test_a_server_side_agent_is_answered_by_the_model_it_was_made_for() -> None:
    async with ServiceRig() as rig:
        await rig.models.load("two")
        await rig.agents.create("a", AgentConfig(model="two"))
        assert (await rig.say("hello", agent="a", conversation=True)).model == "two"
        assert (await rig.say("hello", agent="a", conversation=True, model="one")).model == "one"
        assert (await rig.say("hello", agent="b", conversation=True)).model == "one"


async def test_a_models_defaults_hold_for_what_a_request_leaves_open_and_only_for_that() -> None:
    async with ServiceRig(load=False) as rig:
        greedy = ModelDefaults(temperature=0.0, max_tokens=5)
        rig.source.known["one"] = replace(rig.source.known["one"], defaults=greedy)
        await rig.models.load("one")
        text = "hello"
        ids = CharTokenizer().encode(f"<|user|>{text}<|end|><|assistant|>")
        open_ = await rig.say(text, sampling=SamplingParams.of(seed=3))
        assert open_.choices[0].text == CharTokenizer().decode(continuation(ids, 5, seed=1))
        said = SamplingParams.of(seed=3, temperature=1.0, max_tokens=7)
        assert (await rig.say(text, sampling=said)).choices[0].text == CharTokenizer().decode(
            continuation(ids, 7, seed=1, sampling=SamplingParams(temperature=1.0), sampler_seed=3)
        )


def test_a_neutral_value_that_a_client_sends_is_its_own_and_not_open() -> None:
    defaults = ModelDefaults(temperature=0.2, top_k=20, min_p=0.1, thinking=False)
    sampling = SamplingParams.of(temperature=1.0, top_k=0, min_p=None).with_defaults(defaults)
    assert (sampling.temperature, sampling.top_k, sampling.min_p) == (1.0, 0, 0.1)
    assert SamplingParams(temperature=1.0).with_defaults(defaults) == SamplingParams(temperature=1.0)
    asks = ChatPrompt((user("x"),), template_options={"enable_thinking": True})
    assert defaults.of_prompt(asks) == asks
    silent = defaults.of_prompt(ChatPrompt((user("x"),)))
    assert isinstance(silent, ChatPrompt)
    assert silent.template_options == {"enable_thinking": False}


async def test_an_answer_that_is_not_read_is_cancelled_when_too_much_of_it_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream_module, "LIMITS", replace(LIMITS, stream_bytes=1))
    async with ServiceRig() as rig:
        script(rig, "abc" * 100)
        opened = await rig.generate.open(
            rig.request("hello", sampling=SamplingParams(max_tokens=300, temperature=0))
        )
        await until(lambda: rig.engine.num_unanswered == 0)
        with pytest.raises(CancelledByCallerError, match="stopped reading"):
            await opened.result()
        # One that reads is not in the way of it.
        assert (await rig.say("hello")).choices[0].text


class CountingTokenizer(CharTokenizer):
    """Counts what it is asked to read."""

    num_read = 0

    def encode(self, text: str) -> list[int]:
        """Count, and read."""
        self.num_read += 1
        return super().encode(text)


async def test_a_full_queue_refuses_a_prompt_unread() -> None:
    tokenizer = CountingTokenizer()
    async with ServiceRig(tokenizer=tokenizer, max_queue=1) as rig:
        with rig.engine_rig.held():
            running = await rig.open("hello")
            read = tokenizer.num_read
            with pytest.raises(QueueFullError):
                await rig.open("hello")
            with pytest.raises(QueueFullError):
                await rig.generate.count_tokens("one", TextPrompt("hello"))
            assert tokenizer.num_read == read
        await running.aclose()
        await until(lambda: rig.engine.num_unanswered == 0)
        assert await rig.generate.count_tokens("one", TextPrompt("hello")) == 5


@pytest.mark.parametrize(
    "prompt", [TextPrompt("a" * 2000), TokenPrompt((1,) * 65), ChatPrompt((user("b" * 2000),))]
)
async def test_a_prompt_that_cannot_fit_is_refused_unread(
    prompt: TextPrompt | TokenPrompt | ChatPrompt,
) -> None:
    tokenizer = CountingTokenizer()
    async with ServiceRig(tokenizer=tokenizer, context_length=64) as rig:
        read = tokenizer.num_read
        with pytest.raises(PromptTooLongError) as refusal:
            await rig.generate.open(rig.request(prompt))
        assert refusal.value.num_tokens > refusal.value.maximum == 63
        assert tokenizer.num_read == read


async def test_a_place_is_given_back_however_a_request_ends() -> None:
    async with ServiceRig(max_queue=1, context_length=64) as rig:
        for _ in range(3):
            with pytest.raises(PromptTooLongError):
                await rig.open("a" * 5000)
            with pytest.raises(ModelNotFoundError):
                await rig.open("hello", model="nobody")
            assert (await rig.say("hello")).choices


def test_places_are_counted_in_all_and_by_agent() -> None:
    rig = EngineRig(max_queue=4, max_queue_per_agent=2)
    places = ReadingPlaces(rig.queue)
    ann = AgentId("ann")
    with places.take(ann, 2):
        with pytest.raises(QueueFullError, match="agent 'ann'"), places.take(ann, 1):
            pass
        with places.take(None, 2), pytest.raises(QueueFullError, match="queue is full"), places.take(None, 1):
            pass
    assert places.num_taken == 0
    for agent in ("bob", "cid"):
        rig.queue.submit(rig.submission([1], agent=agent)[1], rig.submission([1], agent=agent)[1])
    with pytest.raises(QueueFullError), places.take(ann, 1):
        pass


async def test_two_turns_of_one_kept_conversation_do_not_run_at_the_same_time() -> None:
    async with ServiceRig() as rig:
        first = await rig.begin("hello", agent="a", conversation=True)
        with pytest.raises(ConflictError, match="is answering request request-1"):
            await rig.open("hello too", agent="a", conversation=True)
        await first.aclose()
        await asyncio.to_thread(wait_until, lambda: rig.engine.num_unanswered == 0)
        await rig.say("once more", agent="a", conversation=True)
        assert len(rig.engine_rig.agents.get(AgentId("a")).messages) == 2


async def test_a_turn_is_kept_before_its_client_hears_of_the_end() -> None:
    async with ServiceRig() as rig:
        stream = await rig.open("hello", agent="a", conversation=True)
        num_ends = 0
        async for event in stream:
            if isinstance(event, Finished):
                num_ends += 1
                assert len(rig.engine_rig.agents.get(AgentId("a")).messages) == 2
                again = await rig.open("and again", agent="a", conversation=True)
                assert len((await again.result()).choices) == 1
        assert num_ends == 1


async def test_more_choices_than_can_ever_be_queued_are_refused_for_good() -> None:
    async with ServiceRig(max_queue_per_agent=4) as rig:
        with pytest.raises(InvalidRequestError, match="at most 4 choices"):
            await rig.open("hello", num_choices=5)
        assert len((await rig.say("hello", num_choices=4)).choices) == 4


async def test_anonymous_requests_with_equal_beginnings_share_no_quota() -> None:
    async with ServiceRig(max_queue_per_agent=2) as rig:
        streams = [await rig.open("hello") for _ in range(6)]
        assert len({stream.agent_id for stream in streams}) == 1
        for stream in streams:
            assert (await stream.result()).choices
