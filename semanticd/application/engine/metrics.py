"""The metrics of a sequence's life and the engine's steps; current values are in `gauges`."""

from __future__ import annotations

from semanticd.application.engine.running_sequence import RunningSequence
from semanticd.application.ports.inference import DraftCounts
from semanticd.application.ports.telemetry import Metrics
from semanticd.domain.generation import Usage
from semanticd.domain.sequence import Sequence


class SequenceMetrics:
    """Counts and observes; engine thread only."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def started(self, running: RunningSequence) -> None:
        """Count what the cache saved, once the prompt is matched and its warm blocks are restored."""
        cache = running.sequence.cache
        self._metrics.count("cache_requests_total", tier=cache.tier)
        if cache.miss is not None:
            self._metrics.count("cache_misses_total", cause=cache.miss.cause)

    def prefilled(self, seconds: float, *, num_tokens: int) -> None:
        """A chunk of a prompt was computed."""
        self._metrics.observe("prefill_chunk_seconds", seconds)
        self._metrics.count("prefilled_tokens_total", num_tokens)

    def decoded(self, seconds: float, *, batch_size: int) -> None:
        """Every sequence of a batch got a token."""
        self._metrics.observe("decode_step_seconds", seconds)
        self._metrics.observe("batch_size", batch_size)

    def drafted(self, counts: DraftCounts) -> None:
        """Tokens were guessed and verified."""
        if not counts.num_steps:
            return
        rejected = counts.num_drafted - counts.num_accepted
        self._metrics.count("draft_tokens_total", counts.num_accepted, outcome="accepted")
        self._metrics.count("draft_tokens_total", rejected, outcome="rejected")
        self._metrics.count("verify_steps_total", counts.num_steps)
        for source, drafted in counts.by_source.items():
            self._metrics.count("drafted_tokens_total", drafted.num_drafted, source=source)
            self._metrics.count("accepted_tokens_total", drafted.num_accepted, source=source)

    def token(self, running: RunningSequence, now: float) -> None:
        """A sequence got a token at this clock reading; called before it is noted there."""
        if running.last_token_at is not None:
            self._metrics.observe("itl_seconds", now - running.last_token_at)
            return
        timings = running.usage(now).timings
        self._metrics.observe("ttft_seconds", now - running.submitted_at, tier=running.sequence.cache.tier)
        self._metrics.observe("queue_seconds", timings.queue_ms / 1000)
        if running.restore_began_at is not None:
            self._metrics.observe("restore_seconds", timings.restore_ms / 1000)

    def memory_short(self, cause: str) -> None:
        """The machine's memory was short, or a computation ran out of it."""
        self._metrics.count("memory_short_total", cause=cause)

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

    def restore_timed_out(self) -> None:
        """A sequence no longer waits for the disk."""
        self._metrics.count("restore_timeouts_total")

    def ended_early(self, running: RunningSequence) -> None:
        """Count the work of a cancelled or failed sequence, which led to no answer (its blocks may be reused)."""
        sequence = running.sequence
        reason = sequence.finish_reason.value if sequence.finish_reason else "error"
        computed = max(sequence.num_cached - running.match.num_tokens, 0)
        if computed:
            self._metrics.count("unanswered_tokens_total", computed, reason=reason)

    def retired(self, sequence: Sequence) -> None:
        """A sequence left the engine, however it ended."""
        reason = sequence.finish_reason.value if sequence.finish_reason else "error"
        self._metrics.count("requests_finished_total", reason=reason)
