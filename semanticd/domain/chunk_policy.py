"""Number of prompt tokens that one step computes. Pure.

Limits, in the order they bind:

1. *Memory.* Attention that has no fused kernel writes scores of `heads x chunk x positions`: they stay below
   `ATTENTION_BYTES`, whatever else is wanted.
2. *Efficiency.* A step of a mixture of experts reads each expert that any token chose. With fewer than
   `TOKENS_PER_EXPERT` tokens an expert, kernels for vectors run in place of those for matrices, and each token costs
   several times as much. Alone, no more than the machine was measured to compute fastest.
3. *Time.* While others decode, a chunk is meant to last three quarters of `max_stall_s`; while others wait or are
   prefilled, `max_stall_s`; alone, a second. A request that arrives meanwhile waits for the end of this one chunk,
   and the next one is cut for both.
4. *Blocks.* A chunk ends on a block boundary where that takes less than half of it away: then all that it computed is
   published at once. A block that a chunk leaves unfinished is published with the next one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isqrt
from typing import Literal

Company = Literal["alone", "waiting", "decoding"]
"""Other requests: none; waiting or prefilling; decoding."""

FIRST_TOKENS = 256
"""The first chunk of a model while no other request waits: it shows how fast the next ones are."""
EFFICIENT_TOKENS = 128
"""Smaller chunks cost noticeably more a token; only decoding that must continue is worth that."""
TOKENS_PER_EXPERT = 4
ALONE_S = 1.0
MARGIN = 0.75
"""Share of `max_stall_s` that a chunk is meant to last; the rest is for preceding work, and for slower chunks."""
ATTENTION_BYTES = 512 << 20
"""Most that one layer's scores may take; twice as much is held while they become weights, see `RESERVE_BYTES`."""
_LEAST = 16
_CATCH_UP = 0.1
"""Share by which a size class moves towards the rate of a faster smaller one, at each chunk of that one."""
_FARTHER = 0.6
"""Expected factor of a rate when the cached tokens double, until it is measured there."""
_NEAR = 1024
"""Below so many positions attention takes a small part of the time."""


@dataclass(frozen=True, slots=True)
class ChunkTraits:
    """The effect of the chunk length on a model's layers."""

    min_tokens: int = 0
    """Tokens below which experts cost much more a token; 0: there are no experts, or they do not mind."""
    score_bytes: int = 0
    """Bytes of scores a pair of query and position, over the heads of a layer; 0: attention writes none."""
    best_tokens: int = 0
    """Tokens in one step that this machine computes fastest; alone, there are no more. 0: it was not measured."""


def experts_floor(num_experts: int, experts_per_token: int) -> int:
    """Return how many tokens give each expert `TOKENS_PER_EXPERT` of them on average; 0 without experts."""
    if num_experts <= 1 or experts_per_token <= 0:
        return 0
    return -(-TOKENS_PER_EXPERT * num_experts // experts_per_token)


def attention_limit(score_bytes: int, num_cached: int) -> int:
    """Return the most tokens whose scores over `num_cached` positions and themselves fit `ATTENTION_BYTES`."""
    pairs = ATTENTION_BYTES // score_bytes
    return max((isqrt(num_cached * num_cached + 4 * pairs) - num_cached) // 2, _LEAST)


@dataclass(slots=True)
class ChunkRates:
    """Measured speeds (tokens per second) by where a chunk ends and by its size.

    Sizes are classed as 17 to 32 tokens, 33 to 64, and so on: a chunk of 16 tokens costs nearly what one of 128 does,
    and says of larger ones only that they are not slower per token. Ends are classed as below 2,048, 2,048 to 4,095 and
    so on: attention makes tokens dearer the more of them are cached.
    """

    _rates: dict[int, dict[int, float]] = field(default_factory=dict)
    """Speeds by class of end, then by class of size."""

    def record(self, num_tokens: int, seconds: float, *, num_cached: int = 0) -> None:
        """Record the time of a chunk after `num_cached` tokens. Slow chunks have more weight than fast ones."""
        if seconds <= 0:
            return
        rates = self._rates.setdefault(_end_class(num_cached + num_tokens), {})
        size, speed = _size_class(num_tokens), num_tokens / seconds
        known = rates.get(size, speed)
        rates[size] = (known + speed) / 2 if speed < known else 0.7 * known + 0.3 * speed
        for larger, rate in rates.items():
            # One slow moment must not rule a size out forever: it would never be measured again.
            if larger > size and rate < rates[size]:
                rates[larger] += _CATCH_UP * (rates[size] - rate)

    def fitting(self, seconds: float, most: int, *, num_cached: int = 0) -> int:
        """Return how many tokens after `num_cached`, at most `most`, fit into this time; 0 if nothing was measured."""
        if not self._rates:
            return 0
        for size in range(_size_class(most), 0, -1):
            smallest, largest = (1 << (size - 1)) + 1, min(1 << size, most)
            speed = self._expected(_end_class(num_cached + largest), size)
            num_tokens = min(int(speed * seconds), largest)
            if num_tokens >= smallest:
                return num_tokens
        return 1

    def _expected(self, end: int, size: int) -> float:
        """Return a class's speed; where it was not measured, what others of its size or of its end say of it."""
        here = self._rates.get(end, {})
        if size in here:
            return here[size]
        smaller = [known for known in here if known < size]
        no_slower_than = here[max(smaller)] if smaller else 0.0
        before = max((known for known in self._rates if known < end), default=None)
        if before is not None:
            return max(self._expected(before, size) * _FARTHER ** (end - before), no_slower_than)
        if here:
            return no_slower_than or here[min(here)] / 2
        return self._expected(min(self._rates), size)


def _end_class(position: int) -> int:
    return max(position, _NEAR).bit_length()


def _size_class(num_tokens: int) -> int:
    return max(num_tokens - 1, 1).bit_length()


@dataclass(frozen=True, slots=True)
class ChunkLimits:
    """The settings that chunks obey: sizes in tokens, time in seconds."""

    most: int
    """More are never computed in one step."""
    least: int
    """Fewer are not worth a step, even while others decode."""
    max_stall_s: float


def chunk_tokens(
    num_cached: int,
    num_left: int,
    *,
    company: Company,
    limits: ChunkLimits,
    rates: ChunkRates,
    traits: ChunkTraits,
    block_tokens: int,
) -> int:
    """Return how many of the `num_left` tokens after `num_cached` the next step computes."""
    most = limits.most
    if traits.score_bytes:
        most = min(most, attention_limit(traits.score_bytes, num_cached))
    if company == "alone" and traits.best_tokens:
        most = min(most, max(traits.best_tokens, EFFICIENT_TOKENS, traits.min_tokens))
    if company == "decoding":
        least = max(limits.least, traits.min_tokens)
        wanted = rates.fitting(limits.max_stall_s * MARGIN, most, num_cached=num_cached) or least
    else:
        least = max(limits.least, EFFICIENT_TOKENS, traits.min_tokens)
        seconds = ALONE_S if company == "alone" else limits.max_stall_s
        wanted = rates.fitting(seconds, most, num_cached=num_cached) or FIRST_TOKENS
    wanted = min(max(wanted, least), most)
    if wanted >= num_left:
        return num_left
    return _aligned(num_cached, wanted, least=traits.min_tokens, block_tokens=block_tokens)


def _aligned(num_cached: int, wanted: int, *, least: int, block_tokens: int) -> int:
    """Return a chunk that ends on the last block boundary in reach, where that takes less than half of it away."""
    shorter = wanted - (num_cached + wanted) % block_tokens
    return shorter if shorter >= least and 2 * shorter > wanted else wanted
