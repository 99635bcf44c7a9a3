"""BlockCommit: what is kept of a sequence while it runs and when it ends.

Full blocks are published as soon as they are computed, so a prefill that is cancelled, preempted or crashes can be
taken up again. At the end of a turn the rest follows, then the agent's record: blocks first, so that a record never
names what was not handed to the disk before it.
"""

from __future__ import annotations

from dataclasses import replace

from semanticd.application.cache.agent_cache_store import AgentCacheStore
from semanticd.application.cache.agent_registry import AgentRegistry
from semanticd.application.engine.running_sequence import RunningSequence, Submission
from semanticd.application.ports.telemetry import Clock, Log
from semanticd.domain.agent import Agent, Turn
from semanticd.domain.conversation_key import ConversationKey
from semanticd.domain.generation import FinishReason
from semanticd.domain.ids import BlockHash
from semanticd.domain.prefix_index import next_boundary
from semanticd.domain.transcript import Segment, Transcript


class BlockCommit:
    """Publishes blocks and records turns; engine thread only."""

    def __init__(self, *, store: AgentCacheStore, agents: AgentRegistry, clock: Clock, log: Log) -> None:
        """Work on this store and these agents."""
        self._log = log
        self._store = store
        self._agents = agents
        self._clock = clock

    def publish(self, running: RunningSequence, *, up_to: int, with_tail: bool) -> None:
        """Publish positions not yet published, up to `up_to`; the last, partial block only `with_tail`.

        Where there is no room before the disk has caught up, the rest is left for the next call.
        """
        sequence, spec = running.sequence, running.spec
        first = sequence.num_published
        while sequence.num_published < up_to:
            start = sequence.num_published
            end = next_boundary(start, spec.block_tokens)
            if end > up_to:
                if not with_tail:
                    break
                end = up_to
            name = self._publish_block(running, start, end)
            if name is None:
                break
            sequence.block_table.append(name)
            sequence.num_published = end
            running.num_stored += max(
                min(end, len(sequence.prompt_ids)) - max(start, running.match.num_tokens), 0
            )
        if sequence.num_published > first:
            # Head last: what begins this chain must outlive what follows it.
            self._store.touch_hot(sequence.block_table)

    def _publish_block(self, running: RunningSequence, start: int, end: int) -> BlockHash | None:
        """Publish positions [start, end); None where there is no room, or where they cannot be copied."""
        sequence = running.sequence
        root = running.submission.root or running.spec.root
        try:
            return self._store.publish(
                running.runner,
                sequence.sequence_id,
                parent=sequence.block_table[-1] if sequence.block_table else root,
                token_ids=sequence.token_slice(start, end),
                start=start,
            )
        except Exception as error:
            # Keeping a block saves work later; the answer does not depend on it.
            self._log.warning("block_not_kept", request_id=running.submission.request_id, error=repr(error))
            return None

    def publish_decoded(self, running: RunningSequence) -> None:
        """Publish the block that decoding has just filled, if it has filled one."""
        sequence = running.sequence
        # The last token's KV may still be to be computed.
        up_to = sequence.num_cached - 1
        # Once a block, also where there was no room for the one before: looking for room costs a step time.
        if up_to % running.spec.block_tokens == 0 and up_to > sequence.num_published:
            self.publish(running, up_to=up_to, with_tail=False)
            self._store.persist(limit_bytes=1)

    def snapshot(self, running: RunningSequence) -> None:
        """Publish everything up to now, and a snapshot of the layers that cannot be cut."""
        sequence = running.sequence
        self.publish(running, up_to=sequence.num_cached, with_tail=True)
        if sequence.block_table and sequence.num_published == sequence.num_cached:
            parent = sequence.block_table[-1]
            name = self._store.publish_state(running.runner, sequence.sequence_id, parent=parent)
            if name is not None:
                sequence.snapshots[parent] = name

    def begin_answer(self, running: RunningSequence) -> None:
        """Keep the whole prompt: what comes next may be asked for again with another answer."""
        if running.spec.cuts_anywhere:
            self.publish(running, up_to=running.sequence.num_cached, with_tail=True)
            return
        known = set(running.sequence.snapshots)
        self.snapshot(running)
        running.prompt_end = next(
            (parent for parent in running.sequence.snapshots if parent not in known), None
        )

    def keep_unfinished(self, running: RunningSequence) -> None:
        """Keep what a sequence computed that is cancelled or preempted."""
        if running.spec.cuts_anywhere:
            self.publish(running, up_to=running.sequence.num_cached, with_tail=True)
        else:
            self.snapshot(running)

    def finish(self, running: RunningSequence, *, reason: FinishReason) -> None:
        """Keep the whole turn, and record it with the agent."""
        sequence, submission = running.sequence, running.submission
        kept, text = running.kept_output()
        keep_to = min(len(sequence.prompt_ids) + len(kept), sequence.num_cached)
        if running.spec.cuts_anywhere or keep_to < sequence.num_cached:
            # A snapshot holds all tokens or none: after a cut answer the prompt's own snapshot is the last good one.
            self.publish(running, up_to=keep_to, with_tail=True)
        else:
            self.snapshot(running)
            self._spare_prompt_end(running)
        if sequence.num_published < keep_to:
            missing = keep_to - sequence.num_published
            self._store.note_skipped(-(-missing // running.spec.block_tokens))
        if submission.records_turn:
            self._record(running, kept, text, reason)
        else:
            self._store.persist()

    def _spare_prompt_end(self, running: RunningSequence) -> None:
        """Write one snapshot a turn: the next turn goes on from its end, not from where the answer began."""
        snapshots, parent = running.sequence.snapshots, running.prompt_end
        if parent is not None and len(snapshots) > 1 and self._store.cancel_write(snapshots[parent]):
            del snapshots[parent]

    def _record(
        self, running: RunningSequence, kept: tuple[int, ...], text: str, reason: FinishReason
    ) -> None:
        sequence, submission = running.sequence, running.submission
        now = self._clock.wall()
        segments = submission.segments + ((Segment(text, kept),) if kept else ())
        usage = running.usage(self._clock.monotonic())
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
        table = sequence.full_table
        self._store.touch(table)
        # The blocks go to the writer's queue before the record that names them.
        self._store.persist()

        def change(agent: Agent) -> Agent:
            kept_until = agent.kept_until
            if submission.cache_ttl_s:
                kept_until = max(kept_until or 0.0, now + submission.cache_ttl_s)
            return replace(
                agent.with_turn(turn, now=now),
                model=running.model.fingerprint,
                model_id=running.model.model_id,
                transcript=Transcript(segments),
                block_table=table,
                kept_until=kept_until,
                conversation=_conversation_after(agent, submission),
                salt=agent.salt if agent_id == main_id else self._agents.salt_of(main_id),
            )

        main_id = submission.main_agent_id or submission.agent_id
        with self._agents.lock:
            # Another conversation under the same id may have ended meanwhile, and be the main one.
            agent_id = self._agents.holder(main_id, submission.conversation, submission.segments)
            self._agents.update_or_create(agent_id, change, anonymous=submission.anonymous)
        self._store.limit_agents(sparing=frozenset([agent_id]))


def _conversation_after(agent: Agent, submission: Submission) -> ConversationKey | None:
    """Return by what the agent's conversation is recognised after this turn."""
    key, known = submission.conversation, agent.conversation
    if key is None or (known is not None and not key.continues(known)):
        # It was continued by its text, in another form.
        return known
    return key.heavier_of(known)
