"""The page that `make bench` writes: ratios, targets met or missed, and what was not measured with its reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from contrib.dev.bench.page import Target, write
from semanticd.bench.result import BenchResult, Figure, time_figure


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


def test_ratios_are_ours_to_the_rivals_and_say_whether_the_target_is_met(folders: tuple[Path, Path]) -> None:
    results, docs = folders
    keep(results, "semanticd", "semanticd", time_figure("warm_ttft", "2048", "ttft", [0.2]))
    keep(results, "mlx_lm_float32", "mlx", time_figure("warm_ttft", "2048", "ttft", [0.5]))
    write(results, docs)
    page = (docs / "benchmarks.md").read_text()
    assert (
        "| warm TTFT at 2,048 tokens, to mlx_lm.server (float32) | ≤ 0.5× | 0.4× | met | 200 ms to 500 ms |"
        in page
    )
    assert "| 2048 | ttft | 200 ms | 500 ms (0.40×) |" in page
    assert (docs / "benchmarks" / "semanticd.json").exists()


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
