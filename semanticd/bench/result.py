"""Results: figures with their samples, and the machine that they were measured on. They are stored as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from semanticd.bench.errors import BenchError
from semanticd.bench.statistics import median

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured quantity.

    `case` distinguishes figures of one scenario (a length, a number of streams); `samples` are the single
    measurements that `value` sums up.
    """

    scenario: str
    case: str
    metric: str
    value: float
    unit: str
    lower_is_better: bool = True
    samples: tuple[float, ...] = ()
    note: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """Key by which figures of two results are compared."""
        return (self.scenario, self.case, self.metric)


def time_figure(scenario: str, case: str, metric: str, samples: Sequence[float], note: str = "") -> Figure:
    """Return the median of times in seconds."""
    return Figure(scenario, case, metric, median(samples), "s", samples=tuple(samples), note=note)


@dataclass(slots=True)
class BenchResult:
    """All figures of one server; `skipped` says why a scenario has none."""

    target: str
    machine: Mapping[str, Any]
    server: Mapping[str, Any]
    settings: Mapping[str, Any]
    began_at: str
    figures: list[Figure] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    durations_s: dict[str, float] = field(default_factory=dict)
    load_average: dict[str, float] = field(default_factory=dict)

    def value(self, scenario: str, case: str, metric: str) -> float | None:
        """Return a figure's value; None when it was not measured."""
        for figure in self.figures:
            if figure.key == (scenario, case, metric):
                return figure.value
        return None

    def replace(self, scenario: str, figures: Sequence[Figure]) -> None:
        """Put a scenario's figures in the place of older ones."""
        self.figures = [figure for figure in self.figures if figure.scenario != scenario] + list(figures)
        self.skipped.pop(scenario, None)

    def save(self, path: Path) -> None:
        """Write it as JSON, whole or not at all."""
        content = json.dumps({"format": FORMAT_VERSION, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"
        partial = path.with_name(path.name + ".partial")
        partial.write_text(content, encoding="utf-8")
        partial.replace(path)


def load_result(path: Path) -> BenchResult:
    """Read a result.

    Raises:
        BenchError: The file is not a result.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BenchError(
            f"reading the result {path} failed: {error.strerror}; check the path, or make one with "
            "`semanticd bench --output FILE`"
        ) from error
    except ValueError as error:
        raise BenchError(f"{path} is not JSON ({error}); give files that `semanticd bench` wrote") from error
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT_VERSION:
        raise BenchError(
            f"{path} is not a benchmark result of format {FORMAT_VERSION}; give files that this version's "
            "`semanticd bench` wrote"
        )
    try:
        figures = [Figure(**{**figure, "samples": tuple(figure["samples"])}) for figure in content["figures"]]
        return BenchResult(**{**content, "figures": figures})
    except (KeyError, TypeError) as error:
        raise BenchError(f"{path} is a damaged benchmark result ({error}); measure again") from error
