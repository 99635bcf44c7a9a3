"""Which requests under one agent's id belong to its main conversation."""

from __future__ import annotations

from semanticd.adapters.http.core.request_context import checked_agent_id
from semanticd.domain.chat import ChatPrompt, Message, TextPart, TextPrompt, ToolSpec
from semanticd.domain.conversation_key import ConversationKey, conversation_key

TOOL = ToolSpec("edit", "edits a file", {"type": "object", "properties": {"path": {"type": "string"}}})
RULES = "You write programs. Today is 2026-11-28."


def key(*said: str, system: str = RULES, tools: tuple[ToolSpec, ...] = ()) -> ConversationKey:
    """Return the key of a conversation in which user and assistant take turns."""
    head = [Message.of("system", system)] if system else []
    turns = [Message.of("assistant" if at % 2 else "user", text) for at, text in enumerate(said)]
    return conversation_key(ChatPrompt((*head, *turns), tools=tools))


MAIN = key("mend the test", "done", "thanks", tools=(TOOL,))


def test_an_equal_head_goes_on_whatever_was_said_before() -> None:
    assert key("a summary of all that was said", tools=(TOOL,)).continues(MAIN)
    assert key("and now?").continues(key("hello", "hi", "how are you?"))


def test_order_of_tools_and_of_their_keys_is_no_other_head() -> None:
    other = ToolSpec("read")
    turned = ToolSpec("edit", "edits a file", {"properties": {"path": {"type": "string"}}, "type": "object"})
    assert key("a", tools=(TOOL, other)).head == key("b", tools=(other, turned)).head


def test_a_header_that_changes_with_each_request_is_no_part_of_the_head() -> None:
    def billed(cch: str) -> ConversationKey:
        parts = (TextPart(f"x-anthropic-billing-header: cc_version=2.1; cch={cch};"), TextPart(RULES))
        return conversation_key(ChatPrompt((Message("system", parts), Message.of("user", "a"))))

    assert billed("1a").head == billed("2b").head == key("a").head


def test_titles_quotas_summaries_and_sub_agents_leave_the_main_conversation_alone() -> None:
    title = key("mend the test", system="Write a title.")
    summary = key("mend the test", "done", "sum it up", system="You sum up conversations.")
    quota = key("quota", system="")
    sub_agent = key("find all tests", "here", "go on", system="You search.", tools=(TOOL,))
    raw = conversation_key(TextPrompt("def f():"))
    for other in (title, summary, quota, sub_agent, raw):
        assert not other.continues(MAIN)
    assert not title.continues(key("mend the test"))
    assert not quota.continues(key("mend the test", "done", "thanks", system=""))


def test_a_head_that_has_changed_goes_on_where_the_conversation_opens_as_before() -> None:
    tomorrow = key("mend the test", "done", "thanks", system=RULES.replace("28", "29"), tools=(TOOL,))
    more_tools = key("mend the test", "done", "thanks", tools=(TOOL, ToolSpec("read")))
    other_mode = key("mend the test", "done", "thanks", system="Plan first.", tools=(TOOL,))
    for changed in (tomorrow, more_tools, other_mode):
        assert changed.continues(MAIN)


def test_a_changed_date_keeps_the_conversation() -> None:
    asked = key("hello", system="Answer in riddles. Today is 2026-11-28. Be kind.")
    assert key("hello", system="Answer in riddles. Today is 2026-11-29. Be kind.").continues(asked)
    assert not key("hello", system="Write a title of three words.").continues(asked)


def test_a_title_that_came_first_gives_way_to_the_conversation() -> None:
    title = key("mend the test", system="Write a title.")
    assert MAIN.continues(title)
    assert key("mend the test", "done", "thanks", system="").continues(title)


def test_a_conversation_keeps_its_weight_while_its_head_stays() -> None:
    begun_anew = key("something else")
    main = key("mend the test", "done", "thanks")
    assert begun_anew.heavier_of(main).weight == 1
    assert begun_anew.heavier_of(None).weight == 0


def test_side_conversations_have_names_that_fit_in_a_url() -> None:
    for agent_id in ("a", "a" * 128):
        for other in (key("x", system="Write a title."), key("x", system="You search.", tools=(TOOL,))):
            name = other.name_below(agent_id)
            assert checked_agent_id(name, param="agent_id") == name != agent_id
    names = {key("x", system=f"Page {page} says so.").name_below("a") for page in range(200)}
    assert len(names) <= 16
