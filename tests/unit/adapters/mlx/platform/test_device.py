"""What is read of a device, and of how short of memory a system says it is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from semanticd.adapters.mlx.platform.device import (
    MlxMemory,
    cuda_pressure,
    group_pressure,
    linux_pressure,
    macos_pressure,
    macos_version,
    memory_of,
    ram_bytes,
    read_device,
)
from semanticd.domain.memory_plan import DeviceKind, Pressure, device_memory
from tests.fakes.telemetry import RecordingLog

GIB = 1 << 30

# What `device_info` gives: mlx/backend/{metal,cuda,cpu}/device_info.cpp.
METAL = {
    "device_name": "Apple M2",
    "architecture": "applegpu_g14g",
    "max_buffer_length": 9 * GIB,
    "max_recommended_working_set_size": 11_453_251_584,
    "memory_size": 16 * GIB,
    "resource_limit": 499_000,
}
CUDA = {"device_name": "a card", "architecture": "sm_90", "free_memory": 79 * GIB, "total_memory": 80 * GIB}
CPU = {"device_name": "AMD EPYC", "architecture": "x86_64"}


@pytest.mark.parametrize(
    ("kind", "info", "total", "working_set"),
    [
        ("metal", METAL, 16 * GIB, 11_453_251_584),
        ("metal", {}, 24 * GIB, 16 * GIB),
        ("cuda", CUDA, 80 * GIB, 72 * GIB),
        ("cpu", CPU, 24 * GIB, 16 * GIB),
    ],
)
def test_the_working_set_comes_from_the_device(
    kind: DeviceKind, info: dict[str, Any], total: int, working_set: int
) -> None:
    found = memory_of(kind, info, ram_bytes=24 * GIB)
    assert (found.kind, found.total_bytes, found.working_set_bytes) == (kind, total, working_set)


def test_this_machine_has_a_device_with_a_working_set() -> None:
    found = read_device()
    assert 0 < found.working_set_bytes <= found.total_bytes
    assert read_device(limit_bytes=2 * GIB).working_set_bytes == 2 * GIB


def test_a_containers_limit_is_the_ram(tmp_path: Path) -> None:
    own, groups = tmp_path / "own", tmp_path / "groups"
    (groups / "system" / "daemon").mkdir(parents=True)
    total = ram_bytes(groups, own)
    assert total > GIB, "without groups it is the machine's"
    own.write_text("0::/system/daemon\n")
    (groups / "system" / "daemon" / "memory.max").write_text("max\n")
    assert ram_bytes(groups, own) == total
    (groups / "system" / "memory.max").write_text("1073741824\n")
    assert ram_bytes(groups, own) == GIB, "a group around it counts too"
    (groups / "memory.max").write_text("536870912\n")
    assert ram_bytes(groups, own) == GIB // 2


@pytest.mark.parametrize(
    ("level", "expected"), [(1, "none"), (2, "warning"), (4, "critical"), (None, "none"), (77, "none")]
)
def test_macos_says_a_level(level: int | None, expected: Pressure) -> None:
    asked: list[str] = []

    def sysctl(name: str) -> int | None:
        asked.append(name)
        return level

    assert macos_pressure(sysctl) == expected
    assert asked == ["kern.memorystatus_vm_pressure_level"]


def test_a_system_without_that_number_is_not_short() -> None:
    # The real call, which on Linux finds no function, or no such name.
    assert macos_pressure() in ("none", "warning", "critical")
    assert (macos_version() is None) == (sys.platform != "darwin")


@pytest.mark.parametrize(
    ("some", "full", "free_share", "expected"),
    [
        (0.0, 0.0, 0.06, "none"),
        (0.0, 0.0, 0.04, "warning"),  # without swap there is no delay before the system kills a process
        (0.0, 0.0, 0.01, "critical"),
        (12.5, 1.0, 0.09, "warning"),
        (40.0, 8.0, 0.09, "critical"),
        (40.0, 8.0, 0.5, "none"),  # pages of files come and go: no budget is to blame
    ],
)
def test_linux_says_how_long_tasks_waited(
    some: float, full: float, free_share: float, expected: Pressure
) -> None:
    psi = (
        f"some avg10={some:.2f} avg60=1.00 avg300=0.10 total=12345\n"
        f"full avg10={full:.2f} avg60=0.00 avg300=0.00 total=123\n"
    )
    assert linux_pressure(psi, free_share=free_share) == expected


@pytest.mark.parametrize("psi", ["", "some\n", "some avg10=x avg60=1\nfull avg10=\n"])
def test_what_a_kernel_does_not_say_is_no_pressure(psi: str) -> None:
    assert linux_pressure(psi, free_share=0.09) == "none"


def group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / f"memory.{name}").write_text(f"{content}\n")


@pytest.mark.parametrize(
    ("used", "files", "stalled", "expected"),
    [
        (500, 0, 0, "none"),
        (970, 0, 0, "warning"),
        (990, 0, 0, "critical"),
        (990, 400, 0, "none"),  # pages of files are given up
        (930, 0, 20, "warning"),
        (930, 0, 0, "none"),
    ],
)
def test_a_container_is_short_before_its_limit_ends_the_process(
    tmp_path: Path, used: int, files: int, stalled: int, expected: Pressure
) -> None:
    own, groups = tmp_path / "own", tmp_path / "groups"
    own.write_text("0::/box/daemon\n")
    group(groups / "box" / "daemon", max="max", current=used)
    assert group_pressure(groups, own) == "none", "without a limit the machine's memory counts"
    psi = f"some avg10={stalled}.00 avg60=0.00 avg300=0.00 total=1"
    stat = f"anon 5\ninactive_file {files}\nactive_file 0\nfile_dirty x"
    group(groups / "box", max=1000, current=used, stat=stat, pressure=psi)
    assert group_pressure(groups, own) == expected


def test_a_group_that_says_little_is_not_short(tmp_path: Path) -> None:
    own, groups = tmp_path / "own", tmp_path / "groups"
    assert group_pressure(groups, own) == "none"
    own.write_text("0::/\n")
    group(groups, max=1000)
    assert group_pressure(groups, own) == "none"
    group(groups, max=0, current=0)
    assert group_pressure(groups, own) == "none"


@pytest.mark.parametrize(
    ("free_gb", "expected"), [(70.0, "none"), (3.9, "warning"), (1.5, "critical"), (0.0, "critical")]
)
def test_a_card_is_short_when_little_is_free(free_gb: float, expected: Pressure) -> None:
    assert cuda_pressure(int(free_gb * GIB), 80 * GIB) == expected


def test_a_probe_that_breaks_says_so_once_and_is_not_asked_again() -> None:
    log = RecordingLog()

    def broken() -> Pressure:
        raise OSError("no such file")

    memory = MlxMemory(device_memory("cpu", 24 * GIB), log=log, read=broken)
    assert [memory.pressure(), memory.pressure()] == ["none", "none"]
    assert log.events("warning") == ["memory_pressure_not_read"]


def test_on_a_cpu_nothing_is_wired_and_memory_is_given_back() -> None:
    log = RecordingLog()
    memory = MlxMemory(device_memory("cpu", 24 * GIB), log=log, wired=True)
    memory.keep_resident(5 * GIB)
    memory.give_back()
    assert memory.pressure() in ("none", "warning", "critical")
    assert memory.free_bytes() > 0
    assert log.lines == []
