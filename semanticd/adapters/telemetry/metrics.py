"""The catalogue as live metrics; a name that is not in it is a `KeyError`, which the tests find."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector

from semanticd.adapters.telemetry.catalogue import CATALOGUE, GEN_AI, PREFIX, MetricSpec
from semanticd.adapters.telemetry.process_collector import PsutilCollector


class PrometheusMetrics:
    """The catalogue as live metrics, in a registry of its own."""

    def __init__(self) -> None:
        """Register every metric of the catalogue, and the process's own."""
        # A second series per counter that says when it began: no client needs it, and it doubles the page.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.registry.register(PsutilCollector())
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.before_text: Callable[[], None] = lambda: None
        """Called before a page is made, to set the gauges that say how things are now."""
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        for name, spec in CATALOGUE.items():
            self._register(name, spec, full=PREFIX + name)
        for name, spec in GEN_AI.items():
            self._register(name, spec, full=name)

    def _register(self, name: str, spec: MetricSpec, *, full: str) -> None:
        made: Counter | Gauge | Histogram
        if spec.kind == "counter":
            made = self._counters[name] = Counter(full, spec.help, spec.labels, registry=self.registry)
        elif spec.kind == "gauge":
            made = self._gauges[name] = Gauge(full, spec.help, spec.labels, registry=self.registry)
        else:
            made = self._histograms[name] = Histogram(
                full, spec.help, spec.labels, buckets=spec.buckets, registry=self.registry
            )
        for value in spec.values:
            made.labels(value)

    def count(self, name: str, value: float = 1.0, **labels: str) -> None:
        """Add to a counter.

        Raises:
            KeyError: The name is not in the catalogue.
        """
        counter = self._counters[name]
        (counter.labels(**labels) if labels else counter).inc(value)

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge.

        Raises:
            KeyError: The name is not in the catalogue.
        """
        gauge = self._gauges[name]
        (gauge.labels(**labels) if labels else gauge).set(value)

    def forget(self, name: str, **labels: str) -> None:
        """Drop one labelled value of a gauge.

        Raises:
            KeyError: The name is not in the catalogue.
        """
        self._gauges[name].remove_by_labels(labels)

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add to a histogram.

        Raises:
            KeyError: The name is not in the catalogue.
        """
        histogram = self._histograms[name]
        (histogram.labels(**labels) if labels else histogram).observe(value)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text form."""
        self.before_text()
        return generate_latest(self.registry)
