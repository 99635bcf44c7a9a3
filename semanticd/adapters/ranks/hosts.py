"""Hosts: the machines that a model is spread over, from MLX's hostfile. The first one runs the daemon.

Two forms are read: what `mlx.launch` and `mlx.distributed_config` take, a list of `{"ssh": …, "ips": […]}` or an object
with such a list in `hosts`; and what the ring itself takes, a list of lists of `ip:port`. Names are not looked up, for
each machine might resolve them otherwise, and IPv6 is refused, for MLX's ring cannot parse it.
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
_MAX_PORT = 65_535
_BROADCAST = ipaddress.IPv4Address("255.255.255.255")
_FORM = 'it has the form [{"ssh": "mac-1", "ips": ["10.0.0.1"]}, {"ssh": "mac-2", "ips": ["10.0.0.2"]}]'


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
        return self.ring[rank][0].rpartition(":")[0]


def read_hosts(path: Path, *, ring_port: int, join_port: int) -> Hosts:
    """Read a hostfile; rank r of the first form listens on `ring_port` + r, and workers join on `join_port`.

    Raises:
        ConfigurationError: It cannot be read, is not a hostfile, or its addresses cannot be used.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"cannot read the hostfile {path}: {error.strerror or error}") from error
    if len(data) > _MAX_FILE_BYTES:
        raise ConfigurationError(f"the hostfile {path} has more than {_MAX_FILE_BYTES} bytes")
    try:
        hosts = _list_in(data)
        ring = tuple(_addresses(host, port=ring_port + rank) for rank, host in enumerate(hosts))
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigurationError(f"the hostfile {path} cannot be used: {error}; {_FORM}") from error
    if not 1 <= len(ring) <= LIMITS.ranks:
        raise ConfigurationError(
            f"the hostfile {path} names {len(ring)} machines; from 1 to {LIMITS.ranks} can share a model"
        )
    every = [address for addresses in ring for address in addresses]
    if len(set(every)) < len(every):
        raise ConfigurationError(f"the hostfile {path} names the same address and port twice")
    found = Hosts(ring)
    joining = f"{found.first_ip}:{join_port}"
    if joining in every:
        raise ConfigurationError(
            f"the hostfile {path} gives the ring of one machine {joining}, where workers join; choose another port for "
            "one of them (SEMANTIC_DISTRIBUTED_PORT, SEMANTIC_DISTRIBUTED_RING_PORT)"
        )
    return found


def _list_in(data: bytes) -> list[Any]:
    """Return the machines of a hostfile, as they are written."""
    if not data.strip():
        raise ValueError("it is empty")
    try:
        content = json.loads(data)
    except json.JSONDecodeError as error:
        hint = ", which has no comments" if error.doc[error.pos : error.pos + 1] in ("#", "/") else ""
        raise ValueError(
            f"it is not JSON{hint} (line {error.lineno}, column {error.colno}: {error.msg})"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError("it is not text in UTF-8") from error
    hosts = content.get("hosts") if isinstance(content, dict) else content
    if not isinstance(hosts, list):
        raise TypeError("it has no list of machines")
    return hosts


def _addresses(host: Any, *, port: int) -> tuple[str, ...]:
    if isinstance(host, dict):
        ips = host.get("ips")
        if not isinstance(ips, list) or not ips:
            raise ValueError(f"{host.get('ssh', 'a host')!r} has no `ips`, and host names are not resolved")
        if port > _MAX_PORT:
            raise ValueError(f"a machine's ring would need the port {port} (SEMANTIC_DISTRIBUTED_RING_PORT)")
        return tuple(f"{_ip(ip)}:{port}" for ip in ips)
    if isinstance(host, list) and host and all(isinstance(one, str) for one in host):
        return tuple(_checked(one) for one in host)
    raise TypeError(f"{str(host)[:80]} is not a host")


def _checked(address: str) -> str:
    ip, _, port = address.rpartition(":")
    if not port.isascii() or not port.isdecimal() or not 0 < int(port) <= _MAX_PORT:
        raise ValueError(f"{address!r} is not `ip:port`")
    return f"{_ip(ip)}:{int(port)}"


def _ip(text: object) -> str:
    """Return the address of one machine.

    Raises:
        ValueError: It is a name, or an address that no other machine can connect to, or MLX's ring cannot.
    """
    shown = repr(text)[:80]
    try:
        ip = ipaddress.ip_address(text.strip("[]") if isinstance(text, str) else "")
    except ValueError as error:
        raise ValueError(f"{shown} is not an IP address, and host names are not resolved") from error
    if ip.version == 6:
        raise ValueError(f"{shown} is an IPv6 address, and MLX's ring takes IPv4 addresses only")
    if ip.is_unspecified or ip.is_multicast or ip == _BROADCAST:
        raise ValueError(f"{shown} is not the address of one machine")
    return str(ip)
