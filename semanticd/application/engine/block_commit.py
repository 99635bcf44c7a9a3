"""BlockCommit: stores the blocks of a sequence while it runs and when it ends.

Full blocks are published as soon as they are computed, so a prefill that is cancelled, preempted or crashes can be
resumed. At the end of a turn the rest follows, then the agent's record: blocks first, so that a record never
names what was not handed to the disk before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from semanticd.application.cache.agent_cache import AgentCache
from semanticd.application.cache.agent_registry import AgentRegistry
from semanticd.application.engine.running_copies import RunningCopies
from semanticd.application.engine.running_sequence import RunningSequence, Submission
from semanticd.application.ports.telemetry import Clock, Log
from semanticd.domain.agent import Agent, Turn
from semanticd.domain.conversation_key import ConversationKey
from semanticd.domain.earlier_text import EarlierText
from semanticd.domain.errors import OutOfMemoryError
from semanticd.domain.generation import FinishReason
from semanticd.domain.ids import AgentId, BlockHash
from semanticd.domain.prefix_index import next_boundary
from semanticd.domain.snapshots import MIN_DISTANCE, Snapshot, Stop, merged, next_stop, still_on, thinned
from semanticd.domain.transcript import Segment, outside_vocabulary, token_ids_of

_KV_BUDGET = "kv_budget"
"""The finish reason in a turn's record where the budget had no room for more of the answer."""

BLOCKS_AT_ONCE = 16
"""Blocks that are copied in one evaluation, at most."""


class BlockCommit:
    """Publishes blocks and records turns; engine thread only."""

    def __init__(
        self,
        *,
        cache: AgentCache,
        agents: AgentRegistry,
        copies: RunningCopies,
        snapshot_tokens: int,
        clock: Clock,
        log: Log,
    ) -> None:
        """Work on this store and these agents; a snapshot is taken each `snapshot_tokens` of a prompt (0: none)."""
        self._snapshot_tokens = snapshot_tokens
        self._log = log
        self.ran_short = False
        """Whether memory ran out while a block was copied; taken back by who made room."""
        self._store, self._tables = cache.store, cache.tables
        self._answers = cache.answers
        self._agents = agents
        self._copies = copies
        self._clock = clock

    def publish(self, running: RunningSequence, *, up_to: int, with_tail: bool) -> None:
        """Publish positions not yet published, up to `up_to`; the last, partial block only `with_tail`.

        Where there is no room before the disk has caught up, the rest is left for the next call. Where a layer cannot
        be cut, tails go with snapshots, see `snapshot`: there the next block begins at the last boundary again.
        """
        sequence, spec = running.sequence, running.spec
        with_tail = with_tail and spec.cuts_anywhere
        first = sequence.num_published
        while sequence.num_published < up_to:
            ends = _block_ends(sequence.num_published, up_to, spec.block_tokens, with_tail=with_tail)
            names = self._publish_blocks(running, sequence.num_published, ends)
            sequence.block_table += names
            for _, end in zip(names, ends, strict=False):
                sequence.num_published = end
                _count_stored(running, end)
            if not names:
                break
        if sequence.num_published > first:
            self._copies.note(running)
            # Head last: what begins this chain must outlive what follows it.
            self._store.touch_hot(sequence.block_table)

    def _publish_blocks(self, running: RunningSequence, start: int, ends: Sequence[int]) -> list[BlockHash]:
        """Publish the blocks from `start` with these ends; only the first, or none, without room or when copying fails.

        Returns their names.
        """
        sequence = running.sequence
        root = running.submission.root or running.spec.root
        starts = (start, *ends)
        try:
            names = self._store.publish(
                running.runner,
                sequence.sequence_id,
                parent=sequence.block_table[-1] if sequence.block_table else root,
                blocks=[sequence.token_slice(*span) for span in zip(starts, ends, strict=False)],
                start=start,
            )
            for name in names:
                self._agents.note_block(running.submission.agent_id, name)
            return names
        except Exception as error:
            # Keeping a block saves work later; the answer does not depend on it.
            self.not_kept(running, error)
            return []

    def not_kept(self, running: RunningSequence, error: Exception) -> None:
        """Note that a block could not be copied: the answer does not depend on it."""
        self.ran_short = self.ran_short or isinstance(error, OutOfMemoryError)
        self._log.warning("block_not_kept", request_id=running.submission.request_id, error=repr(error))

    def publish_decoded(self, running: RunningSequence) -> None:
        """Publish the block that decoding has just filled, if it has filled one."""
        sequence = running.sequence
        # The last token's KV may still be to be computed.
        up_to = sequence.num_cached - 1
        # Once a block, also where there was no room for the one before: looking for room costs a step time.
        if up_to % running.spec.block_tokens == 0 and up_to > sequence.num_published:
            self.publish(running, up_to=up_to, with_tail=False)
            self._store.persist(limit_bytes=1)

    def next_stop(self, running: RunningSequence, start: int, end: int) -> Stop:
        """Return where a chunk of the prompt from `start` ends, at most at `end`, for what is to be kept there.

        Where there is no room for all blocks of a long chunk, it ends with the first one: the disk makes room for the
        next while that is computed.
        """
        sequence, spec = running.sequence, running.spec
        # Twice: what is being written counts again.
        if not self._store.can_keep(2 * spec.stored_bytes(end - sequence.num_published)):
            end = min(end, next_boundary(start, spec.block_tokens))
        spacing = (
            0 if spec.cuts_anywhere else -(-self._snapshot_tokens // spec.block_tokens) * spec.block_tokens
        )
        return next_stop(
            start,
            end,
            points=running.submission.snapshot_points,
            spacing=spacing,
            last=sequence.last_snapshot,
            num_prompt_tokens=len(sequence.prompt_ids),
        )

    def snapshot(self, running: RunningSequence, *, at_boundary: bool = True) -> None:
        """Publish everything up to now, and a snapshot of the layers that cannot be cut, if they are as of now.

        The tokens since the last full block are kept as a tail of the snapshot's own, which nothing follows: full
        blocks have the same names wherever snapshots were taken, and a snapshot that is gone takes nothing along.
        """
        sequence, spec = running.sequence, running.spec
        position = sequence.num_cached
        self.publish(running, up_to=position, with_tail=True)
        start = position - position % spec.block_tokens
        if spec.cuts_anywhere or not position or sequence.num_published != start:
            return
        if running.runner.num_cached(sequence.sequence_id) != position:
            # A row that has just joined a batch, or has broken, is a token ahead of what is known of its sequence.
            return
        tail, num_bytes = None, spec.state_bytes
        if position > start:
            tail = next(iter(self._publish_blocks(running, start, [position])), None)
            if tail is None:
                return
            num_bytes += spec.stored_bytes(position - start)
            _count_stored(running, position)
        parent = tail or sequence.block_table[-1]
        try:
            name = self._store.publish_state(running.runner, sequence.sequence_id, parent=parent)
        except Exception as error:
            self.not_kept(running, error)
            return
        if name is not None:
            self._agents.note_block(running.submission.agent_id, name)
            sequence.snapshots[position] = Snapshot(position, name, tail, num_bytes, at_boundary)
            self._thin_running(running)

    def _thin_running(self, running: RunningSequence) -> None:
        """Give snapshots up that only the spacing asked for, where a prompt alone takes more than its share."""
        snapshots, most = running.sequence.snapshots, self._store.conversation_share
        if sum(one.num_bytes for one in snapshots.values()) <= most:
            return
        given_up = thinned(list(snapshots.values()), end=running.sequence.num_cached, turn=0, max_bytes=most)
        for one in given_up:
            del snapshots[one.position]
        agent_id = running.submission.agent_id
        self._agents.discard(agent_id, [name for one in given_up for name in one.names])

    def begin_answer(self, running: RunningSequence) -> None:
        """Keep the whole prompt: it may be sent again for another answer."""
        sequence = running.sequence
        if running.spec.cuts_anywhere:
            self.publish(running, up_to=sequence.num_cached, with_tail=True)
        elif sequence.num_cached - sequence.last_snapshot >= MIN_DISTANCE or not sequence.snapshots:
            self.snapshot(running)

    def keep_unfinished(self, running: RunningSequence) -> None:
        """Keep the blocks of a cancelled or preempted sequence; of a torn one, only the published blocks."""
        if running.is_torn:
            return
        if running.spec.cuts_anywhere:
            self.publish(running, up_to=running.sequence.num_cached, with_tail=True)
        else:
            points = running.submission.snapshot_points
            self.snapshot(running, at_boundary=running.sequence.num_cached in points)

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
        if not running.spec.cuts_anywhere:
            keep_to -= keep_to % running.spec.block_tokens
        if sequence.num_published < keep_to:
            missing = keep_to - sequence.num_published
            self._store.note_skipped(-(-missing // running.spec.block_tokens))
        agent_id = submission.agent_id
        if submission.records_turn:
            agent_id = self._record(running, kept, text, reason)
        else:
            self._store.persist()
        self.remember(running, agent_id)

    def earlier(self, running: RunningSequence) -> EarlierText | None:
        """Return the earlier answers of the sequence's agent, in its prompt or not, for drafts; None: none are known.

        An agent of which nothing is in memory, after a restart or a fork, has its last answer in its record.
        """
        submission, content = running.submission, running.model.content
        if not running.runner.makes_drafts:
            return None
        text = self._answers.of(submission.agent_id, content)
        if text is None:
            text = self._from_record(running)
        # All conversations that begin alike are the same anonymous agent: only a client that knows all of a prompt may
        # notice that it was answered.
        return text.only_answers() if text is not None and submission.anonymous else text

    def _from_record(self, running: RunningSequence) -> EarlierText | None:
        """Remember the last answer in the record of a sequence's agent, if this model gave it."""
        model = running.model
        # A delete takes the record under this lock, and what is remembered after that.
        with self._agents.lock:
            agent = self._agents.find(running.submission.agent_id)
            if agent is None or agent.model != model.fingerprint or len(agent.transcript.segments) < 2:
                return None
            segments = agent.transcript.segments
            prompt, answer = token_ids_of(segments[:-1]), segments[-1].token_ids
            # Imports by earlier versions may hold any numbers.
            if outside_vocabulary(prompt + answer, model.tokenizer.vocab_size) is not None:
                return None
            return self._answers.remember(agent.agent_id, model.content, prompt=prompt, answer=answer)

    def remember(self, running: RunningSequence, agent_id: AgentId | None = None) -> None:
        """Keep the answer, complete or not, as a source of drafts for this agent (None: the request's agent)."""
        sequence, runner = running.sequence, running.runner
        if runner.makes_drafts and sequence.output_ids:
            self._answers.remember(
                agent_id or running.submission.agent_id,
                running.model.content,
                prompt=sequence.prompt_ids,
                answer=sequence.output_ids,
            )

    def _record(
        self, running: RunningSequence, kept: tuple[int, ...], text: str, reason: FinishReason
    ) -> AgentId:
        """Record the turn; returns the agent that took it."""
        sequence, submission = running.sequence, running.submission
        segments = submission.segments + ((Segment(text, kept),) if kept else ())
        usage = running.usage(self._clock.monotonic())
        turn = Turn(
            request_id=submission.request_id,
            finished_at=self._clock.wall(),
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            num_segments=len(segments),
            cache=usage.cache,
            timings=usage.timings,
            finish_reason=_KV_BUDGET if running.is_cut_short else reason.value,
            decode_steps=running.decode_steps,
            wait_reason=running.submission.waited.reason,
        )
        self._store.touch(sequence.full_table)
        # The blocks go to the writer's queue before the record that names them.
        self._store.persist()

        main_id = submission.main_agent_id or submission.agent_id
        with self._agents.lock:
            # Another conversation under the same id may have ended meanwhile, and be the main one.
            agent_id = self._agents.holder(main_id, submission.conversation, submission.segments)
            agent = self._agents.get_or_create(agent_id, anonymous=submission.anonymous)
            snapshots, given_up = self._snapshots_of(running, agent)
            self._agents.save(_after_turn(agent, running, turn, segments=segments, snapshots=snapshots))
        self._agents.discard(agent_id, [name for one in given_up for name in one.names])
        self._tables.limit_agents(sparing=frozenset([agent_id]))
        return agent_id

    def _snapshots_of(
        self, running: RunningSequence, agent: Agent
    ) -> tuple[tuple[Snapshot, ...], list[Snapshot]]:
        """Return the snapshots that the agent keeps after this turn, by position, and those that it drops."""
        sequence, turn = running.sequence, agent.num_turns + 1
        if running.spec.cuts_anywhere:
            return (), []
        token_ids = sequence.token_ids
        older = still_on(
            agent.snapshots,
            spec=running.spec,
            table=sequence.block_table,
            root=running.submission.root or running.spec.root,
            token_ids=token_ids,
        )
        known = merged(older, sequence.snapshots.values(), turn=turn)
        share = self._store.conversation_share
        given_up = thinned(known, end=len(token_ids), turn=turn, max_bytes=share)
        return tuple(one for one in known if one not in given_up), given_up


def _block_ends(start: int, up_to: int, block_tokens: int, *, with_tail: bool) -> list[int]:
    """Return where the next blocks after `start` end, at most `BLOCKS_AT_ONCE`; the last, partial one `with_tail`."""
    first = next_boundary(start, block_tokens)
    ends = list(range(first, up_to + 1, block_tokens))[:BLOCKS_AT_ONCE]
    if with_tail and len(ends) < BLOCKS_AT_ONCE and (not ends or ends[-1] < up_to):
        ends.append(up_to)
    return ends


def _after_turn(
    agent: Agent,
    running: RunningSequence,
    turn: Turn,
    *,
    segments: tuple[Segment, ...],
    snapshots: tuple[Snapshot, ...],
) -> Agent:
    """Return an agent with a turn whose prompt and answer are `segments`, and the snapshots that it keeps."""
    sequence, submission = running.sequence, running.submission
    kept_until = agent.kept_until
    if submission.cache_ttl_s:
        kept_until = max(kept_until or 0.0, turn.finished_at + submission.cache_ttl_s)
    start = submission.turn_start if _opens_alike(agent, submission) else None
    continuation = agent.transcript.followed_by(segments, turn_start=start)
    taken = replace(turn, num_segments=len(continuation.segments))
    return replace(
        agent.with_transcript(continuation).with_turn(taken, now=turn.finished_at),
        model=running.model.fingerprint,
        model_id=running.model.model_id,
        block_table=(*sequence.block_table, *(name for one in snapshots for name in one.names)),
        snapshots=snapshots,
        kept_until=kept_until,
        conversation=_conversation_after(agent, submission),
        salt=submission.salt,
    )


def _count_stored(running: RunningSequence, end: int) -> None:
    """Note that all positions up to `end` are kept; those of the prompt that were not reused count."""
    num_stored = min(end, len(running.sequence.prompt_ids)) - running.match.num_tokens
    running.num_stored = max(running.num_stored, num_stored)


def _opens_alike(agent: Agent, submission: Submission) -> bool:
    """Return whether the prompt's earlier answers are the agent's, spelled differently, and not another history."""
    key, known = submission.conversation, agent.conversation
    return key is None or known is None or not set(key.opening).isdisjoint(known.opening)


def _conversation_after(agent: Agent, submission: Submission) -> ConversationKey | None:
    """Return by what the agent's conversation is recognised after this turn."""
    key, known = submission.conversation, agent.conversation
    if key is None or (known is not None and not key.continues(known)):
        # It was continued by its text, in another form.
        return known
    return key.heavier_of(known)
