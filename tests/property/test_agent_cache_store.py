"""The cache store, its warm tier and a model, through random use and misfortune: never a wrong token, nothing lost.

The machine plays the engine: it matches, restores, computes, publishes; it writes, refuses and delays writes, breaks
and loses stored blocks, evicts, pins, forks, deletes and restarts. Every answer is compared with a model without a
cache.
"""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from semanticd.application.cache.agent_cache_store import AgentCacheStore
from semanticd.application.cache.agent_tables import AgentTables
from semanticd.application.cache.reservation import Reservation
from semanticd.domain.block_pool import MAX_PINNED_SHARE
from semanticd.domain.ids import AgentId, BlockHash, SequenceId
from semanticd.domain.prefix_index import PrefixMatch, next_boundary
from tests.fakes.model_runner import BYTES_PER_TOKEN, HashRunner, continuation
from tests.fakes.telemetry import RecordingLog, RecordingMetrics
from tests.fakes.warm_store import MemoryWarmStore

BLOCK = 4
AGENTS = [AgentId(name) for name in "abc"]
BUDGET = BYTES_PER_TOKEN * 60

agents = st.sampled_from(AGENTS)
tokens = st.lists(st.integers(0, 2), min_size=1, max_size=12)


class StoreMachine(RuleBasedStateMachine):
    """One model whose layers can all be cut; see the subclass for one whose layers cannot."""

    has_state = False

    def __init__(self) -> None:
        super().__init__()
        self.warm = MemoryWarmStore()
        self.posted: list[Callable[[], None]] = []
        self.talks: dict[AgentId, list[int]] = {}
        self.tables: dict[AgentId, tuple[BlockHash, ...]] = {}
        self.pinned: set[AgentId] = set()
        self.gone: set[BlockHash] = set()
        """Blocks that were deleted, broken, lost or refused: they are no longer promised."""
        self.published: set[BlockHash] = set()
        self.deleted: set[BlockHash] = set()
        """Blocks of deleted agents that were not computed again."""
        self.broken: set[BlockHash] = set()
        """Blocks that were deleted, or whose file was damaged or lost, at any time: others may still follow them."""
        self.copied: list[Reservation] = []
        """What sequences hold that are copying blocks at this moment."""
        self.calm = True
        self.trouble = False
        self.sequence = 0
        self.start()

    def start(self) -> None:
        self.runner = HashRunner(block_tokens=BLOCK, has_state=self.has_state)
        self.store = AgentCacheStore(
            budget_bytes=BUDGET,
            warm=self.warm,
            post=self.posted.append,
            metrics=RecordingMetrics(),
            log=RecordingLog(),
        )
        self.holds = AgentTables(store=self.store, warm=self.warm, max_agents_in_memory=2, log=RecordingLog())
        self.store.register_model(self.runner)
        for agent, table in self.tables.items():
            self.holds.set_table(agent, table, pinned=agent in self.pinned)

    def pump(self) -> None:
        """Let the engine thread take what was posted."""
        while self.posted:
            actions, self.posted[:] = list(self.posted), []
            for action in actions:
                action()

    @initialize(calm=st.booleans())
    def choose_weather(self, calm: bool) -> None:
        """Half of the runs have a disk that works, so that losing anything at all is a failure there."""
        self.calm = calm

    # What the engine does.

    @rule(agent=agents, new=tokens, answer=st.integers(0, 6), keep=st.booleans())
    def ask(self, agent: AgentId, new: list[int], answer: int, keep: bool) -> None:
        prompt = [*self.talks.get(agent, []), *new][-80:]
        self.sequence += 1
        sequence_id = SequenceId(self.sequence)
        match = self.restore(self.store.match(self.runner.spec, tuple(prompt), limit=len(prompt) - 1))
        assert [t for m in match.blocks for t in m.block.token_ids[: m.num_tokens]] == prompt[
            : match.num_tokens
        ]
        self.runner.open(
            sequence_id,
            prefix=self.store.prefix_parts(match),
            state=self.store.payload(match.state.block_hash) if match.state else None,
            capacity_tokens=len(prompt) + 1,
        )
        self.runner.prefill(sequence_id, prompt[match.num_tokens : -1])
        table = [m.block.block_hash for m in match.blocks if m.whole]
        done = sum(m.num_tokens for m in match.blocks if m.whole)
        snapshots = {match.state.parent: match.state.block_hash} if match.state else {}
        done = self.publish(sequence_id, prompt[:-1], table, done, snapshots)
        output = self.decode(sequence_id, prompt, answer)
        assert output == continuation(prompt, answer, has_state=self.has_state), "a wrong token"
        if answer:
            self.publish(sequence_id, prompt + output, table, done, snapshots)
        self.runner.close(sequence_id)
        if keep:
            self.talks[agent] = prompt + output
            full = [n for b in table for n in ([b, snapshots[b]] if b in snapshots else [b])]
            self.tables[agent] = tuple(full)
            self.holds.set_table(agent, full, pinned=agent in self.pinned)
            self.store.touch(full)
            self.holds.limit_agents(sparing=frozenset([agent]))
        self.store.persist()
        self.pump()

    @rule(agent=agents, other=agents, answer=st.integers(0, 3), keep=st.booleans())
    def ask_what_was_just_deleted(self, agent: AgentId, other: AgentId, answer: int, keep: bool) -> None:
        """Delete an agent, and ask the same again at once, whatever is on its way to the disk."""
        said = self.talks.get(agent, [])
        self.delete(agent)
        if len(said) > 1 and other not in self.talks:
            self.talks[other] = said[:-1]
            self.ask(other, said[-1:], answer, keep)
            if not keep:
                del self.talks[other]

    @rule(agent=agents)
    def begin_to_copy(self, agent: AgentId) -> None:
        """Lock what a sequence copies into its running cache."""
        reservation = self.store.reserve()
        reservation.lock_blocks([name for name in self.tables.get(agent, ()) if name in self.store.pool])
        self.copied.append(reservation)

    @precondition(lambda self: self.copied)
    @rule()
    def end_copying(self) -> None:
        """Go on with what was copied: it was asked for, whatever was deleted meanwhile."""
        for reservation in self.copied:
            names = reservation.locked_blocks
            reservation.end()
            self.store.touch(names)
            self.gone -= set(names)
            self.deleted -= set(names)
        self.copied.clear()

    def restore(self, match: PrefixMatch) -> PrefixMatch:
        """Make a match hot as far as that is possible."""
        wanted = [m.block.block_hash for m in match.blocks] + (
            [match.state.block_hash] if match.state else []
        )
        locked: list[BlockHash] = []
        for name in wanted:
            if not self.store.is_hot(name):
                record = self.store.read(name).result()
                if record is None or not self.store.promote(record):
                    continue
            self.store.pool.lock([name])
            locked.append(name)
        self.store.pool.unlock(locked)
        if len(locked) == len(wanted):
            return match
        if match.state is not None:
            return PrefixMatch()
        usable = []
        for matched in match.blocks:
            if not self.store.is_hot(matched.block.block_hash):
                break
            usable.append(matched)
        return PrefixMatch(tuple(usable))

    def publish(
        self,
        sequence_id: SequenceId,
        ids: list[int],
        table: list[BlockHash],
        done: int,
        snapshots: dict[BlockHash, BlockHash],
    ) -> int:
        while done < len(ids):
            # Up to three blocks at once, as a long chunk's are.
            ends = [min(next_boundary(done, BLOCK) + more * BLOCK, len(ids)) for more in range(3)]
            ends = sorted(set(ends))
            blocks = [tuple(ids[first:end]) for first, end in zip([done, *ends], ends, strict=False)]
            parent = table[-1] if table else self.runner.spec.root
            names = self.store.publish(self.runner, sequence_id, parent=parent, blocks=blocks, start=done)
            table += names
            if len(names) < len(blocks):
                # No room before the disk has caught up.
                done = ends[len(names) - 1] if names else done
                break
            done = ends[-1]
        self.published.update(table)
        self.gone -= set(table)
        self.deleted -= set(table)
        if table and done == len(ids):
            snapshot = self.store.publish_state(self.runner, sequence_id, parent=table[-1])
            if snapshot is not None:
                snapshots[table[-1]] = snapshot
                self.published.add(snapshot)
                self.gone.discard(snapshot)
                self.deleted.discard(snapshot)
        return done

    def decode(self, sequence_id: SequenceId, prompt: list[int], answer: int) -> list[int]:
        from tests.fakes.engine_rig import GREEDY

        if not answer:
            return []
        self.runner.start_decode(
            sequence_id,
            last_token=prompt[-1],
            context=prompt[:-1],
            num_generated=0,
            sampling=GREEDY,
            constraint=None,
            seed=0,
        )
        return [self.runner.decode()[0].token_id for _ in range(answer)]

    # What people do.

    @rule(agent=agents)
    def evict(self, agent: AgentId) -> None:
        self.holds.evict_agent(agent)
        self.pump()

    @rule(agent=agents)
    def delete(self, agent: AgentId) -> None:
        table = self.tables.pop(agent, ())
        self.talks.pop(agent, None)
        self.pinned.discard(agent)
        own = self.holds.blocks_of(agent)
        self.broken.update(table, own)
        others = {name for other in self.tables.values() for name in other}
        doomed = [name for name in own if name not in others]
        self.holds.delete_agent(agent, doomed)
        # Also blocks that are in no table: of earlier turns, and of answers that were not kept.
        self.deleted |= set(doomed) | (set(table) - others)
        # A snapshot of an earlier turn goes with its block.
        self.gone |= self.deleted | {name for name in self.published if self.store.block(name) is None}
        self.pump()

    @rule(source=agents, copy=agents)
    def fork(self, source: AgentId, copy: AgentId) -> None:
        if source in self.tables and copy not in self.tables:
            self.talks[copy] = list(self.talks[source])
            self.tables[copy] = self.tables[source]
            self.holds.set_table(copy, self.tables[copy], pinned=False)

    @rule(agent=agents, pinned=st.booleans())
    def pin(self, agent: AgentId, pinned: bool) -> None:
        if agent in self.tables:
            (self.pinned.add if pinned else self.pinned.discard)(agent)
            is_held = self.holds.set_pinned(agent, pinned)
            pool = self.store.pool
            most = pool.budget_bytes * MAX_PINNED_SHARE
            assert is_held == pool.is_pinned_agent(agent) == (pinned and self.holds.could_pin(agent))
            assert not is_held or pool.pinned_bytes <= most

    @rule()
    def restart(self) -> None:
        self.end_copying()
        self.warm.hold_writes = False
        self.warm.catch_up()
        self.pump()
        while self.store.persist() or self.store.num_writing:
            self.pump()
        lost = {n for n in self.published if n in self.store.pool and self.warm.get(n) is None}
        assert self.trouble or not lost - self.gone
        self.gone |= lost
        self.posted.clear()
        self.start()

    # What the disk does.

    @rule(hold=st.booleans())
    def hold_writes(self, hold: bool) -> None:
        self.warm.hold_writes = hold
        if not hold:
            self.warm.catch_up()
            self.pump()

    @rule()
    def catch_up(self) -> None:
        self.warm.catch_up()
        self.pump()

    @precondition(lambda self: not self.calm)
    @rule(reason=st.sampled_from(["", "", "the disk is full"]))
    def refuse(self, reason: str) -> None:
        self.warm.refuse = reason
        self.trouble = self.trouble or bool(reason)

    @precondition(lambda self: not self.calm and self.warm.stats().num_blocks)
    @rule(data=st.data(), broken=st.booleans())
    def misfortune(self, data: st.DataObject, broken: bool) -> None:
        name = data.draw(st.sampled_from(self.warm.stored()))
        (self.warm.break_block if broken else self.warm.lose_block)(name)
        self.gone.add(name)
        self.broken.add(name)
        # A hot copy is believed to be on disk: when it leaves RAM it is gone.
        self.trouble = True

    # What must hold.

    @invariant()
    def books_agree(self) -> None:
        self.store.check_integrity()
        ledger = self.store.ledger()
        if not self.store.num_writing and not self.copied:
            assert ledger.locked_bytes == 0, "somebody forgot to unlock"

    @invariant()
    def nothing_is_lost(self) -> None:
        if self.trouble:
            return
        assert self.store.counters.lost_blocks == 0
        for name in self.published - self.gone:
            assert self.store.block(name) is not None, "a block is neither hot nor on disk"

    @invariant()
    def what_stays_can_be_used(self) -> None:
        for block in self.store.pool:
            parent = block.parent
            if parent != self.runner.spec.root and parent not in self.broken:
                assert self.store.block(parent) is not None, "a block stays though what it follows is lost"

    @invariant()
    def what_was_deleted_is_gone(self) -> None:
        if self.store.num_writing or self.copied:
            return
        for name in self.deleted:
            assert name not in self.store.pool, "a deleted block stays in RAM"
            assert self.warm.get(name) is None, "a deleted block stays on disk"

    @invariant()
    def nothing_is_pinned_that_nobody_pinned(self) -> None:
        # Where pins have their share of the budget, an agent's pin holds on disk only.
        held = {agent for agent in AGENTS if self.store.pool.is_pinned_agent(agent)}
        assert held <= self.pinned & set(self.tables)

    @invariant()
    def tables_are_kept(self) -> None:
        for agent in AGENTS:
            assert self.store.pool.table(agent) == self.tables.get(agent, ())

    def teardown(self) -> None:
        # Whatever happened, every conversation goes on correctly after one more start.
        self.warm.refuse = ""
        self.restart()
        for agent in list(self.talks):
            self.ask(agent, [1, 2], 3, True)


class StateStoreMachine(StoreMachine):
    """The same with layers that are kept as snapshots."""

    has_state = True


_SETTINGS = settings(
    max_examples=60 if settings.get_current_profile_name() == "ci" else 12,
    stateful_step_count=40,
    # Explaining a failure traces every line from the beginning, which makes every run ten times as slow.
    phases=set(Phase) - {Phase.explain},
)

TestStore = StoreMachine.TestCase
TestStore.settings = _SETTINGS
TestStateStore = StateStoreMachine.TestCase
TestStateStore.settings = _SETTINGS
