"""The cache's service over a few figures, for both edges: real code, no engine."""

from __future__ import annotations

from semanticd.application.ports.warm_store import ModelSize, VerifyReport
from semanticd.application.services.status_facts import (
    CacheFacts,
    CacheStats,
    ClearedCache,
    PrunedCache,
)
from semanticd.domain.block_pool import HotBlock
from semanticd.domain.ids import ModelFingerprint

CACHE = CacheFacts(
    budget_bytes=1 << 30,
    planned_bytes=1 << 30,
    running_bytes=0,
    hot_bytes=12345,
    pinned_bytes=0,
    dirty_bytes=0,
    in_flight_bytes=0,
    promised_bytes=0,
    free_bytes=(1 << 30) - 12345,
    text_bytes=0,
    num_hot_blocks=1,
    num_shared_blocks=0,
    warm_bytes=0,
    warm_cap_bytes=None,
    num_warm_blocks=0,
    num_quarantined=0,
    recovered_share=None,
    free_disk_bytes=50 << 30,
    disk_reserve_bytes=0,
    num_refused_blocks=0,
    written_today_bytes=0,
    write_budget_bytes=None,
    hot_hit_tokens=0,
    warm_hit_tokens=0,
    computed_tokens=0,
    evictions={},
    num_evictions=0,
    num_lost_blocks=0,
    num_skipped_blocks=0,
    num_unsaved_agents=0,
    num_unsaved_responses=0,
)


class FakeCache:
    """A cache of one hot block that remembers what it was asked to do."""

    def __init__(self) -> None:
        """Begin untouched."""
        self.told: list[tuple[str, object]] = []

    async def stats(self) -> CacheStats:
        """Return the figures."""
        return CacheStats(CACHE, (HotBlock("hot", 1, 12345),))

    async def verify(self, fix: bool = False) -> VerifyReport:
        """Remember `fix`."""
        self.told.append(("verify", fix))
        return VerifyReport(num_checked=3, num_broken=0, num_missing=0, num_orphaned=0)

    async def prune(self, target_bytes: int | None = None, *, dry_run: bool = False) -> PrunedCache:
        """Remember the target."""
        self.told.append(("would prune" if dry_run else "prune", target_bytes))
        return PrunedCache(2048)

    async def sizes(self) -> tuple[ModelSize, ...]:
        """Return two models."""
        return (
            ModelSize(ModelFingerprint("f-small"), "exact", 3, 3 << 20),
            ModelSize(ModelFingerprint("gone"), "q8", 1, 1 << 20),
        )

    async def clear(self) -> ClearedCache:
        """Remember it."""
        self.told.append(("clear", None))
        return ClearedCache(freed_hot_bytes=12345, freed_warm_bytes=0)
