"""What `make bench` writes: ratios, targets met or missed, recorded sessions, what was not measured and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from contrib.dev.bench import replay_rows
from contrib.dev.bench.page import Target, write
from contrib.dev.bench.servers import Launch
from semanticd.bench.result import BenchResult, Figure, time_figure
from tests.fakes.caching_server import CachingServer
from tests.fakes.http_server import serving

DOCS = Path(__file__).parents[2] / "docs"


def keep(folder: Path, name: str, title: str, *figures: Figure, **changes: dict[str, object]) -> None:
    given: dict[str, object] = {
        "target": title,
        "machine": {"processor": "P", "num_cpus": 2},
        "server": {"how": "as pip installs it"},
        "settings": {},
        "began_at": "2026-01-01T00:00:00+00:00",
        "figures": list(figures),
        **changes,
    }
    BenchResult(**given).save(folder / f"{name}.json")  # type: ignore[arg-type]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    results, docs = tmp_path / "results", tmp_path / "docs"
    results.mkdir()
    docs.mkdir()
    return results, docs


def test_the_published_page_is_what_its_results_and_notes_give(tmp_path: Path) -> None:
    write(DOCS / "benchmarks", tmp_path)
    assert text_of(tmp_path / "benchmarks.md") == text_of(DOCS / "benchmarks.md")


def text_of(page: Path) -> list[str]:
    """Return a page's lines without its pictures, which are drawn only where matplotlib is installed."""
    lines = page.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("![")]


def test_ratios_are_ours_to_the_rivals_and_say_whether_the_target_is_met(folders: tuple[Path, Path]) -> None:
    results, docs = folders
    keep(results, "semanticd", "semanticd", time_figure("warm_ttft", "2048", "ttft", [0.2]))
    keep(results, "mlx_lm_float32", "mlx", time_figure("warm_ttft", "2048", "ttft", [0.5]))
    write(results, docs)
    page = (docs / "benchmarks.md").read_text()
    assert (
        "| warm TTFT at 2,048 tokens, relative to mlx_lm.server (float32) | ≤ 0.5× | 0.4× | met | 200 ms to 500 ms |"
        in page
    )
    assert "| 2048 | ttft | 200 ms | 500 ms (0.40×) |" in page
    assert (docs / "benchmarks" / "semanticd.json").exists()


def test_a_warm_turn_is_compared_with_reading_and_the_step_of_its_own_tokens(
    folders: tuple[Path, Path],
) -> None:
    results, docs = folders
    keep(results, "semanticd", "semanticd", time_figure("cold_ttft", "900", "ttft", [4.0]))
    turn = {"hot_ttft": 0.3, "restart_ttft": 0.5, "restore": 0.05, "read_and_copy": 0.05, "step": 0.15}
    keep(
        results,
        "engine",
        "engine",
        *(time_figure("restore", "900", metric, [seconds]) for metric, seconds in turn.items()),
        Figure("drafts", "edit × 1", "ratio", 2.0, "ratio", False),
        Figure("drafts", "edit × 1", "tokens_per_step", 5.25, "", False),
        Figure("drafts", "edit × 1", "same_answers", 0.0, "", False),
    )
    write(results, docs)
    page = (docs / "benchmarks.md").read_text()
    assert "| restoring 900 tokens, relative to reading and copying the bytes | ≤ 1.25× | 1× | met |" in page
    what = "at 900 tokens, relative to the read plus one step of the same tokens | ≤ 2× |"
    assert f"| TTFT in process {what} 1.5× | met | 300 ms to 50 ms + 150 ms; 0.075 × cold TTFT |" in page
    assert f"| TTFT after a restart {what} 2.5× | **missed** |" in page
    assert (
        "repeats most of a passage | ≥ 2.5× | 2× | **missed** | 5.25 tokens per step; answers **not equal** |"
        in page
    )


def test_a_server_that_could_not_be_measured_is_named_with_the_reason(folders: tuple[Path, Path]) -> None:
    results, docs = folders
    keep(results, "semanticd", "semanticd", time_figure("cancel", "2000", "idle_ttft", [0.2]))
    keep(results, "llama_cpp", "llama.cpp", skipped={"all": "cmake is missing"})
    write(results, docs)
    page = (docs / "benchmarks.md").read_text()
    assert "- llama.cpp, all: not measured: cmake is missing" in page
    assert "not measured" in page


def test_what_was_measured_on_a_busy_machine_is_said(folders: tuple[Path, Path]) -> None:
    results, docs = folders
    keep(results, "semanticd", "semanticd", load_average={"cancel": 9.5, "warm_ttft": 1.0})
    write(results, docs)
    page = (docs / "benchmarks.md").read_text()
    assert "semanticd/cancel (9.5)" in page
    assert "warm_ttft (1.0)" not in page


def test_a_target_may_be_a_least_or_a_most() -> None:
    assert Target("a", 0.5, 0.45, at_most=False).row()[1:4] == ["≥ 0.45", "0.5", "met"]
    assert Target("a", 2.5, 2, unit=" ms").row()[1:4] == ["≤ 2 ms", "2.5 ms", "**missed**"]
    assert Target("a", None, 2).row()[2] == "not measured"


def test_the_replay_has_a_row_for_each_server_that_played_it_and_none_elsewhere(
    folders: tuple[Path, Path],
) -> None:
    results, docs = folders
    keep(results, "semanticd", "semanticd", time_figure("warm_ttft", "2048", "ttft", [0.2]))
    write(results, docs)
    assert "Recorded sessions" not in (docs / "benchmarks.md").read_text()
    keep(
        results,
        "replay",
        "replay",
        Figure("replay", "semanticd", "prompt", 61234.0, "tokens"),
        Figure("replay", "semanticd", "computed", 6120.0, "tokens"),
        time_figure("replay", "semanticd", "restart_ttft", [0.2, 0.4, 0.3]),
        Figure("replay", "other", "prompt", 60000.0, "tokens"),
        settings={"num_requests": 16, "one_in": 4},
        skipped={"llama_cpp": "cmake is missing"},
    )
    write(results, docs)
    page = (docs / "benchmarks.md").read_text()
    assert "the first 16 requests of each recorded session" in page
    assert "| semanticd | 61,234 | – | 6,120 | – | – | – | 300 ms | – |" in page
    assert "| other | 60,000 | – | – | – | – | – | – | – |" in page
    assert "- replay, llama_cpp: not measured: cmake is missing" in page


class Remembers:
    """Stands for a running server: its address, and a restart that forgets."""

    def __init__(self, server: CachingServer, url: str) -> None:
        self.url = url
        self.launch = Launch([], "letters")
        self.num_restarts = 0
        self._server = server

    async def restart(self) -> None:
        self.num_restarts += 1
        self._server.forget()


async def test_the_recorded_sessions_are_played_over_a_restart_and_summed_up() -> None:
    server = CachingServer()
    sessions = replay_rows.sessions(replay_rows.Size(num_requests=6, one_in=25))
    assert [len(session.requests) for session in sessions] == [6, 6, 6]
    told: list[str] = []
    with serving(server) as url:
        running = Remembers(server, url)
        figures = await replay_rows.play(running, sessions, tells_tokens=True, name="it", say=told.append)
    values = {figure.metric: figure.value for figure in figures}
    assert running.num_restarts == 1
    assert {path for path, _, _ in server.asked} == {"/v1/chat/completions"}
    assert values["prompt"] > values["seen_before"] > values["prompt"] / 2
    assert 0 < values["computed"] <= values["prompt"] - values["seen_before"]
    assert values["computed_though_seen"] == 0
    numbers = {figure.metric: len(figure.samples) for figure in figures if figure.metric.endswith("_ttft")}
    assert numbers == {"first_ttft": 3, "later_ttft": 12, "restart_ttft": 3}
