"""AgentCache: the parts of the KV cache that the engine and the agents' use cases need together."""

from __future__ import annotations

from dataclasses import dataclass, field

from semanticd.application.cache.agent_cache_store import AgentCacheStore
from semanticd.application.cache.agent_tables import AgentTables
from semanticd.application.cache.earlier_answers import EarlierAnswers


@dataclass(frozen=True, slots=True)
class AgentCache:
    """The blocks of both tiers, the agents that hold them, and the agents' answers."""

    store: AgentCacheStore
    tables: AgentTables
    answers: EarlierAnswers = field(default_factory=EarlierAnswers)
