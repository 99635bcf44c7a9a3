"""What the metrics say about a sequence's life and the engine's steps; how things are now is in `gauges`."""

from __future__ import annotations

from semanticd.application.engine.running_sequence import RunningSequence
from semanticd.application.ports.telemetry import Metrics
from semanticd.domain.generation import Usage
from semanticd.domain.sequence import Sequence


class SequenceMetrics:
    """Counts and observes; engine thread only."""

    def __init__(self, metrics: Metrics) -> None:
        """Write into these metrics."""
        self._metrics = metrics

    def started(self, live: RunningSequence) -> None:
        """The prompt was matched and what is warm was restored: this is what the cache was good for."""
        cache = live.sequence.cache
        self._metrics.count("cache_requests_total", tier=cache.tier)
        if cache.miss is not None:
            self._metrics.count("cache_misses_total", cause=cache.miss.cause)

    def prefilled(self, seconds: float) -> None:
        """A chunk of a prompt was computed."""
        self._metrics.observe("prefill_chunk_seconds", seconds)

    def decoded(self, seconds: float, *, batch_size: int) -> None:
        """Every sequence of a batch got a token."""
        self._metrics.observe("decode_step_seconds", seconds)
        self._metrics.observe("batch_size", batch_size)

    def token(self, live: RunningSequence, now: float) -> None:
        """A sequence got a token at this clock reading; called before it is noted there."""
        if live.last_token_at is not None:
            self._metrics.observe("itl_seconds", now - live.last_token_at)
            return
        timings = live.usage(now).timings
        self._metrics.observe("ttft_seconds", now - live.submitted_at, tier=live.sequence.cache.tier)
        self._metrics.observe("queue_seconds", timings.queue_ms / 1000)
        if live.restore_began_at is not None:
            self._metrics.observe("restore_seconds", timings.restore_ms / 1000)

    def preempted(self) -> None:
        """A sequence was set back to waiting."""
        self._metrics.count("preemptions_total")

    def answered(self, usage: Usage) -> None:
        """An answer is complete."""
        cache = usage.cache
        for kind, num_tokens in (
            ("output", usage.completion_tokens),
            ("prompt_hot", cache.reused_hot_tokens),
            ("prompt_warm", cache.restored_warm_tokens),
            ("prompt_computed", cache.computed_tokens),
        ):
            self._metrics.count("tokens_total", num_tokens, kind=kind)

    def retired(self, sequence: Sequence) -> None:
        """A sequence left the engine, however it ended."""
        reason = sequence.finish_reason.value if sequence.finish_reason else "error"
        self._metrics.count("requests_finished_total", reason=reason)
