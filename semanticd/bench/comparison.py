"""Compares results: the first is the subject, ratios are its value divided by the other's."""

from __future__ import annotations

from collections.abc import Sequence

from semanticd.bench.errors import BenchError
from semanticd.bench.report import shown_figure, table
from semanticd.bench.result import BenchResult, Figure


def ratio(ours: Figure | None, other: Figure | None) -> float | None:
    """Return ours to the other's; None where one is missing or zero."""
    if ours is None or other is None or not other.value:
        return None
    return ours.value / other.value


def compare(results: Sequence[BenchResult]) -> str:
    """Return a Markdown table of all figures that the first result and at least one other have.

    Raises:
        BenchError: Fewer than two results, or nothing in common.
    """
    if len(results) < 2:
        raise BenchError("comparing needs at least two results: give two files that `semanticd bench` wrote")
    first, others = results[0], results[1:]
    by_key = [{figure.key: figure for figure in result.figures} for result in results]
    head = ["scenario", "case", "figure", first.target]
    for other in others:
        head += [other.target, "ratio"]
    rows = []
    for key, ours in by_key[0].items():
        theirs = [figures.get(key) for figures in by_key[1:]]
        if not any(theirs):
            continue
        row = [*key, shown_figure(ours)]
        for figure in theirs:
            row += [shown_figure(figure), _shown_ratio(ratio(ours, figure), ours)]
        rows.append(row)
    if not rows:
        raise BenchError(
            "the results have no figure in common; measure both with the same scenarios, lengths and streams"
        )
    notes = _differences(results)
    return "\n".join([*table(head, rows), *notes]) + "\n"


def _shown_ratio(value: float | None, ours: Figure) -> str:
    if value is None:
        return "–"
    better = value < 1 if ours.lower_is_better else value > 1
    return f"{value:.2f}× {'better' if better else 'worse' if value != 1 else 'equal'}"


def _differences(results: Sequence[BenchResult]) -> list[str]:
    """Return the reasons why the comparison is doubtful."""
    first, notes = results[0], []
    for other in results[1:]:
        names = [name for name, value in first.settings.items() if other.settings.get(name) != value]
        if names:
            notes.append(f"- {other.target} was measured with other settings: {', '.join(names)}")
        if {**first.machine, "packages": None} != {**other.machine, "packages": None}:
            notes.append(f"- {other.target} was measured on another machine or system")
    return ["", *notes] if notes else []
