"""How long prefill chunks are, by table."""

from __future__ import annotations

import random

import pytest

from semanticd.domain.chunk_policy import (
    ATTENTION_BYTES,
    FIRST_TOKENS,
    ChunkLimits,
    ChunkRates,
    ChunkTraits,
    Company,
    attention_limit,
    chunk_tokens,
    experts_floor,
)

LIMITS = ChunkLimits(most=2048, least=16, max_stall_s=0.3)
LONG = 100_000
DENSE = ChunkTraits()
QWEN3_NEXT = ChunkTraits(min_tokens=205, score_bytes=16 * 2)
QWEN3_30B = ChunkTraits(min_tokens=64)


def known(speed: float, *, sizes: tuple[int, ...] = (16, 32, 64, 128, 256, 512, 1024, 2048)) -> ChunkRates:
    """Rates of a model that computes so many tokens a second in chunks of these sizes."""
    rates = ChunkRates()
    for size in sizes:
        rates.record(size, size / speed)
    return rates


def chunk(
    company: Company,
    rates: ChunkRates,
    *,
    traits: ChunkTraits = DENSE,
    limits: ChunkLimits = LIMITS,
    cached: int = 0,
    left: int = LONG,
    block: int = 256,
) -> int:
    return chunk_tokens(
        cached, left, company=company, limits=limits, rates=rates, traits=traits, block_tokens=block
    )


@pytest.mark.parametrize(
    ("experts", "chosen", "floor"),
    [
        (512, 10, 205),  # Qwen3-Next
        (256, 8, 128),  # Qwen3.5-35B-A3B
        (128, 8, 64),  # Qwen3-30B-A3B
        (64, 6, 43),  # DeepSeek-Coder-V2-Lite
        (8, 2, 16),  # Mixtral
        (0, 0, 0),
        (1, 1, 0),
        (64, 0, 0),
    ],
)
def test_each_expert_gets_four_tokens(experts: int, chosen: int, floor: int) -> None:
    assert experts_floor(experts, chosen) == floor


@pytest.mark.parametrize(
    ("speed", "traits", "alone", "waiting", "decoding"),
    [
        # speed: tokens per second; then the chunk alone, while others wait, and while others decode.
        (100, DENSE, 128, 128, 22),
        (700, DENSE, 512, 210, 157),
        (1000, DENSE, 768, 256, 224),
        (5000, DENSE, 2048, 1280, 1024),
        (100, QWEN3_30B, 128, 128, 64),
        (700, QWEN3_NEXT, 512, 210, 205),
        (100, QWEN3_NEXT, 205, 205, 205),
    ],
)
def test_the_length_follows_from_speed_and_company(
    speed: float, traits: ChunkTraits, alone: int, waiting: int, decoding: int
) -> None:
    rates = known(speed)
    found = [chunk(company, rates, traits=traits) for company in ("alone", "waiting", "decoding")]
    assert found == [alone, waiting, decoding]


@pytest.mark.parametrize(
    ("company", "traits", "expected"),
    [
        ("alone", DENSE, FIRST_TOKENS),
        ("waiting", DENSE, FIRST_TOKENS),
        ("decoding", DENSE, 16),
        ("decoding", QWEN3_30B, 64),
        ("alone", ChunkTraits(min_tokens=300), 300),
    ],
)
def test_before_anything_is_measured_chunks_are_small(
    company: Company, traits: ChunkTraits, expected: int
) -> None:
    assert chunk(company, ChunkRates(), traits=traits) == expected


@pytest.mark.parametrize("company", ["alone", "waiting", "decoding"])
@pytest.mark.parametrize("cached", [0, 1000, 30_000, 200_000])
@pytest.mark.parametrize("heads", [8, 16, 64])
def test_scores_never_take_more_than_their_bytes(company: Company, cached: int, heads: int) -> None:
    traits = ChunkTraits(min_tokens=205, score_bytes=heads * 2)
    size = chunk(company, known(50_000), traits=traits, cached=cached)
    assert heads * 2 * size * (cached + size) <= ATTENTION_BYTES or size == 16
    # And no less than need be, but for the way back to a block boundary.
    limit = attention_limit(traits.score_bytes, cached)
    assert heads * 2 * (limit + 1) * (cached + limit + 1) > ATTENTION_BYTES
    assert size >= min(limit, 2048) // 2


def test_the_users_limit_binds_before_everything_else() -> None:
    limits = ChunkLimits(most=100, least=16, max_stall_s=0.3)
    for company in ("alone", "waiting", "decoding"):
        assert chunk(company, known(5000), traits=QWEN3_NEXT, limits=limits) == 100


@pytest.mark.parametrize(
    ("cached", "left", "expected"),
    [
        (0, LONG, 768),  # of the 1,000 that fit
        (100, LONG, 924),  # up to 1,024
        (0, 900, 900),  # the end of the prompt
        (0, 1000, 1000),
        (255, LONG, 769),
    ],
)
def test_a_chunk_ends_on_a_block_boundary_or_with_the_prompt(cached: int, left: int, expected: int) -> None:
    assert chunk("alone", known(1000), cached=cached, left=left) == expected


def test_a_chunk_is_not_halved_for_a_boundary_nor_brought_below_the_experts_floor() -> None:
    assert chunk("decoding", known(1000), cached=200) == 224, "the boundary is 56 tokens away"
    assert chunk("decoding", known(1000), cached=100) == 156, "the boundary is 156 tokens away"
    assert chunk("decoding", known(1000), cached=100, traits=QWEN3_NEXT) == 224


def test_small_chunks_do_not_condemn_large_ones() -> None:
    # Sixteen tokens take as long as 128 do: 0.1 s. One average of all would never leave the small ones.
    rates, sizes = ChunkRates(), []
    for _ in range(12):
        size = chunk("decoding", rates, cached=sum(sizes) % 1024)
        rates.record(size, max(0.1, size / 1280), num_cached=sum(sizes) % 1024)
        sizes.append(size)
    assert sizes[0] == 16
    assert sizes[-1] >= 200
    # Then the last few tokens of a prompt, many times: they show nothing about what fits.
    for _ in range(50):
        rates.record(20, 0.1)
    assert chunk("decoding", rates) >= 200


@pytest.mark.parametrize("order", ["ascending", "mixed", "deep first"])
def test_chunks_last_alike_at_all_positions(order: str) -> None:
    # From 4,000 tokens on, attention takes most of the time.
    def seconds(num_tokens: int, cached: int) -> float:
        return 0.01 + num_tokens * (1 + (cached + num_tokens / 2) / 4000) / 4000

    rates, generator = ChunkRates(), random.Random(7)
    positions = [generator.choice([0, 500, 2000, 8000, 30_000]) for _ in range(200)]
    if order == "ascending":
        positions = sorted(positions)
    elif order == "deep first":
        positions = [30_000] * 100 + positions
    lasted = []
    for cached in positions:
        size = chunk("decoding", rates, cached=cached)
        rates.record(size, seconds(size, cached), num_cached=cached)
        lasted.append(seconds(size, cached))
    assert max(lasted[20:]) <= 0.3, "max_stall_s"
    assert sum(lasted[-50:]) / 50 > 0.1, "small chunks cost throughput"


def test_a_slow_moment_rules_a_size_out_for_some_chunks_only() -> None:
    rates = known(1000)
    for _ in range(3):
        rates.record(1024, 10.0)
    assert chunk("alone", rates) == 512
    sizes = []
    for _ in range(40):
        sizes.append(chunk("alone", rates))
        rates.record(sizes[-1], sizes[-1] / 1000)
    assert sizes[-1] == 768


def test_alone_no_chunk_is_longer_than_what_the_machine_computes_fastest() -> None:
    rates = known(10_000)
    assert chunk("alone", rates, traits=ChunkTraits(best_tokens=512)) == 512
    assert chunk("alone", rates, traits=ChunkTraits(best_tokens=4096)) == 2048
    assert chunk("alone", rates, traits=ChunkTraits(best_tokens=16)) == 128
    assert chunk("alone", rates, traits=ChunkTraits(best_tokens=64, min_tokens=205)) >= 205
    # Beside others it is time that decides.
    beside = chunk("waiting", rates, traits=ChunkTraits(best_tokens=512))
    assert beside == chunk("waiting", rates)
