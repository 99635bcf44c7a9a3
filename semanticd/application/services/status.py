"""Snapshots of the whole daemon for whoever watches: never waits for the engine, never computes tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from semanticd.application.engine.loop import BlockPoolBatchEngine
from semanticd.application.engine.running_sequence import RunningSequence
from semanticd.application.ports.telemetry import Clock
from semanticd.application.ports.warm_store import WarmStats, WarmStore
from semanticd.application.services.models import ModelsService
from semanticd.domain.errors import RequestNotFoundError
from semanticd.domain.ids import RequestId
from semanticd.domain.sequence import SequenceState


class StatusService:
    """The daemon in numbers."""

    def __init__(
        self,
        *,
        engine: BlockPoolBatchEngine,
        models: ModelsService,
        warm: WarmStore | None,
        clock: Clock,
        facts: dict[str, Any],
        state: Callable[[], str],
    ) -> None:
        """`facts` never change (version, pid, address, socket, ...); `state` is the daemon's."""
        self._engine = engine
        self._models = models
        self._warm = warm
        self._clock = clock
        self._facts = facts
        self._state = state
        self._started_at = clock.monotonic()

    async def snapshot(self) -> dict[str, Any]:
        """Return the daemon's state."""
        current = self._models.current_id
        return {
            **self._facts,
            "state": self._state(),
            "uptime_s": self._clock.monotonic() - self._started_at,
            "model": current,
            "models": [
                {
                    "id": model_id,
                    "current": model_id == current,
                    "context_length": model.context_length,
                    "weights_bytes": model.weights_bytes,
                    "bytes_per_token": model.runner.spec.bytes_per_token,
                    "precision": model.runner.spec.precision,
                }
                for model_id, model in self._engine.models.items()
            ],
            "model_stage": self._models.stage,
            "model_progress": self._models.progress,
            "model_error": self._models.last_error,
            "free_memory_bytes": self._models.free_memory_bytes,
            "engine": self.engine(),
            "cache": self.cache(),
        }

    def engine(self) -> dict[str, Any]:
        """Return what the engine is doing."""
        live = self._engine.live()
        states = [one.sequence.state for one in live]
        current = self._models.current_id
        scheduler = self._engine.scheduler
        step_s = scheduler.decode_step_s(current) if current else 0.0
        decoding = states.count(SequenceState.DECODING)
        return {
            "num_running": decoding + states.count(SequenceState.PREFILLING),
            "num_waiting": states.count(SequenceState.WAITING),
            "num_prefilling": states.count(SequenceState.PREFILLING),
            "batch_size": decoding,
            "max_batch_size": scheduler.limits.max_batch_size,
            "prefill_tokens_per_s": scheduler.prefill_rate(current) if current else 0.0,
            "decode_tokens_per_s": decoding / step_s if step_s else 0.0,
            "decode_step_ms": 1000 * step_s,
            "draining": self._engine.draining,
        }

    def cache(self) -> dict[str, Any]:
        """Return the cache's ledger and counters."""
        store = self._engine.store
        ledger = store.ledger()
        warm = self._warm.stats() if self._warm is not None else WarmStats()
        counters = store.counters
        with store.lock:
            num_hot, num_shared = len(store.pool), store.pool.num_shared()
            evictions = dict(counters.evictions)
        return {
            "budget_bytes": ledger.budget_bytes,
            "running_bytes": ledger.running_bytes,
            "hot_bytes": ledger.hot_bytes,
            "pinned_bytes": ledger.pinned_bytes,
            "dirty_bytes": ledger.dirty_bytes,
            "in_flight_bytes": ledger.in_flight_bytes,
            "free_bytes": ledger.free_bytes,
            "num_hot_blocks": num_hot,
            "num_shared_blocks": num_shared,
            "warm_bytes": warm.bytes_stored,
            "warm_cap_bytes": warm.cap_bytes,
            "num_warm_blocks": warm.num_blocks,
            "num_quarantined": warm.num_quarantined,
            "written_today_bytes": warm.written_today_bytes,
            "write_budget_bytes": warm.write_budget_bytes,
            "hot_hit_tokens": counters.hot_hit_tokens,
            "warm_hit_tokens": counters.warm_hit_tokens,
            "computed_tokens": counters.computed_tokens,
            "evictions": evictions,
            "num_evictions": sum(evictions.values()),
            "num_lost_blocks": counters.lost_blocks,
        }


class RequestsService:
    """Requests in the engine now."""

    def __init__(self, *, engine: BlockPoolBatchEngine, clock: Clock) -> None:
        """Look at this engine."""
        self._engine = engine
        self._clock = clock

    async def list(self) -> list[dict[str, Any]]:
        """Return running and waiting requests, oldest first."""
        now = self._clock.monotonic()
        return [_request(live, now) for live in sorted(self._engine.live(), key=lambda one: one.submitted_at)]

    async def cancel(self, request_id: str) -> dict[str, Any]:
        """Cancel a request; what it computed stays cached."""
        if not any(live.submission.request_id == request_id for live in self._engine.live()):
            raise RequestNotFoundError(f"no running or waiting request has the id {request_id!r}")
        self._engine.cancel(RequestId(request_id))
        return {"id": request_id, "cancelled": True}


def _request(live: RunningSequence, now: float) -> dict[str, Any]:
    sequence = live.sequence
    usage = live.usage(now)
    prompt = len(sequence.prompt_ids)
    return {
        "id": live.submission.request_id,
        "agent": sequence.agent_id,
        "model": sequence.model_id,
        "state": sequence.state.value,
        "class": sequence.priority,
        "prompt_tokens": prompt,
        "prefilled_tokens": min(sequence.num_cached, prompt),
        "prefill_progress": min(sequence.num_cached / prompt, 1.0) if prompt else 1.0,
        "completion_tokens": len(sequence.output_ids),
        "max_new_tokens": sequence.max_new_tokens,
        "age_s": now - live.submitted_at,
        "ttft_ms": usage.timings.ttft_ms if live.first_token_at is not None else None,
        "tokens_per_s": (
            len(sequence.output_ids) / (now - live.first_token_at)
            if live.first_token_at is not None and now > live.first_token_at
            else None
        ),
        "cached_tokens": sequence.cache.cached_tokens,
        "num_preemptions": sequence.num_preemptions,
    }
