"""What `start` says of a daemon that other machines can reach."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import psutil
import pytest

from semanticd.entrypoints.cli.background import reachable_addresses

INTERFACES = {
    "lo": [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")],
    "eth0": [
        (socket.AF_INET, "192.168.1.5"),
        (socket.AF_INET6, "2001:db8::5"),
        (socket.AF_INET6, "fe80::1%eth0"),
    ],
}


@pytest.mark.parametrize(
    ("address", "reached"),
    [
        ("http://127.0.0.1:8000", []),
        ("http://localhost:8000", []),
        ("http://192.168.1.5:8000", ["http://192.168.1.5:8000"]),
        ("http://0.0.0.0:8000", ["http://192.168.1.5:8000"]),
        ("http://[::]:8000", ["http://192.168.1.5:8000", "http://[2001:db8::5]:8000"]),
    ],
)
def test_the_addresses_are_those_that_other_machines_can_use(
    monkeypatch: pytest.MonkeyPatch, address: str, reached: list[str]
) -> None:
    there = {
        name: [SimpleNamespace(family=family, address=one) for family, one in found]
        for name, found in INTERFACES.items()
    }
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: there)
    assert reachable_addresses(address) == reached
