"""`semanticd chat [AGENT]`: a conversation with an agent in the plain terminal; the daemon keeps it, and its cache.

A line is a turn; one that ends with a backslash continues in the next, and what stands between two lines of three
quotes is one turn. Lines that begin with a slash are commands. Standard output has the answers only; where it is a
terminal, their Markdown is shown as it comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sys
from collections.abc import AsyncIterable, Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from semanticd.control.errors import ControlError
from semanticd.control.markdown import MarkdownStream, Piece
from semanticd.control.prompt_text import TRANSCRIPT, PromptMessage, prompt_messages
from semanticd.control.results import (
    AgentRow,
    MessageRow,
    RequestRow,
    SayResult,
    StatusResult,
    TokenEvent,
    WhyResult,
    is_said,
    read,
    read_all,
    rows_in,
    step_text,
)
from semanticd.control.terminal_text import one_line
from semanticd.entrypoints.cli.agents import fork_of
from semanticd.entrypoints.cli.daemon_link import LONG_COMMAND_TIMEOUT_S, ask, socket_path
from semanticd.entrypoints.cli.output import is_styled, narrate, print_marked, print_piece

if TYPE_CHECKING:
    from semanticd.control.async_client import AsyncControlClient
    from semanticd.control.messages import Event

_QUOTES = '"""'
_HISTORY_FILE = "chat-history"
_HISTORY_LINES = 1000
_SHOWN_MESSAGES = 10
HELP = """\
/why            what the last turn reused and computed, and what took the time
/fork [NAME]    continue in a fork of the conversation
/model [NAME]   show the current model; with a name, swap to it
/new [NAME]     start a new conversation
/rewind [N]     remove the last turn, or the last N turns
/history [N]    the last N messages (10)
/agents         list the agents
/help           this list
/exit           leave (also ctrl+d); the conversation stays
ctrl+c stops an answer; a backslash at the end continues a line; \"\"\" begins and ends several lines"""


@click.command()
@click.argument("agent", required=False)
@click.option(
    "--max-tokens", type=click.IntRange(min=1), help="Maximum tokens of an answer; default: as many as fit."
)
@click.option("--fork", is_flag=True, help="Continue in a fork; the agent stays as it is.")
def chat(*, agent: str | None, max_tokens: int | None, fork: bool) -> None:
    """Chat with an agent; without a name, create a new one."""
    name = agent or f"chat-{secrets.token_hex(3)}"
    if fork and agent is not None:
        name = fork_of(agent)
    Conversation(name, max_tokens=max_tokens).run(sys.stdin.isatty())


class Conversation:
    """One run of the command: reads turns, prints answers."""

    def __init__(self, agent: str, *, max_tokens: int | None) -> None:
        """Talk with this agent."""
        self._agent = agent
        self._max_tokens = max_tokens

    def run(self, interactive: bool) -> None:
        """Take turns until the input ends; without a terminal every line is a turn, and a failure ends it."""
        # Without a daemon this fails, before anything is typed.
        model = read(StatusResult, ask("status")).model or "no model"
        if interactive:
            narrate(f"agent {one_line(self._agent)}, model {one_line(model)}; /help lists the commands")
        with _history() if interactive else contextlib.nullcontext():
            for turn in turns(lambda prompt: input(prompt if interactive else "")):
                if not self._take(turn, interactive=interactive):
                    return

    def _take(self, turn: str, *, interactive: bool) -> bool:
        """Run a command or send a turn; returns whether to continue."""
        try:
            if turn.startswith("/"):
                return self._command(turn)
            with _unechoed() if interactive else contextlib.nullcontext():
                asyncio.run(self._say(turn))
        except KeyboardInterrupt:
            self._stop()
        except ControlError as error:
            narrate(f"semanticd: {error}")
            if not interactive:
                sys.exit(1)
        return True

    async def _say(self, text: str) -> None:
        from semanticd.control.async_client import AsyncControlClient

        client = await AsyncControlClient.connect(socket_path(), name="semanticd-chat")
        try:
            tokens = await client.subscribe(["tokens"], agent=self._agent)
            printed = PrintedAnswer()
            printing = asyncio.create_task(print_tokens(tokens, printed))
            try:
                said = await self._answer(client, text)
            except asyncio.CancelledError:
                printed.end()
                raise
            except ControlError:
                printed.break_off()
                raise
            finally:
                printing.cancel()
                with contextlib.suppress(asyncio.CancelledError, ControlError):
                    await printing
            # The printed text may lack the last pieces by then; the reply has all of them.
            printed.complete(said.text)
            print_piece("\n")
            self._agent = said.agent or self._agent
            if said.unsaved:
                narrate(
                    "this turn could not be stored on disk: it is in memory only, and a crash would lose it"
                )
        finally:
            await client.close()

    async def _answer(self, client: AsyncControlClient, text: str) -> SayResult:
        said = await client.call(
            "agents.say",
            agent=self._agent,
            text=text,
            max_tokens=self._max_tokens,
            reply_within_s=LONG_COMMAND_TIMEOUT_S,
        )
        return read(SayResult, said)

    def _stop(self) -> None:
        """Cancel the answer; its computed tokens stay cached."""
        try:
            for row in read_all(RequestRow, rows_in(ask("requests.list"), "requests")):
                if row.agent == self._agent and is_said(row.id):
                    ask("requests.cancel", request=row.id)
        except ControlError as error:
            # Ctrl-C stops an answer; it must not leave the chat.
            narrate(f"\nsemanticd: {error}")
        else:
            narrate("\nstopped")

    def _command(self, line: str) -> bool:
        """Run a slash command; returns whether to continue."""
        name, _, argument = line[1:].strip().partition(" ")
        argument = argument.strip()
        actions: dict[str, Callable[[str], None]] = {
            "why": self._why,
            "fork": self._fork,
            "model": self._model,
            "new": self._new,
            "rewind": self._rewind,
            "history": self._history,
            "agents": self._agents,
            "help": lambda _: narrate(HELP),
        }
        if name in ("exit", "quit", "bye"):
            return False
        action = actions.get(name)
        if action is None:
            narrate(f"/{one_line(name)} is not a command; /help lists them")
        else:
            action(argument)
        return True

    def _why(self, _: str) -> None:
        last = read(WhyResult, ask("agents.why", agent=self._agent)).last
        if last is None:
            narrate("no turn has finished yet")
            return
        narrate(
            f"{one_line(last.verdict)}\n{last.reused_hot_tokens or 0} tokens reused from RAM, "
            f"{last.restored_warm_tokens or 0} restored from disk, {last.computed_tokens or 0} computed; "
            f"{last.completion_tokens or 0} tokens in {last.decode_ms / 1000:.1f} s"
            + (f", {per_step}" if (per_step := step_text(last.tokens_per_step)) else "")
        )

    def _fork(self, name: str) -> None:
        self._agent = fork_of(self._agent, new_id=name or None)
        narrate(f"agent {one_line(self._agent)}; the whole conversation is cached")

    def _model(self, name: str) -> None:
        if name:
            ask("models.swap", model=name, reply_within_s=LONG_COMMAND_TIMEOUT_S)
        narrate(f"model {one_line(read(StatusResult, ask('status')).model or 'none')}")

    def _new(self, name: str) -> None:
        self._agent = name or f"chat-{secrets.token_hex(3)}"
        narrate(f"agent {one_line(self._agent)}")

    def _rewind(self, number: str) -> None:
        if number and not number.isdigit():
            narrate(f"{one_line(number)} is not a number of turns")
            return
        ask("agents.rewind", agent=self._agent, turns=int(number or 1))
        narrate("removed; the rest stays cached")

    def _history(self, number: str) -> None:
        if number and not number.isdigit():
            narrate(f"{one_line(number)} is not a number of messages")
            return
        found = messages(read_all(MessageRow, rows_in(ask("agents.messages", agent=self._agent), "messages")))
        for message in found[-int(number or _SHOWN_MESSAGES) :]:
            narrate(f"{one_line(message.role)}: {message.text}")
        if not found:
            narrate("no messages yet")

    def _agents(self, _: str) -> None:
        for row in read_all(AgentRow, rows_in(ask("agents.list"), "agents")):
            narrate(f"{one_line(row.id)}  {one_line(row.state)}, {row.num_tokens} tokens")


class PrintedAnswer:
    """An answer on standard output, as far as it came."""

    def __init__(self) -> None:
        """Print rendered Markdown on a terminal, and the text unchanged into a file."""
        self._text = ""
        self._markdown = MarkdownStream() if is_styled() else None

    def add(self, text: str) -> None:
        """Print the received text."""
        self._text += text
        if self._markdown is None:
            print_piece(text)
        else:
            _print_all(self._markdown.feed(text))

    def complete(self, text: str) -> None:
        """Print the missing rest of the complete answer."""
        if text.startswith(self._text):
            self.add(text[len(self._text) :])
        self.end()

    def end(self) -> None:
        """Print the text held back: nothing follows that could complete it."""
        if self._markdown is not None:
            _print_all(self._markdown.end())

    def break_off(self) -> None:
        """Print the text held back, and begin a new line for the message."""
        self.end()
        if self._text and not self._text.endswith("\n"):
            print_piece("\n")


def _print_all(pieces: Sequence[Piece]) -> None:
    for text, kind in pieces:
        print_marked(text, kind)


async def print_tokens(tokens: AsyncIterable[Event], printed: PrintedAnswer) -> None:
    """Print the answer as it comes until cancelled."""
    request = ""
    async for event in tokens:
        said = read(TokenEvent, event.data)
        request = request or (said.request if is_said(said.request) else "")
        # Answers to other clients' requests of this agent go to those clients.
        if said.request == request:
            printed.add(said.text)


def messages(rows: Sequence[MessageRow]) -> list[PromptMessage]:
    """Return a conversation's messages, also of one that a client keeps, of which the prompt's text is known."""
    if any(row.role == TRANSCRIPT for row in rows):
        return prompt_messages("".join(map(message_text, rows)))
    return [PromptMessage(row.role, message_text(row)) for row in rows]


def message_text(row: MessageRow) -> str:
    """Return a message's text; a part that is not text is named."""
    if isinstance(row.content, str):
        return row.content
    parts = (
        part.text or part.thinking or f"[{part.type} {part.name}]".replace(" ]", "]") for part in row.content
    )
    return "".join(parts)


def turns(read_line: Callable[[str], str]) -> Iterator[str]:
    """Yield typed turns; `read_line` returns a line and raises `EOFError` at the end."""
    while True:
        try:
            line = read_line("> ")
            if line.strip() == _QUOTES:
                yield from _quoted(read_line)
                continue
            while line.endswith("\\"):
                line = f"{line[:-1]}\n{read_line('. ')}"
        except EOFError:
            return
        except KeyboardInterrupt:
            continue
        if line.strip():
            yield line.strip()


def _quoted(read_line: Callable[[str], str]) -> Iterator[str]:
    lines: list[str] = []
    while (line := read_line(". ")).strip() != _QUOTES:
        lines.append(line)
    if any(line.strip() for line in lines):
        yield "\n".join(lines)


def history_file() -> Path:
    """Return where typed lines are kept."""
    from platformdirs import user_state_path

    return Path(user_state_path("semanticd", appauthor=False)) / _HISTORY_FILE


@contextlib.contextmanager
def _unechoed() -> Iterator[None]:
    """Keep text typed meanwhile out of the answer; the next line begins with it."""
    import termios

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    changed = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    termios.tcsetattr(terminal, termios.TCSADRAIN, changed)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _history() -> Iterator[None]:
    """Enable the input history for the arrow keys, also of earlier runs; without readline, there is none."""
    try:
        import readline
    except ImportError:
        yield
        return
    file = history_file()
    with contextlib.suppress(OSError):
        readline.read_history_file(file)
    readline.set_history_length(_HISTORY_LINES)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            readline.write_history_file(file)
            file.chmod(0o600)
