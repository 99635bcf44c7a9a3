"""Time and numbers: the clocks of the machine, and the catalogue of metrics as Prometheus reads them."""

from __future__ import annotations

from semanticd.adapters.telemetry.catalogue import CATALOGUE, MetricSpec
from semanticd.adapters.telemetry.clock import SystemClock
from semanticd.adapters.telemetry.metrics import PrometheusMetrics

__all__ = ["CATALOGUE", "MetricSpec", "PrometheusMetrics", "SystemClock"]
