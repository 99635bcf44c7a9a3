"""The process in numbers, read at each scrape.

The client library's own collector reads `/proc`, which macOS does not have; psutil knows both.
"""

from __future__ import annotations

from collections.abc import Iterable

import psutil
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from semanticd.adapters.telemetry.catalogue import PREFIX, PROCESS


class PsutilCollector(Collector):
    """This process's CPU time, memory, descriptors and threads."""

    def __init__(self) -> None:
        self._process = psutil.Process()

    def collect(self) -> Iterable[Metric]:
        """Yield one sample per metric of `PROCESS`."""
        values = self._read()
        for name, spec in PROCESS.items():
            family = CounterMetricFamily if spec.kind == "counter" else GaugeMetricFamily
            yield family(PREFIX + name, spec.help, value=values[name])

    def _read(self) -> dict[str, float]:
        with self._process.oneshot():
            cpu, memory = self._process.cpu_times(), self._process.memory_info()
            return {
                "process_cpu_seconds_total": cpu.user + cpu.system,
                "process_resident_memory_bytes": memory.rss,
                "process_virtual_memory_bytes": memory.vms,
                "process_open_fds": self._process.num_fds(),
                "process_threads": self._process.num_threads(),
                "process_start_time_seconds": self._process.create_time(),
            }
