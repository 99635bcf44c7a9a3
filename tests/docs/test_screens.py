"""The dashboard's pictures show what a real daemon said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from contrib.dev.generators.record_run import RECORD, ROLES
from contrib.dev.generators.screens import FOLDER, recorded

ROOT = Path(__file__).resolve().parents[2]


def picture(name: str) -> str:
    return (FOLDER / f"dashboard-{name}.svg").read_text(encoding="utf-8").replace("&#160;", " ")


def test_the_record_holds_agents_at_work_and_others_that_wait() -> None:
    state = recorded()
    assert {row.id for row in state.agents} == set(ROLES)
    assert {row.state for row in state.requests} >= {"decoding", "waiting"}
    assert state.streams
    assert state.history.values("ttft_ms", 600)
    assert str(ROOT) not in RECORD.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["main", "light", "requests"])
def test_a_picture_shows_the_figures_of_the_record(name: str) -> None:
    status = json.loads(RECORD.read_text(encoding="utf-8"))["answers"]["status"]
    shown = picture(name)
    assert status["address"] in shown
    assert status["model"] in shown
    assert all(agent in shown for agent in ROLES)
