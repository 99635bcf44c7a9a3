"""The hostfile in its two forms, and what is wrong with others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from semanticd.adapters.ranks.hosts import Hosts, read_hosts
from semanticd.domain.errors import ConfigurationError


def read(folder: Path, content: Any) -> Hosts:
    file = folder / "hosts.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return read_hosts(file, ring_port=9000)


def test_the_hostfile_of_mlx_launch_gives_each_rank_its_own_port(tmp_path: Path) -> None:
    hosts = [{"ssh": "mac-1", "ips": ["10.0.0.1"]}, {"ssh": "mac-2", "ips": ["10.0.0.2", "10.0.1.2"]}]
    expected = (("10.0.0.1:9000",), ("10.0.0.2:9001", "10.0.1.2:9001"))
    assert read(tmp_path, hosts).ring == expected
    whole = {"backend": "ring", "envs": [], "hosts": hosts}
    assert read(tmp_path, whole).ring == expected


def test_the_rings_own_form_names_ports(tmp_path: Path) -> None:
    hosts = read(tmp_path, [["127.0.0.1:5001"], ["[::1]:5002"]])
    assert hosts.ring == (("127.0.0.1:5001",), ("[::1]:5002",))
    assert (hosts.world_size, hosts.first_ip, hosts.ip(1)) == (2, "127.0.0.1", "::1")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "cannot be used"),
        ("[" * 100_000, "cannot be used"),
        ({"backend": "ring"}, "'hosts'"),
        ([], "names 0 machines"),
        ([{"ssh": "mac-1"}], "names are not resolved"),
        ([{"ssh": "mac-1", "ips": ["mac-1.local"]}], "mac-1.local"),
        ([["10.0.0.1"]], "not `ip:port`"),
        ([["10.0.0.1:99999"]], "not `ip:port`"),
        (["10.0.0.1:5000"], "is not a host"),
        ([["10.0.0.1:5000"], ["10.0.0.1:5000"]], "twice"),
        ([[f"10.0.0.1:{5000 + rank}"] for rank in range(17)], "17 machines"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_no_hostfile_is_refused_with_the_reason(content: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"hosts\.json") as refused:
        read(tmp_path, content)
    assert reason in refused.value.message


def test_a_hostfile_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"absent\.json"):
        read_hosts(tmp_path / "absent.json", ring_port=9000)
