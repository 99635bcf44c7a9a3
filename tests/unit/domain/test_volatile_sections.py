"""Sections whose form is known go behind the tools, letter for letter and in one place; nothing else is touched."""

from __future__ import annotations

from collections import Counter

import pytest

from semanticd.domain.chat import ChatPrompt, Message, TextPart, ToolCallPart, ToolResultPart
from semanticd.domain.volatile_sections import with_sections_behind_tools

STATUS = (
    "This is the git status at the start of the conversation. Note that this status is a snapshot in time, and will "
    "not update during the conversation.\n\nCurrent branch: main\n\nMain branch (you will usually use this for PRs): "
    "main\n\n{user}Status:\n{status}\n\nRecent commits:\n27609b1 Begin\n1f00aa2 Add: a file (#12)"
)
MEMORY = (
    "# Memory\n\nYou have a persistent file-based memory at `/home/a/.claude/projects/-home-a-x/memory/`. This "
    "directory already exists.\n\n```markdown\n---\nname: <slug>\n---\n\n<the fact>\n```\n\n"
    "In the body, link related memories.\n\n"
)
FORMS = {
    "claude-status": f"gitStatus: {STATUS.format(user='', status='(clean)')}",
    "claude-status-of-a-user": "gitStatus: "
    + STATUS.format(user="Git user: A\n\n", status="M  a.py\n?? __pycache__/"),
    "claude-status-as-a-headline": f"# gitStatus\n{STATUS.format(user='', status='(clean)')}\n",
    "claude-list": (
        "# Environment\nYou have been invoked in the following environment: \n - Primary working directory: /home/a/x\n"
        "  - Is a git repository: true\n - Platform: linux\n - OS Version: Linux 6.18\n"
    ),
    "claude-block": (
        "Here is useful information about the environment you are running in:\n<env>\nWorking directory: /home/a/x\n"
        "Is directory a git repo: Yes\nPlatform: linux\nOS Version: Linux 6.18\nToday's date: 2026-11-29\n</env>\n"
    ),
    "opencode": (
        "Here is some useful information about the environment you are running in:\n<env>\n"
        "  Working directory: /home/a/x\n  Platform: linux\n  Today's date: Sun Nov 29 2026\n</env>\n"
    ),
    "crush": "<env>\nWorking directory: /home/a/x\nPlatform: linux\nToday's date: 11/29/2026\n</env>\n",
    "cline": "Environment you are running in:\n<env>\n1. Platform: linux\n4. Working Directory: /home/a/x\n</env>\n",
    "codex": (
        "<environment_context>\n  <cwd>/home/a/x</cwd>\n  <shell>bash</shell>\n"
        "  <current_date>2026-11-29</current_date>\n</environment_context>\n"
    ),
    "date": "Today's date is 2026-11-29.\n",
    "date-with-a-headline": "# currentDate\nToday's date is 2026/11/29.\n",
    "another-date": "The current date is Sunday, 29 November 2026, 10:15.\n",
}
UNKNOWN = [
    "You are an agent.\nAlways look into the git status at the start of the conversation.",
    "gitStatus: This is the git status at the start of the conversation.\n\nsomething else",
    "# Environment\n - The most recent Claude models are these.\n",
    "# Environment\nYou have been invoked in the following environment: \nnothing that is known\n",
    "<env>\nPlatform: linux\n</env>\n",
    "<env>\nWorking directory: /home/a/x\nno end\n",
    "Write `<env>` and Working directory: into it.",
    "# Memory\n\nYou remember what the user says.",
    # Where it ends is not known.
    MEMORY + "You are brief.",
    "Mention that today's date is 2026-11-29 where you are asked.",
    "List:\nToday's date: 2026-11-29\nEnd of the list",
    "Today's date is unknown.",
    "",
]


def chat(*texts: str, asked: str = "hello") -> ChatPrompt:
    return ChatPrompt((Message("system", tuple(map(TextPart, texts))), Message.of("user", asked)))


def parts(message: Message) -> list[str]:
    return [part.text for part in message.parts if isinstance(part, TextPart)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("before", "after"),
    [("You.\n\n", "\n# More\nBe brief."), ("You.\n\n", ""), ("", "\nBe brief."), ("", "")],
)
def test_a_known_section_begins_the_users_message_and_the_rest_stays(
    form: str, before: str, after: str
) -> None:
    section = FORMS[form]
    closed = section if not after or section.endswith("\n") else f"{section}\n"
    moved = with_sections_behind_tools(chat("You help.", f"{before}{closed}{after}"))
    system, asked = moved.messages
    assert parts(system) == ["You help.", *([before + after] if before + after else [])]
    assert parts(asked) == [closed, "hello"]


def test_the_folder_of_notes_goes_with_what_is_told_of_it_up_to_the_next_headline() -> None:
    moved = with_sections_behind_tools(
        chat(f"You help.\n\n{MEMORY}# Environment\n - Claude Code is a CLI.\n")
    )
    assert parts(moved.messages[0]) == ["You help.\n\n# Environment\n - Claude Code is a CLI.\n"]
    assert parts(moved.messages[1]) == [MEMORY, "hello"]


def test_of_several_sections_all_are_moved_in_their_order_and_not_a_word_is_lost() -> None:
    texts = [f"Word {number}.\n\n{section}\n\n" for number, section in enumerate(FORMS.values())]
    prompt = chat(*texts, "# Context\nBe brief.")
    moved = with_sections_behind_tools(prompt)
    words = [Counter(" ".join(message.text for message in one.messages).split()) for one in (prompt, moved)]
    assert words[0] == words[1]
    assert [text.strip() for text in parts(moved.messages[1])[:-1]] == [s.strip() for s in FORMS.values()]
    assert with_sections_behind_tools(moved) is moved, "what was moved stays where it is"


@pytest.mark.parametrize("text", UNKNOWN)
def test_what_is_not_known_is_not_touched(text: str) -> None:
    for prompt in (chat(text), chat(f"You help.\n\n{text}", "Be brief.")):
        assert with_sections_behind_tools(prompt) is prompt


def test_only_leading_system_text_is_read() -> None:
    section = FORMS["opencode"]
    other = (Message.of("assistant", section), Message.of("system", section), Message.of("user", section))
    for first in ("user", "assistant", "tool"):
        messages = (Message.of("system", "You help."), Message.of(first, section), *other)
        prompt = ChatPrompt(messages)
        assert with_sections_behind_tools(prompt) is prompt


@pytest.mark.parametrize("first", [None, "assistant", "tool"])
def test_without_a_user_message_behind_the_system_text_all_stays(first: str | None) -> None:
    system = Message.of("system", FORMS["opencode"])
    result = Message("tool", (ToolResultPart("c1", "dry"),))
    behind = {None: (), "assistant": (Message.of("assistant", "hi"),), "tool": (result,)}[first]
    prompt = ChatPrompt((system, *behind))
    assert with_sections_behind_tools(prompt) is prompt
    longer = ChatPrompt((system, *behind, Message.of("assistant", "so"), Message.of("user", "?")))
    assert with_sections_behind_tools(longer) is longer, "it does not move later either"


def test_what_was_moved_keeps_its_place_as_the_conversation_grows() -> None:
    first = chat(f"You help.\n\n{FORMS['claude-block']}", FORMS["claude-status"])
    turns = (
        Message("assistant", (ToolCallPart("c1", "ls", {}),)),
        Message("tool", (ToolResultPart("c1", FORMS["date"]),)),
        Message.of("system", FORMS["claude-list"]),
        Message.of("user", FORMS["date"]),
    )
    moved = with_sections_behind_tools(first).messages
    for end in range(1, len(turns) + 1):
        longer = ChatPrompt((*first.messages, *turns[:end]))
        assert with_sections_behind_tools(longer).messages == (*moved, *turns[:end])


def test_system_messages_that_held_nothing_else_are_gone_and_tools_and_options_stay() -> None:
    prompt = ChatPrompt(
        (
            Message.of("system", f"\n{FORMS['crush']}\n"),
            Message.of("system", "You help."),
            Message.of("user", "?"),
        ),
        continues=False,
        template_options={"enable_thinking": False},
    )
    moved = with_sections_behind_tools(prompt)
    assert [message.role for message in moved.messages] == ["system", "user"]
    assert parts(moved.messages[1]) == [f"\n{FORMS['crush']}\n", "?"]
    assert (moved.continues, moved.template_options) == (False, {"enable_thinking": False})


@pytest.mark.timeout(60)  # Steps in proportion to its square would take many minutes.
@pytest.mark.parametrize(
    ("beginning", "text"),
    [
        *(
            ("", text)
            for text in (
                "<env>\n",
                "<env>\nWorking directory: a\n",
                "# Memory\n\n",
                "- a\n",
                "a\n",
                "\n",
                "x",
            )
        ),
        ("Today's date is ", "2024 "),
        (
            "",
            "gitStatus: This is the git status at the start of the conversation.\nCurrent branch: m\nStatus:\n",
        ),
        ("", "environment you are running in:\n<env>\n"),
        ("", "<environment_context>\nx\n"),
    ],
)
def test_reading_a_long_text_takes_steps_in_proportion_to_its_length(beginning: str, text: str) -> None:
    long = f"{beginning}{text * (4_000_000 // len(text))}\nIt goes on."
    prompt = chat(long, f"You have <env>\n{long}")
    assert with_sections_behind_tools(prompt) is prompt
