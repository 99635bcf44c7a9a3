"""BlockCommit: what is kept of a sequence while it runs and when it ends.

Full blocks are published as soon as they are computed, so a prefill that is cancelled, preempted or crashes can be
taken up again. At the end of a turn the rest follows, then the agent's record: blocks first, so that a record never
names what was not handed to the disk before it.
"""

from __future__ import annotations

from dataclasses import replace

from semanticd.application.cache.agent_cache_store import AgentCacheStore
from semanticd.application.cache.agent_registry import AgentRegistry
from semanticd.application.engine.running_sequence import RunningSequence
from semanticd.application.ports.telemetry import Clock
from semanticd.domain.agent import Turn
from semanticd.domain.generation import FinishReason
from semanticd.domain.prefix_index import next_boundary
from semanticd.domain.transcript import Segment, Transcript


class BlockCommit:
    """Publishes blocks and records turns; engine thread only."""

    def __init__(self, *, store: AgentCacheStore, agents: AgentRegistry, clock: Clock) -> None:
        """Work on this store and these agents."""
        self._store = store
        self._agents = agents
        self._clock = clock

    def publish(self, live: RunningSequence, *, up_to: int, with_tail: bool) -> None:
        """Publish positions not yet published, up to `up_to`; the last, partial block only `with_tail`."""
        sequence, runner = live.sequence, live.model.runner
        spec = runner.spec
        token_ids = sequence.token_ids
        while sequence.num_published < up_to:
            start = sequence.num_published
            end = next_boundary(start, spec.block_tokens)
            if end > up_to:
                if not with_tail:
                    return
                end = up_to
            root = live.submission.root or spec.root
            parent = sequence.block_table[-1] if sequence.block_table else root
            name = self._store.publish(
                runner, sequence.sequence_id, parent=parent, token_ids=token_ids[start:end], start=start
            )
            sequence.block_table.append(name)
            sequence.num_published = end
            live.num_stored += max(min(end, len(sequence.prompt_ids)) - max(start, live.match.num_tokens), 0)
            # Head last: what begins this chain must outlive what follows it.
            self._store.touch_hot(sequence.block_table)

    def snapshot(self, live: RunningSequence) -> None:
        """Publish everything up to now, and a snapshot of the layers that cannot be cut."""
        sequence = live.sequence
        self.publish(live, up_to=sequence.num_cached, with_tail=True)
        if sequence.block_table:
            parent = sequence.block_table[-1]
            name = self._store.publish_state(live.model.runner, sequence.sequence_id, parent=parent)
            if name is not None:
                sequence.snapshots[parent] = name

    def begin_answer(self, live: RunningSequence) -> None:
        """Keep the whole prompt: what comes next may be asked for again with another answer."""
        if live.model.runner.spec.cuts_anywhere:
            self.publish(live, up_to=live.sequence.num_cached, with_tail=True)
            return
        known = set(live.sequence.snapshots)
        self.snapshot(live)
        live.prompt_end = next((parent for parent in live.sequence.snapshots if parent not in known), None)

    def leave(self, live: RunningSequence) -> None:
        """Keep what a sequence computed that is cancelled or preempted."""
        if live.model.runner.spec.cuts_anywhere:
            self.publish(live, up_to=live.sequence.num_cached, with_tail=True)
        else:
            self.snapshot(live)

    def finish(self, live: RunningSequence, *, reason: FinishReason) -> None:
        """Keep the whole turn, and record it with the agent."""
        sequence, submission = live.sequence, live.submission
        kept, text = live.kept_output()
        keep_to = min(len(sequence.prompt_ids) + len(kept), sequence.num_cached)
        if live.model.runner.spec.cuts_anywhere or keep_to < sequence.num_cached:
            # A snapshot holds all tokens or none: after a cut answer the prompt's own snapshot is the last good one.
            self.publish(live, up_to=keep_to, with_tail=True)
        else:
            self.snapshot(live)
            self._spare_prompt_end(live)
        if submission.records_turn:
            self._record(live, kept, text, reason)
        self._store.persist()

    def _spare_prompt_end(self, live: RunningSequence) -> None:
        """Write one snapshot a turn: the next turn goes on from its end, not from where the answer began."""
        snapshots, parent = live.sequence.snapshots, live.prompt_end
        if parent is not None and len(snapshots) > 1 and self._store.writes.cancel_write(snapshots[parent]):
            del snapshots[parent]

    def _record(self, live: RunningSequence, kept: tuple[int, ...], text: str, reason: FinishReason) -> None:
        sequence, submission = live.sequence, live.submission
        now = self._clock.wall()
        segments = submission.segments + ((Segment(text, kept),) if kept else ())
        usage = live.usage(self._clock.monotonic())
        turn = Turn(
            request_id=submission.request_id,
            finished_at=now,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            num_segments=len(segments),
            cache=usage.cache,
            timings=usage.timings,
            finish_reason=reason.value,
        )
        with self._agents.lock:
            agent = self._agents.get_or_create(submission.agent_id, anonymous=submission.anonymous)
            pinned_until = agent.pinned_until
            if submission.cache_ttl_s:
                pinned_until = max(pinned_until or 0.0, now + submission.cache_ttl_s)
            agent = replace(
                agent.with_turn(turn, now=now),
                model=live.model.fingerprint,
                model_id=live.model.model_id,
                transcript=Transcript(segments),
                block_table=sequence.full_table,
                pinned_until=pinned_until,
            )
            self._store.touch(agent.block_table)
            # The blocks go to the writer's queue before the record that names them.
            self._store.persist()
            self._agents.save(agent)
            self._store.limit_agents(sparing=frozenset([submission.agent_id]))
