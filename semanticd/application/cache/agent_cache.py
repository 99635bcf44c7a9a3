"""AgentCache: the parts of the KV cache that the engine and the agents' use cases need together."""

from __future__ import annotations

from dataclasses import dataclass

from semanticd.application.cache.agent_cache_store import AgentCacheStore
from semanticd.application.cache.agent_tables import AgentTables


@dataclass(frozen=True, slots=True)
class AgentCache:
    """The blocks of both tiers, and which agents hold them."""

    store: AgentCacheStore
    tables: AgentTables
