"""Start-up values of the HTTP edge, which reads no settings and no environment itself."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from semanticd.domain.limits import LIMITS

_MAX_PORT = 65_535
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """Limits, keys and names of the HTTP edge; seconds, bytes, requests per minute (0: no limit)."""

    api_keys: tuple[str, ...] = ()
    """Keys accepted as `Authorization: Bearer` or `x-api-key`; none: every client that can connect is answered."""
    admin_key: str | None = None
    """The `X-Admin-Key` of `/admin`; None: only from loopback, and only while no API key is set."""
    is_loopback: bool = True
    """Whether the server is bound to a loopback address only."""
    allowed_hosts: tuple[str, ...] = LOOPBACK_HOSTS
    """Names accepted in the Host header, without port (`*`: any); guards against DNS rebinding."""
    literal_hosts: bool = False
    """Whether any IP address is accepted in the Host header: a rebinding attack needs a name."""
    cors_origins: tuple[str, ...] = ()
    """Origins that browsers may call from (`*`: any); none: CORS is off."""
    max_body_bytes: int = LIMITS.body_bytes
    max_import_bytes: int = LIMITS.import_bytes
    """Limit for an uploaded agent export, which is streamed to disk."""
    max_nesting: int = LIMITS.nesting
    """Maximum nesting depth of JSON objects and arrays in a body."""
    max_messages: int = LIMITS.messages
    """Messages, input items or prompts in one request."""
    max_header_bytes: int = LIMITS.header_bytes
    body_timeout_s: float = LIMITS.body_timeout_s
    """A body that has not arrived whole after this time is refused with 408."""
    rate_limit_global: int = 0
    """Requests per minute and API key."""
    rate_limit_per_agent: int = 0
    """Requests per minute and agent."""
    model_patterns: tuple[str, ...] = ("default", "claude-*", "gpt-*", "haiku*", "sonnet*", "opus*")
    """Shell patterns of model names that stand for the current model, unless a model has this name."""
    ping_interval_s: float = 10.0
    """Silence in a stream after which a ping is sent."""
    strict: bool = False
    """Whether harmless deviations from a vendor's API are refused, as the vendor refuses them."""
    version: str = "0"
    """The daemon's version, shown in the OpenAPI document."""

    def admits_host(self, host: str) -> bool:
        """Return whether a Host header's value, with or without a port, is on the allow list."""
        if "*" in self.allowed_hosts:
            return True
        name, port = host.rsplit(":", 1) if _has_port(host) else (host, "")
        if not _is_port(port):
            return False
        if self.literal_hosts and _is_address(name):
            return True
        return name.lower().rstrip(".") in {allowed.lower() for allowed in self.allowed_hosts}


def _has_port(host: str) -> bool:
    return ":" in host and not host.endswith("]") and (host.startswith("[") or host.count(":") == 1)


def _is_port(port: str) -> bool:
    """Return whether a text is a valid port of a URL; an empty text is valid."""
    return not port or (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= _MAX_PORT)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
