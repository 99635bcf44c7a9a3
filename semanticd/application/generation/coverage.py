"""Location of a prompt's tokens: in RAM, on this disk, at peers, or nowhere. Nothing is read but indexes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from semanticd.application.cache.agent_cache_store import AgentCacheStore
from semanticd.application.engine.peer_lookup import question_about
from semanticd.application.services.model_routing import ModelRouting
from semanticd.domain.block_tree import OfferedBlocks, fitting_blocks
from semanticd.domain.model_cache_spec import ModelCacheSpec


@dataclass(frozen=True, slots=True)
class PrefixCoverage:
    """Tokens of a prompt by where they lie."""

    prompt_tokens: int
    hot_tokens: int = 0
    warm_tokens: int = 0
    peer_tokens: int = 0

    @property
    def missing_tokens(self) -> int:
        """Tokens that are to be computed."""
        return self.prompt_tokens - self.hot_tokens - self.warm_tokens - self.peer_tokens


class Coverage(Protocol):
    """Port that locates cached tokens; `CoverageService` below implements it."""

    async def of(self, model: str, token_ids: tuple[int, ...]) -> PrefixCoverage:
        """Return where these tokens of a prompt lie, below the root that all agents share."""


class CoverageService:
    """Looks in the cache store, and asks peers where a block's worth is missing."""

    def __init__(self, *, routing: ModelRouting, store: AgentCacheStore) -> None:
        self._routing = routing
        self._store = store

    async def of(self, model: str, token_ids: tuple[int, ...]) -> PrefixCoverage:
        """Return where these tokens lie; see the protocol."""
        async with self._routing.lease(model) as loaded:
            spec = loaded.runner.spec
            found = await asyncio.to_thread(self._look, spec, token_ids, None)
            peers = self._store.peers
            if peers is None or found.missing_tokens <= spec.block_tokens:
                return found
            offers = await asyncio.wrap_future(peers.look_up(question_about(token_ids, spec)))
            offered = await asyncio.to_thread(fitting_blocks, offers, tree=spec, token_ids=token_ids)
            return await asyncio.to_thread(self._look, spec, token_ids, offered) if offered else found

    def _look(
        self, spec: ModelCacheSpec, token_ids: tuple[int, ...], offered: OfferedBlocks | None
    ) -> PrefixCoverage:
        store = self._store
        match = store.match(
            spec,
            token_ids,
            limit=max(len(token_ids) - 1, 0),
            chain=spec.chain(token_ids),
            offered=offered,
        )
        tokens = {"hot": 0, "warm": 0, "peer": 0}
        for one in match.blocks:
            name = one.block.block_hash
            at_peer = offered is not None and offered.by_name.get(name) is one.block
            tokens["hot" if store.is_hot(name) else "peer" if at_peer else "warm"] += one.num_tokens
        return PrefixCoverage(len(token_ids), tokens["hot"], tokens["warm"], tokens["peer"])
