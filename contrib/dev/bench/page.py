"""Writes docs/benchmarks.md and docs/benchmarks/*.json from the results: ratios first, then all figures."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from contrib.dev.bench import replay_rows
from contrib.dev.bench.servers import SMALL_BUDGET_MB
from semanticd.bench.report import machine_lines, shown, table
from semanticd.bench.result import BenchResult, load_result
from semanticd.bench.scenarios import SCENARIOS

OURS, MLX, ORDER = "semanticd", "mlx_lm_float32", ("semanticd", "mlx_lm_float32", "mlx_lm", "llama_cpp")
NOTES = Path(__file__).with_name("notes.md")
"""Explains the figures and the missed targets; written by hand."""

WARM_LENGTHS = ("900", "2048", "4096")

BUSY = 3.0
"""Load average above which, on two cores, other programs must have been running."""


@dataclass(frozen=True, slots=True)
class Target:
    """A figure's target: at most or at least `limit`."""

    what: str
    value: float | None
    limit: float
    at_most: bool = True
    detail: str = ""
    unit: str = ""

    def row(self) -> list[str]:
        """Return it as a table row."""
        sign = "≤" if self.at_most else "≥"
        limit = f"{sign} {self.limit:g}{self.unit}"
        if self.value is None:
            return [self.what, limit, "not measured", "–", self.detail]
        met = self.value <= self.limit if self.at_most else self.value >= self.limit
        return [self.what, limit, f"{self.value:.3g}{self.unit}", "met" if met else "**missed**", self.detail]


def write(results: Path, docs: Path) -> None:
    """Write the page and copy the raw data next to it."""
    loaded = {path.stem: load_result(path) for path in sorted(results.glob("*.json"))}
    raw = docs / "benchmarks"
    raw.mkdir(exist_ok=True)
    for name in loaded:
        shutil.copyfile(results / f"{name}.json", raw / f"{name}.json")
    pictures = _pictures([loaded[name] for name in ORDER if name in loaded], raw)
    (docs / "benchmarks.md").write_text(_page(loaded, pictures), encoding="utf-8")


def _pictures(results: Sequence[BenchResult], folder: Path) -> list[Path]:
    """Draw the plots if matplotlib is installed; returns the existing ones otherwise."""
    from semanticd.bench.errors import BenchError
    from semanticd.bench.plots import plot

    try:
        return plot(results, folder)
    except BenchError:
        return sorted(folder.glob("*.svg"))


def _page(loaded: Mapping[str, BenchResult], pictures: Sequence[Path]) -> str:
    lines = [
        "# Benchmarks",
        "",
        "`make bench` measures semanticd and other servers one after another on one machine and writes this page. "
        "`semanticd bench` measures a single server. Raw data with every sample: "
        + ", ".join(f"[{name}.json](benchmarks/{name}.json)" for name in loaded)
        + ".",
        "",
        "## Machine and servers",
        "",
    ]
    first = loaded.get(OURS) or next(iter(loaded.values()))
    lines += machine_lines(first.machine)
    lines += ["- model: SmolLM2-135M-Instruct, 4-bit weights as published; greedy; end token suppressed", ""]
    lines += table(
        ["server", "command and settings", "measured at"],
        [
            [loaded[name].target, str(loaded[name].server.get("how", "")), loaded[name].began_at]
            for name in ORDER
            if name in loaded
        ],
    )
    lines += ["", *_load_lines(loaded)]
    lines += [
        "",
        "## Targets",
        "",
        "Each ratio compares two figures of the same run. Lower is better, except where the target is a minimum "
        "(`≥`).",
        "",
    ]
    lines += table(["metric", "target", "measured", "result", "figures"], [t.row() for t in _targets(loaded)])
    if NOTES.exists():
        lines += ["", "## Notes and missed targets", "", NOTES.read_text(encoding="utf-8").strip()]
    lines += _scenarios(loaded, pictures)
    lines += _replay(loaded)
    lines += _engine(loaded)
    lines += _missing(loaded)
    return "\n".join(lines) + "\n"


def _load_lines(loaded: Mapping[str, BenchResult]) -> list[str]:
    busy = [
        f"{name}/{scenario} ({load:.1f})"
        for name, result in loaded.items()
        for scenario, load in result.load_average.items()
        if load > BUSY
    ]
    if not busy:
        return ["No other programs kept the machine busy during the run."]
    return [
        "Other programs kept the machine busy during these scenarios (in parentheses: the load average at the start; "
        f"up to {BUSY:g} is normal for an undisturbed run): {', '.join(busy)}. Treat their ratios with caution."
    ]


def _targets(loaded: Mapping[str, BenchResult]) -> list[Target]:
    return [*_rival_targets(loaded), *_engine_targets(loaded)]


def _rival_targets(loaded: Mapping[str, BenchResult]) -> list[Target]:
    ours, mlx = loaded.get(OURS), loaded.get(MLX)

    def against(what: str, scenario: str, case: str, metric: str, limit: float) -> Target:
        a = ours.value(scenario, case, metric) if ours else None
        b = mlx.value(scenario, case, metric) if mlx else None
        detail = f"{shown(a, 's')} to {shown(b, 's')}" if a and b else ""
        return Target(what, a / b if a and b else None, limit, detail=detail, unit="×")

    kept = ours.value("interference", "1500", "kept_share") if ours else None
    dropped = ours.value("cancel", "2000", "dropped_to_idle") if ours else None
    return [
        against(
            "warm TTFT at 2,048 tokens, relative to mlx_lm.server (float32)", "warm_ttft", "2048", "ttft", 0.5
        ),
        against(
            "TTFT after a restart at 900 tokens, relative to mlx_lm.server (float32)",
            "restart_ttft",
            "900",
            "ttft",
            0.65,
        ),
        against(
            "six agents × three turns, relative to mlx_lm.server (float32)", "agents", "6x3", "total", 0.7
        ),
        Target(
            "decode rate during a prefill of 1,500 tokens, relative to the rate without it",
            kept,
            0.45,
            at_most=False,
            unit="×",
        ),
        Target("TTFT after a dropped long prompt, relative to an idle server", dropped, 1.3, unit="×"),
    ]


def _engine_targets(loaded: Mapping[str, BenchResult]) -> list[Target]:
    ours, engine = loaded.get(OURS), loaded.get("engine")
    if ours is None or engine is None:
        return []
    rows = []
    for case, mine in (
        ("1x900", ours.value("cold_ttft", "900", "prefill_rate")),
        ("1x2048", ours.value("cold_ttft", "2048", "prefill_rate")),
        ("4x256", engine.value("prefill_http", "4x256", "rate")),
        ("8x256", engine.value("prefill_http", "8x256", "rate")),
    ):
        raw = engine.value("raw_mlx", case, "prefill_rate")
        rows.append(
            _rate(
                f"prefill {case.replace('x', ' × ')} tokens through HTTP, relative to raw mlx-lm", mine, raw
            )
        )
    for batch in ("1", "4", "8"):
        mine = ours.value("concurrent_decode", batch, "rate")
        raw = engine.value("raw_mlx", batch, "decode_rate")
        rows.append(_rate(f"decode at batch {batch} through HTTP, relative to raw mlx-lm", mine, raw))
    for metric, words, limit in (
        ("prefill_rate", "prefill of 1,024 tokens", 1.8),
        ("decode_rate", "decode", 0.95),
    ):
        on, library = engine.value("cpu_math", "on", metric), engine.value("cpu_math", "library", metric)
        rows.append(
            _rate(f"{words} on the CPU, relative to mlx-lm's own functions", on, library, at_least=limit)
        )
    rows += [*_draft_targets(engine), *_warm_targets(ours, engine)]
    opened = engine.value("store_start", "100GB", "open")
    http, rate = engine.value("http_overhead", "chat", "p50"), engine.value("http_overhead", "chat", "rate")
    events, ready = engine.value("http_overhead", "streams", "rate"), engine.value("start", "all", "ready")
    status = engine.value("control_status", "status", "p50")
    return [
        *rows,
        Target("opening the index of a 100 GB store", opened, 1, unit=" s"),
        Target("HTTP request, engine answers immediately, p50", http and 1000 * http, 2, unit=" ms"),
        Target("HTTP requests per second, engine answers immediately", rate, 1000, at_most=False, unit="/s"),
        Target(
            "events per second over 32 streams, engine answers immediately",
            events,
            3000,
            at_most=False,
            unit="/s",
        ),
        Target("process start until ready", ready, 2, unit=" s"),
        Target("control `status`, p50", status and 1000 * status, 2, unit=" ms"),
    ]


def _draft_targets(engine: BenchResult) -> list[Target]:
    rows = []
    for case, words, limit in (
        ("edit × 1", "answer that repeats most of a passage", 2.5),
        ("edit × 4", "four such answers in one batch", 1.3),
        ("call × 1", "tool call whose schema forces most of its tokens", 1.7),
        ("prose × 1", "free text", 0.98),
        ("prose × 4", "four free texts in one batch", 0.98),
    ):
        per_step, same = (
            engine.value("drafts", case, "tokens_per_step"),
            engine.value("drafts", case, "same_answers"),
        )
        detail = (
            f"{per_step:.3g} tokens per step; answers {'equal' if same else '**not equal**'}"
            if per_step
            else ""
        )
        ratio = engine.value("drafts", case, "ratio")
        what = f"decode rate with drafts, relative to without: {words}"
        rows.append(Target(what, ratio, limit, at_most=False, detail=detail, unit="×"))
    return rows


def _warm_targets(ours: BenchResult, engine: BenchResult) -> list[Target]:
    rows = []
    for length in WARM_LENGTHS:
        read, restore = (
            engine.value("restore", length, "read_and_copy"),
            engine.value("restore", length, "restore"),
        )
        detail = f"{shown(restore, 's')} to {shown(read, 's')}" if restore and read else ""
        ratio = restore / read if restore and read else None
        what = f"restoring {length} tokens, relative to reading and copying the bytes"
        rows.append(Target(what, ratio, 1.25, detail=detail, unit="×"))
    for length in WARM_LENGTHS:
        read, step = engine.value("restore", length, "read_and_copy"), engine.value("restore", length, "step")
        cold = ours.value("cold_ttft", length, "ttft")
        for metric, words in (("hot_ttft", "in process"), ("restart_ttft", "after a restart")):
            mine = engine.value("restore", length, metric)
            ratio = mine / (read + step) if mine and read and step else None
            parts = []
            if mine and read and step:
                parts.append(f"{shown(mine, 's')} to {shown(read, 's')} + {shown(step, 's')}")
            parts += [f"{mine / cold:.3f} × cold TTFT"] if mine and cold else []
            detail = "; ".join(parts)
            what = f"TTFT {words} at {length} tokens, relative to the read plus one step of the same tokens"
            rows.append(Target(what, ratio, 2, detail=detail, unit="×"))
    return rows


def _rate(what: str, mine: float | None, raw: float | None, *, at_least: float = 0.95) -> Target:
    detail = f"{mine:.4g} to {raw:.4g} tok/s" if mine and raw else ""
    return Target(
        what, mine / raw if mine and raw else None, at_least, at_most=False, detail=detail, unit="×"
    )


def _scenarios(loaded: Mapping[str, BenchResult], pictures: Sequence[Path]) -> list[str]:
    names = [name for name in ORDER if name in loaded]
    lines: list[str] = []
    for scenario, what in SCENARIOS.items():
        figures = {
            figure.key: figure
            for name in names
            for figure in loaded[name].figures
            if figure.scenario == scenario
        }
        if not figures:
            continue
        lines += ["", f"## {scenario}", "", what[0].upper() + what[1:] + "."]
        if scenario == "agents":
            lines += [
                "",
                f"Each server was limited to {SMALL_BUDGET_MB} MiB for caches that no request is using.",
            ]
        for picture in pictures:
            if picture.stem == scenario:
                lines += ["", f"![{scenario}](benchmarks/{picture.name})"]
        rows = []
        for key, figure in figures.items():
            values = [loaded[name].value(*key) for name in names]
            row = [figure.case, figure.metric]
            for value in values:
                cell = "–" if value is None else shown(value, figure.unit)
                if value is not None and values[0] and value is not values[0] and figure.unit != "ratio":
                    cell += f" ({values[0] / value:.2f}×)"
                row.append(cell)
            rows.append(row)
        lines += ["", *table(["case", "metric", *(loaded[name].target for name in names)], rows)]
    note = "In parentheses: semanticd's figure divided by the other server's."
    return [*lines, "", note] if lines else []


_REPLAYED = {
    "prompt": "prompt tokens",
    "seen_before": "seen before",
    "computed": "computed",
    "computed_though_seen": "computed again",
    "first_ttft": "first TTFT",
    "later_ttft": "later TTFT",
    "restart_ttft": "TTFT after the restart",
    "whole": "total time",
}
"""Column title of each figure of the replay."""


def _replay(loaded: Mapping[str, BenchResult]) -> list[str]:
    """Return a row for each server that replayed the recorded sessions; empty if none did."""
    result = loaded.get(replay_rows.NAME)
    servers = list(dict.fromkeys(figure.case for figure in result.figures)) if result else []
    if result is None or not servers:
        return []
    rows = []
    for name in servers:
        values = {
            figure.metric: shown(figure.value, figure.unit) if figure.unit == "s" else f"{figure.value:,.0f}"
            for figure in result.figures
            if figure.case == name
        }
        title = loaded[name].target if name in loaded else name
        rows.append([title, *(values.get(metric, "–") for metric in _REPLAYED)])
    size = result.settings
    return [
        "",
        "## Recorded sessions",
        "",
        f"Each server replayed the first {size.get('num_requests')} requests of each recorded session of Claude "
        "Code, Codex and opencode (`tests/data/traces`), as three agents that take turns in chat requests. Of their "
        f"texts, one word in {size.get('one_in')} is sent, so that they fit into the model's context. Each server was "
        "restarted halfway through. Token counts are those that each server reports: this model's chat template does "
        "not support tools or tool results; semanticd includes them in the prompt anyway, the other servers omit "
        "them. Tokens *computed again* had been part of an earlier prompt. TTFT is the median over the agents' first "
        "requests, over their first requests after the restart, and over all other requests. "
        f'Measured {result.began_at}; `make bench ARGS="--only replay"` measures it again.',
        "",
        *table(["server", *_REPLAYED.values()], rows),
    ]


def _engine(loaded: Mapping[str, BenchResult]) -> list[str]:
    if "engine" not in loaded:
        return []
    rows = [
        [figure.scenario, figure.case, figure.metric, shown(figure.value, figure.unit), figure.note]
        for figure in loaded["engine"].figures
    ]
    return [
        "",
        "## Engine, HTTP edge and storage",
        "",
        *table(["group", "case", "metric", "value", "note"], rows),
    ]


def _missing(loaded: Mapping[str, BenchResult]) -> list[str]:
    items = [
        f"- {result.target}, {scenario}: not measured: {why}"
        for result in loaded.values()
        for scenario, why in result.skipped.items()
    ]
    return ["", "## Not measured", "", *items] if items else []
