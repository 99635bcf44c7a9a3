"""PrefixMatching: which of the known blocks a sequence begins from, and which of them are to be read for it.

```
match ──> never fits: refused ──> cut to what fits next to the running cache ──> worth reading? ──> cold blocks to read
                                        └──> what follows is read later, straight into the running cache
```
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from semanticd.application.cache.agent_cache_store import AgentCacheStore
from semanticd.application.cache.agent_registry import AgentRegistry
from semanticd.application.engine.peer_lookup import PeerLookup
from semanticd.application.engine.promotion import Promotion
from semanticd.application.engine.running_sequence import RunningSequence
from semanticd.domain.block import Block
from semanticd.domain.errors import OverloadedError, RequestTooLargeError
from semanticd.domain.ids import AgentId, BlockHash
from semanticd.domain.prefix_index import MatchedBlock, PrefixMatch
from semanticd.domain.scheduler import Scheduler
from semanticd.domain.size_text import at_least, at_most

_MEMORY_RETRY_S = 60.0
_SLOW_DISK_DECAY = 0.8
"""Share of the slow-disk penalty that is left after each time it decided."""


class PrefixMatching:
    """Looks prompts up in the cache; engine thread only."""

    def __init__(
        self,
        *,
        store: AgentCacheStore,
        agents: AgentRegistry,
        scheduler: Scheduler,
        lookup: PeerLookup,
        promotion: Promotion,
    ) -> None:
        """Match the blocks of this store, and what its peers offered; `scheduler` knows what computing costs."""
        self._store = store
        self._agents = agents
        self._scheduler = scheduler
        self._lookup = lookup
        self._promotion = promotion

    def find(self, running: RunningSequence) -> list[Block]:
        """Match the prompt; returns the blocks of the match that are to be read.

        Raises:
            RequestTooLargeError: It can never fit the budget.
            OverloadedError: It does not fit as long as the budget is lowered.
        """
        token_ids = running.sequence.token_ids
        limit = 0 if running.submission.score_prompt else len(token_ids) - 1
        running.match = self._store.match(
            running.spec,
            token_ids,
            limit=limit,
            root=running.submission.root,
            chain=running.sequence.chain,
            offered=running.offered,
        )
        running.from_peers = self._from_peers(running)
        running.beyond = ()
        self._refuse_what_never_fits(running)
        if not self._scheduler.others_run(running.sequence_id):
            # No other sequence will make room by ending: what leaves none for the running cache is read into it later.
            self._cut_to_what_fits(running)
        if not self._lookup.is_worth(running, self._compute_s(running, running.from_peers.values())):
            running.offered = None
            return self.find(running)
        cold = [b for b in running.match.all_blocks if not self._store.is_hot(b.block_hash)]
        to_read = [block for block in cold if not self._promotion.has(block.block_hash)]
        if to_read and (running.disk_failed or not self.is_worth_reading(running, to_read)):
            running.match = self.hot_part(running)
            running.beyond = ()
            cold = []
        return cold

    @staticmethod
    def _from_peers(running: RunningSequence) -> dict[BlockHash, Block]:
        """Return the blocks of a match that were found at peers only: hot and warm ones are other objects."""
        offered = running.offered
        if not offered:
            return {}
        return {
            block.block_hash: block
            for block in running.match.all_blocks
            if offered.by_name.get(block.block_hash) is block
        }

    def _compute_s(self, running: RunningSequence, blocks: Iterable[Block]) -> float:
        """Return the estimated seconds to compute these blocks' tokens, by measured rates; inf if unknown."""
        rate = self._scheduler.prefill_rate(running.sequence.model_id)
        return sum(block.num_tokens for block in blocks) / rate if rate else math.inf

    def hot_part(self, running: RunningSequence) -> PrefixMatch:
        """Return the part of a sequence's match that is hot, or in a running cache; the match itself when all is."""
        match = running.match
        if all(self._is_here(block.block_hash) for block in match.all_blocks):
            return match
        if match.state is not None:
            token_ids, root = running.sequence.token_ids, running.submission.root
            found = self._store.match(
                running.spec, token_ids, limit=match.num_tokens, root=root, hot_only=True
            )
            # It may be another snapshot than the one whose blocks are locked.
            running.reservation.lock_blocks(block.block_hash for block in found.all_blocks)
            return found
        blocks = []
        for matched in match.blocks:
            if not self._is_here(matched.block.block_hash):
                break
            blocks.append(matched)
        return PrefixMatch(tuple(blocks), None, match.diverged)

    def _is_here(self, block_hash: BlockHash) -> bool:
        """Return whether a block's bytes are in RAM, in the pool or in a running cache."""
        return self._store.is_hot(block_hash) or self._promotion.has(block_hash)

    def _cut_to_what_fits(self, running: RunningSequence) -> None:
        """Cut the match where its blocks leave no room for the running cache.

        The agent's own pin is released until the turn's end where more of its blocks are read for that.
        """
        agent_id, whole = running.sequence.agent_id, running.match
        running.match, running.beyond = self._fitting_part(running, whole)
        if running.match is whole:
            return
        match, beyond = self._fitting_part(running, whole, without_pin=agent_id)
        # Blocks that are read become pinned: the pin also takes the room through which those beyond the match are read.
        gains = bool(beyond) or match.num_tokens > running.match.num_tokens
        if gains and self._agents.let_pin_go(agent_id):
            running.match, running.beyond = match, beyond

    def _fitting_part(
        self, running: RunningSequence, match: PrefixMatch, *, without_pin: AgentId | None = None
    ) -> tuple[PrefixMatch, tuple[MatchedBlock, ...]]:
        """Return the part of a match that fits next to the running cache, and the rest of it.

        The pin of the agent `without_pin` does not count.
        """
        ledger = self._store.ledger()
        pinned = ledger.pinned_bytes
        if without_pin is not None:
            pinned -= self._store.pinned_bytes_of(without_pin)
        room = ledger.budget_bytes - pinned - running.bytes_alone
        pins_stay = room >= 0
        if not pins_stay:
            # They make way for it, but not those that it begins from.
            room += pinned
        blocks = []
        for matched in match.blocks:
            # Hot pinned blocks were subtracted already; a pinned agent's block on disk needs room like any other.
            if not (pins_stay and self._store.is_pinned_block(matched.block.block_hash, but_by=without_pin)):
                room -= matched.block.num_bytes
            if room < 0:
                break
            blocks.append(matched)
        if len(blocks) == len(match.blocks) and (match.state is None or match.state.num_bytes <= room):
            return match, ()
        if match.state is not None:
            # A snapshot belongs to the whole match.
            return PrefixMatch((), None, match.diverged), ()
        return PrefixMatch(tuple(blocks), None, match.diverged), match.blocks[len(blocks) :]

    def note_fit(self, running: RunningSequence) -> None:
        """Note whether a sequence fits that was just accepted: pins that are set later do not count for it."""
        left = self._store.bytes_beside_pins(self._store.ledger().budget_bytes, running.sequence.agent_id)
        running.fits_beside_pins = running.bytes_alone <= left

    def _refuse_what_never_fits(self, running: RunningSequence) -> None:
        ledger, agent_id = self._store.ledger(), running.sequence.agent_id
        alone, own = running.bytes_alone, self._store.pinned_bytes_of(agent_id)
        if 0 < alone + ledger.pinned_bytes - ledger.budget_bytes <= own:
            # It is pinned again behind its turn.
            self._agents.let_pin_go(agent_id)
        left = self._store.bytes_beside_pins(ledger.budget_bytes, agent_id)
        running.fits_beside_pins |= alone <= left
        if running.fits_beside_pins and alone <= ledger.budget_bytes:
            return
        prompt = f"this prompt of {running.sequence.num_tokens} tokens needs {running.size_alone}"
        if alone <= self._store.bytes_beside_pins(self._store.planned_bytes, agent_id):
            raise OverloadedError(
                f"{prompt}, and memory is short: the budget was lowered to {at_most(ledger.budget_bytes)} for now; "
                "close other programs or try again in a minute",
                retry_after_s=_MEMORY_RETRY_S,
            )
        pinned = ledger.budget_bytes - left
        are_pinned = f" ({at_least(pinned)} are pinned)" if pinned else ""
        unpin = "unpin agents" if pinned else "choose a smaller model"
        raise RequestTooLargeError(
            f"{prompt}, but the budget leaves {at_most(left)} of {at_most(ledger.budget_bytes)}{are_pinned}; "
            f"raise SEMANTIC_MLX_CACHE_BUDGET_MB, {unpin} or shorten the prompt",
            param="messages",
        )

    def is_worth_reading(self, running: RunningSequence, cold: list[Block]) -> bool:
        """Return whether reading these blocks is faster than computing their tokens, by the rates measured so far."""
        counters = self._store.counters
        rate = self._scheduler.prefill_rate(running.sequence.model_id)
        cold = [block for block in cold if block.block_hash not in running.from_peers]
        if not rate or not counters.restored_bytes:
            return True
        restore_s = sum(block.num_bytes for block in cold) * counters.restore_s / counters.restored_bytes
        worth = restore_s <= sum(block.num_tokens for block in cold) / rate
        if not worth:
            # One slow moment of the disk must not count against it forever.
            counters.restore_s *= _SLOW_DISK_DECAY
        return worth
