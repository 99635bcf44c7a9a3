"""The daemon's parts end in the reverse of their order, whatever one of them does."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from semanticd.entrypoints.bootstrap import close


def daemon_of(said: list[str], *, failing: str = "") -> Any:
    def part(name: str) -> Callable[[], None]:
        def end() -> None:
            said.append(name)
            if name == failing:
                raise OSError(name)

        return end

    return SimpleNamespace(
        tracer=None,
        traces=SimpleNamespace(close=part("traces")),
        ranks=SimpleNamespace(close=part("ranks")),
        peers=SimpleNamespace(close=part("peers")),
        engine=SimpleNamespace(stop=part("engine")),
        response_archive=SimpleNamespace(close=part("responses")),
        figures=SimpleNamespace(save=part("figures")),
        warm=SimpleNamespace(close=part("warm")),
        archive=SimpleNamespace(close=part("archive")),
    )


def test_the_engine_stops_first_and_the_archive_last() -> None:
    said: list[str] = []
    close(daemon_of(said))
    assert said == ["engine", "ranks", "peers", "traces", "responses", "figures", "warm", "archive"]


@pytest.mark.parametrize("failing", ["engine", "responses", "figures", "warm"])
def test_what_comes_after_a_failure_is_closed_all_the_same(failing: str) -> None:
    said: list[str] = []
    with pytest.raises(OSError, match=failing):
        close(daemon_of(said, failing=failing))
    assert said == ["engine", "ranks", "peers", "traces", "responses", "figures", "warm", "archive"]
