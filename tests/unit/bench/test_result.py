"""Results: kept, read back, shown, compared and drawn."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from semanticd.bench.comparison import compare
from semanticd.bench.errors import BenchError
from semanticd.bench.machine import describe_machine, load_average
from semanticd.bench.plots import plot
from semanticd.bench.report import markdown, shown
from semanticd.bench.result import BenchResult, Figure, load_result, time_figure
from semanticd.bench.statistics import gaps, median, quantile
from semanticd.bench.text import TextSource


def result(target: str, *figures: Figure, **changes: Any) -> BenchResult:
    given: dict[str, Any] = {
        "target": target,
        "machine": {"processor": "P", "num_cpus": 2, "memory_bytes": 2**34, "packages": {"mlx": "1"}},
        "server": {"model": "m"},
        "settings": {"seed": 1},
        "began_at": "2026-01-01T00:00:00+00:00",
        "figures": list(figures),
    }
    return BenchResult(**{**given, **changes})


def test_a_result_survives_the_file(tmp_path: Path) -> None:
    kept = result("ours", time_figure("cold_ttft", "20", "ttft", [3.0, 1.0, 2.0]), skipped={"swap": "why"})
    kept.save(tmp_path / "r.json")
    assert load_result(tmp_path / "r.json") == kept
    assert kept.value("cold_ttft", "20", "ttft") == 2.0
    assert kept.value("cold_ttft", "21", "ttft") is None


def test_new_figures_of_a_scenario_replace_the_old_ones() -> None:
    kept = result(
        "ours", time_figure("a", "1", "x", [1.0]), time_figure("b", "1", "x", [1.0]), skipped={"a": "why"}
    )
    kept.replace("a", [time_figure("a", "1", "x", [5.0])])
    assert kept.value("a", "1", "x") == 5.0
    assert len(kept.figures) == 2
    assert not kept.skipped


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "check the path"),
        ("{", "not JSON"),
        ("[]", "not a benchmark result"),
        ('{"format": 99}', "not a benchmark result"),
        ('{"format": 1, "figures": [{}]}', "measure again"),
    ],
)
def test_a_file_that_is_no_result_says_so(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "r.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(BenchError, match=message):
        load_result(path)


def test_a_comparison_shows_ratios_and_which_side_is_better() -> None:
    ours = result(
        "ours",
        time_figure("warm_ttft", "900", "ttft", [0.1]),
        Figure("concurrent_decode", "4", "rate", 30.0, "tok/s", lower_is_better=False),
        time_figure("swap", "all", "swap", [1.0]),
    )
    rival = result(
        "rival",
        time_figure("warm_ttft", "900", "ttft", [0.4]),
        Figure("concurrent_decode", "4", "rate", 40.0, "tok/s", lower_is_better=False),
        settings={"seed": 2},
    )
    text = compare([ours, rival])
    assert "| warm_ttft | 900 | ttft | 100 ms | 400 ms | 0.25× better |" in text
    assert "| concurrent_decode | 4 | rate | 30 tok/s | 40 tok/s | 0.75× worse |" in text
    assert "swap" not in text
    assert "rival was measured with other settings: seed" in text


def test_a_comparison_needs_two_results_with_something_in_common() -> None:
    with pytest.raises(BenchError, match="at least two"):
        compare([result("ours")])
    with pytest.raises(BenchError, match="no figure in common"):
        compare([result("ours", time_figure("a", "1", "x", [1.0])), result("rival")])


def test_the_report_names_machine_figures_and_what_is_missing() -> None:
    text = markdown(
        result("ours", time_figure("warm_ttft", "900", "ttft", [0.25]), skipped={"swap": "no command"})
    )
    assert "- processor: P, 2 cores, 16 GiB" in text
    assert "| 900 | ttft | 250 ms |" in text
    assert "- swap: no command" in text


def test_values_are_shown_with_three_digits_and_their_unit() -> None:
    assert [shown(0.01234, "s"), shown(12.345, "s"), shown(0.5, "ratio"), shown(1234.5, "tok/s")] == [
        "12.3 ms",
        "12.35 s",
        "0.50",
        "1,234 tok/s",
    ]


def test_pictures_are_drawn_for_what_was_measured(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra `bench` is not installed")
    drawn = plot([result("ours", time_figure("warm_ttft", "900", "ttft", [0.25]))], tmp_path)
    assert [path.name for path in drawn] == ["warm_ttft.svg"]
    assert drawn[0].read_text().startswith("<?xml")
    with pytest.raises(BenchError, match="nothing that can be drawn"):
        plot([result("ours")], tmp_path)


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(BenchError, match=r"semanticd\[bench\]"):
        plot([result("ours")], tmp_path)


def test_the_machine_is_described_without_naming_it() -> None:
    facts = describe_machine()
    assert facts["num_cpus"] >= 1
    assert facts["packages"]["semanticd"]
    assert not {"host", "hostname", "user"} & set(facts)
    assert load_average() >= 0


def test_text_is_the_same_for_the_same_seed_and_label_only() -> None:
    assert TextSource(1).words("a", 50) == TextSource(1).words("a", 50)
    assert TextSource(1).words("a", 50) != TextSource(2).words("a", 50)
    assert TextSource(1).words("a", 50) != TextSource(1).words("b", 50)


def test_prompts_grow_with_the_tokens_that_words_take() -> None:
    text = TextSource(1)
    text.calibrate(num_words=100, num_tokens=200)
    assert len(text.prompt("a", 100).split()) == 50
    text.calibrate(num_words=100, num_tokens=0)
    assert text.tokens_per_word == 2.0


def test_statistics_of_few_values() -> None:
    assert [quantile([], 0.5), median([3.0]), median([1.0, 2.0]), quantile([0.0, 1.0], 0.95)] == [
        0,
        3,
        1.5,
        0.95,
    ]
    assert gaps([1.0, 2.0, 4.0]) == [1.0, 2.0]
