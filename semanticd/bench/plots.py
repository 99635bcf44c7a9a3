"""Draws results as bar charts, one picture per scenario; needs matplotlib (extra `bench`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from semanticd.bench.errors import BenchError
from semanticd.bench.result import BenchResult, Figure

MAIN_METRIC = {
    "cold_ttft": "ttft",
    "warm_ttft": "ttft",
    "restart_ttft": "ttft",
    "agents": "total",
    "concurrent_decode": "rate",
    "interference": "kept_share",
    "cancel": "dropped_ttft",
    "swap": "ttft_during_swap",
}


def plot(results: Sequence[BenchResult], folder: Path, *, kind: str = "svg") -> list[Path]:
    """Write one picture per scenario into `folder` and return the paths; `kind` is svg or png.

    Raises:
        BenchError: matplotlib is not installed, or nothing can be drawn.
    """
    pyplot = _pyplot()
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for scenario, metric in MAIN_METRIC.items():
        chosen = [
            {f.case: f for f in result.figures if (f.scenario, f.metric) == (scenario, metric)}
            for result in results
        ]
        cases = list(dict.fromkeys(case for figures in chosen for case in figures))
        if not cases:
            continue
        path = folder / f"{scenario}.{kind}"
        _draw(pyplot, path, title=f"{scenario}: {metric}", results=results, chosen=chosen, cases=cases)
        paths.append(path)
    if not paths:
        raise BenchError("the results hold nothing that can be drawn; measure at least one scenario first")
    return paths


def require_matplotlib() -> None:
    """Raise `BenchError` when matplotlib is not installed."""
    _pyplot()


def _draw(
    pyplot: Any,
    path: Path,
    *,
    title: str,
    results: Sequence[BenchResult],
    chosen: Sequence[dict[str, Figure]],
    cases: Sequence[str],
) -> None:
    picture, axes = pyplot.subplots(figsize=(7, 3.2))
    width = 0.8 / len(results)
    unit = ""
    for index, (result, figures) in enumerate(zip(results, chosen, strict=True)):
        places = [place + index * width for place, case in enumerate(cases) if case in figures]
        heights = [figures[case].value for case in cases if case in figures]
        unit = next((figure.unit for figure in figures.values()), unit)
        bars = axes.bar(places, heights, width, label=result.target)
        axes.bar_label(bars, fmt="%.3g", fontsize=7)
    axes.set_xticks([place + 0.4 - width / 2 for place in range(len(cases))], cases)
    axes.set_ylabel(unit)
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=7)
    picture.tight_layout()
    # Without a date in it, the same figures give the same file.
    picture.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(picture)


def _pyplot() -> Any:
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise BenchError(
            "drawing needs matplotlib, which is not installed; install it with `pip install 'semanticd[bench]'`, "
            "or run without --plots"
        ) from error
    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "semanticd"
    return __import__("matplotlib.pyplot").pyplot
