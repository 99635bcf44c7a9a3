"""AgentTables: which blocks each agent holds, and which of them are pinned.

A table names an agent's blocks, first to last. Blocks that no table names stay until room is needed; those of a pinned
agent stay in RAM while pins have not their share of it, and on disk in any case.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future

from semanticd.application.cache.agent_cache_store import AgentCacheStore
from semanticd.application.ports.telemetry import Log
from semanticd.application.ports.warm_store import WarmStore
from semanticd.domain.block_pool import MAX_PINNED_SHARE, AgentPlace, HotUse
from semanticd.domain.ids import AgentId, BlockHash
from semanticd.domain.size_text import at_least, at_most

_DEMOTED_AT_ONCE = 64
"""Agents that may be demoted at one turn's end, at most."""
_SCARCE_SHARE = 1 / 8
"""RAM is short when less than this share of the budget is free: the limit on hot agents binds from there on."""


class AgentTables:
    """The agents' hold on blocks. Changes happen on the engine thread only; readers may be on other threads."""

    def __init__(
        self, *, store: AgentCacheStore, warm: WarmStore | None, max_agents_in_memory: int, log: Log
    ) -> None:
        """Hold blocks of this store, whose warm tier is `warm`."""
        self._store = store
        self._pool = store.pool
        self._lock = store.lock
        self._warm = warm
        self._max_agents = max_agents_in_memory
        self._log = log
        self._protected: set[AgentId] = set()
        """Agents whose blocks must not be pruned from the disk."""

    def set_table(
        self, agent_id: AgentId, table: Sequence[BlockHash], *, pinned: bool, kept: bool = False
    ) -> None:
        """Note which blocks an agent holds, whether an operator pinned them, and whether a client wants them kept."""
        with self._lock:
            self._pool.set_table(agent_id, table)
            is_held = self.set_pinned(agent_id, pinned)
            (self._pool.keep if kept or (pinned and not is_held) else self._pool.release)(agent_id)

    def drop_table(self, agent_id: AgentId) -> None:
        """Forget which blocks an agent holds; they stay until room is needed."""
        with self._lock:
            self._pool.drop_agent(agent_id)

    def is_pinned(self, agent_id: AgentId) -> bool:
        """Return whether an operator pinned the agent's blocks."""
        return self._pool.is_pinned_agent(agent_id)

    def is_kept(self, agent_id: AgentId) -> bool:
        """Return whether the agent's blocks are evicted after those of other agents."""
        return self._pool.is_kept_agent(agent_id)

    def set_pinned(self, agent_id: AgentId, pinned: bool) -> bool:
        """Pin or unpin an agent's blocks in both tiers; returns whether they cannot leave RAM now.

        Where pins have their share of RAM already, the agent's blocks are protected on disk only.
        """
        with self._lock:
            was_pinned = self._pool.is_pinned_agent(agent_id)
            is_held = pinned and self._pool.could_pin(agent_id)
            (self._pool.pin if is_held else self._pool.unpin)(agent_id)
            if was_pinned and pinned and not is_held:
                self._log.warning(
                    "pins_have_their_share", agent_id=agent_id, budget_bytes=self._pool.budget_bytes
                )
            if self._warm is not None and (pinned or agent_id in self._protected):
                self._warm.protect(self._pool.table(agent_id) if pinned else (), owner=agent_id)
                (self._protected.add if pinned else self._protected.discard)(agent_id)
            return is_held

    def let_go(self, agent_id: AgentId) -> bool:
        """Let a pinned agent's blocks leave RAM, after others', until its table is set; False: it is not pinned."""
        with self._lock:
            was_pinned = self._pool.is_pinned_agent(agent_id)
            if was_pinned:
                self._pool.unpin(agent_id)
                self._pool.keep(agent_id)
            return was_pinned

    def could_pin(self, agent_id: AgentId) -> bool:
        """Return whether the agent's blocks can be pinned, too; callable from any thread."""
        with self._lock:
            return self._pool.could_pin(agent_id)

    def pin_refusal(self, agent_id: AgentId) -> str | None:
        """Return why the agent cannot be pinned now, and what may be; None: it can. Callable from any thread."""
        with self._lock:
            added, left = self._pool.pin_adds(agent_id), self._pool.max_pinned_bytes - self._pool.pinned_bytes
        if not added or added <= left:
            return None
        return (
            f"its blocks in RAM take {at_least(added)} that is not pinned yet, and {at_most(max(left, 0))} may be "
            f"pinned now: pins keep at most {MAX_PINNED_SHARE:.0%} of the cache budget"
        )

    # Letting go.

    def evict_agent(self, agent_id: AgentId, *, reason: str = "command") -> int:
        """Demote the agent's blocks that no other agent holds; returns the bytes that left at once."""
        with self._lock:
            own = list(self._pool.exclusive_blocks(agent_id))
        return self._store.demote(own, reason)

    def limit_agents(self, *, sparing: frozenset[AgentId] = frozenset()) -> None:
        """Demote the least recently used agents until at most the configured number is hot, if RAM is short.

        While RAM has room, demotion would only cost a read from the disk at the agent's next turn.
        """
        with self._lock:
            excess = self._pool.num_hot_agents - self._max_agents
            missing = self._pool.budget_bytes * _SCARCE_SHARE - self._pool.free_bytes
            if excess <= 0 or missing <= 0:
                return
            candidates = self._pool.coldest_agents(_DEMOTED_AT_ONCE)
        for agent_id in candidates:
            if agent_id in sparing or self._pool.is_pinned_agent(agent_id):
                continue
            share = self._pool.share(agent_id)
            self.evict_agent(agent_id, reason="max_agents")
            excess -= 1
            # Also what leaves only once it is written.
            missing -= share.num_bytes - share.shared_bytes
            if excess <= 0 or missing <= 0:
                return

    def blocks_of(self, agent_id: AgentId) -> list[BlockHash]:
        """Return the agent's blocks and the snapshots behind them, as far as no agent in memory shares them.

        Asks the index for every block: not on the engine thread.
        """
        with self._lock:
            table = self._pool.table(agent_id)
            own = [name for name in table if self._pool.holders(name) <= {agent_id}]
        known = set(own)
        # Blocks after them that are in no table belong to earlier turns, or to answers that changed since.
        found, to_ask = list(own), list(own)
        while to_ask:
            for child in self._store.children(to_ask.pop()):
                name = child.block_hash
                if name not in known and not self._pool.holders(name):
                    known.add(name)
                    found.append(name)
                    to_ask.append(name)
        return found

    def delete_agent(self, agent_id: AgentId, names: Sequence[BlockHash]) -> tuple[int, Future[int]]:
        """Drop the agent's table and these blocks of it, as `drop_blocks` does."""
        with self._lock:
            self.set_pinned(agent_id, False)
            self._pool.drop_agent(agent_id)
            return self._store.drop_blocks(names)

    # Looking.

    def places(self, agents: Sequence[AgentId], *, max_sharing: int) -> list[AgentPlace]:
        """Return where these agents' blocks are, as far as the agents are in memory; callable from any thread."""
        with self._lock:
            return self._pool.places(agents, max_sharing=max_sharing)

    def hot_agents(self) -> list[AgentId]:
        """Return the agents that hold hot blocks; callable from any thread."""
        with self._lock:
            return self._pool.hot_agents()

    def hot_use(self, agent_id: AgentId, table: Sequence[BlockHash]) -> HotUse:
        """Return what of an agent's table is hot, and with which agents it is shared; callable from any thread."""
        with self._lock:
            return self._pool.hot_use(agent_id, table)
