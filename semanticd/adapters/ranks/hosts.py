"""Hosts: the machines that a model is spread over, from MLX's hostfile. The first one runs the daemon.

Two forms are read: what `mlx.launch` and `mlx.distributed_config` take, a list of `{"ssh": …, "ips": […]}` or an object
with such a list in `hosts`; and what the ring itself takes, a list of lists of `ip:port`. Names are not looked up here.
"""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semanticd.domain.errors import ConfigurationError
from semanticd.domain.limits import LIMITS

_MAX_FILE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Hosts:
    """The ranks' addresses: of each, those that its neighbours in the ring connect to (`ip:port`)."""

    ring: tuple[tuple[str, ...], ...]

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return len(self.ring)

    @property
    def first_ip(self) -> str:
        """Address of the daemon's machine."""
        return self.ip(0)

    def ip(self, rank: int) -> str:
        """Return the first address of a rank's machine, without the port."""
        return self.ring[rank][0].rpartition(":")[0].strip("[]")


def read_hosts(path: Path, *, ring_port: int) -> Hosts:
    """Read a hostfile; rank r of the first form listens on `ring_port` + r.

    Raises:
        ConfigurationError: It cannot be read, is no hostfile, or names no addresses.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"cannot read the hostfile {path}: {error.strerror or error}") from error
    if len(data) > _MAX_FILE_BYTES:
        raise ConfigurationError(f"the hostfile {path} has more than {_MAX_FILE_BYTES} bytes")
    try:
        content = json.loads(data)
        hosts = content["hosts"] if isinstance(content, dict) else content
        if not isinstance(hosts, list):
            raise TypeError("it is not a list of hosts")
        ring = tuple(_addresses(host, port=ring_port + rank) for rank, host in enumerate(hosts))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigurationError(
            f"the hostfile {path} cannot be used: {error}; it has the form "
            '[{"ssh": "mac-1", "ips": ["10.0.0.1"]}, {"ssh": "mac-2", "ips": ["10.0.0.2"]}]'
        ) from error
    if not 1 <= len(ring) <= LIMITS.ranks:
        raise ConfigurationError(
            f"the hostfile {path} names {len(ring)} machines; from 1 to {LIMITS.ranks} can share a model"
        )
    every = [address for addresses in ring for address in addresses]
    if len(set(every)) < len(every):
        raise ConfigurationError(f"the hostfile {path} names the same address and port twice")
    return Hosts(ring)


def _addresses(host: Any, *, port: int) -> tuple[str, ...]:
    if isinstance(host, dict):
        ips = host.get("ips")
        if not isinstance(ips, list) or not ips:
            raise ValueError(f"{host.get('ssh', 'a host')!r} has no `ips`, and host names are not resolved")
        return tuple(_with_port(str(ipaddress.ip_address(ip)), port) for ip in ips)
    if isinstance(host, list) and host and all(isinstance(one, str) for one in host):
        return tuple(_checked(one) for one in host)
    raise TypeError(f"{str(host)[:80]} is not a host")


def _checked(address: str) -> str:
    ip, _, port = address.rpartition(":")
    if not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"{address!r} is not `ip:port`")
    return _with_port(str(ipaddress.ip_address(ip.strip("[]"))), int(port))


def _with_port(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
