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
"""Written by hand: what the figures mean, and why a target is missed."""

WARM_LENGTHS = ("900", "2048", "4096")

BUSY = 3.0
"""A load average above this, on two cores, means that others worked too."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure should reach: at most `limit`, or at least."""

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
    """Write the page and copy the raw data beside it."""
    loaded = {path.stem: load_result(path) for path in sorted(results.glob("*.json"))}
    raw = docs / "benchmarks"
    raw.mkdir(exist_ok=True)
    for name in loaded:
        shutil.copyfile(results / f"{name}.json", raw / f"{name}.json")
    pictures = _pictures([loaded[name] for name in ORDER if name in loaded], raw)
    (docs / "benchmarks.md").write_text(_page(loaded, pictures), encoding="utf-8")


def _pictures(results: Sequence[BenchResult], folder: Path) -> list[Path]:
    """Draw where matplotlib is installed."""
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
        "`make bench` measures semanticd and other servers one after another on the machine where it runs, and writes "
        "this page. `semanticd bench` measures any one server. Raw data with every sample: "
        + ", ".join(f"[{name}.json](benchmarks/{name}.json)" for name in loaded)
        + ".",
        "",
        "## On what",
        "",
    ]
    first = loaded.get(OURS) or next(iter(loaded.values()))
    lines += machine_lines(first.machine)
    lines += ["- model: SmolLM2-135M-Instruct, 4 bits as published; greedy; answers' end token forbidden", ""]
    lines += table(
        ["server", "how it ran", "measured"],
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
        "Ratios of figures of the same run. Smaller is better except where `≥` stands.",
        "",
    ]
    lines += table(["what", "target", "measured", "", "figures"], [t.row() for t in _targets(loaded)])
    if NOTES.exists():
        lines += ["", "## What remains, and why", "", NOTES.read_text(encoding="utf-8").strip()]
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
        return ["The machine did nothing else meanwhile."]
    return [
        "Other programs kept the machine busy when these were measured (load average when the scenario began, where an "
        f"undisturbed run has up to {BUSY:g}): {', '.join(busy)}. Read their ratios with care."
    ]


def _targets(loaded: Mapping[str, BenchResult]) -> list[Target]:
    return [*_rival_targets(loaded), *_engine_targets(loaded)]


def _rival_targets(loaded: Mapping[str, BenchResult]) -> list[Target]:
    ours, mlx = loaded.get(OURS), loaded.get(MLX)

    def beside(what: str, scenario: str, case: str, metric: str, limit: float) -> Target:
        a = ours.value(scenario, case, metric) if ours else None
        b = mlx.value(scenario, case, metric) if mlx else None
        detail = f"{shown(a, 's')} to {shown(b, 's')}" if a and b else ""
        return Target(what, a / b if a and b else None, limit, detail=detail, unit="×")

    kept = ours.value("interference", "1500", "kept_share") if ours else None
    dropped = ours.value("cancel", "2000", "dropped_to_idle") if ours else None
    return [
        beside("warm TTFT at 2,048 tokens, to mlx_lm.server (float32)", "warm_ttft", "2048", "ttft", 0.5),
        beside(
            "TTFT after a restart at 900 tokens, to mlx_lm.server (float32)",
            "restart_ttft",
            "900",
            "ttft",
            0.65,
        ),
        beside("six agents × three turns, to mlx_lm.server (float32)", "agents", "6x3", "total", 0.7),
        Target(
            "a decoder's rate while 1,500 tokens are prefilled, to its own",
            kept,
            0.45,
            at_most=False,
            unit="×",
        ),
        Target("TTFT after a dropped long prompt, to the idle server's", dropped, 1.3, unit="×"),
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
            _rate(f"prefill {case.replace('x', ' × ')} tokens through HTTP, to raw mlx-lm", mine, raw)
        )
    for batch in ("1", "4", "8"):
        mine = ours.value("concurrent_decode", batch, "rate")
        raw = engine.value("raw_mlx", batch, "decode_rate")
        rows.append(_rate(f"decode at batch {batch} through HTTP, to raw mlx-lm", mine, raw))
    for metric, words, limit in (
        ("prefill_rate", "prefill of 1,024 tokens", 1.8),
        ("decode_rate", "decode", 0.95),
    ):
        on, library = engine.value("cpu_math", "on", metric), engine.value("cpu_math", "library", metric)
        rows.append(_rate(f"{words} on the CPU, to mlx-lm's own functions", on, library, at_least=limit))
    rows += [*_draft_targets(engine), *_warm_targets(ours, engine)]
    opened = engine.value("store_start", "100GB", "open")
    http, rate = engine.value("http_overhead", "chat", "p50"), engine.value("http_overhead", "chat", "rate")
    events, ready = engine.value("http_overhead", "streams", "rate"), engine.value("start", "all", "ready")
    status = engine.value("control_status", "status", "p50")
    return [
        *rows,
        Target("opening a store of 100 GB (its index)", opened, 1, unit=" s"),
        Target("HTTP request to an engine that answers at once, p50", http and 1000 * http, 2, unit=" ms"),
        Target("the same, requests per second", rate, 1000, at_most=False, unit="/s"),
        Target("events of 32 streams from it", events, 3000, at_most=False, unit="/s"),
        Target("from the start of the process until it is ready", ready, 2, unit=" s"),
        Target("control `status`, p50", status and 1000 * status, 2, unit=" ms"),
    ]


def _draft_targets(engine: BenchResult) -> list[Target]:
    rows = []
    for case, words, limit in (
        ("edit × 1", "an answer that repeats most of a passage", 2.5),
        ("edit × 4", "four of them together", 1.3),
        ("call × 1", "a tool call whose form forces most of its tokens", 1.7),
        ("prose × 1", "free text", 0.98),
        ("prose × 4", "four free texts together", 0.98),
    ):
        per_step, same = (
            engine.value("drafts", case, "tokens_per_step"),
            engine.value("drafts", case, "same_answers"),
        )
        detail = (
            f"{per_step:.3g} tokens a step; answers {'equal' if same else '**not equal**'}"
            if per_step
            else ""
        )
        ratio = engine.value("drafts", case, "ratio")
        what = f"decode rate with drafts to without: {words}"
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
        what = f"restoring {length} tokens, to reading and copying the bytes"
        rows.append(Target(what, ratio, 1.25, detail=detail, unit="×"))
    for length in WARM_LENGTHS:
        read, step = engine.value("restore", length, "read_and_copy"), engine.value("restore", length, "step")
        cold = ours.value("cold_ttft", length, "ttft")
        for metric, words in (("hot_ttft", "in process"), ("restart_ttft", "after a restart")):
            mine = engine.value("restore", length, metric)
            ratio = mine / (read + step) if mine and read and step else None
            parts = []
            if mine and read and step:
                parts.append(f"{shown(mine, 's')} to {shown(read, 's')} and {shown(step, 's')}")
            parts += [f"{mine / cold:.3f} of cold"] if mine and cold else []
            detail = "; ".join(parts)
            what = f"TTFT {words} at {length} tokens, to reading and one step of the same tokens"
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
            lines += ["", f"Every server had {SMALL_BUDGET_MB} MiB for caches that no request uses."]
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
        lines += ["", *table(["case", "figure", *(loaded[name].target for name in names)], rows)]
    note = "In parentheses: semanticd's figure divided by that server's."
    return [*lines, "", note] if lines else []


_REPLAYED = {
    "prompt": "prompt tokens",
    "seen_before": "of them seen before",
    "computed": "computed",
    "computed_though_seen": "computed though seen before",
    "first_ttft": "first TTFT",
    "later_ttft": "later TTFT",
    "restart_ttft": "TTFT after the restart",
    "whole": "whole",
}
"""Figures of the replay, and what their columns are called."""


def _replay(loaded: Mapping[str, BenchResult]) -> list[str]:
    """Return a row for each server that played the recorded sessions; nothing where none did."""
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
        f"The first {size.get('num_requests')} requests of each recorded session of Claude Code, Codex and opencode "
        f"(`tests/data/traces`), with one word in {size.get('one_in')} of their texts so that they fit into the "
        "model's context, asked as chats, in turn, as three agents; the server was restarted at the half. Tokens as "
        "each server counts and reports them: this model's chat template has no place for tools and their results, "
        "which semanticd writes out all the same, and the others leave away. TTFT is the median of each agent's first "
        "request, of its first request after the restart, and of all others. "
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
    return ["", "## The engine and its edges", "", *table(["group", "case", "figure", "value", "note"], rows)]


def _missing(loaded: Mapping[str, BenchResult]) -> list[str]:
    items = [
        f"- {result.target}, {scenario}: not measured: {why}"
        for result in loaded.values()
        for scenario, why in result.skipped.items()
    ]
    return ["", "## Not measured", "", *items] if items else []
