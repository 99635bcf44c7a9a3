"""Dashboard: the app. It owns the watch state, the line to the daemon, and what keys do; screens only show.

Rule: events never draw. They mark the state as changed, and at most `MAX_DRAWS_PER_S` times a second the screen
that is seen is drawn from what is known then; an idle daemon costs nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.filter import LineFilter
from textual.screen import Screen

from semantic_tui.actions import (
    AGENT_ACTIONS,
    MODEL_ACTIONS,
    arguments,
    done_text,
    failed_text,
    question,
)
from semantic_tui.alarms import alarms
from semantic_tui.connection import Connection
from semantic_tui.model_facts import load_text, swap_text, unload_text
from semantic_tui.polling import SEARCH_INTERVAL_S, Poll, Polling
from semantic_tui.preferences import Preferences
from semantic_tui.screens.agent import AgentScreen
from semantic_tui.screens.dashboard import DashboardScreen
from semantic_tui.screens.dialogs import ConfirmDialog, HelpPage, LiveDialog, TextDialog, WordDialog
from semantic_tui.screens.doctor import DoctorScreen
from semantic_tui.screens.graphs import GraphDialog
from semantic_tui.screens.log import LogScreen
from semantic_tui.screens.models import ModelsScreen
from semantic_tui.screens.peers import PeersDialog
from semantic_tui.screens.requests import RequestsScreen
from semantic_tui.screens.watch_screen import AgentActionsScreen, WatchScreen
from semantic_tui.starting import start_arguments
from semantic_tui.state import AgentDetails, Said, WatchState
from semantic_tui.terminal_filter import TerminalFilter
from semantic_tui.themes import DARK, LIGHT
from semantic_tui.transcript import entries, num_user_turns
from semantic_tui.widgets.top_line import LONG_START_S, complaint
from semanticd.control.errors import CommandFailedError, ControlError
from semanticd.control.python_command import python_module
from semanticd.control.results import AgentRow, is_said, read
from semanticd.control.terminal_text import many_lines, one_line

MAX_DRAWS_PER_S = 10
SILENT_AFTER_S = 10.0
"""Seconds after which a daemon that says nothing is not called ready: it sends its state every second."""
START_COMMAND = (*python_module("semanticd"), "start")
SCREENS = ("dashboard", "agent", "models", "requests", "log", "doctor")


class Dashboard(App[None]):
    """Watches and controls one daemon."""

    TITLE = "semantic-tui"
    CSS_PATH = "dashboard.tcss"
    MODES: ClassVar[dict[str, Any]] = {
        "dashboard": DashboardScreen,
        "agent": AgentScreen,
        "models": ModelsScreen,
        "requests": RequestsScreen,
        "log": LogScreen,
        "doctor": DoctorScreen,
    }
    DEFAULT_MODE = "dashboard"
    VERTICAL_BREAKPOINTS = [(0, "-low"), (16, "-high")]  # noqa: RUF012 (as Textual has it)
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(str(at + 1), f"switch_mode('{name}')", name.title(), show=False)
            for at, name in enumerate(SCREENS)
        ),
        Binding("t", "theme", "Theme", show=False),
        Binding("S", "start_daemon", "Start", show=False),
        Binding("ctrl+z", "suspend_process", "Suspend", show=False),
    ]

    def __init__(
        self,
        socket: Path | None = None,
        *,
        state: WatchState | None = None,
        screen: str = SCREENS[0],
        agent: str | None = None,
        preferences: Preferences | None = None,
        clock: Callable[[], float] = time.monotonic,
        start_command: tuple[str, ...] = START_COMMAND,
    ) -> None:
        """Watch the daemon at a socket (None: this user's); with a `state`, show it and connect to nothing.

        `screen` is the first screen, `agent` an agent to show in a tile.

        Raises:
            ValueError: There is no screen of this name.
        """
        if screen not in SCREENS:
            raise ValueError(f"unknown screen {screen!r}; screens are {', '.join(SCREENS)}")
        # Textual reads it while it is being made; there is no argument for it.
        self.DEFAULT_MODE = screen  # type: ignore[misc]
        super().__init__()
        self.register_theme(DARK)
        self.register_theme(LIGHT)
        self.preferences = preferences or Preferences()
        self.theme = LIGHT.name if self.preferences.shown_theme == "light" else DARK.name
        self.state = state or WatchState()
        self._clock = clock
        self.watched: list[str] = [] if agent is None else [agent]
        """Agents in tiles; the last ones are shown."""
        self.chosen: str | None = agent
        self.log_words = ""
        """Search text of the log screen when it is opened next."""
        self.num_draws = 0
        self._start_command = start_command
        self._socket = socket
        self._connect = state is None
        self._draw_pending = False
        self._was_silent = False
        self._stopped: set[str] = set()
        """Agents whose answer was cancelled here: its absence is not reported."""
        self._terminal_filter = TerminalFilter()
        self.connection = Connection(socket, self.state, on_change=self.changed, clock=clock)
        self._polling = Polling(self.connection, self.state, clock)

    def on_mount(self) -> None:
        self.app_resume_signal.subscribe(self, self._show_again)
        if self._connect:
            self.run_worker(self.connection.run(), group="connection")
            self.set_interval(1.0, self._look_at_the_clock)

    def _look_at_the_clock(self) -> None:
        """Detect a silent daemon, and update the age of stale figures."""
        state = self.state
        silent_s = self.clock() - (state.last_heard_at or self.clock())
        state.is_silent = state.connected and silent_s > SILENT_AFTER_S
        if state.stale or self._was_silent or state.starting_since is not None:
            self.changed()
        self._was_silent = state.is_silent

    def _show_again(self, _: App[Any]) -> None:
        """Redraw everything: another program used the terminal."""
        self.refresh(layout=True)
        self.changed()

    def clock(self) -> float:
        """Return monotonic seconds."""
        return self._clock()

    @property
    def places(self) -> tuple[str, ...]:
        """The screens by name, in the order of their keys."""
        return SCREENS

    @property
    def place(self) -> str:
        """The screen that is shown."""
        return self.current_mode

    def changed(self) -> None:
        """Draw soon; many changes until then are one drawing."""
        if not self._draw_pending:
            self._draw_pending = True
            self.set_timer(1 / MAX_DRAWS_PER_S, self._draw)

    def _draw(self) -> None:
        self._draw_pending = False
        self.num_draws += 1
        screen = next((s for s in reversed(self.screen_stack) if isinstance(s, WatchScreen)), None)
        if screen is not None and screen.is_mounted:
            screen.refresh_from(self.state)
            if isinstance(self.screen, LiveDialog):
                self.screen.refresh_from(self.state)
            spoken_with = self.screen.agent if isinstance(self.screen, LiveDialog) else None
            place, agent = ("agent", spoken_with) if spoken_with is not None else (self.place, self.chosen)
            polls = self._polling.due(place, agent) if self._connect else []
            if polls:
                self.run_worker(self._poll(polls), group="poll")

    async def _poll(self, polls: list[Poll]) -> None:
        for poll in polls:
            # An agent that was deleted meanwhile is not a failure of the user's: its row says that it is gone.
            with contextlib.suppress(ControlError):
                await poll()
        self.changed()

    def notify(self, message: str, *, title: str = "", **more: Any) -> None:
        """Show a notice; text of the daemon or a program is made safe here."""
        super().notify(many_lines(message), title=one_line(title), **more)

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Return what looks at each line before it is shown."""
        return [*super().get_line_filters(), self._terminal_filter]

    # Actions of keys.

    def command(self, cmd: str, *, reply_within_s: float | None = 30.0, **args: Any) -> None:
        """Run a command in the background; a toast reports its outcome."""
        self.run_worker(self._run(cmd, reply_within_s, args))

    async def _run(self, cmd: str, reply_within_s: float | None, args: Mapping[str, Any]) -> None:
        try:
            await self.connection.call(cmd, reply_within_s=reply_within_s, **args)
        except ControlError as error:
            title = failed_text(cmd, args)
            self.notify(str(error), title=title, severity="error", timeout=12, markup=False)
        else:
            self.notify(done_text(cmd, args), markup=False)
            if cmd == "agents.delete":
                self.state.more.drop(str(args["agent"]))
        if "agent" in args and self.chosen == args["agent"]:
            await self._poll_agent(args["agent"])

    def act_on_agent(self, action: str, agent: str) -> None:
        """Pin, fork, rewind, evict, delete, export an agent or cancel its requests."""
        self.run_worker(self._act_on_agent(action, agent))

    async def _act_on_agent(self, action: str, agent: str) -> None:
        row = self.state.agent(agent)
        args: dict[str, Any] = {"agent": agent}
        if action == "pin" and row is not None and row.pinned:
            action = "unpin"
        elif action == "cancel":
            running = self.state.requests_of(agent)
            if not running:
                self.notify(f"{agent} has no request to cancel.", severity="warning", markup=False)
            for request in running:
                self.command("requests.cancel", request=request.id)
            return
        elif action == "delete":
            text = f"{agent} and the blocks that only it uses are deleted from RAM and disk. This cannot be undone."
            if not await self.push_screen_wait(ConfirmDialog(f"Delete {agent}?", text)):
                return
        elif action in ("fork", "rewind", "export"):
            answer = await self.push_screen_wait(WordDialog(*question(action, agent)))
            if answer is None or (not answer and action == "export"):
                return
            try:
                args.update(arguments(action, answer))
            except ValueError:
                self.notify(f"{answer!r} is not a valid number of turns.", severity="error", markup=False)
                return
        self.command(f"agents.{action}", **args)

    def say(self, agent: str) -> None:
        """Talk with an agent, or with a fork where its client keeps the conversation."""
        self.run_worker(self._say(agent))

    async def _say(self, agent: str) -> None:
        try:
            await self._polling.agent(agent)
        except ControlError as error:
            # In its first turn an agent has requests and no conversation yet.
            if not self.state.requests_of(agent):
                title = failed_text("agents.say", {"agent": agent})
                self.notify(str(error), title=title, severity="error", markup=False)
                return
        messages = self.state.details.get(agent, AgentDetails()).messages
        keeps_elsewhere = any(message.role == "transcript" for message in messages)
        # Made when it is wanted: its editor takes memory that most never need.
        from semantic_tui.screens.chat import ChatScreen

        self.push_screen(ChatScreen(self, agent, forks=keeps_elsewhere))

    async def take_turn(self, agent: str, text: str) -> bool:
        """Send a turn to an agent and wait for the answer, which is shown as it streams; returns whether it came."""
        state = self.state
        said = Said(many_lines(text), num_user_turns(entries(state, agent)), state.requests_heard(agent))
        self._stopped.discard(agent)
        state.said[agent] = said
        self.changed()
        try:
            await self.connection.call("agents.say", agent=agent, text=text, reply_within_s=None)
            await self._polling.agent(agent)
        except ControlError as error:
            was_stopped = isinstance(error, CommandFailedError) and error.code == "cancelled"
            if not (was_stopped and agent in self._stopped):
                title = failed_text("agents.say", {"agent": agent})
                self.notify(str(error), title=title, severity="error", timeout=12, markup=False)
            return False
        finally:
            state.said.pop(agent, None)
            self.changed()
        return True

    async def fork(self, agent: str) -> str | None:
        """Make a fork and fetch its conversation; returns its id, None where that failed, which is shown."""
        try:
            made = read(AgentRow, await self.connection.call("agents.fork", agent=agent))
            if not (fork := made.id):
                raise ControlError("the daemon's reply does not contain the fork's id")
            await self._polling.agent(fork)
        except ControlError as error:
            title = failed_text("agents.fork", {"agent": agent})
            self.notify(str(error), title=title, severity="error", timeout=12, markup=False)
            return None
        return fork

    def stop_answer(self, agent: str) -> None:
        """Cancel the answer to a turn sent from here; requests of other clients continue."""
        rows = [row for row in self.state.requests_of(agent) if is_said(row.id)]
        if not rows:
            self.notify("No answer is in progress.", severity="warning")
            return
        self._stopped.add(agent)
        for request in rows:
            self.command("requests.cancel", request=request.id)

    def change_model(self, action: str, model: str) -> None:
        """Swap to, load, unload or pull a model, after saying what will happen."""
        self.run_worker(self._change_model(action, model))

    async def _change_model(self, action: str, model: str) -> None:
        if action == "pull":
            dialog = WordDialog(
                "Pull a model",
                "A name from the registry, hf:org/name, or a folder or .gguf file on the daemon's machine.",
                model,
            )
            answer = await self.push_screen_wait(dialog)
            if not answer:
                return
            model = answer
        else:
            text = {
                "swap": swap_text, "load": load_text, "unload": unload_text,
            }[action](self.state, model)  # fmt: skip
            if not await self.push_screen_wait(ConfirmDialog(f"{MODEL_ACTIONS[action]} {model}?", text)):
                return
        self.command(f"models.{action}", reply_within_s=None, model=model)

    def toggle_watched(self, agent: str) -> None:
        """Show an agent in a tile, or no longer."""
        if agent in self.watched:
            self.watched.remove(agent)
            if self.chosen == agent:
                self.chosen = self.watched[-1] if self.watched else None
        else:
            self.watched.append(agent)
            self.chosen = self.chosen or agent
            if self._connect and agent not in self.state.details and self.state.agent(agent):
                self.run_worker(self._poll_agent(agent))

    def open_agent(self, agent: str) -> None:
        """Show an agent's screen."""
        if agent not in self.watched:
            self.watched.append(agent)
        self.chosen = agent
        self.run_worker(self._poll_agent(agent))
        self.switch_mode("agent")
        self.changed()

    async def _poll_agent(self, agent: str) -> None:
        try:
            await self._polling.agent(agent)
        except ControlError as error:
            self.state.details.pop(agent, None)
            # In its first turn an agent has requests and no facts yet.
            if self.state.connected and not self.state.requests_of(agent):
                self.notify(str(error), severity="error", markup=False)
        self.changed()

    def search_agents(self, words: str, sort: str) -> None:
        """Look for agents with these words, in this order, also among those that the daemon does not send."""
        if self.state.more.ask(words, sort):
            self._search_soon()

    def more_agents(self) -> None:
        """Fetch further agents, where there are some."""
        if self.state.has_more_agents and self.state.more.ask_more():
            self._search_soon()

    def _search_soon(self) -> None:
        self.changed()
        # A question that follows another one at once has to wait, and then nothing else may happen.
        self.set_timer(SEARCH_INTERVAL_S, self.changed)

    def open_log(self, words: str) -> None:
        """Show the log's lines that have these words."""
        self.log_words = words
        self.switch_mode("log")

    def run_doctor(self, *, generate: bool) -> None:
        """Let the daemon examine its installation; with `generate`, its model too."""
        self.state.is_examining = True
        self.changed()
        self.run_worker(self._run_doctor(generate=generate))

    async def _run_doctor(self, *, generate: bool) -> None:
        try:
            report = await self.connection.call("doctor", reply_within_s=120.0, generate=generate)
            self.state.take_doctor(report, at=time.strftime("%H:%M:%S"))
        except ControlError as error:
            self.notify(str(error), title="The check failed", severity="error", markup=False)
        finally:
            self.state.is_examining = False
        self.changed()

    async def action_switch_mode(self, mode: str) -> None:
        """Go to a screen; the agent screen without tiles opens the agent under the cursor, or the first."""
        if mode == "agent" and not self.watched:
            shown = self.screen.chosen_agent() if isinstance(self.screen, AgentActionsScreen) else None
            agent = shown or next((row.row.id for row in self.state.rows()), None)
            if agent is not None:
                self.open_agent(agent)
                return
        await super().action_switch_mode(mode)

    def action_alarms(self) -> None:
        """List the alarms, each with what to do."""
        found = alarms(self.state)
        nothing = complaint(self.state, self.clock()) or "Nothing needs attention."
        text = "\n\n".join(f"▲ {alarm.detail}" for alarm in found) or nothing
        self.push_screen(TextDialog("Alarms", text))

    def action_peers(self) -> None:
        self.push_screen(PeersDialog(self.state))

    def action_help(self) -> None:
        self.push_screen(HelpPage())

    def watch_theme(self) -> None:
        """Have the new theme's colours at once: Textual computes them later, and a drawing may come before that."""
        self.get_css_variables()

    def action_theme(self) -> None:
        self.theme = LIGHT.name if self.current_theme.dark else DARK.name
        self.preferences.change(theme="dark" if self.current_theme.dark else "light")
        self.changed()

    def action_start_daemon(self) -> None:
        """Start a daemon, where none runs; one start at a time, until it takes too long."""
        state = self.state
        if state.connected:
            self.notify("A daemon is already running.", severity="warning")
        elif state.starting_since is not None and self.clock() - state.starting_since < LONG_START_S:
            self.notify("The daemon is already starting.", severity="warning")
        else:
            # The one before, if there is one, is no longer waited for: it continues in its own process.
            self.run_worker(self._start_daemon(), group="start", exclusive=True)

    async def _start_daemon(self) -> None:
        state = self.state
        began = state.starting_since = self.clock()
        state.starting_says = ""
        self.changed()
        try:
            process = await asyncio.create_subprocess_exec(
                *self._start_command,
                *start_arguments(state, self._socket),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            said = await self._follow_start(process)
        finally:
            # A start that came after this one has a time of its own.
            if state.starting_since == began:
                state.starting_since = None
        if process.returncode:
            self.notify(
                said or f"status {process.returncode}",
                title="semanticd start failed",
                severity="error",
                markup=False,
            )
        self.connection.retry_now()

    async def _follow_start(self, process: asyncio.subprocess.Process) -> str:
        """Show the last output line of a start while it runs; returns the end of its output."""
        said = ""
        assert process.stdout is not None
        while piece := await process.stdout.read(4096):
            said = (said + piece.decode(errors="replace"))[-600:]
            lines = [line for line in said.replace("\r", "\n").split("\n") if line.strip()]
            self.state.starting_says = one_line(lines[-1].strip())[:200] if lines else ""
            self.changed()
        await process.wait()
        return said.strip()

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Fill the command palette."""
        yield from super().get_system_commands(screen)
        for name in SCREENS:
            yield SystemCommand(
                f"Go to {name}", f"Show the {name} screen", lambda name=name: self.switch_mode(name)
            )
        yield SystemCommand("Dark or light", "Switch between the dark and the light theme", self.action_theme)
        yield SystemCommand("Help", "Explain the keys and the figures", self.action_help)
        yield SystemCommand("Alarms", "List the alarms", self.action_alarms)
        yield SystemCommand(
            "Peers", "Show the machines that this daemon reads blocks from", self.action_peers
        )
        yield SystemCommand(
            "Graphs", "Show graphs of the last hour", lambda: self.push_screen(GraphDialog(self))
        )
        yield SystemCommand("Start the daemon", "Run `semanticd start`", self.action_start_daemon)
        yield from self._agent_commands(screen)
        for model in (row.id for row in self.state.models):
            for action, words in MODEL_ACTIONS.items():
                yield SystemCommand(
                    f"{words} {model}", "Model", lambda a=action, m=model: self.change_model(a, m)
                )
        for request in self.state.requests:
            yield SystemCommand(
                f"Cancel request {request.id}",
                f"Request of {request.agent}",
                lambda name=request.id: self.command("requests.cancel", request=name),
            )

    def _agent_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Yield every action on every agent, those on the agent under the cursor first."""
        chosen = screen.chosen_agent() if isinstance(screen, AgentActionsScreen) else None
        names = [agent.row.id for agent in self.state.rows()]
        for agent in sorted(names, key=lambda name: name != chosen):
            yield SystemCommand(
                f"Open {agent}", "Show its stream, turns and transcript", lambda a=agent: self.open_agent(a)
            )
            yield SystemCommand(
                f"Chat with {agent}", "Show its conversation and send a turn", lambda a=agent: self.say(a)
            )
            for action, words in AGENT_ACTIONS.items():
                yield SystemCommand(
                    f"{words} {agent}", "Agent", lambda a=agent, what=action: self.act_on_agent(what, a)
                )
            yield SystemCommand(f"Log of {agent}", "Show its log lines", lambda a=agent: self.open_log(a))
