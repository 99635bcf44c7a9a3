"""The error of the benchmarks; its message has the remedy."""

from __future__ import annotations


class BenchError(Exception):
    """The measurement cannot continue; the message has the step, the cause and the remedy."""
