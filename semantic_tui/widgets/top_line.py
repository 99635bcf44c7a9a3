"""The lines on top of every screen: the daemon's state, the screens to go to, and what is wrong with the line to it."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content
from textual.widgets import Static

from semantic_tui.state import WatchState
from semantic_tui.widgets.shown_text import ShownText

_STATES = {"ready": "$success", "starting": "$warning", "draining": "$warning", "stopped": "$error"}


def span(seconds: float) -> str:
    """Return a duration in its two largest units."""
    whole = int(seconds)
    for unit, length, less in (("d", 86400, "h"), ("h", 3600, "m"), ("m", 60, "s")):
        if whole >= length:
            part = {"h": 3600, "m": 60, "s": 1}[less]
            return f"{whole // length} {unit} {whole % length // part} {less}"
    return f"{whole} s"


class TopLine(ShownText):
    """Model, state, uptime, address, a change of model that is under way, and how many events were dropped."""

    def show(self, state: WatchState) -> None:
        """Show the daemon's facts."""
        self.show_text(headline(state))


def headline(state: WatchState) -> Content:
    """Return the daemon's facts in a line; what needs attention comes before what is always there."""
    status = state.status
    name = str(status.get("state") or state.connection)
    version = status.get("version") or state.daemon.get("version") or ""
    parts: list[tuple[str, str] | str] = [
        ("semanticd", "bold $accent"), (f" {version}", "$muted"),
        (f"  ● {name}", _STATES.get(name, "$warning") if state.connected else "$faint"),
    ]  # fmt: skip
    if status:
        parts += ["  ", (str(status.get("model") or "no model"), "bold")]
    stage = str(status.get("model_stage") or "idle")
    if stage != "idle":
        share = float(status.get("model_progress") or 0)
        parts.append((f"  {stage} {100 * share:.0f} %", "$warning"))
    if state.num_dropped:
        parts.append((f"  {state.num_dropped:,} events dropped", "$warning"))
    if status:
        parts += [
            f"  up {span(float(status.get('uptime_s') or 0))}",
            (f"  {status.get('address') or ''}", "$muted"),
        ]
    return Content.assemble(*parts)


class PlacesLine(Static):
    """The screens with their keys; a click goes there."""

    def show(self, places: Sequence[str], here: str) -> None:
        """Mark where we are."""
        labels = []
        for at, place in enumerate(places, 1):
            label = f"{at} {place.title()}"
            goes = f"[@click=app.switch_mode('{place}')]{label}[/]"
            labels.append(f"[bold $accent]{label}[/]" if place == here else goes)
        self.update(Content.from_markup("   ".join(labels)))


def complaint(state: WatchState, now: float) -> str:
    """Return what is wrong with the connection and what to do; empty when nothing is."""
    if state.connected:
        return ""
    if state.connection == "connecting":
        return "Connecting to the daemon…"
    text = {
        "absent": "No daemon is running. Press S to start one.",
        "lost": f"Lost the daemon: {state.reason}.",
        "mismatch": f"Cannot talk to this daemon: {state.reason}",
    }[state.connection]
    if state.connection != "mismatch":
        text += f" Trying again every {state.retry_in_s:g} s."
    if state.stale and state.last_heard_at is not None:
        text += f" STALE: what is shown is {span(max(0.0, now - state.last_heard_at))} old."
    return text


class ConnectionLine(ShownText):
    """Shown only while there is something to say."""

    def show(self, state: WatchState, now: float) -> None:
        """Show or hide the complaint."""
        text = complaint(state, now)
        self.display = bool(text)
        self.show_text(text)
