"""The catalogue: what Prometheus' own rules ask of names, and that every file that names a metric names a real one."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from semanticd.adapters.telemetry import CATALOGUE, PrometheusMetrics
from semanticd.adapters.telemetry.catalogue import PREFIX, PROCESS, MetricSpec

ROOT = Path(__file__).resolve().parents[4]
CONTRIB = ROOT / "contrib"
ALL: Mapping[str, MetricSpec] = {**CATALOGUE, **PROCESS}
UNITS = ("_total", "_seconds", "_bytes", "_info")
PLAIN_COUNTS = {
    "batch_size",
    "sequences",
    "block_pool_blocks",
    "warm_blocks",
    "control_clients",
    "rank_ready",
    "process_open_fds",
    "process_threads",
}
"""Gauges and histograms that count things have no unit."""


def series_of(name: str, spec: MetricSpec) -> set[str]:
    """Return the names under which a metric's samples appear on the page."""
    full = PREFIX + name
    return {full + end for end in ("_bucket", "_sum", "_count")} if spec.kind == "histogram" else {full}


SERIES = {series for name, spec in ALL.items() for series in series_of(name, spec)}


def test_names_end_in_their_unit_and_counters_in_total() -> None:
    for name, spec in ALL.items():
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
        assert name.endswith("_total") == (spec.kind == "counter"), name
        assert name.endswith(UNITS) or name in PLAIN_COUNTS, name
        assert not re.search(r"(_ms|_mb|_kb|_percent)(_|$)", name), f"{name}: base units only"
        assert spec.help.endswith("."), name
        assert bool(spec.buckets) == (spec.kind == "histogram"), name
        assert not spec.values or len(spec.labels) == 1, name
        assert list(spec.buckets) == sorted(set(spec.buckets)), name


def test_every_metric_is_on_the_page_with_the_catalogues_kind_and_help() -> None:
    page = PrometheusMetrics().text().decode()
    for name, spec in ALL.items():
        full = PREFIX + name
        assert f"# HELP {full} {spec.help}" in page, name
        assert f"# TYPE {full} {spec.kind}" in page, name
    assert "_created" not in page


def test_known_label_values_exist_at_nought_from_the_start() -> None:
    metrics = PrometheusMetrics()
    assert metrics.registry.get_sample_value("semanticd_cache_misses_total", {"cause": "evicted"}) == 0
    assert metrics.registry.get_sample_value("semanticd_ttft_seconds_count", {"tier": "warm"}) == 0


def test_a_name_outside_the_catalogue_is_a_mistake() -> None:
    metrics = PrometheusMetrics()
    for write in (metrics.count, metrics.gauge, metrics.observe):
        with pytest.raises(KeyError):
            write("nothing_of_this_name", 1)


def test_a_gauge_of_something_that_is_gone_is_gone() -> None:
    metrics = PrometheusMetrics()
    metrics.gauge("model_weights_bytes", 7, model="a")
    metrics.forget("model_weights_bytes", model="a")
    assert metrics.registry.get_sample_value("semanticd_model_weights_bytes", {"model": "a"}) is None


def test_the_process_is_on_the_page_on_every_platform() -> None:
    metrics = PrometheusMetrics()
    for name in PROCESS:
        value = metrics.registry.get_sample_value(PREFIX + name)
        assert value is not None, name
        assert value > 0, name
        assert math.isfinite(value), name


def test_the_page_can_be_parsed_back() -> None:
    families = {family.name for family in text_string_to_metric_families(PrometheusMetrics().text().decode())}
    assert {PREFIX + name.removesuffix("_total") for name in ALL} <= families


@pytest.fixture(scope="module")
def promtool() -> Callable[..., str]:
    """Runs promtool and returns what it complained of; skips where it is not installed."""
    path = shutil.which("promtool")
    if path is None:
        pytest.skip(
            "promtool is not installed (Debian, Ubuntu: apt install prometheus; brew install prometheus)"
        )

    def run(*arguments: str, page: bytes = b"") -> str:
        done = subprocess.run([path, *arguments], input=page, capture_output=True, timeout=60)
        said = done.stderr.decode().strip()
        return said or (done.stdout.decode() if done.returncode else "")

    return run


def test_promtool_finds_nothing_to_complain_of(promtool: Callable[..., str]) -> None:
    assert promtool("check", "metrics", page=PrometheusMetrics().text()) == ""
    assert promtool("check", "config", str(CONTRIB / "prometheus" / "scrape.yml")) == ""


def test_promtool_can_read_every_question_of_the_dashboard(
    promtool: Callable[..., str], tmp_path: Path
) -> None:
    dashboard = json.loads((CONTRIB / "grafana" / "semanticd.json").read_text(encoding="utf-8"))
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    rules = [
        {"record": f"dashboard:{number}", "expr": expr.replace("$__rate_interval", "5m")}
        for number, expr in enumerate(asked)
    ]
    file = tmp_path / "rules.yml"  # JSON is YAML
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8")
    assert promtool("check", "rules", str(file)) == ""


def _names_in(text: str) -> Iterator[str]:
    return (match.group() for match in re.finditer(r"\bsemanticd_[a-z0-9_]+", text))


def test_alerts_name_metrics_and_label_values_that_exist() -> None:
    alerts = (CONTRIB / "prometheus" / "alerts.yml").read_text(encoding="utf-8")
    names = set(_names_in(alerts))
    assert names, "there are alerts"
    assert names <= SERIES, names - SERIES
    _check_label_values(alerts)


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    dashboard = json.loads((CONTRIB / "grafana" / "semanticd.json").read_text(encoding="utf-8"))
    shown = set(_names_in(json.dumps(dashboard["templating"])))
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            names = set(_names_in(target["expr"]))
            assert names <= SERIES, f"{panel['title']}: {names - SERIES}"
            _check_label_values(target["expr"])
            shown |= names
    unshown = {name for name, spec in ALL.items() if not series_of(name, spec) & shown}
    assert unshown == {"process_virtual_memory_bytes", "process_start_time_seconds"}


def _check_label_values(text: str) -> None:
    """Fail for `name{label="value"}` where the catalogue knows the label's values and not this one."""
    for name, selector in re.findall(r"(semanticd_[a-z0-9_]+)\{([^}]*)\}", text):
        spec = next(spec for key, spec in ALL.items() if name in series_of(key, spec))
        for label, operator, value in re.findall(r'(\w+)(=~|=)"([^"]*)"', selector):
            if label in ("instance", "job"):
                continue
            assert label in spec.labels, f"{name} has no label {label}"
            wanted = value.split("|") if operator == "=~" else [value]
            for one in wanted:
                pattern = re.compile(one if operator == "=~" else re.escape(one))
                assert any(pattern.fullmatch(known) for known in spec.values), f"{name}: no {label} {one!r}"


def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def test_the_dashboard_file_is_made_from_its_source() -> None:
    written = (CONTRIB / "grafana" / "semanticd.json").read_text(encoding="utf-8")
    made = _module(CONTRIB / "dev" / "generators" / "grafana_dashboard.py").text()
    assert written == made, "run `python contrib/dev/generators/grafana_dashboard.py`"
