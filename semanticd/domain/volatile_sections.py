"""Sections of system text that describe a moment or a folder, and their place behind the tools.

Coding programs write the date, the working folder and the state of git into their system text. Templates put the tools
behind it, so that a session in another folder, or on another day, computes all tools again. Rule: a section is moved
only where its whole form is known, from the leading system messages to the beginning of the user message behind them.
Its text is kept letter for letter and stands in the prompt once. Where it stands depends on the conversation's
beginning alone, so that it keeps its place as the conversation grows. Looking for them takes time in proportion to the
text, whatever it says: no form reads past a place where it could start again.
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import takewhile

from semanticd.domain.chat import ChatPrompt, Message, Part, TextPart

VOLATILE_SECTIONS = "volatile_sections"
"""Name under which a report lists that sections were moved."""

_END = r"(?:\n|\Z)"
_GIT_BEGINS = r"(?:gitStatus: |# gitStatus\n)This is the git status at the start of the conversation\."
_DATE = (
    r"(?:Today's date|(?:The )?[Cc]urrent (?:date|time|date and time))(?: is|:) "
    # Once for the line: not again for each year in it where the paragraph continues.
    r"(?=[^\n]*\b20\d\d\b)[^\n]*"
)
_FORMS = (
    # Claude Code 2.1 and before: the state of git, at the end of a block.
    rf"{_GIT_BEGINS}[^\n]*\n"
    r"(?:\n|(?:Current branch|Main branch|Git user)[^\n:]*:[^\n]*\n)+"
    rf"Status:\n(?:(?!{_GIT_BEGINS})[^\n]+\n)*"
    rf"\nRecent commits:{_END}(?:[0-9a-f]{{7,40}} [^\n]*{_END})*",
    # The same: the environment as a list.
    rf"# Environment\nYou have been invoked in the following environment: *\n(?:[ \t]*- [^\n]*{_END})+",
    # The same: the folder of its notes on a project and how they are kept, up to the next headline.
    r"# (?:auto )?[Mm]emory\n\nYou have a persistent[\w, -]* at `[^`\n]+`[^\n]*(?:\n(?!# )[^\n]*)*\n(?=# )",
    # Earlier Claude Code, opencode, Crush, Cline: a block that names the folder, mostly with a line before it.
    r"(?:[^\n<]*\b[Ee]nvironment you are running in:\n)?<env>\n"
    r"(?=(?:(?!</?env>)[^\n]*\n)*?[^\n]*[Ww]orking [Dd]irectory:)"
    rf"(?:(?!</?env>)[^\n]*\n)+</env>[ \t]*{_END}",
    # Codex.
    r"<environment_context>\n(?:(?!</?environment_context>)[^\n]*\n)+"
    rf"</environment_context>[ \t]*{_END}",
    # A paragraph that is nothing but the date.
    rf"(?:\A|(?<=\n\n))(?:# currentDate\n)?{_DATE}(?=\n\n|\n?\Z)\n?",
)
_SECTION = re.compile("|".join(f"^(?:{form})" for form in _FORMS), re.MULTILINE)


def with_sections_behind_tools(prompt: ChatPrompt) -> ChatPrompt:
    """Return a conversation whose user message after the system text begins with the sections found in that.

    The prompt itself comes back where there are none, or where no user message follows the system text.
    """
    leading = tuple(takewhile(lambda message: message.role == "system", prompt.messages))
    first = prompt.messages[len(leading) : len(leading) + 1]
    if not first or first[0].role != "user":
        return prompt
    moved: list[TextPart] = []
    kept = [_without_sections(message, moved) for message in leading]
    if not moved:
        return prompt
    asked = replace(first[0], parts=(*moved, *first[0].parts))
    rest = prompt.messages[len(leading) + 1 :]
    return replace(prompt, messages=(*(message for message in kept if message.parts), asked, *rest))


def _without_sections(message: Message, moved: list[TextPart]) -> Message:
    """Return a message without its sections, which are added to `moved`; each part is read for itself."""
    parts: list[Part] = []
    for part in message.parts:
        found = _SECTION.findall(part.text) if isinstance(part, TextPart) else []
        if not isinstance(part, TextPart) or not found:
            parts.append(part)
            continue
        text = _SECTION.sub("", part.text)
        if text.strip():
            parts.append(TextPart(text))
            moved += map(TextPart, found)
        else:
            # Nothing but white space around them, which goes with them.
            moved.append(part)
    return replace(message, parts=tuple(parts))
