"""AppProtocol: the app's interface for its screens. They import this, never the app, which imports all of them."""

from __future__ import annotations

from typing import Any, Protocol

from semantic_tui.preferences import Preferences
from semantic_tui.state import WatchState


class AppProtocol(Protocol):
    """The app, as a screen sees it. Each action runs while the screen continues; a toast reports its failure."""

    state: WatchState
    watched: list[str]
    """Agents in tiles, the newest last."""
    chosen: str | None
    """The agent that the agent screen is about."""

    log_words: str
    """Search text of the log screen when it is opened next."""
    preferences: Preferences
    """State that is saved between runs; screens read and change it."""

    @property
    def places(self) -> tuple[str, ...]:
        """The screens by name, in the order of their keys."""
        ...

    @property
    def place(self) -> str:
        """The screen that is shown."""
        ...

    def clock(self) -> float:
        """Return monotonic seconds."""
        ...

    def command(self, cmd: str, *, reply_within_s: float | None = 30.0, **args: Any) -> None:
        """Run a control command."""
        ...

    def act_on_agent(self, action: str, agent: str) -> None:
        """Pin, fork, rewind, evict, delete, export an agent or cancel its requests."""
        ...

    def say(self, agent: str) -> None:
        """Talk with an agent, or with a fork where its client keeps the conversation."""
        ...

    async def take_turn(self, agent: str, text: str) -> bool:
        """Send a turn to an agent and wait for the answer, which is shown as it streams; returns whether it came."""
        ...

    async def fork(self, agent: str) -> str | None:
        """Make a fork and fetch its conversation; returns its id, None where that failed, which is shown."""
        ...

    def stop_answer(self, agent: str) -> None:
        """Cancel the agent's present answer; the text so far stays."""
        ...

    def change_model(self, action: str, model: str) -> None:
        """Swap to, load, unload or pull a model, after asking."""
        ...

    def toggle_watched(self, agent: str) -> None:
        """Show an agent in a tile, or no longer."""
        ...

    def open_agent(self, agent: str) -> None:
        """Show an agent's screen."""
        ...

    def search_agents(self, words: str, sort: str) -> None:
        """Look for agents with these words, in this order, also among those that the daemon does not send."""
        ...

    def more_agents(self) -> None:
        """Fetch further agents, where there are some."""
        ...

    def run_doctor(self, *, generate: bool) -> None:
        """Let the daemon examine its installation; with `generate`, its model too."""
        ...

    def open_log(self, words: str) -> None:
        """Show the log's lines that have these words."""
        ...
