"""No text from the daemon steers the terminal, breaks the layout or the picture: every screen, every kind of text."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest
from textual.pilot import Pilot

from semantic_tui.app import SCREENS, Dashboard
from semantic_tui.screens.chat import ChatScreen, Words
from semantic_tui.state import Said, WatchState
from semantic_tui.widgets.transcript_view import TranscriptView
from semanticd.control.terminal_text import many_lines
from tests.fakes import control_script, watch_states
from tests.fakes.hostile_text import ENCODABLE, HOSTILE

_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800-\udfff]"
)


def hostile() -> WatchState:
    """Return a state in which every text is of the corpus."""
    texts, state = list(ENCODABLE), watch_states.busy()
    agents = [{**control_script.agents()[0], "id": text, "model": text, "class": text} for text in texts]
    state.take("agents", {"agents": agents})
    state.take(
        "requests", {"requests": [{"id": t, "agent": t, "state": t, "wait_behind": t} for t in texts[:20]]}
    )
    state.take_models({"models": [{"id": t, "description": t, "precision": t} for t in texts]})
    failures = [{"agent": t, "code": t, "message": t, "kind": "failed", "at": 0} for t in texts]
    state.take_failures({"failures": failures})
    state.take_doctor(
        {"findings": [{"check": t, "message": t, "advice": t, "state": "error"} for t in texts]}
    )
    for text in texts:
        state.take("log", {"timestamp": text, "level": text, "event": text, "fields": {text: text}})
        state.take("model", {"model": text, "stage": "failed", "reason": text})
        state.take("token", {"agent": "planner", "request": "r", "text": text, "num_tokens": 1})
    turns = [{"request_id": t, "verdict": t, "finish_reason": t,
              "miss": {"cause": t, "position": 1, "expected": t, "found": t}} for t in texts]  # fmt: skip
    messages = [{"role": text, "content": text} for text in texts]
    state.take_details("planner", {"turns": turns, "sharing": []}, messages)
    ranks = [{"rank": 1, "address": t, "state": "missing", "last_failure": t} for t in texts]
    peers = [{"address": t, "state": "resting", "num_failures": 1, "last_failure": t} for t in texts]
    names = {"model": texts[0], "address": texts[1], "state": texts[2]}
    state.take("status", {**control_script.status(119), **names, "peers": peers, "ranks": ranks})
    state.take_prompt(texts[0], {"messages": messages})
    return state


async def shown(pilot: Pilot[None]) -> str:
    """Return the picture of what is on the screen, which must be XML."""
    await pilot.pause()
    await pilot.pause()
    picture = pilot.app.export_screenshot()
    ET.fromstring(picture)
    return picture


def test_the_corpus_has_two_hundred_texts_and_one_of_ten_thousand_characters() -> None:
    assert len(set(HOSTILE)) >= 200
    assert max(map(len, HOSTILE)) > 10_000


@pytest.mark.parametrize("screen", SCREENS)
async def test_every_screen_shows_every_text_without_a_control_character(screen: str) -> None:
    app = Dashboard(state=hostile(), screen=screen, clock=lambda: watch_states.NOW)
    app.toggle_watched("planner")
    keys = {"agent": ("shift+tab", "right", "right", "right"), "dashboard": ("end", "z")}.get(
        screen, ("end",)
    )
    async with app.run_test(size=(100, 40)) as pilot:
        assert not _UNSAFE.search(await shown(pilot))
        for key in keys:
            await pilot.press(key)
            assert not _UNSAFE.search(await shown(pilot))


async def test_the_list_of_peers_shows_every_text_without_a_control_character() -> None:
    app = Dashboard(state=hostile(), clock=lambda: watch_states.NOW)
    async with app.run_test(size=(100, 60)) as pilot:
        await pilot.press("P")
        assert not _UNSAFE.search(await shown(pilot))
        dialog = app.screen.query_one(".dialog")
        assert dialog.max_scroll_y > 200, "all of them are there"
        for at in range(0, dialog.max_scroll_y, dialog.max_scroll_y // 4):
            dialog.scroll_to(y=at, animate=False)
            assert not _UNSAFE.search(await shown(pilot))


async def test_the_chat_shows_every_text_without_a_control_character() -> None:
    app = Dashboard(state=hostile(), clock=lambda: watch_states.NOW)
    async with app.run_test(size=(100, 60)) as pilot:
        await app.push_screen(ChatScreen(app, "planner", forks=False))
        view, words = app.screen.query_one(TranscriptView), app.screen.query_one(Words)
        texts = list(ENCODABLE)
        for at in range(0, len(texts), 20):
            words.text = "\n".join(text[:200] for text in texts[at : at + 20])
            assert not _UNSAFE.search(await shown(pilot))
            view.scroll_to(y=view.scroll_y + 50, animate=False)
        app.state.said["planner"] = Said(many_lines("\n".join(ENCODABLE)))
        app.changed()
        view.scroll_end(animate=False)
        assert not _UNSAFE.search(await shown(pilot))
