"""What the cache was good for, counted since the start."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class CacheCounters:
    """Totals since the start."""

    hot_hit_tokens: int = 0
    warm_hit_tokens: int = 0
    computed_tokens: int = 0
    evictions: dict[str, int] = field(default_factory=dict)
    lost_blocks: int = 0
    restored_bytes: int = 0
    restore_s: float = 0.0
