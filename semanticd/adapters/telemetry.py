"""Clock and Prometheus metrics; the catalogue below is the only place where a metric is named and described."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_STEP_SECONDS = (0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 3.0)
_COUNTS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric: its kind, what it says, its labels, and buckets for a histogram."""

    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


CATALOGUE: dict[str, MetricSpec] = {
    "requests_finished_total": MetricSpec("counter", "Answers that ended, by finish reason.", ("reason",)),
    "http_requests_total": MetricSpec(
        "counter", "HTTP requests, by route and status.", ("route", "method", "status")
    ),
    "http_request_seconds": MetricSpec("histogram", "Time to answer an HTTP request.", ("route",), _SECONDS),
    "tokens_total": MetricSpec(
        "counter", "Tokens by kind: output, or prompt tokens reused hot, restored warm, computed.", ("kind",)
    ),
    "ttft_seconds": MetricSpec("histogram", "Time to the first token, by cache tier.", ("tier",), _SECONDS),
    "queue_seconds": MetricSpec("histogram", "Time a request waited before its work began.", (), _SECONDS),
    "prefill_chunk_seconds": MetricSpec("histogram", "Time of one prefill chunk.", (), _STEP_SECONDS),
    "decode_step_seconds": MetricSpec("histogram", "Time of one decode step of a batch.", (), _STEP_SECONDS),
    "batch_size": MetricSpec("histogram", "Sequences in a decode step.", (), _COUNTS),
    "preemptions_total": MetricSpec("counter", "Sequences set back to waiting because memory ran short."),
    "block_pool_bytes": MetricSpec("gauge", "Bytes of the cache budget, by state.", ("state",)),
    "block_pool_budget_bytes": MetricSpec("gauge", "The cache budget."),
    "cache_evictions_total": MetricSpec("counter", "Blocks that left RAM, by reason.", ("reason",)),
    "cache_lost_blocks_total": MetricSpec("counter", "Blocks dropped from RAM without a copy on disk."),
    "cache_misses_total": MetricSpec(
        "counter", "Prompts that left what was cached, by likely cause.", ("cause",)
    ),
    "warm_bytes": MetricSpec("gauge", "Bytes of block files."),
    "warm_blocks": MetricSpec("gauge", "Blocks on disk."),
    "warm_read_bytes_total": MetricSpec("counter", "Bytes read from block files."),
    "warm_read_seconds": MetricSpec("histogram", "Time to read and verify a block file.", (), _STEP_SECONDS),
    "warm_read_errors_total": MetricSpec("counter", "Block files that could not be read."),
    "warm_missing_files_total": MetricSpec("counter", "Blocks in the index whose file was gone."),
    "warm_quarantined_total": MetricSpec("counter", "Broken block files put aside."),
    "warm_written_bytes_total": MetricSpec("counter", "Bytes written to block files."),
    "warm_write_seconds": MetricSpec("histogram", "Time to make a group of blocks durable.", (), _SECONDS),
    "warm_write_errors_total": MetricSpec("counter", "Groups of blocks that could not be written."),
    "warm_refused_total": MetricSpec("counter", "Blocks not written on purpose, by reason.", ("reason",)),
    "warm_queue_full_total": MetricSpec("counter", "Blocks not taken because too much waits for the disk."),
    "warm_pruned_total": MetricSpec("counter", "Blocks removed to hold the cap."),
    "warm_index_errors_total": MetricSpec("counter", "Questions the index could not answer."),
    "agent_save_errors_total": MetricSpec("counter", "Agent records that could not be written."),
    "agent_load_errors_total": MetricSpec("counter", "Agent records that could not be read."),
    "http_clients_left_total": MetricSpec(
        "counter", "Clients that hung up before their answer was complete."
    ),
    "tool_parse_failures_total": MetricSpec("counter", "Tool calls of models that could not be parsed."),
    "rate_limited_total": MetricSpec("counter", "Requests refused by a rate limit, by scope.", ("scope",)),
    "model_swaps_total": MetricSpec("counter", "Model swaps, by outcome.", ("outcome",)),
    "model_weights_bytes": MetricSpec("gauge", "Bytes of a loaded model's weights.", ("model",)),
    "control_clients": MetricSpec("gauge", "Connected control clients."),
}


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()

    def wall(self) -> float:
        """Seconds since the epoch."""
        return time.time()


class PrometheusMetrics:
    """The catalogue as live metrics, in a registry of its own."""

    def __init__(self) -> None:
        """Register every metric of the catalogue, and the process's own."""
        self.registry = CollectorRegistry()
        ProcessCollector(namespace="semanticd", registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        for name, spec in CATALOGUE.items():
            full = f"semanticd_{name}"
            if spec.kind == "counter":
                self._counters[name] = Counter(full, spec.help, spec.labels, registry=self.registry)
            elif spec.kind == "gauge":
                self._gauges[name] = Gauge(full, spec.help, spec.labels, registry=self.registry)
            else:
                self._histograms[name] = Histogram(
                    full, spec.help, spec.labels, buckets=spec.buckets, registry=self.registry
                )

    def count(self, name: str, value: float = 1.0, **labels: str) -> None:
        """Add to a counter; raises `KeyError` for a name outside the catalogue."""
        counter = self._counters[name]
        (counter.labels(**labels) if labels else counter).inc(value)

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge; raises `KeyError` for a name outside the catalogue."""
        gauge = self._gauges[name]
        (gauge.labels(**labels) if labels else gauge).set(value)

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add to a histogram; raises `KeyError` for a name outside the catalogue."""
        histogram = self._histograms[name]
        (histogram.labels(**labels) if labels else histogram).observe(value)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text form."""
        return generate_latest(self.registry)
