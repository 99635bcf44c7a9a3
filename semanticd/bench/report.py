"""A result as Markdown: the machine and settings, and one table per scenario."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from semanticd.bench.result import BenchResult, Figure
from semanticd.bench.scenarios import SCENARIOS


def markdown(result: BenchResult) -> str:
    """Return the whole report."""
    lines = [f"# {result.target}", "", *machine_lines(result.machine), f"- measured: {result.began_at}"]
    lines += [f"- {name}: {value}" for name, value in result.server.items()]
    for name in dict.fromkeys(figure.scenario for figure in result.figures):
        lines += ["", f"## {name}", "", SCENARIOS.get(name, ""), ""]
        rows = [
            [figure.case, figure.metric, shown(figure.value, figure.unit), figure.note]
            for figure in result.figures
            if figure.scenario == name
        ]
        lines += table(["case", "figure", "value", "note"], rows)
    if result.skipped:
        lines += ["", "## Not measured", "", *(f"- {name}: {why}" for name, why in result.skipped.items())]
    return "\n".join(lines) + "\n"


def machine_lines(machine: Mapping[str, Any]) -> list[str]:
    """Return the machine of the measurement, as list items."""
    memory = machine.get("memory_bytes")
    packages = ", ".join(
        f"{name} {version}" for name, version in machine.get("packages", {}).items() if version
    )
    return [
        f"- processor: {machine.get('processor')}, {machine.get('num_cpus')} cores"
        + (f", {memory / 2**30:.0f} GiB" if memory else ""),
        f"- system: {machine.get('system')} {machine.get('architecture')}, Python {machine.get('python')}",
        f"- versions: {packages}",
    ]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table; the first column to the left, the others as they are."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]


def shown(value: float, unit: str) -> str:
    """Return a value with its unit, three significant digits."""
    if unit == "s":
        return f"{1000 * value:.3g} ms" if value < 1 else f"{value:.2f} s"
    if unit == "ratio":
        return f"{value:.2f}"
    return f"{value:.3g} {unit}" if value < 1000 else f"{value:,.0f} {unit}"


def shown_figure(figure: Figure | None) -> str:
    """Return a figure's value, or a dash."""
    return "–" if figure is None else shown(figure.value, figure.unit)
