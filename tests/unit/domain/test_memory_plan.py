"""The memory plan, by table: machines times the registry's models times precisions."""

from __future__ import annotations

from pathlib import Path

import pytest

from semanticd.adapters.models.registry import ModelRegistry
from semanticd.domain.memory_plan import (
    DEFAULT_TOKENS,
    MIN_BUDGET_BYTES,
    MIN_TOKENS,
    RESERVE_BYTES,
    BudgetPlan,
    DeviceKind,
    DeviceMemory,
    ModelFootprint,
    Pressure,
    WeightRoom,
    buffer_cache_bytes,
    default_model,
    device_memory,
    fit,
    kv_budget,
    lowered,
    packed_on_cpu,
    raised,
    refusal,
    wired_bytes,
)

GIB = 1 << 30
MACHINES = (8, 16, 24, 32, 64, 128)


def _registry() -> dict[str, ModelFootprint]:
    def never(gguf: Path, folder: Path, **_: object) -> None:
        raise AssertionError("nothing is converted")

    known = ModelRegistry(Path("/nowhere"), convert_gguf=never).entries()
    return {one.name: one for entry in known if (one := entry.footprint()) is not None}


MODELS = _registry()

THOUSANDS: dict[str, tuple[int | None, ...]] = {
    # Thousands of tokens of exact KV on Macs with 8, 16, 24, 32, 64 and 128 GB; None: does not fit.
    "smollm2-135m": (170, 418, 667, 916, 2158, 4395),
    "deepseek-coder-v2-lite": (None, 37, 221, 405, 1325, 2982),
    "qwen3-8b": (None, 36, 75, 113, 308, 657),
    "qwen3-coder-30b": (None, None, None, 42, 334, 858),
    "llama-3.2-3b": (21, 71, 121, 170, 420, 870),
    "gemma-3-4b": (59, 339, 619, 898, 2296, 4813),
    "gemma-3-12b": (None, 38, 126, 213, 650, 1437),
    "gpt-oss-20b": (None, None, 145, 378, 1543, 3640),
    "qwen3.5-4b": (37, 212, 386, 561, 1435, 3008),
    "qwen3.5-9b": (None, 120, 295, 470, 1343, 2916),
    "qwen3-next-80b": (None, None, None, None, 213, 2310),
    "glm-4.7-flash": (None, None, None, 72, 600, 1552),
    "devstral-small-2": (None, None, 13, 48, 223, 537),
    "nemotron-3-nano-30b": (None, None, None, 586, 5247, 13635),
    "kimi-linear-48b": (None, None, None, None, 2782, 9174),
    "qwen3-embedding-0.6b": (33, 83, 133, 183, 433, 882),
}


def mac(gb: int, **more: int) -> DeviceMemory:
    return device_memory("metal", gb * GIB, **more)


def test_the_table_has_every_model_of_the_registry() -> None:
    assert set(THOUSANDS) == set(MODELS)


@pytest.mark.parametrize("name", sorted(THOUSANDS))
@pytest.mark.parametrize(("gb", "column"), [(gb, column) for column, gb in enumerate(MACHINES)])
def test_what_a_model_leaves_for_kv_on_a_machine(name: str, gb: int, column: int) -> None:
    found, expected = fit(mac(gb), MODELS[name]), THOUSANDS[name][column]
    tokens = found.tokens["exact"]
    assert found.fits == (expected is not None)
    assert tokens is not None
    if expected is not None:
        assert tokens // 1000 == expected
    # Of the same bytes, fewer bits keep more: 16 to 8.5, 6.5 and 4.5 bits a number.
    for precision, bits in (("q8", 8.5), ("q6", 6.5), ("q4", 4.5)):
        assert found.tokens[precision] == pytest.approx(tokens * 16 / bits, rel=0.001, abs=4)  # type: ignore[index]


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("gb", MACHINES)
def test_a_model_is_refused_if_and_only_if_it_does_not_fit(name: str, gb: int) -> None:
    device, model = mac(gb), MODELS[name]
    reason = refusal(device, model, list(MODELS.values()))
    assert (reason is None) == fit(device, model).fits
    if reason is not None:
        assert f"{model.weights_bytes / 1e9:.1f} GB for its weights" in reason
        assert f"lends {device.working_set_bytes / 1e9:.1f} GB of {device.total_bytes / 1e9:.1f} GB" in reason
        assert "would fit" in reason


@pytest.mark.parametrize("gb", MACHINES)
def test_the_nearest_model_that_fits_is_named_and_fits(gb: int) -> None:
    device = mac(gb)
    huge = ModelFootprint(name="huge", weights_bytes=400_000_000_000)
    reason = refusal(device, huge, list(MODELS.values()))
    assert reason is not None
    named = next(name for name in sorted(MODELS, key=len, reverse=True) if f"{name} (" in reason)
    fitting = [one for one in MODELS.values() if fit(device, one).fits]
    assert MODELS[named].weights_bytes == max(one.weights_bytes for one in fitting)


def test_a_model_in_16_bits_is_pointed_to_a_4_bit_conversion_of_it() -> None:
    wide = ModelFootprint(
        name="mine", weights_bytes=16_000_000_000, kv_bytes_per_token=147_456, weight_bits=16
    )
    reason = refusal(mac(16), wide, [])
    assert reason is not None
    assert "a 4-bit conversion of it (about 4.5 GB) would fit" in reason
    packed = ModelFootprint(name="mine", weights_bytes=16_000_000_000, weight_bits=4)
    reason = refusal(mac(16), packed, [])
    assert reason is not None
    assert "no model that is known by name fits" in reason


def test_models_that_stay_count_too() -> None:
    model = MODELS["deepseek-coder-v2-lite"]
    assert refusal(mac(16), model, []) is None
    reason = refusal(mac(16), model, [], beside_bytes=4_600_000_000)
    assert reason is not None
    assert "4.6 GB for the models that stay" in reason


@pytest.mark.parametrize(
    ("kind", "gb", "expected"),
    [
        ("metal", 8, "smollm2-135m"),
        ("metal", 16, "deepseek-coder-v2-lite"),
        ("metal", 24, "deepseek-coder-v2-lite"),
        ("metal", 32, "deepseek-coder-v2-lite"),
        ("metal", 64, "deepseek-coder-v2-lite"),
        ("metal", 128, "deepseek-coder-v2-lite"),
        ("cuda", 8, "smollm2-135m"),
        ("cuda", 10, "smollm2-135m"),
        ("cuda", 12, "deepseek-coder-v2-lite"),
        ("cuda", 16, "deepseek-coder-v2-lite"),
        ("cuda", 80, "deepseek-coder-v2-lite"),
        ("cpu", 24, "smollm2-135m"),
        ("cpu", 128, "smollm2-135m"),
    ],
)
def test_the_model_a_machine_starts_with(kind: DeviceKind, gb: int, expected: str) -> None:
    device = device_memory(kind, gb * GIB)
    assert default_model(device, MODELS.values()) == expected
    if kind != "cpu":
        assert (fit(device, MODELS[expected]).tokens["exact"] or 0) >= DEFAULT_TOKENS


def test_the_users_own_largest_fitting_model_is_the_default() -> None:
    own = ModelFootprint(
        name="own", weights_bytes=12_000_000_000, kv_bytes_per_token=24_576, recommended=True
    )
    assert default_model(mac(24), [*MODELS.values(), own]) == "own"
    assert default_model(mac(16), [*MODELS.values(), own]) == "deepseek-coder-v2-lite"


def test_a_machine_for_which_nothing_is_recommended_starts_with_the_smallest_model() -> None:
    plain = [ModelFootprint(name=name, weights_bytes=size) for name, size in (("large", 9), ("small", 2))]
    assert default_model(mac(8), plain) == "small"


def test_the_working_set_is_what_the_device_recommends_or_the_user_says() -> None:
    assert device_memory("metal", 16 * GIB).working_set_bytes == 16 * GIB * 2 // 3
    assert device_memory("metal", 64 * GIB).working_set_bytes == 48 * GIB
    assert device_memory("metal", 16 * GIB, recommended_bytes=11 * GIB).working_set_bytes == 11 * GIB
    assert device_memory("cuda", 20 * GIB).working_set_bytes == 18 * GIB
    assert device_memory("cpu", 24 * GIB).working_set_bytes == 16 * GIB
    assert mac(16, recommended_bytes=11 * GIB, limit_bytes=14 * GIB).working_set_bytes == 14 * GIB
    assert mac(16, limit_bytes=20 * GIB).working_set_bytes == 16 * GIB


def test_the_budget_is_what_weights_and_reserve_leave_and_never_nothing() -> None:
    device = mac(16)
    assert kv_budget(device, 8_800_000_000) == device.working_set_bytes - RESERVE_BYTES - 8_800_000_000
    assert kv_budget(device, device.total_bytes) == MIN_BUDGET_BYTES
    assert BudgetPlan(device, 1 << 30).budget_bytes(8_800_000_000) == 1 << 30
    assert BudgetPlan(device, None).budget_bytes(0) == device.room_bytes


def test_a_fixed_budget_bounds_the_tokens_and_no_models() -> None:
    found = fit(mac(16), MODELS["smollm2-135m"], budget_bytes=1 << 30)
    assert found.kv_bytes == 1 << 30
    assert found.fits
    assert found.tokens["exact"] == (1 << 30) // 23_040


def test_a_model_whose_shape_is_not_known_needs_room_all_the_same() -> None:
    unknown = ModelFootprint(name="unknown", weights_bytes=1_000_000_000)
    assert fit(mac(8), unknown).tokens == {"exact": None, "q8": None, "q6": None, "q4": None}
    assert fit(mac(8), unknown).fits
    assert not fit(mac(8, limit_bytes=2_700_000_000), unknown).fits


def test_exact_kv_is_float32_on_a_cpu() -> None:
    model = MODELS["smollm2-135m"]
    assert model.token_bytes("exact", kind="cpu") == 2 * 23_040
    assert model.token_bytes("exact", kind="metal") == 23_040
    assert model.needed_bytes("metal") == model.weights_bytes + MIN_TOKENS * 23_040


def test_weights_made_wider_leave_room_for_kv() -> None:
    device = device_memory("cpu", 24 * GIB)
    assert WeightRoom(device, lambda: 6 * GIB).available_bytes(None) == 6 * GIB
    widest = WeightRoom(device, lambda: 24 * GIB).available_bytes(None) * 2 // 3
    assert kv_budget(device, widest) >= 1_000_000_000
    small = device_memory("cpu", 24 * GIB, limit_bytes=2_700_000_000)
    assert (
        WeightRoom(small, lambda: 24 * GIB).available_bytes(None) * 2 // 3
        == small.room_bytes // 2
        == 600_000_000
    )


@pytest.mark.parametrize(("limit_mib", "is_wide"), [(2400, True), (2310, True), (2300, False), (1800, False)])
def test_weights_are_wide_rather_than_that_the_budget_lies_idle(limit_mib: int, is_wide: bool) -> None:
    model, wide = MODELS["smollm2-135m"], 538_000_000
    token = model.token_bytes("exact", kind="cpu")
    device = device_memory("cpu", 24 * GIB, limit_bytes=limit_mib << 20)
    room = WeightRoom(device, lambda: 20 * GIB)
    assert (wide <= room.available_bytes(token) * 2 // 3) is is_wide
    missing = room.missing_bytes(wide, token)
    assert (missing == 0) is is_wide
    # So much more is enough, and less is not.
    for more, is_enough in ((missing, True), (missing - 1_000_000, is_wide)):
        larger = WeightRoom(
            device_memory("cpu", 24 * GIB, limit_bytes=(limit_mib << 20) + more), lambda: 20 * GIB
        )
        assert (wide <= larger.available_bytes(token) * 2 // 3 + 1) is is_enough
        assert not is_enough or kv_budget(larger.device, wide) >= 2 * MIN_TOKENS * (token or 0) - 1_000_000
    short = WeightRoom(device_memory("cpu", 24 * GIB), lambda: 500_000_000)
    assert short.missing_bytes(wide, token) == 307_000_000
    assert "give it 293 MiB more" in packed_on_cpu(short.missing_bytes(wide, token))


@pytest.mark.parametrize(
    ("pressure", "used", "kept", "expected"),
    [
        ("none", 600, 0, 600),
        ("warning", 800, 0, 600),
        ("critical", 800, 0, 400),
        ("critical", 800, 700, 700),
        ("critical", 2000, 0, 500),
        ("critical", 800, 5000, 1000),
        ("critical", 10, 0, 128),
    ],
)
def test_a_budget_is_lowered_by_what_is_in_use(
    pressure: Pressure, used: int, kept: int, expected: int
) -> None:
    mib = 1 << 20
    found = lowered(
        pressure,
        budget_bytes=1000 * mib,
        planned_bytes=1024 * mib,
        used_bytes=used * mib,
        kept_bytes=kept * mib,
    )
    assert found == expected * mib


def test_a_lowered_budget_rises_to_the_planned_one_in_steps() -> None:
    steps = [500 * GIB]
    while steps[-1] < 1000 * GIB:
        steps.append(raised(steps[-1], planned_bytes=1000 * GIB))
    assert steps == [500 * GIB, 600 * GIB, 700 * GIB, 800 * GIB, 900 * GIB, 1000 * GIB]


@pytest.mark.parametrize(
    ("gb", "weights_gb", "macos", "wanted", "wired"),
    [
        (16, 8.8, (15, 0), None, True),  # 8.4 GB are left
        (16, 9.4, (15, 0), None, False),  # 7.8 GB are left
        (16, 9.4, (15, 0), True, True),
        (24, 8.8, (15, 0), None, True),
        (24, 8.8, (15, 0), False, False),
        (24, 8.8, (14, 7), None, False),
        (24, 8.8, (14, 7), True, False),
        (24, 8.8, None, None, False),
        (32, 24.0, (26, 1), None, False),
        (128, 90.0, (15, 2), None, False),
        (128, 80.0, (15, 2), None, True),
        (16, 12.0, (15, 0), True, False),  # more than the device recommends
    ],
)
def test_only_weights_are_wired_and_only_where_room_is_left(
    gb: int, weights_gb: float, macos: tuple[int, ...] | None, wanted: bool | None, wired: bool
) -> None:
    weights = int(weights_gb * 1e9)
    assert wired_bytes(mac(gb), weights, macos=macos, wanted=wanted) == (weights if wired else 0)


def test_nothing_is_wired_but_on_metal() -> None:
    for kind in ("cpu", "cuda"):
        assert wired_bytes(device_memory(kind, 64 * GIB), GIB, macos=(15,), wanted=True) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "gb", "budget_mb", "expected_mb"),
    [
        ("cpu", 24, 64, 2),
        ("cpu", 24, 4096, 128),
        ("cpu", 24, 65536, 256),
        ("metal", 8, 64, 256),
        ("metal", 16, 64, 341),
        ("metal", 64, 64, 1536),
        ("metal", 128, 64, 2048),
        ("cuda", 80, 64, 2048),
    ],
)
def test_the_buffer_cache_goes_by_the_machine(
    kind: DeviceKind, gb: int, budget_mb: int, expected_mb: int
) -> None:
    found = buffer_cache_bytes(device_memory(kind, gb * GIB), budget_bytes=budget_mb << 20)
    assert found >> 20 == expected_mb
