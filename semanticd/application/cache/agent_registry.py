"""AgentRegistry: the agents this daemon knows, in memory as far as they are in use, all of them in the archive.

Callable from any thread; `lock` is the cache store's, so that agents and blocks change together. The engine thread asks
about agents that a request holds only: they are in memory, or there are none, so that it waits for no disk. Methods
that read the archive do so before they take the lock, for which the engine thread would wait.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any

from semanticd.application.cache.agent_cache import AgentCache
from semanticd.application.ports.agent_archive import AgentArchive
from semanticd.application.ports.telemetry import Clock
from semanticd.domain.agent import Agent, AgentConfig
from semanticd.domain.agent_summary import (
    AgentQuery,
    AgentSummary,
    SummaryPage,
    page_of,
    sort_key,
    summary_of,
)
from semanticd.domain.conversation_key import ConversationKey
from semanticd.domain.deletion import Deletion
from semanticd.domain.errors import AgentNotFoundError
from semanticd.domain.ids import AgentId, BlockHash, ModelFingerprint
from semanticd.domain.transcript import Segment, Transcript, TranscriptIndex

MAX_AGENTS_KEPT = 512
"""Agents whose records stay in memory; older ones are read from the archive when they come back."""
MAX_TEXT_BYTES = 256 * 1024 * 1024
"""Maximum bytes of their conversations (texts and token ids); shared beginnings count for each."""


class AgentRegistry:
    """Agents by id, and the transcripts by which texts are recognised."""

    def __init__(
        self,
        *,
        cache: AgentCache,
        archive: AgentArchive | None,
        clock: Clock,
        post: Callable[[Callable[[], None]], object],
    ) -> None:
        """Load the most recently used agents, so that their texts are recognised at once, and all that are pinned.

        `post` runs something on the engine thread soon, or never where the engine has stopped.
        """
        self._store, self._tables = cache.store, cache.tables
        self._answers = cache.answers
        self._archive = archive
        self._clock = clock
        self._post = post
        self._agents: OrderedDict[AgentId, Agent] = OrderedDict()
        self._held: Counter[AgentId] = Counter()
        """Requests that hold each agent; a held agent that is not in memory is not in the archive either."""
        self._num_changes = 0
        """Grows with every save and deletion: earlier reads of the archive may be out of date."""
        self._transcripts: dict[tuple[ModelFingerprint, str], TranscriptIndex] = {}
        self._text_bytes: dict[AgentId, int] = {}
        """Of the agents in memory; their sum is in the store's books."""
        if archive is not None:
            recent = archive.load_recent(max_agents=MAX_AGENTS_KEPT, max_bytes=MAX_TEXT_BYTES)
            known = {agent.agent_id for agent in recent}
            # Before anything is written: the disk's cap must not prune blocks that were pinned long ago.
            pinned = [a for a in archive.pinned() if a.is_pinned(clock.wall()) and a.agent_id not in known]
            for agent in (*pinned, *reversed(recent)):
                self._remember(agent)

    @property
    def lock(self) -> Any:
        """Guards agents and blocks together."""
        return self._store.lock

    def transcripts(self, fingerprint: ModelFingerprint, *, salt: str = "") -> TranscriptIndex:
        """Return the known texts of one model (hold `lock` while using it).

        With a `salt`, those of the agents that have it; the others' hold nothing of them.
        """
        return self._transcripts.setdefault((fingerprint, salt), TranscriptIndex())

    def salt_of(self, agent_id: AgentId) -> str:
        """Return the agent's salt; empty where it has none or is not known. May read the archive."""
        agent = self.find(agent_id)
        return agent.salt if agent is not None else ""

    def find(self, agent_id: AgentId) -> Agent | None:
        """Return the agent for use, from memory, or from the archive; then it stays in memory."""
        while True:
            with self.lock:
                agent, num_changes = self._agents.get(agent_id), self._num_changes
                if agent is not None or self._archive is None or self._held[agent_id]:
                    return agent
            found = self._archive.load(agent_id)
            with self.lock:
                if num_changes != self._num_changes and agent_id not in self._agents:
                    continue  # it may have been deleted, or saved and put away again
                known = self._agents.get(agent_id)
                # It may leave memory at once, where held ones take all of it.
                return self._remember(found) if known is None and found is not None else known

    def hold(self, agents: Collection[AgentId]) -> None:
        """Bring the agents into memory, as far as there are any, and keep them there until they are released.

        Reads the archive: neither on the engine thread nor on the event loop. `release` each as often as it was held.
        """
        for agent_id in agents:
            while True:
                num_changes = self._num_changes
                found = self.find(agent_id)
                with self.lock:
                    is_known = agent_id in self._agents or agent_id in self._held
                    if is_known or num_changes == self._num_changes:
                        self._held[agent_id] += 1
                        if not is_known and found is not None:
                            self._remember(found)
                        break

    def release(self, agents: Collection[AgentId]) -> None:
        """Let agents leave memory that were held, once no request holds them."""
        with self.lock:
            self._held.subtract(agents)
            for agent_id in agents:
                if self._held[agent_id] <= 0:
                    del self._held[agent_id]

    @property
    def num_held(self) -> int:
        """Number of agents that requests hold."""
        return len(self._held)

    # Looking: nothing comes into memory, nothing counts as used.

    def peek(self, agent_id: AgentId) -> Agent:
        """Return the agent without using it. May read the archive: not on the event loop.

        Raises:
            AgentNotFoundError: There is no such agent.
        """
        with self.lock:
            agent = self._agents.get(agent_id)
        if agent is None and self._archive is not None:
            agent = self._archive.load(agent_id)
        if agent is None:
            raise _not_found(agent_id)
        return agent

    def is_known(self, agent_id: AgentId) -> bool:
        """Return whether the agent exists."""
        return self.summary(agent_id) is not None

    def is_in_memory(self, agent_id: AgentId) -> bool:
        """Return whether the agent's record is in memory."""
        return agent_id in self._agents

    def summary(self, agent_id: AgentId) -> AgentSummary | None:
        """Return the agent in numbers, or None."""
        with self.lock:
            agent = self._agents.get(agent_id)
        if agent is not None:
            return summary_of(agent)
        return None if self._archive is None else self._archive.summary(agent_id)

    def page(self, query: AgentQuery) -> SummaryPage:
        """Return a page of agents.

        Raises:
            AgentNotFoundError: The agent that ended the previous page is unknown.
        """
        if query.after is not None and not self.is_known(query.after):
            raise _not_found(query.after)
        if self._archive is not None:
            return self._archive.page(query)
        with self.lock:
            known = [summary_of(agent) for agent in self._agents.values()]
        cursor = None if query.after is None else self.summary(query.after)
        return page_of(known, query, after=None if cursor is None else sort_key(cursor, query.order))

    def block_tables(self, agents: Sequence[AgentId]) -> dict[AgentId, tuple[BlockHash, ...]]:
        """Return the archived block tables of these agents."""
        return {} if self._archive is None else self._archive.block_tables(agents)

    def first_blocks(self) -> dict[AgentId, BlockHash | None]:
        """Return every agent's first block."""
        if self._archive is not None:
            return self._archive.first_blocks()
        with self.lock:
            return {one: next(iter(agent.block_table), None) for one, agent in self._agents.items()}

    def take_changes(self) -> set[AgentId] | None:
        """Return the agents that changed since the last call; None: all may have."""
        with self.lock:
            return self._store.pool.changes.take()

    def expired(self, *, limit: int) -> list[AgentId]:
        """Return at most `limit` expired agents, in memory or not. Queries the archive."""
        now = self._clock.wall()
        if self._archive is not None:
            return self._archive.expired(now, limit=limit)
        with self.lock:
            ends = {one: agent.expires_at() for one, agent in self._agents.items()}
        return [one for one, end in ends.items() if end is not None and end <= now][:limit]

    def surplus_anonymous(self, *, used_before: float, max_agents: int, limit: int) -> list[AgentId]:
        """Return anonymous agents not used since a time, then the longest unused beyond a number. Asks the archive."""
        if self._archive is None:
            return []
        return self._archive.surplus_anonymous(used_before=used_before, max_agents=max_agents, limit=limit)

    # Using.

    def get(self, agent_id: AgentId) -> Agent:
        """Return the agent.

        Raises:
            AgentNotFoundError: There is no such agent.
        """
        agent = self.find(agent_id)
        if agent is None:
            raise _not_found(agent_id)
        return agent

    def holder(
        self, agent_id: AgentId, conversation: ConversationKey | None, segments: tuple[Segment, ...]
    ) -> AgentId:
        """Return the agent that holds a conversation asked for under an agent's id: this agent, or one below it.

        A conversation that the server keeps as messages is continued by no prompt that a client wrote. Otherwise a
        prompt that begins with the agent's own text, its `segments`, is its main conversation in any case.
        """
        agent = None if conversation is None else self.find(agent_id)
        if agent is None or conversation is None:
            return agent_id
        if agent.messages:
            return AgentId(conversation.name_below(agent_id))
        if conversation.continues(agent.conversation):
            return agent_id
        if segments and segments[:1] == agent.transcript.segments[:1]:
            return agent_id
        return AgentId(conversation.name_below(agent_id))

    def get_or_create(self, agent_id: AgentId, *, anonymous: bool = False) -> Agent:
        """Return the agent, made now if necessary (it is archived with its first turn)."""
        with self.lock:
            agent = self.find(agent_id)
            if agent is None:
                now = self._clock.wall()
                agent = Agent(agent_id, created_at=now, last_used_at=now, anonymous=anonymous)
                self._remember(agent)
            return agent

    def create(self, agent_id: AgentId, config: AgentConfig, *, pinned: bool) -> Agent:
        """Make and archive an agent with a configuration; the caller checked that the id is free."""
        now = self._clock.wall()
        agent = Agent(agent_id, created_at=now, last_used_at=now, config=config, pinned=pinned)
        self.save(agent)
        return agent

    def save(self, agent: Agent) -> None:
        """Keep the agent's new state, in memory and in the archive."""
        with self.lock:
            self._num_changes += 1
            self._remember(agent)
        if self._archive is not None:
            self._archive.save(agent)

    def is_saved(self, agent_id: AgentId) -> Future[bool]:
        """Return soon whether the disk has the agent's newest state; True where nothing is archived."""
        if self._archive is not None:
            return self._archive.is_saved(agent_id)
        saved: Future[bool] = Future()
        saved.set_result(True)
        return saved

    def is_unsaved(self, agent_id: AgentId) -> bool:
        """Return whether the disk refused the agent's newest state, which is then in memory only."""
        return self._archive is not None and self._archive.is_unsaved(agent_id)

    @property
    def num_unsaved(self) -> int:
        """Number of agents whose newest state the disk refused."""
        return 0 if self._archive is None else self._archive.num_unsaved

    def update(self, agent_id: AgentId, change: Callable[[Agent], Agent]) -> Agent:
        """Replace the agent by what `change` makes of it."""
        self.find(agent_id)  # before the lock
        with self.lock:
            agent = change(self.get(agent_id))
            self.save(agent)
            return agent

    def delete(self, agent_id: AgentId) -> Future[Deletion]:
        """Delete the agent everywhere; the future holds whether the disk has deleted it too.

        Where that refused, the agent is known again by then, unless there is a new one of its id.
        """
        deletion: Future[Deletion] = Future()
        with self.lock:
            self._num_changes += 1
            if self._archive is not None:
                deletion = self._archive.delete(agent_id)
            else:
                deletion.set_result("done")
            agent = self._agents.get(agent_id)
            if agent is not None:
                self._forget_record(agent)
            self._store.pool.changes.note(agent_id)
        self._answers.forget(agent_id)
        deletion.add_done_callback(partial(self._put_back, agent_id, agent))
        return deletion

    def _put_back(self, agent_id: AgentId, agent: Agent | None, deletion: Future[Deletion]) -> None:
        # On the writing thread.
        if deletion.result() == "done":
            return
        with self.lock:
            self._num_changes += 1
            if agent is not None and agent_id not in self._agents:
                self._remember(agent)
            self._store.pool.changes.note(agent_id)

    def forget_answers(self, agent_id: AgentId | None = None) -> None:
        """Forget what an agent (None: each of them) answered, in its conversation or not; it need have no record."""
        if agent_id is None:
            self._answers.forget_all()
        else:
            self._answers.forget(agent_id)

    def recent(self) -> list[Agent]:
        """Return the agents in memory, most recently used first."""
        with self.lock:
            return list(reversed(self._agents.values()))

    def let_pin_go(self, agent_id: AgentId) -> bool:
        """Suspend a pin for the agent's own turn; `renew_pins` and the turn's end restore it."""
        return self._tables.let_go(agent_id)

    def renew_pins(self) -> None:
        """Release the blocks of agents whose pin or retention has ended; pin blocks again that were displaced."""
        now = self._clock.wall()
        with self.lock:
            for agent in self._agents.values():
                pinned, kept = agent.is_pinned(now), agent.is_kept(now)
                is_pinned = self._tables.is_pinned(agent.agent_id)
                made_way = pinned and not is_pinned and agent.agent_id not in self._held
                if (
                    (is_pinned and not pinned)
                    or (self._tables.is_kept(agent.agent_id) and not (kept or pinned))
                    or (made_way and self._tables.could_pin(agent.agent_id))
                ):
                    self._tables.set_table(agent.agent_id, agent.block_table, pinned=pinned, kept=kept)
                    self._store.pool.changes.note(agent.agent_id)

    def note_block(self, agent_id: AgentId, block_hash: BlockHash) -> None:
        """Note that an agent made a block, before it is written: deleting the agent removes it, in a table or not."""
        if self._archive is not None:
            self._archive.note_block(agent_id, block_hash)

    def own_blocks(self, agent_id: AgentId) -> list[BlockHash]:
        """Return the blocks and snapshots that this agent has, or had before, and no other, in memory or archived.

        Asks the archive and the index about every block: not on the engine thread.
        """
        names = dict.fromkeys(self._tables.blocks_of(agent_id))
        archive = self._archive
        if archive is None:
            return list(names)
        # Version 0.1.0 noted no blocks: those of earlier turns are found behind the agent's table only.
        own = [name for name in names if all(holder == agent_id for holder in archive.holders(name))]
        return list(dict.fromkeys([*own, *archive.own_blocks(agent_id)]))

    def forget_blocks(self, agent_id: AgentId, blocks: Sequence[BlockHash]) -> None:
        """Forget that an agent made blocks, which are gone."""
        if self._archive is not None:
            self._archive.forget_blocks(blocks, agent_id=agent_id)

    def forget_all_blocks(self) -> None:
        """Forget which agents made which blocks: all are gone."""
        if self._archive is not None:
            self._archive.forget_all_blocks()

    def scrub(self) -> None:
        """Make sure soon that deleted data cannot be read from any file."""
        if self._archive is not None:
            self._archive.scrub()

    def discard(self, agent_id: AgentId, names: Iterable[BlockHash]) -> None:
        """Drop blocks that an agent gave up from both tiers soon, unless another agent has them, or had them before.

        On the engine thread. The archive is asked elsewhere, and its answer comes back to this thread.
        """
        given_up = list(names)
        if self._archive is None:
            self._store.discard(given_up)
        elif given_up:
            self._archive.own_among(agent_id, given_up).add_done_callback(
                lambda own: self._post(partial(self._discard_own, agent_id, own.result()))
            )

    def _discard_own(self, agent_id: AgentId, own: Sequence[BlockHash]) -> None:
        if own:
            self._store.discard(own)
            self.forget_blocks(agent_id, own)

    def _remember(self, agent: Agent) -> Agent:
        """Hold the agent in memory, sharing text with others; returns the held agent."""
        if agent.model is not None and agent.transcript.segments:
            index = self.transcripts(agent.model, salt=agent.salt)
            agent = replace(agent, transcript=Transcript(index.add(agent.transcript.segments)))
        self._agents[agent.agent_id] = agent
        self._agents.move_to_end(agent.agent_id)
        num_bytes = agent.transcript.num_bytes
        self._store.text_bytes += num_bytes - self._text_bytes.get(agent.agent_id, 0)
        self._text_bytes[agent.agent_id] = num_bytes
        self._store.pool.changes.note(agent.agent_id)
        now = self._clock.wall()
        self._tables.set_table(
            agent.agent_id, agent.block_table, pinned=agent.is_pinned(now), kept=agent.is_kept(now)
        )
        while len(self._agents) > MAX_AGENTS_KEPT or self._store.text_bytes > MAX_TEXT_BYTES:
            oldest = next((one for one in self._agents.values() if self._may_leave(one)), None)
            if oldest is None:
                break
            self._tables.drop_table(oldest.agent_id)
            self._forget_record(oldest)
        return agent

    def _forget_record(self, agent: Agent) -> None:
        del self._agents[agent.agent_id]
        self._store.text_bytes -= self._text_bytes.pop(agent.agent_id)
        self._forget_private(agent.salt)

    def _may_leave(self, agent: Agent) -> bool:
        return agent.agent_id not in self._held and not agent.is_pinned(self._clock.wall())

    def _forget_private(self, salt: str) -> None:
        """Drop the texts of a salt that no agent in memory has; they return with an agent from the archive."""
        if salt and all(agent.salt != salt for agent in self._agents.values()):
            for key in [key for key in self._transcripts if key[1] == salt]:
                del self._transcripts[key]


def _not_found(agent_id: AgentId) -> AgentNotFoundError:
    return AgentNotFoundError(f"no agent has the id {agent_id!r}; list them with `semanticd agents list`")
