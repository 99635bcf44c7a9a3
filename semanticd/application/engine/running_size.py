"""RunningSize: the bytes of a text's running cache alone in its batch, and their wording in a refusal.

A running cache has room for a multiple of `GROWTH_TOKENS`, so that a text takes more than its own tokens do.
"""

from __future__ import annotations

from dataclasses import dataclass

from semanticd.domain.decode_groups import GROWTH_TOKENS, capacity_for
from semanticd.domain.model_cache_spec import ModelCacheSpec
from semanticd.domain.size_text import at_least


@dataclass(frozen=True, slots=True)
class RunningSize:
    """The size of a running cache, in tokens and bytes."""

    room_tokens: int
    """Tokens that it has room for."""
    num_bytes: int

    def __str__(self) -> str:
        return (
            f"{at_least(self.num_bytes)} of KV cache (room for {self.room_tokens} tokens: it grows by "
            f"{GROWTH_TOKENS} at a time)"
        )


def running_size(spec: ModelCacheSpec, num_tokens: int) -> RunningSize:
    """Return the size in bytes of a running cache of this number of tokens."""
    room_tokens = capacity_for(num_tokens)
    return RunningSize(room_tokens, room_tokens * spec.running_bytes_per_token + spec.state_bytes)
