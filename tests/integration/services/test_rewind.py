"""Rewinding forgets the last turns whatever the next prompt made of the ones before it."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from semanticd.domain.agent import Agent, AgentConfig
from semanticd.domain.chat import ChatPrompt, Message, TextPart, TextPrompt, ThinkingPart, ToolResultPart
from semanticd.domain.errors import InvalidRequestError
from semanticd.domain.ids import AgentId
from tests.fakes.service_rig import ServiceRig
from tests.fakes.tokenizer import CharTokenizer

SYSTEM = Message.of("system", "You answer questions about rivers. " * 3)


class OpensThinking(CharTokenizer):
    """A template that begins each answer with `<think>`, so that no prompt begins with the prompt before."""

    def render(self, prompt: ChatPrompt, *, add_generation_prompt: bool = True) -> str:
        """Write the marker before an answer that is to be made, and leave it out of earlier ones."""
        text = super().render(prompt, add_generation_prompt=add_generation_prompt)
        return text + "<think>" if add_generation_prompt else text


class LeavesThoughtsOut(CharTokenizer):
    """A template that writes the beginnings of earlier answers only."""

    def render(self, prompt: ChatPrompt, *, add_generation_prompt: bool = True) -> str:
        """Shorten the answers."""

        def written(message: Message) -> Message:
            if message.role != "assistant":
                return message
            return replace(message, parts=(TextPart("said: " + message.text[:3]),))

        messages = tuple(written(message) for message in prompt.messages)
        return super().render(replace(prompt, messages=messages), add_generation_prompt=add_generation_prompt)


def question(number: int) -> Message:
    return Message.of("user", f"question {number}: where does the river number {number} begin?")


def answer(number: int) -> Message:
    """What a client sends back for an answer, whatever the answer was."""
    return Message.of("assistant", f"my own answer {number}")


def history(num_turns: int) -> list[Message]:
    """Return the prompt of a turn, the answers as a client writes them."""
    messages = [SYSTEM]
    for number in range(1, num_turns):
        messages += [question(number), answer(number)]
    return [*messages, question(num_turns)]


async def text_of(rig: ServiceRig, agent: str) -> str:
    return "".join(str(message.content) for message in await rig.agents.messages(agent))


def check_blocks(rig: ServiceRig, agent: Agent) -> None:
    """Check that an agent's table and snapshots hold nothing but what its transcript does."""
    tokens = agent.transcript.token_ids
    ends = {}
    for name in agent.block_table:
        block = rig.store.block(name)
        assert block is not None
        start = ends.get(block.parent, 0)
        ends[name] = start + block.num_tokens
        assert tokens[start : ends[name]] == block.token_ids
    assert all(one.position <= len(tokens) for one in agent.snapshots)


@pytest.mark.parametrize("has_state", [False, True])
@pytest.mark.parametrize("tokenizer", [CharTokenizer, OpensThinking])
async def test_a_turn_is_gone_where_the_client_rewrote_the_answers(
    tokenizer: type[CharTokenizer], has_state: bool
) -> None:
    async with ServiceRig(tokenizer=tokenizer(), has_state=has_state) as rig:
        for number in (1, 2, 3):
            await rig.say(history(number), agent="z")
        sizes = [(await rig.agents.show("z")).agent.num_tokens]
        for left in (2, 1):
            row = await rig.agents.rewind("z")
            sizes.append(row.num_tokens)
            text = await text_of(rig, "z")
            assert row.num_turns == left
            assert f"question {left + 1}" not in text
            assert f"question {left}" in text
            # What the client sent back for the answer of the turn that is left.
            assert text.endswith(f"my own answer {left}")
            check_blocks(rig, await rig.agents.agent("z"))
        assert sizes == sorted(set(sizes), reverse=True)
        row = await rig.agents.rewind("z")
        agent = await rig.agents.agent("z")
        assert (row.num_turns, row.num_tokens, agent.block_table, agent.snapshots) == (0, 0, (), ())
        assert await rig.agents.messages("z") == ()
        with pytest.raises(InvalidRequestError, match="has 0 turns to go back"):
            await rig.agents.rewind("z")


async def test_several_turns_are_gone_at_once_and_a_fork_has_nothing_of_them() -> None:
    async with ServiceRig(tokenizer=OpensThinking()) as rig:
        for number in (1, 2, 3):
            await rig.say(history(number), agent="z")
        await rig.agents.rewind("z", 2)
        await rig.agents.fork("z", "fork")
        for name in ("z", "fork"):
            text = await text_of(rig, name)
            assert "question 1" in text
            assert "question 2" not in text
            assert "question 3" not in text


async def test_what_goes_on_after_rewinding_is_cached_and_can_be_rewound() -> None:
    async with ServiceRig(tokenizer=OpensThinking()) as rig:
        for number in (1, 2, 3):
            await rig.say(history(number), agent="z")
        await rig.agents.rewind("z", 2)
        known = (await rig.agents.show("z")).agent.num_tokens
        said = await rig.chat.say("z", "something else", max_tokens=4)
        assert said.cached_tokens >= known - 16
        text = await text_of(rig, "z")
        assert "my own answer 1<|end|><|user|>something else<|end|><|assistant|>" in text
        assert (await rig.agents.rewind("z")).num_tokens == known
        assert (await text_of(rig, "z")).endswith("my own answer 1")


async def test_faithful_replay_keeps_the_answers_as_the_model_wrote_them() -> None:
    async with ServiceRig() as rig:
        messages = [SYSTEM]
        sizes = [0]
        for number in (1, 2, 3):
            messages.append(question(number))
            await rig.say(messages, agent="z")
            said = (await rig.agents.agent("z")).transcript.segments[-1].text
            messages.append(Message.of("assistant", said.removesuffix("<|end|>")))
            sizes.append((await rig.agents.show("z")).agent.num_tokens)
        for size in reversed(sizes[:-1]):
            assert (await rig.agents.rewind("z")).num_tokens == size


async def test_a_direct_agents_turn_is_gone_from_messages_and_transcript() -> None:
    async with ServiceRig(tokenizer=LeavesThoughtsOut()) as rig:
        for number in (1, 2, 3):
            await rig.say([question(number)], agent="d", conversation=True)
        before = (await rig.agents.show("d")).agent.num_tokens
        for left in (2, 1, 0):
            row = await rig.agents.rewind("d")
            agent = await rig.agents.agent("d")
            assert len(agent.messages) == 2 * left
            assert row.num_tokens < before
            before = row.num_tokens
            assert f"question {left + 1}" not in agent.transcript.text
            assert (f"question {left}:" in agent.transcript.text) == bool(left)
            check_blocks(rig, agent)
        assert before == 0


async def test_a_direct_agents_turn_of_several_messages_is_one_turn() -> None:
    async with ServiceRig() as rig:
        await rig.say([question(1)], agent="d", conversation=True)
        result = Message("tool", (ToolResultPart("1", "the tool's words"),))
        for turn in ([question(2), question(3)], [result]):
            await rig.say(turn, agent="d", conversation=True)
        for roles in (["user", "assistant", "user", "user", "assistant"], ["user", "assistant"], []):
            await rig.agents.rewind("d")
            agent = await rig.agents.agent("d")
            assert [message.role for message in agent.messages] == roles
            assert "the tool's words" not in agent.transcript.text
            assert ("question 2" in agent.transcript.text) == (len(roles) > 2)


async def test_a_question_that_was_asked_again_is_kept_for_the_turn_that_asked_it_first() -> None:
    async with ServiceRig() as rig:
        await rig.say(history(1), agent="z")
        await rig.say(history(2), agent="z")
        await rig.say(history(2), agent="z")
        await rig.agents.rewind("z")
        text = await text_of(rig, "z")
        assert text.endswith(CharTokenizer().render(ChatPrompt(tuple(history(2))))[-40:])
        await rig.agents.rewind("z")
        assert (await text_of(rig, "z")).endswith("my own answer 1")


async def asked_twice_and_rewound(rig: ServiceRig) -> str:
    """Ask a second question twice, take the second answer back, and return the text that is left."""
    for number in (1, 2, 2):
        await rig.say(history(number), agent="z")
    await rig.agents.rewind("z")
    return await text_of(rig, "z")


@pytest.mark.parametrize("tokenizer", [CharTokenizer, OpensThinking])
@pytest.mark.parametrize("has_state", [False, True])
async def test_a_question_whose_answer_was_taken_back_is_answered_without_another(
    tokenizer: type[CharTokenizer], has_state: bool
) -> None:
    async with ServiceRig(tokenizer=tokenizer(), has_state=has_state) as rig:
        left = await asked_twice_and_rewound(rig)
        said = await rig.say([], agent="z", conversation=True)
        text = await text_of(rig, "z")
        assert text.startswith(left)
        assert text.removeprefix(left).removesuffix("<|end|>") == said.choices[0].text
        assert said.usage.cache.computed_tokens <= 20, "the question is cached"
        again = await rig.say(history(2), agent="other")
        assert again.choices[0].text == said.choices[0].text, (
            "the answer to that question, not to an empty answer"
        )
        await rig.agents.rewind("z")
        assert await text_of(rig, "z") == left


@pytest.mark.parametrize("tokenizer", [CharTokenizer, OpensThinking])
async def test_a_message_behind_an_open_question_follows_it_and_no_empty_answer(
    tokenizer: type[CharTokenizer],
) -> None:
    async with ServiceRig(tokenizer=tokenizer()) as rig:
        await asked_twice_and_rewound(rig)
        await rig.say("and briefly", agent="z", conversation=True)
        asked = tokenizer().render(ChatPrompt((*history(2), Message.of("user", "and briefly"))))
        assert (await text_of(rig, "z")).startswith(asked)


class TakesTurns(CharTokenizer):
    """A template that wants questions and answers in turn."""

    def render(self, prompt: ChatPrompt, *, add_generation_prompt: bool = True) -> str:
        """Refuse two questions in a row."""
        roles = [message.role for message in prompt.messages]
        if any(pair == ("user", "user") for pair in itertools.pairwise(roles)):
            raise InvalidRequestError("roles must alternate", param="messages")
        return super().render(prompt, add_generation_prompt=add_generation_prompt)


async def test_a_template_that_refuses_two_questions_says_what_to_do() -> None:
    async with ServiceRig(tokenizer=TakesTurns()) as rig:
        left = await asked_twice_and_rewound(rig)
        with pytest.raises(InvalidRequestError, match=r"roles must alternate.*generate without prompt"):
            await rig.say("and briefly", agent="z", conversation=True)
        assert await text_of(rig, "z") == left
        await rig.say([], agent="z", conversation=True)
        await rig.say("and briefly", agent="z", conversation=True)


async def test_without_an_open_question_there_is_nothing_to_answer() -> None:
    async with ServiceRig() as rig:
        await rig.agents.create("new", AgentConfig(system="be brief"))
        await rig.say(history(1), agent="chat")
        await rig.say([question(1)], agent="kept", conversation=True)
        for agent in ("new", "chat", "kept"):
            before = await rig.agents.messages(agent)
            with pytest.raises(InvalidRequestError, match="no unanswered question"):
                await rig.say([], agent=agent, conversation=True)
            assert await rig.agents.messages(agent) == before
            await rig.say("a question", agent=agent, conversation=True)


async def test_of_another_history_nothing_is_kept_that_was_not_said_before() -> None:
    async with ServiceRig() as rig:
        await rig.say(history(1), agent="z")
        await rig.say(
            [SYSTEM, Message.of("user", "elsewhere"), answer(1), Message.of("user", "and on")], agent="z"
        )
        assert (await rig.agents.show("z")).agent.num_turns == 2
        row = await rig.agents.rewind("z")
        assert (row.num_turns, "elsewhere" in await text_of(rig, "z")) == (1, False)


async def test_a_text_that_replaces_another_is_cut_to_what_both_have() -> None:
    async with ServiceRig() as rig:
        await rig.say(TextPrompt("one fish two fish"), agent="t")
        await rig.say(TextPrompt("one fish two fish"), agent="t")
        await rig.say(TextPrompt("one fish red fish"), agent="t")
        await rig.agents.rewind("t")
        assert "red" not in await text_of(rig, "t")


async def test_a_record_of_an_earlier_version_keeps_nothing_of_the_turn() -> None:
    async with ServiceRig() as rig:
        for number in (1, 2):
            await rig.say(history(number), agent="z")

        def as_before(agent: Agent) -> Agent:
            turns = tuple(replace(turn, num_segments=2 * at + 2) for at, turn in enumerate(agent.turns))
            return replace(agent, turns=turns)

        rig.engine_rig.agents.update(AgentId("z"), as_before)
        await rig.agents.rewind("z")
        assert "question 2" not in await text_of(rig, "z")


async def test_thoughts_that_are_sent_back_are_the_answers() -> None:
    async with ServiceRig(tokenizer=OpensThinking()) as rig:
        thoughtful = Message("assistant", (ThinkingPart("hm"), TextPart("my own answer 1")))
        await rig.say(history(1), agent="z")
        await rig.say([SYSTEM, question(1), thoughtful, question(2)], agent="z")
        await rig.agents.rewind("z")
        assert (await text_of(rig, "z")).endswith("my own answer 1")
