"""The memory plan: which models fit on a machine, the memory left for KV, and the derivation of each default. Pure.

```
working set (what the device lends one process)
  = weights of loaded models + reserve (daemon, buffers, what a step computes) + KV budget
```
A model fits if the budget that it leaves holds a conversation of `MIN_TOKENS`. Conversations run in the model's own
precision whatever they are stored in, so fewer bits for stored KV keep more conversations and make no model fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from semanticd.domain.model_cache_spec import StoragePrecision

DeviceKind = Literal["cpu", "metal", "cuda"]

RESERVE_BYTES = 1_500_000_000
"""For the daemon itself, freed buffers that are kept, and what a step computes."""
MIN_TOKENS = 4096
"""Tokens of KV that a model must leave room for."""
DEFAULT_TOKENS = 24_000
"""Tokens of KV that a machine's default model leaves room for: a coding agent's prompt and its first answers."""
DEFAULT_ROOM_BYTES = 8_000_000_000
"""Room for weights and KV below which the default is the smallest recommended model."""
MIN_BUDGET_BYTES = 16 << 20

_GIB = 1 << 30
_LARGE_MAC_BYTES = 36 * _GIB
_UNKNOWN_KV_BYTES = 512 << 20
"""Taken for `MIN_TOKENS` of KV where a model's shape is not known."""
_STORED_BITS: dict[StoragePrecision, float] = {
    "exact": 16.0,
    "q8": 8 + 32 / 64,
    "q6": 6 + 32 / 64,
    "q4": 4 + 32 / 64,
}
"""Bits of a stored number, of q6 8 for keys and 4 for values; fewer ones have a scale and an offset of 16 bits for
every 64 numbers."""
_PACKED_SHARE = 4.5 / 16
"""Size of 4-bit weights relative to 16-bit ones."""


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """A machine's memory as one process may use it, in bytes: all of it, and its working set."""

    kind: DeviceKind
    total_bytes: int
    """RAM; under CUDA the card's memory."""
    working_set_bytes: int
    """Memory limit of the whole process: weights, KV and everything else."""

    @property
    def room_bytes(self) -> int:
        """Memory limit of weights and KV together, in bytes."""
        return max(self.working_set_bytes - RESERVE_BYTES, 0)

    def times(self, number: int) -> DeviceMemory:
        """Return the memory of so many machines, as if each were like this one."""
        return replace(
            self,
            total_bytes=self.total_bytes * number,
            working_set_bytes=self.working_set_bytes * number,
        )


def device_memory(
    kind: DeviceKind,
    total_bytes: int,
    *,
    recommended_bytes: int | None = None,
    limit_bytes: int | None = None,
) -> DeviceMemory:
    """Return what one process may use of a machine.

    `recommended_bytes` is what a Metal device recommends, None: what such devices do by default (two thirds of up to
    36 GiB, three quarters of more). A CPU lends two thirds, a CUDA card nine tenths. `limit_bytes` is the user's own
    figure and replaces all of them, up to the total.
    """
    shares: dict[DeviceKind, int] = {
        "cpu": total_bytes * 2 // 3,
        "metal": total_bytes * 3 // 4 if total_bytes > _LARGE_MAC_BYTES else total_bytes * 2 // 3,
        "cuda": total_bytes * 9 // 10,
    }
    working_set = limit_bytes or recommended_bytes or shares[kind]
    return DeviceMemory(kind, total_bytes, min(working_set, total_bytes))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFootprint:
    """The memory of a model: bytes of its weights, and bytes of a token's KV in 16 bits (None: not known)."""

    name: str
    weights_bytes: int
    kv_bytes_per_token: int | None = None
    weight_bits: int | None = None
    """Bits of its matrices; None: not known."""
    recommended: bool = False
    """Whether a machine may choose it by itself."""

    def token_bytes(self, precision: StoragePrecision, *, kind: DeviceKind) -> int | None:
        """Return the bytes of a stored token; on a CPU weights, and so exact KV, are float32 mostly."""
        if self.kv_bytes_per_token is None:
            return None
        bits = 32.0 if kind == "cpu" and precision == "exact" else _STORED_BITS[precision]
        return int(self.kv_bytes_per_token * bits / 16)

    def needed_bytes(self, kind: DeviceKind) -> int:
        """Return its needs in addition to the reserve: its weights, and the shortest useful conversation."""
        token = self.token_bytes("exact", kind=kind)
        return self.weights_bytes + (_UNKNOWN_KV_BYTES if token is None else MIN_TOKENS * token)


@dataclass(frozen=True, slots=True)
class Fit:
    """The fit of a model on a machine: the bytes left for KV, and their tokens by storage precision."""

    model: ModelFootprint
    fits: bool
    kv_bytes: int
    tokens: dict[StoragePrecision, int | None]


def kv_budget(device: DeviceMemory, weights_bytes: int) -> int:
    """Return the bytes that are left for KV alongside loaded weights; a little where nothing is."""
    return max(device.room_bytes - weights_bytes, MIN_BUDGET_BYTES)


def fit(device: DeviceMemory, model: ModelFootprint, *, budget_bytes: int | None = None) -> Fit:
    """Return how a model fits if it is the only one; `budget_bytes` is the user's budget, if he set one."""
    left = max(device.room_bytes - model.weights_bytes, 0)
    kv_bytes = left if budget_bytes is None else min(left, budget_bytes)
    tokens: dict[StoragePrecision, int | None] = {}
    for precision in _STORED_BITS:
        cost = model.token_bytes(precision, kind=device.kind)
        tokens[precision] = None if cost is None else kv_bytes // max(cost, 1)
    return Fit(model, model.needed_bytes(device.kind) <= device.room_bytes, kv_bytes, tokens)


def default_model(device: DeviceMemory, models: Iterable[ModelFootprint]) -> str:
    """Return the model that a machine starts with: the largest recommended one that leaves `DEFAULT_TOKENS` of KV.

    A machine with little room, and a CPU, on which large models answer slowly, start with the smallest.
    """
    by_size = sorted(models, key=lambda one: one.weights_bytes)
    recommended = [one for one in by_size if one.recommended] or by_size
    if device.kind != "cpu" and device.room_bytes >= DEFAULT_ROOM_BYTES:
        for model in reversed(recommended):
            if (fit(device, model).tokens["exact"] or 0) >= DEFAULT_TOKENS:
                return model.name
    return recommended[0].name


def refusal(
    device: DeviceMemory, model: ModelFootprint, others: Sequence[ModelFootprint], *, beside_bytes: int = 0
) -> str | None:
    """Return why a model cannot be loaded alongside weights of `beside_bytes`; None if it can.

    The text has the numbers, what would fit instead (the largest of `others`), and what to do.
    """
    needed = model.needed_bytes(device.kind)
    if needed + beside_bytes <= device.room_bytes:
        return None
    parts = [f"{in_gb(model.weights_bytes)} for its weights", f"{in_gb(needed - model.weights_bytes)} for KV"]
    parts.append(f"{in_gb(RESERVE_BYTES)} of reserve")
    if beside_bytes:
        parts.append(f"{in_gb(beside_bytes)} for the models that stay")
    whole = needed + RESERVE_BYTES + beside_bytes
    return (
        f"model {model.name} does not fit: it needs {', '.join(parts)}, together {in_gb(whole)}, and this machine "
        f"lends {in_gb(device.working_set_bytes)} of {in_gb(device.total_bytes)}; {_instead(device, model, others)}; "
        "`semanticd models fit` lists what fits, SEMANTIC_MLX_MEMORY_MB sets another limit"
    )


def _instead(device: DeviceMemory, model: ModelFootprint, others: Sequence[ModelFootprint]) -> str:
    packed = int(model.weights_bytes * _PACKED_SHARE)
    smaller = ModelFootprint(
        name=model.name, weights_bytes=packed, kv_bytes_per_token=model.kv_bytes_per_token
    )
    fitting = [one for one in others if one.name != model.name and fit(device, one).fits]
    nearest = max(fitting, key=lambda one: one.weights_bytes, default=None)
    found = []
    if model.weight_bits is not None and model.weight_bits >= 16 and fit(device, smaller).fits:
        found.append(f"a 4-bit conversion of it (about {in_gb(packed)})")
    if nearest is not None:
        found.append(f"{nearest.name} ({in_gb(nearest.weights_bytes)})")
    return f"{' or '.join(found)} would fit" if found else "no model that is known by name fits"


def in_gb(num_bytes: int) -> str:
    """Return a size in decimal gigabytes: `8.8 GB`."""
    return f"{num_bytes / 1e9:.1f} GB"


# Pressure.


@dataclass(frozen=True, slots=True)
class BudgetPlan:
    """Basis of a KV budget: the user's figure, else the device and the loaded models."""

    device: DeviceMemory | None
    fixed_bytes: int | None

    def budget_bytes(self, weights_bytes: int) -> int:
        """Return the budget alongside loaded weights."""
        if self.fixed_bytes is not None:
            return self.fixed_bytes
        assert self.device is not None, "a budget is fixed or follows from a device"
        return kv_budget(self.device, weights_bytes)


Pressure = Literal["none", "warning", "critical"]
"""Shortage of memory on a machine."""

_LOWERED: dict[Pressure, float] = {"none": 1.0, "warning": 0.75, "critical": 0.5}
_RAISED_STEPS = 10


def lowered(
    pressure: Pressure, *, budget_bytes: int, planned_bytes: int, used_bytes: int, kept_bytes: int
) -> int:
    """Return a lower budget: three quarters of the used memory at a warning, half of it when memory has run out.

    `kept_bytes` stay, and an eighth of the planned budget does: others may be to blame, and requests need some.
    """
    least = max(kept_bytes, planned_bytes // 8)
    return min(max(int(min(used_bytes, budget_bytes) * _LOWERED[pressure]), least), budget_bytes)


def raised(budget_bytes: int, *, planned_bytes: int) -> int:
    """Return a lowered budget a step nearer to the planned one."""
    return min(budget_bytes + max(planned_bytes // _RAISED_STEPS, 1), planned_bytes)


# Reported about the memory that MLX holds.


_WIDE_KV_BYTES = 1_000_000_000
_WIDE_KV_TOKENS = 2 * MIN_TOKENS
"""KV that weights which are made wider leave room for: the smaller of the two, or half of the room."""


@dataclass(frozen=True, slots=True)
class WeightRoom:
    """Memory that weights converted to float32 (for a CPU) may use; reads the free memory each time.

    A token's KV takes `token_bytes` (None: not known). Weights that stay packed compute many times slower on a CPU, so
    they are wide rather than that much of the KV budget lies idle.
    """

    device: DeviceMemory
    free_bytes: Callable[[], int]

    def planned_bytes(self, token_bytes: int | None) -> int:
        """Return the bytes that wide weights may use by the plan, regardless of free memory."""
        room = self.device.room_bytes
        return max(room - self._kv_bytes(token_bytes), room // 2)

    def available_bytes(self, token_bytes: int | None) -> int:
        """Return the memory of which wide weights may take two thirds."""
        return min(self.free_bytes(), self.planned_bytes(token_bytes) * 3 // 2)

    def missing_bytes(self, wide_bytes: int, token_bytes: int | None) -> int:
        """Return how much more memory weights need that take `wide_bytes` when they are wide; 0: none."""
        room = wide_bytes + min(self._kv_bytes(token_bytes), wide_bytes)
        planned = room + RESERVE_BYTES - self.device.working_set_bytes
        return max(planned, wide_bytes * 3 // 2 - self.free_bytes(), 0)

    @staticmethod
    def _kv_bytes(token_bytes: int | None) -> int:
        return min(_WIDE_KV_BYTES, _WIDE_KV_TOKENS * token_bytes) if token_bytes else _WIDE_KV_BYTES


def packed_on_cpu(missing_bytes: int) -> str:
    """Return the warning about weights that stay packed on a CPU because this much memory is missing."""
    return (
        f"packed weights on the CPU compute many times slower: give it {-(-missing_bytes // (1 << 20))} MiB more "
        "(SEMANTIC_MLX_MEMORY_MB), or choose a smaller model"
    )


def wired_bytes(
    device: DeviceMemory, weights_bytes: int, *, macos: tuple[int, ...] | None, wanted: bool | None = None
) -> int:
    """Return how many bytes of weights to keep wired, that is, resident: all of them, or 0.

    Only weights are: wiring all that a device recommends has been linked to kernel panics. Only on macOS 15 or later,
    which has residency sets, and where max(8 GB, 35 % of the memory) is left to everything else; `wanted` overrides
    that last rule, True and False alike. More than the device recommends is refused by the library.
    """
    if device.kind != "metal" or macos is None or macos < (15,) or wanted is False:
        return 0
    left = device.total_bytes - weights_bytes
    roomy = left >= max(8_000_000_000, device.total_bytes * 35 // 100)
    return weights_bytes if (roomy or wanted) and weights_bytes <= device.working_set_bytes else 0


def buffer_cache_bytes(device: DeviceMemory, *, budget_bytes: int) -> int:
    """Return how many bytes of freed buffers MLX may keep: what a step of a long context frees and asks for again.

    A 32nd of the working set on a GPU, between 256 MiB and 2 GiB. On a CPU, which returns memory fast, a 32nd of
    the KV budget, and at most 256 MiB: with what the C library keeps it stays below a tenth of the budget.
    """
    if device.kind == "cpu":
        return min(budget_bytes // 32, 256 << 20)
    return min(max(device.working_set_bytes // 32, 256 << 20), 2 << 30)
