"""What can go wrong in a benchmark: one error, whose message says what to do."""

from __future__ import annotations


class BenchError(Exception):
    """The measurement cannot continue; the message says what was done, to what, why it failed and what to do."""
