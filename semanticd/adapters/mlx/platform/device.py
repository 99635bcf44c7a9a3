"""The device's memory: how much of it one process may use, how short the machine is of it, and what MLX may hold.

Sources: `mlx.core.device_info` (Metal: `max_recommended_working_set_size` and `memory_size`; CUDA: `total_memory` and
`free_memory`, read again at each call; CPU: nothing); sysctl `kern.memorystatus_vm_pressure_level` (1 normal, 2
warning, 4 critical; XNU's bsd/kern/kern_memorystatus_notify.c); Linux' Documentation/accounting/psi.rst and
Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from semanticd.adapters.mlx.platform.descriptors import import_mlx
from semanticd.adapters.mlx.platform.heap import give_back
from semanticd.application.ports.telemetry import Log
from semanticd.domain.memory_plan import DeviceKind, DeviceMemory, Pressure, device_memory, wired_bytes

_MACOS_LEVELS: Mapping[int, Pressure] = {1: "none", 2: "warning", 4: "critical"}
_PSI = Path("/proc/pressure/memory")
_STALLED_SOME, _STALLED_FULL = 10.0, 5.0
"""Percent of the last ten seconds in which some, or all, tasks waited for memory."""
_LITTLE_FREE = 0.1
"""Share of the memory: with more free than this, tasks wait for pages of files, and no budget is to blame."""
_FREE_WARNING, _FREE_CRITICAL = 0.05, 0.02
"""Share of a card's memory, or of RAM, that is free: below it is short, whatever a system says of tasks that wait. The
system ends a process without having let one wait, where nothing can be swapped."""
_LEVELS: Sequence[Pressure] = ("none", "warning", "critical")


def read_device(*, limit_bytes: int | None = None) -> DeviceMemory:
    """Return what MLX's default device lends this process. `limit_bytes`: the user's own figure.

    Raises:
        DaemonError: MLX, which this imports, is not installed, or has no back end here.
    """
    kind, mx = device_kind(), import_mlx()
    info: Mapping[str, str | int] = {} if kind == "cpu" else mx.device_info(mx.default_device())
    return memory_of(kind, info, ram_bytes=ram_bytes(), limit_bytes=limit_bytes)


def memory_of(
    kind: DeviceKind, info: Mapping[str, str | int], *, ram_bytes: int, limit_bytes: int | None = None
) -> DeviceMemory:
    """Return a device's memory from what MLX says of it, and the machine's RAM."""
    total = _number(info, "total_memory" if kind == "cuda" else "memory_size") or ram_bytes
    recommended = _number(info, "max_recommended_working_set_size") if kind == "metal" else None
    return device_memory(kind, total, recommended_bytes=recommended, limit_bytes=limit_bytes)


def device_kind() -> DeviceKind:
    """Return the kind of MLX's default device.

    Raises:
        DaemonError: MLX, which this imports, is not installed, or has no back end here.
    """
    core: object = import_mlx()
    if core.default_device() == core.Device(core.cpu):  # type: ignore[attr-defined]
        return "cpu"
    return "metal" if core.metal.is_available() else "cuda"  # type: ignore[attr-defined]


def _number(info: Mapping[str, str | int], key: str) -> int | None:
    value = info.get(key)
    return value if isinstance(value, int) and value > 0 else None


def ram_bytes(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Return the RAM that this process may use at most: the machine's, or its container's if that is less."""
    total = int(psutil.virtual_memory().total)
    limits = [limit for folder in _cgroup_folders(cgroups, own) if (limit := _limit(folder / "memory.max"))]
    return min([total, *limits])


def _cgroup_folders(cgroups: Path, own: Path) -> list[Path]:
    """Return the folders of this process's control group and of those around it; none without such groups."""
    text = _text(own)
    line = next((line for line in text.splitlines() if line.startswith("0::")), None)
    if line is None:
        return []
    folder = cgroups / line.removeprefix("0::").strip("/")
    return [one for one in (folder, *folder.parents) if one == cgroups or cgroups in one.parents]


def _limit(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def macos_version() -> tuple[int, ...] | None:
    """Return macOS's version, `(15, 2)`; None elsewhere."""
    if sys.platform != "darwin":
        return None
    return tuple(int(part) for part in platform.mac_ver()[0].split(".") if part.isdigit()) or None


# Pressure: a reader for each system.


def macos_pressure(sysctl: Callable[[str], int | None] | None = None) -> Pressure:
    """Return macOS's memory pressure; without an answer, nothing is short."""
    level = (sysctl or _sysctl_int)("kern.memorystatus_vm_pressure_level")
    return _MACOS_LEVELS.get(level or 1, "none")


def _sysctl_int(name: str) -> int | None:
    """Return a number of the kernel's; None where it has none of this name. See sysctlbyname(3)."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        value, size = ctypes.c_int(0), ctypes.c_size_t(ctypes.sizeof(ctypes.c_int))
        failed = libc.sysctlbyname(name.encode(), ctypes.byref(value), ctypes.byref(size), None, 0)
    except (OSError, AttributeError):
        return None
    return None if failed else value.value


def linux_pressure(psi: str, *, free_share: float) -> Pressure:
    """Return how short memory is, from a text as `/proc/pressure/memory` has it and the share that is available."""
    if free_share >= _LITTLE_FREE:
        return "none"
    some, full = _stalled(psi, "some"), _stalled(psi, "full")
    if full >= _STALLED_FULL or free_share < _FREE_CRITICAL:
        return "critical"
    return "warning" if some >= _STALLED_SOME or free_share < _FREE_WARNING else "none"


def group_pressure(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Pressure:
    """Return how short this process's control group, or one around it, is of the memory that it may use."""
    worst: Pressure = "none"
    for folder in _cgroup_folders(cgroups, own):
        limit = _limit(folder / "memory.max")
        used = _limit(folder / "memory.current")
        if not limit or used is None:
            continue
        # Pages of files count as used, and are given up when they are wanted.
        left = limit - used
        if left < limit * _LITTLE_FREE:
            left += _file_bytes(_text(folder / "memory.stat"))
        found = linux_pressure(_text(folder / "memory.pressure"), free_share=left / limit)
        worst = max(worst, found, key=_LEVELS.index)
    return worst


def _file_bytes(stat: str) -> int:
    """Return the bytes of files' pages that a group holds: `inactive_file 4096`."""
    words = [line.split() for line in stat.splitlines()]
    found = [line[1] for line in words if len(line) == 2 and line[0] in ("inactive_file", "active_file")]
    return sum(int(number) for number in found if number.isdigit())


def _stalled(psi: str, kind: str) -> float:
    """Return the percentage of the last ten seconds: `some avg10=0.12 avg60=…`."""
    line = next((line for line in psi.splitlines() if line.startswith(f"{kind} ")), "")
    value = next((word.removeprefix("avg10=") for word in line.split() if word.startswith("avg10=")), "0")
    try:
        return float(value)
    except ValueError:
        return 0.0


def cuda_pressure(free_bytes: int, total_bytes: int) -> Pressure:
    """Return how short a card is of memory."""
    share = free_bytes / max(total_bytes, 1)
    if share < _FREE_CRITICAL:
        return "critical"
    return "warning" if share < _FREE_WARNING else "none"


@dataclass(slots=True)
class _CardMemory:
    """A card's free memory as it was last read, on the engine thread."""

    free_bytes: int


class MlxMemory:
    """The memory of MLX's device; see the port `MachineMemory`."""

    def __init__(
        self,
        device: DeviceMemory,
        *,
        log: Log,
        wired: bool | None = None,
        read: Callable[[], Pressure] | None = None,
    ) -> None:
        """Look after this device; `wired` is the user's setting, `read` replaces what the system says."""
        self._device = device
        self._log = log
        self._wired = wired
        self._read = read or self._system_pressure
        self._resident_bytes = 0
        self._card = _CardMemory(device.total_bytes)

    def pressure(self) -> Pressure:
        """Return how short the machine is of memory."""
        try:
            return self._read()
        except Exception as error:  # noqa: BLE001 (a property that the system does not report must not stop the start)
            self._log.warning("memory_pressure_not_read", reason=repr(error))
            self._read = lambda: "none"
            return "none"

    def _system_pressure(self) -> Pressure:
        if self._device.kind == "cuda":
            return self._card_pressure()
        if sys.platform == "darwin":
            return macos_pressure()
        memory = psutil.virtual_memory()
        share = memory.available / memory.total
        machines = linux_pressure(_text(_PSI) if share < _LITTLE_FREE else "", free_share=share)
        return max(machines, group_pressure(), key=_LEVELS.index)

    def _card_pressure(self) -> Pressure:
        import mlx.core as mx

        info: Mapping[str, str | int] = mx.device_info(mx.default_device())
        free = _number(info, "free_memory")
        if free is None:
            return "none"
        self._card.free_bytes = free + mx.get_cache_memory()
        return cuda_pressure(self._card.free_bytes, self._device.total_bytes)

    def free_bytes(self) -> int:
        """Return the bytes that can be allocated now without swapping; for a card, its last known free memory."""
        if self._device.kind == "cuda":
            return self._card.free_bytes
        return int(psutil.virtual_memory().available)

    def give_back(self) -> None:
        """Empty MLX's cache of freed buffers, and the C library's free memory."""
        import mlx.core as mx

        try:
            mx.clear_cache()
        except RuntimeError as error:
            self._log.warning("buffers_not_given_back", reason=repr(error))
        give_back()

    def keep_resident(self, weights_bytes: int) -> None:
        """Set MLX's wired limit to the weights, where `wired_bytes` says so; buffers enter it as they are allocated."""
        wanted = wired_bytes(self._device, weights_bytes, macos=macos_version(), wanted=self._wired)
        if wanted == self._resident_bytes:
            return
        import mlx.core as mx

        try:
            mx.set_wired_limit(wanted)
        except (RuntimeError, ValueError) as error:
            self._log.warning("weights_not_wired", num_bytes=wanted, reason=repr(error))
        else:
            self._log.info("weights_wired", num_bytes=wanted)
        self._resident_bytes = wanted
