"""The lines on top of every screen: the daemon's state, the screens, and the problem with the connection, if any."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content
from textual.widgets import Static

from semantic_tui.alarms import Alarm, alarms, is_failing
from semantic_tui.plain import span
from semantic_tui.state import WatchState
from semantic_tui.widgets.shown_text import ShownText

LONG_START_S = 60.0
"""Seconds after which a start needs an explanation: a model of many gigabytes may be read, or it hangs."""
_CONNECTIONS = {
    "connecting": "connecting",
    "absent": "not running",
    "lost": "lost",
    "mismatch": "version mismatch",
    "refused": "no access",
    "untrusted": "not trusted",
}
_STATES = {
    "ready": "$success",
    "no_model": "$warning",
    "starting": "$warning",
    "draining": "$warning",
    "stopped": "$error",
}


class TopLine(ShownText):
    """Model, state, uptime, address, the progress of a change of model, and how many events were dropped."""

    def show(self, state: WatchState) -> None:
        """Show the daemon's facts."""
        self.show_text(headline(state))


def headline(state: WatchState) -> Content:
    """Return the daemon's facts in a line; facts that need attention come first."""
    status = state.status
    version = status.version or state.daemon.version
    parts: list[tuple[str, str] | str] = [
        ("semanticd", "bold $accent"), (f" {version}", "$muted"), _health(state),
    ]  # fmt: skip
    if state.heard and status.state != "no_model":
        parts += ["  ", (status.model or "no model", "bold")]
    if status.model_stage != "idle" and state.connected:
        parts.append((f"  {status.model_stage} {100 * status.model_progress:.0f} %", "$warning"))
    if state.num_dropped:
        parts.append((f"  {state.num_dropped:,} events dropped", "$warning"))
    if state.heard and state.connected:
        parts += [
            f"  up {span(status.uptime_s)}",
            (f"  {status.address}", "$muted"),
        ]
    return Content.assemble(*parts)


def _health(state: WatchState) -> tuple[str, str]:
    """Return the daemon's state for its clients: ready only while it answers."""
    if not state.connected:
        return f"  ○ {_CONNECTIONS.get(state.connection, state.connection)}", "$warning"
    if state.is_silent:
        return "  ○ silent", "$warning"
    if is_failing(state):
        return "  ● failing", "bold $error"
    name = state.status.state or "connected"
    return f"  ● {name.replace('_', ' ')}", _STATES.get(name, "$warning")


class AlarmLine(ShownText):
    """The alarms in one line; hidden while there are none. A click lists them."""

    async def on_click(self) -> None:
        await self.run_action("app.alarms")

    def show(self, state: WatchState, width: int) -> None:
        found = alarms(state)
        self.display = bool(found)
        if found:
            self.set_class(found[0].level == "error", "error")
            self.show_text(strip(found, width))


def strip(found: Sequence[Alarm], width: int) -> Content:
    """Return as many alarms as fit, and the key that lists all."""
    key = "  ! lists them"
    text, shown = "", 0
    for alarm in found:
        longer = f"{text}  ·  {alarm.short}" if text else alarm.short
        if shown and len(longer) + len(key) + 8 > width:
            break
        text, shown = longer, shown + 1
    more = f"  +{len(found) - shown}" if shown < len(found) else ""
    return Content(f"▲ {text[: max(10, width - len(key) - len(more) - 4)]}{more}{key}")


class PlacesLine(Static):
    """The screens with their keys; a click goes there."""

    _here = ""

    def show(self, places: Sequence[str], here: str) -> None:
        if self._here == here:
            return
        self._here = here
        labels = []
        for at, place in enumerate(places, 1):
            label = f"{at} {place.title()}"
            goes = f"[@click=app.switch_mode('{place}')]{label}[/]"
            labels.append(f"[bold $accent]{label}[/]" if place == here else goes)
        self.update(Content.from_markup("   ".join(labels)))


def complaint(state: WatchState, now: float) -> str:
    """Return the problem with the connection and its remedy; empty without a problem."""
    if state.connected:
        if state.is_silent and state.last_heard_at is not None:
            age = span(max(0.0, now - state.last_heard_at))
            return f"No response from the daemon for {age}: it is suspended or busy. STALE: the figures are as old."
        return ""
    if state.starting_since is not None:
        return _starting(state, max(0.0, now - state.starting_since))
    if state.connection == "connecting":
        return "Connecting to the daemon…"
    text = {
        "absent": f"No daemon is running{state.where}. Press S to start one.",
        "lost": f"Lost the connection to the daemon: {state.reason}.",
        "mismatch": f"Cannot talk to this daemon: {state.reason}",
        "untrusted": f"Nothing was sent: {state.reason}.",
        "refused": f"Cannot open the daemon's socket{state.where}: {state.reason}. It belongs to another user; "
        "run the dashboard as that user, or give --socket.",
    }[state.connection]
    if state.connection not in ("mismatch", "refused"):
        text += f" Retrying every {state.retry_in_s:g} s."
    if state.stale and state.last_heard_at is not None:
        text += f" STALE: the figures are {span(max(0.0, now - state.last_heard_at))} old."
    return text


def _starting(state: WatchState, seconds: float) -> str:
    """Return how long `semanticd start` runs and its last line; after `LONG_START_S`, also what to do."""
    text = f"Starting the daemon{state.where}, {span(seconds)}: "
    text += state.starting_says or "no output from `semanticd start` yet"
    if seconds >= LONG_START_S:
        text += ". This takes long: `semanticd logs` shows what it does; S stops waiting and starts it again"
    return f"{text}."


class ConnectionLine(ShownText):
    """Shown only while there is something to say."""

    def show(self, state: WatchState, now: float) -> None:
        text = complaint(state, now)
        self.display = bool(text)
        self.show_text(text)
