"""Snapshots of the whole daemon for its watchers: never waits for the engine, never computes tensors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from semanticd.application.cache.agent_cache_store import AgentCacheStore, CacheCounters
from semanticd.application.engine.loop import BlockPoolBatchEngine
from semanticd.application.engine.running_sequence import RunningSequence
from semanticd.application.ports.telemetry import Clock
from semanticd.application.ports.warm_store import WarmStats, WarmStore
from semanticd.application.services.agent_facts import ShownMessage
from semanticd.application.services.arrivals import Arrival
from semanticd.application.services.model_facts import warning_of
from semanticd.application.services.model_use import ModelUse
from semanticd.application.services.observations import Observations
from semanticd.application.services.outcomes import Failure
from semanticd.application.services.status_facts import (
    CacheFacts,
    CancelledRequest,
    DaemonStatus,
    DraftSourceFacts,
    EngineFacts,
    LoadedModelFacts,
    RequestFacts,
    RequestPrompt,
)
from semanticd.application.services.waits import Wait
from semanticd.domain.errors import NO_MODEL_LOADED, RequestNotFoundError
from semanticd.domain.ids import ModelId, RequestId
from semanticd.domain.sequence import SequenceState
from semanticd.domain.transcript import Segment
from semanticd.domain.whole_text import whole_characters

if TYPE_CHECKING:  # loaded where a model is spread over machines, and nowhere else
    from semanticd.application.ports.ranks import Ranks


@dataclass(frozen=True, slots=True)
class DaemonIdentity:
    """The status of a daemon: constant facts (version, pid, address, socket, …), and its present state."""

    facts: Mapping[str, Any]
    state: Callable[[], str]
    num_unsaved: Callable[[], tuple[int, int]]
    """Numbers of agents and of responses that the disk refused to store."""
    free_memory_bytes: Callable[[], int]
    """Free memory of the machine, in bytes."""
    ranks: Ranks | None = None
    """The machines that compute with this one; None: it computes alone."""


class StatusService:
    """The daemon in numbers."""

    def __init__(
        self,
        *,
        engine: BlockPoolBatchEngine,
        store: AgentCacheStore,
        use: ModelUse,
        warm: WarmStore | None,
        observations: Observations,
        clock: Clock,
        daemon: DaemonIdentity,
    ) -> None:
        self._engine = engine
        self._store = store
        self._use = use
        self._warm = warm
        self._clock = clock
        self._daemon = daemon
        self._outcomes = observations.outcomes
        self._savings = observations.savings
        self._progress = observations.progress
        self._arrivals = observations.arrivals
        self._model_warnings = observations.model_warnings
        self._started_at = clock.monotonic()

    def state(self) -> str:
        """Return the daemon's state: one that is ready but has no model that serves is in the state `no_model`."""
        state = self._daemon.state()
        return "no_model" if state == "ready" and self._use.current is None else state

    def why_no_model(self) -> str:
        """Return the message while the state is `no_model`."""
        if (away := self._why_away()) is not None:
            return away
        if self._use.is_closed:
            return "the model is being swapped; requests wait for the new one"
        progress = self._progress
        if progress.stage != "idle" and progress.coming is not None:
            return progress.coming
        failed = progress.last_error
        return f"{NO_MODEL_LOADED} (last failure: {failed})" if failed else NO_MODEL_LOADED

    def _why_away(self) -> str | None:
        return self._daemon.ranks.why_away() if self._daemon.ranks is not None else None

    async def snapshot(self) -> DaemonStatus:
        """Return the daemon's state."""
        warnings = await self._model_warnings()
        current = self._use.current
        return DaemonStatus(
            fixed=self._daemon.facts,
            state=self.state(),
            uptime_s=self._clock.monotonic() - self._started_at,
            model=current,
            models=tuple(
                LoadedModelFacts(
                    id=model_id,
                    current=model_id == current,
                    context_length=model.context_length,
                    weights_bytes=model.weights_bytes,
                    bytes_per_token=model.runner.spec.bytes_per_token,
                    precision=model.runner.spec.precision,
                    block_bytes=model.runner.spec.stored_bytes(model.runner.spec.block_tokens),
                    compute_dtype=model.description.get("compute_dtype"),
                    warning=warning_of(model, warnings.get(model_id)),
                )
                for model_id, model in self._engine.models.items()
            ),
            model_stage=self._progress.stage,
            model_progress=self._progress.share,
            model_error=self._progress.last_error,
            free_memory_bytes=self._daemon.free_memory_bytes(),
            engine=self.engine(),
            cache=self.cache(),
            outcomes=self._outcomes.facts(),
            savings=self._savings.facts(),
            peers=self._store.peers.facts() if self._store.peers is not None else (),
            ranks=self._daemon.ranks.facts() if self._daemon.ranks is not None else (),
            model_away=self._why_away(),
        )

    def counters(self) -> CacheCounters:
        """Return the cache's counters since the start."""
        return self._store.counters

    def used_bytes(self) -> int:
        """Return what of the byte budget is taken."""
        return self._store.ledger().used_bytes

    def engine(self) -> EngineFacts:
        """Return the engine's activity."""
        running = self._engine.running()
        states = [one.sequence.state for one in running]
        arrivals = self._arrivals.outside(running)
        current = self._use.current
        step_s = self._engine.decode_step_s(current) if current else 0.0
        token_s = self._engine.decode_token_s(current) if current else 0.0
        decoding = states.count(SequenceState.DECODING)
        return EngineFacts(
            num_running=decoding + states.count(SequenceState.PREFILLING),
            num_waiting=states.count(SequenceState.WAITING)
            + sum(one.request.num_choices for one in arrivals),
            num_prefilling=states.count(SequenceState.PREFILLING),
            batch_size=decoding,
            max_batch_size=self._engine.max_batch_size,
            prefill_tokens_per_s=self._engine.prefill_rate(current) if current else 0.0,
            decode_tokens_per_s=decoding / token_s if token_s else 0.0,
            decode_step_ms=1000 * step_s,
            tokens_per_step=step_s / token_s if token_s else 1.0,
            num_draft_tokens=self._engine.drafts.num_drafted,
            num_accepted_tokens=self._engine.drafts.num_accepted,
            draft_sources=tuple(
                DraftSourceFacts(source, one.num_drafted, one.num_accepted)
                for source, one in self._engine.drafts.by_source.items()
            ),
            draining=self._engine.draining,
            failure=self._engine.failure,
        )

    def cache(self) -> CacheFacts:
        """Return the cache's ledger and counters."""
        store = self._store
        ledger = store.ledger()
        warm = self._warm.stats() if self._warm is not None else WarmStats()
        counters, (num_hot, num_shared) = store.counters, store.count_hot_blocks()
        num_agents, num_responses = self._daemon.num_unsaved()
        with store.lock:
            evictions = dict(counters.evictions)
        return CacheFacts(
            budget_bytes=ledger.budget_bytes,
            planned_bytes=store.planned_bytes,
            running_bytes=ledger.running_bytes,
            hot_bytes=ledger.hot_bytes,
            pinned_bytes=ledger.pinned_bytes,
            dirty_bytes=ledger.dirty_bytes,
            in_flight_bytes=ledger.in_flight_bytes,
            promised_bytes=ledger.promised_bytes,
            free_bytes=ledger.free_bytes,
            text_bytes=store.text_bytes,
            num_hot_blocks=num_hot,
            num_shared_blocks=num_shared,
            warm_bytes=warm.bytes_stored,
            warm_cap_bytes=warm.cap_bytes,
            num_warm_blocks=warm.num_blocks,
            num_quarantined=warm.num_quarantined,
            recovered_share=warm.recovered_share,
            free_disk_bytes=warm.free_disk_bytes,
            disk_reserve_bytes=warm.reserve_bytes,
            num_refused_blocks=warm.num_refused,
            written_today_bytes=warm.written_today_bytes,
            write_budget_bytes=warm.write_budget_bytes,
            hot_hit_tokens=counters.hot_hit_tokens,
            warm_hit_tokens=counters.warm_hit_tokens,
            computed_tokens=counters.computed_tokens,
            evictions=evictions,
            num_evictions=sum(evictions.values()),
            num_lost_blocks=counters.lost_blocks,
            num_skipped_blocks=counters.skipped_blocks,
            num_unsaved_agents=num_agents,
            num_unsaved_responses=num_responses,
            folder_problem=warm.folder_problem,
        )


class RequestsService:
    """Requests in the engine now, and those that have arrived and are on their way to it."""

    def __init__(self, *, engine: BlockPoolBatchEngine, clock: Clock, observations: Observations) -> None:
        """Look at this engine; `observations` has what arrived, why it waited and what was not answered."""
        self._engine = engine
        self._clock = clock
        self._arrivals = observations.arrivals
        self._waits = observations.waits
        self._outcomes = observations.outcomes

    async def failures(self) -> tuple[Failure, ...]:
        """Return the last requests that failed or were refused, newest first."""
        return self._outcomes.recent()

    async def list(self) -> list[RequestFacts]:
        """Return running and waiting requests, oldest first: those too that the engine has not taken yet."""
        now = self._clock.monotonic()
        running = sorted(self._engine.running(), key=lambda one: one.submitted_at)
        waiting = self._waits.look(running, now)
        rows = [_request(one, now, waiting.get(str(one.submission.request_id))) for one in running]
        for arrival in self._arrivals.outside(running):
            row = _arrived(arrival, now, waiting.get(str(arrival.request_id)))
            rows += [row] * arrival.request.num_choices
        return sorted(rows, key=lambda row: -row.age_s)

    async def prompt(self, request_id: str) -> RequestPrompt:
        """Return the text that a request asks about.

        Raises:
            RequestNotFoundError: The request has ended.
        """
        for one in self._engine.running():
            if one.submission.request_id == request_id:
                return RequestPrompt(
                    request=one.submission.request_id,
                    agent=one.sequence.agent_id,
                    messages=await asyncio.to_thread(_shown, one.submission.segments),
                )
        arrival = self._arrivals.find(request_id)
        if arrival is not None:
            return RequestPrompt(
                request=arrival.request_id,
                agent=arrival.agent_id,
                messages=await asyncio.to_thread(_shown, arrival.prompt),
            )
        raise _not_found(request_id)

    def watch_waits(self) -> None:
        """Note why requests wait now; called every second, also while no client asks."""
        self._waits.look(self._engine.running(), self._clock.monotonic())

    async def cancel(self, request_id: str) -> CancelledRequest:
        """Cancel a request; its computed tokens stay cached."""
        arrival = self._arrivals.find(request_id)
        if any(one.submission.request_id == request_id for one in self._engine.running()):
            self._engine.cancel(RequestId(request_id))
        elif arrival is not None:
            arrival.cancel()
        else:
            raise _not_found(request_id)
        return CancelledRequest(request_id, cancelled=True)


def _not_found(request_id: str) -> RequestNotFoundError:
    return RequestNotFoundError(f"no running or waiting request has the id {request_id!r}")


def _shown(segments: Iterable[Segment]) -> tuple[ShownMessage, ...]:
    return tuple(ShownMessage("transcript", whole_characters(one.text), one.num_tokens) for one in segments)


def _request(running: RunningSequence, now: float, wait: Wait | None) -> RequestFacts:
    sequence = running.sequence
    usage = running.usage(now)
    prompt = len(sequence.prompt_ids)
    # A preempted sequence's running cache is gone, but its published blocks are not computed again.
    done = sequence.num_cached
    if sequence.state is SequenceState.WAITING and sequence.num_preemptions:
        done = max(done, sequence.num_published)
    return RequestFacts(
        id=running.submission.request_id,
        agent=sequence.agent_id,
        model=sequence.model_id,
        state=sequence.state,
        priority=sequence.priority,
        prompt_tokens=prompt,
        prefilled_tokens=min(done, prompt),
        prefill_progress=min(done / prompt, 1.0) if prompt else 1.0,
        completion_tokens=len(sequence.output_ids),
        max_new_tokens=sequence.max_new_tokens,
        age_s=now - running.submitted_at,
        ttft_ms=usage.timings.ttft_ms if running.first_token_at is not None else None,
        tokens_per_s=(
            len(sequence.output_ids) / (now - running.first_token_at)
            if running.first_token_at is not None and now > running.first_token_at
            else None
        ),
        tokens_per_step=(len(sequence.output_ids) / running.decode_steps if running.decode_steps else None),
        cached_tokens=sequence.cache.cached_tokens,
        num_preemptions=sequence.num_preemptions,
        restore_progress=_restore_progress(running),
        wait_reason=wait.reason if wait is not None else None,
        wait_behind=wait.behind if wait is not None else None,
    )


def _arrived(arrival: Arrival, now: float, wait: Wait | None) -> RequestFacts:
    """Return a request that the engine has not begun; its model's name is the client's until it is known."""
    request = arrival.request
    return RequestFacts(
        id=arrival.request_id,
        agent=arrival.agent_id,
        model=arrival.model_id or ModelId(request.model),
        state=SequenceState.WAITING,
        priority=request.priority,
        prompt_tokens=arrival.num_tokens,
        prefilled_tokens=0,
        prefill_progress=0.0,
        completion_tokens=0,
        max_new_tokens=arrival.max_new_tokens or request.sampling.max_tokens or 0,
        age_s=now - arrival.arrived_at,
        ttft_ms=None,
        tokens_per_s=None,
        tokens_per_step=None,
        cached_tokens=0,
        num_preemptions=0,
        restore_progress=None,
        wait_reason=wait.reason if wait is not None else None,
        wait_behind=wait.behind if wait is not None else None,
    )


def _restore_progress(running: RunningSequence) -> float | None:
    """Return the share of the matched blocks that are read, while some are being read; else None."""
    if not running.pending_reads:
        return None
    return max(0.0, 1.0 - running.pending_reads / max(len(running.match.blocks), running.pending_reads, 1))
