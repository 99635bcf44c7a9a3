"""CacheReporter: reports the reuse of a sequence and the cause of its miss, before its first step."""

from __future__ import annotations

from semanticd.application.cache.agent_cache_store import AgentCacheStore
from semanticd.application.cache.agent_registry import AgentRegistry
from semanticd.application.engine.metrics import SequenceMetrics
from semanticd.application.engine.running_sequence import RunningSequence, SequenceStarted
from semanticd.domain.agent import Agent
from semanticd.domain.block import LostFile
from semanticd.domain.generation import CacheReport
from semanticd.domain.miss import explain_miss


class CacheReporter:
    """Reports to clients, counters and metrics; engine thread only."""

    def __init__(
        self, *, store: AgentCacheStore, agents: AgentRegistry, metrics: SequenceMetrics, began_at: float
    ) -> None:
        """Compare with what these agents hold and this store lost since `began_at` (seconds since the epoch)."""
        self._began_at = began_at
        self._store = store
        self._agents = agents
        self._metrics = metrics

    def announce(self, running: RunningSequence) -> None:
        """Report the reuse of a sequence before its first step; later calls do nothing."""
        if running.started:
            return
        sequence, match = running.sequence, running.match
        read = running.restored | running.read_before
        warm = sum(m.num_tokens for m in match.blocks if m.block.block_hash in read)
        agent = self._agents.find(sequence.agent_id)
        previous = agent.transcript.token_ids if agent and agent.num_turns else None
        miss = None
        if not running.submission.score_prompt:
            miss = explain_miss(
                sequence.prompt_ids,
                previous_ids=previous,
                num_matched=match.num_tokens,
                num_known=max(match.num_known, match.num_tokens),
                lost_file=self._lost_file(running, agent) if agent is not None else None,
                block_tokens=running.spec.block_tokens,
                decode=running.model.tokenizer.decode,
                system_tokens=running.submission.system_tokens,
                peer_failed=running.peer_failed,
                is_from_before=agent is not None and self._is_from_before(agent),
                same_model=agent is None or agent.model in (None, running.model.fingerprint),
            )
        report = CacheReport(
            prompt_tokens=len(sequence.prompt_ids),
            reused_hot_tokens=match.num_tokens - warm,
            restored_warm_tokens=warm,
            computed_tokens=len(sequence.prompt_ids) - match.num_tokens,
            canonicalized=running.submission.canonicalized,
            miss=miss,
        )
        sequence.cache = report
        running.started = True
        counters = self._store.counters
        counters.hot_hit_tokens += report.reused_hot_tokens
        counters.warm_hit_tokens += report.restored_warm_tokens
        counters.computed_tokens += report.computed_tokens
        self._metrics.started(running)
        running.send(SequenceStarted(report))

    def _is_from_before(self, agent: Agent) -> bool:
        """Return whether an agent's last turn precedes the start."""
        return bool(agent.turns) and agent.turns[-1].finished_at < self._began_at

    def _lost_file(self, running: RunningSequence, agent: Agent) -> LostFile | None:
        """Return what happened to the first lost file of the agent's blocks beyond a sequence's match.

        That need not be the block at the match's end: reading ends at the first failure, in whatever order files are
        read, and layers with a state continue from any of the snapshots, which are named after the blocks.
        """
        first = running.match.num_tokens // running.spec.block_tokens
        return self._store.lost_file(agent.block_table[first:])
