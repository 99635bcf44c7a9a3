"""The hostfile in its two forms, and what is wrong with others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from semanticd.adapters.ranks.hosts import Hosts, read_hosts
from semanticd.domain.errors import ConfigurationError


def read(folder: Path, content: Any, *, ring_port: int = 9000) -> Hosts:
    file = folder / "hosts.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return read_hosts(file, ring_port=ring_port, join_port=8710)


def test_the_hostfile_of_mlx_launch_gives_each_rank_its_own_port(tmp_path: Path) -> None:
    hosts = [{"ssh": "mac-1", "ips": ["10.0.0.1"]}, {"ssh": "mac-2", "ips": ["10.0.0.2", "10.0.1.2"]}]
    expected = (("10.0.0.1:9000",), ("10.0.0.2:9001", "10.0.1.2:9001"))
    assert read(tmp_path, hosts).ring == expected
    whole = {"backend": "ring", "envs": [], "hosts": hosts}
    assert read(tmp_path, whole).ring == expected


def test_the_rings_own_form_names_ports(tmp_path: Path) -> None:
    hosts = read(tmp_path, [["127.0.0.1:5001"], ["127.0.0.2:5002"]])
    assert hosts.ring == (("127.0.0.1:5001",), ("127.0.0.2:5002",))
    assert (hosts.world_size, hosts.first_ip, hosts.ip(1)) == (2, "127.0.0.1", "127.0.0.2")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "cannot be used: it is not JSON (line 1, column 2"),
        ("[" * 100_000, "cannot be used"),
        ("", "it is empty"),
        (" \n", "it is empty"),
        ("# machines\n[]", "it is not JSON, which has no comments (line 1, column 1"),
        ('[["10.0.0.1:5000"], // mac-1\n["10.0.0.2:5000"]]', "it is not JSON, which has no comments"),
        ({}, "it has no list of machines"),
        ({"backend": "ring"}, "it has no list of machines"),
        ("7", "it has no list of machines"),
        ([], "names 0 machines"),
        ([{"ssh": "mac-1"}], "names are not resolved"),
        (
            [{"ssh": "mac-1", "ips": ["mac-1.local"]}],
            "'mac-1.local' is not an IP address, and host names are not",
        ),
        ([{"ssh": "mac-1", "ips": [1]}], "1 is not an IP address"),
        ([{"ssh": "mac-1", "ips": ["0.0.0.0"]}], "'0.0.0.0' is not the address of one machine"),
        ([["0.0.0.0:5000"], ["10.0.0.2:5000"]], "'0.0.0.0' is not the address of one machine"),
        ([["10.0.0.1:5000"], ["239.1.2.3:5000"]], "'239.1.2.3' is not the address of one machine"),
        ([["10.0.0.1:5000"], ["255.255.255.255:5000"]], "is not the address of one machine"),
        ([["[::1]:5000"]], "MLX's ring takes IPv4 addresses only"),
        ([{"ssh": "mac-1", "ips": ["::"]}], "MLX's ring takes IPv4 addresses only"),
        ([["10.0.0.1:5000"], ["10.0.0.1:8710"]], "10.0.0.1:8710, where workers join"),
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


def test_bytes_that_are_not_text_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "hosts.json"
    file.write_bytes(b'[["10.0.0.1:5000\xff"]]')
    with pytest.raises(ConfigurationError, match="is not text in UTF-8"):
        read_hosts(file, ring_port=9000, join_port=8710)


def test_ring_ports_that_are_not_there_or_taken_by_joining_are_refused(tmp_path: Path) -> None:
    hosts = [{"ssh": f"mac-{rank}", "ips": ["10.0.0.1"]} for rank in range(3)]
    with pytest.raises(ConfigurationError, match=r"port 65536 \(SEMANTIC_DISTRIBUTED_RING_PORT\)"):
        read(tmp_path, hosts, ring_port=65534)
    for ring_port in (8708, 8709, 8710):
        with pytest.raises(ConfigurationError, match="where workers join"):
            read(tmp_path, hosts, ring_port=ring_port)
    assert read(tmp_path, hosts, ring_port=8711).world_size == 3


def test_the_join_port_may_be_used_on_other_machines(tmp_path: Path) -> None:
    assert read(tmp_path, [["10.0.0.1:5000"], ["10.0.0.2:8710"]]).world_size == 2


def test_a_hostfile_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"absent\.json"):
        read_hosts(tmp_path / "absent.json", ring_port=9000, join_port=8710)
