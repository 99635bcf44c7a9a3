"""The two lines on top of every screen: the daemon's state, and what is wrong with the line to it."""

from __future__ import annotations

from textual.content import Content
from textual.widgets import Static

from semantic_tui.state import WatchState

_STATES = {"ready": "$success", "starting": "$warning", "draining": "$warning", "stopped": "$error"}


def span(seconds: float) -> str:
    """Return a duration in its two largest units."""
    whole = int(seconds)
    for unit, length, less in (("d", 86400, "h"), ("h", 3600, "m"), ("m", 60, "s")):
        if whole >= length:
            part = {"h": 3600, "m": 60, "s": 1}[less]
            return f"{whole // length} {unit} {whole % length // part} {less}"
    return f"{whole} s"


class TopLine(Static):
    """Model, state, uptime, address, and how many events were dropped."""

    def show(self, state: WatchState) -> None:
        """Show the daemon's facts."""
        status = state.status
        name = str(status.get("state") or state.connection)
        parts: list[tuple[str, str] | str] = [
            ("semanticd", "bold $accent"), f" {status.get('version') or state.daemon.get('version') or ''}  ",
            (f"● {name}", _STATES.get(name, "$warning") if state.connected else "$text-disabled"),
            f"  model {status.get('model') or '-'}  up {span(float(status.get('uptime_s') or 0))}  ",
            str(status.get("address") or ""),
        ]  # fmt: skip
        if state.num_dropped:
            parts.append((f"  {state.num_dropped} events dropped", "$warning"))
        self.update(Content.assemble(*parts))


def complaint(state: WatchState, now: float) -> str:
    """Return what is wrong with the connection and what to do; empty when nothing is."""
    if state.connected:
        return ""
    if state.connection == "connecting":
        return "Connecting to the daemon…"
    told = {
        "absent": "No daemon is running. Press S to start one.",
        "lost": f"Lost the daemon: {state.reason}.",
        "mismatch": f"Cannot talk to this daemon: {state.reason}",
    }[state.connection]
    if state.connection != "mismatch":
        told += f" Trying again every {state.retry_in_s:g} s."
    if state.stale and state.last_heard_at is not None:
        told += f" STALE: what is shown is {span(max(0.0, now - state.last_heard_at))} old."
    return told


class ConnectionLine(Static):
    """Shown only while there is something to say."""

    def show(self, state: WatchState, now: float) -> None:
        """Show or hide the complaint."""
        told = complaint(state, now)
        self.display = bool(told)
        self.update(Content(told))
