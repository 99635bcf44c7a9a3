"""Metrics and log for whoever gave none: they take everything and keep nothing."""

from __future__ import annotations


class QuietMetrics:
    """Counts nothing."""

    def count(self, name: str, value: float = 1.0, **labels: str) -> None:
        """Ignore a counter."""

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Ignore a gauge."""

    def forget(self, name: str, **labels: str) -> None:
        """Drop it."""

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Ignore an observation."""


class QuietLog:
    """Writes nothing."""

    def info(self, event: str, **fields: object) -> None:
        """Ignore."""

    def warning(self, event: str, **fields: object) -> None:
        """Ignore."""

    def error(self, event: str, **fields: object) -> None:
        """Ignore."""
