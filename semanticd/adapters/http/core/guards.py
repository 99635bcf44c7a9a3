"""Admission of requests: Host allow-list, origins, header size, keys, rate limits; decided before the body."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from semanticd.adapters.http.core.config import HttpConfig
from semanticd.adapters.http.core.errors import HeadersTooLargeError, HttpVersionError
from semanticd.adapters.http.core.rate_limit import RateLimiter
from semanticd.adapters.http.core.request_context import ANONYMOUS, RequestContext
from semanticd.adapters.http.core.routes import UNKNOWN
from semanticd.adapters.http.core.services import HttpServices
from semanticd.domain.errors import AuthenticationError, InvalidRequestError, PermissionDeniedError

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_HTTP_VERSIONS = ("1.0", "1.1", "2", "3")
"""HTTP versions that Falcon supports; for others it raises an error that would count as a bug."""
_ONE_VALUE = frozenset(
    (
        b"authorization",
        b"x-api-key",
        b"x-admin-key",
        b"origin",
        b"sec-fetch-site",
        b"x-session-id",
        b"content-type",
        b"content-encoding",
    )
)
"""Headers that decide how a request is handled; refused if repeated, for a proxy may have used the other value."""
_CORS_METHODS = b"GET, POST, DELETE, OPTIONS"
_CORS_EXPOSED = b"x-request-id, request-id, retry-after, x-semantic-cache, x-semantic-adjusted"

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class EarlyAnswer:
    """An answer that needs no resource."""

    status: int
    headers: Headers = field(default_factory=list)
    body: bytes = b""


def header(scope: Mapping[str, Any], name: bytes) -> str | None:
    """Return a request header by its lower-case name."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value).decode("latin-1")
    return None


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _matches(origin: str, pattern: str) -> bool:
    """Return whether an origin matches a pattern; only `*` is a wildcard, brackets and `?` are literal."""
    parts = (re.escape(part) for part in pattern.split("*"))
    return re.fullmatch(".*".join(parts), origin, re.DOTALL) is not None


class Guards:
    """Decides for each request whether it may continue, and which headers its answer gets."""

    def __init__(self, services: HttpServices, config: HttpConfig) -> None:
        """Guard according to the configuration; keys are kept as digests only."""
        self._config = config
        self._keys = tuple(_digest(key) for key in config.api_keys)
        self._admin_key = None if config.admin_key is None else _digest(config.admin_key)
        self._callers = RateLimiter(
            config.rate_limit_global, what="key", monotonic=services.monotonic, metrics=services.metrics
        )

    def admit(self, scope: Mapping[str, Any], exchange: RequestContext) -> EarlyAnswer | None:
        """Let a request pass (None), answer it at once, or raise the domain error that refuses it."""
        _check_version(scope)
        self._check_headers(scope)
        _check_single(scope)
        self._check_host(scope)
        origin = header(scope, b"origin")
        if origin is not None and scope["method"] == "OPTIONS" and self._allows_origin(origin):
            return self._preflight(scope)
        self._check_origin(scope, origin)
        if exchange.route.access != "open":
            self._check_site(scope, origin)
        route = exchange.route
        if route.access == "open":
            return None
        if route.access == "admin":
            self._check_admin(scope)
            exchange.caller = "admin"
            return None
        exchange.caller = self._check_key(scope)
        if route.access == "peer":
            self._check_peer(scope)
        if route.is_api or route is UNKNOWN:
            self._callers.admit(exchange.caller)
        return None

    def response_headers(self, scope: Mapping[str, Any]) -> Headers:
        """Return the headers that every answer to this request gets besides its ids."""
        headers: Headers = [(b"x-content-type-options", b"nosniff")]
        origin = header(scope, b"origin")
        if origin is not None and self._allows_origin(origin):
            headers += [
                (b"access-control-allow-origin", origin.encode("latin-1")),
                (b"access-control-expose-headers", _CORS_EXPOSED),
                (b"vary", b"Origin"),
            ]
        return headers

    def _check_headers(self, scope: Mapping[str, Any]) -> None:
        size = sum(len(name) + len(value) for name, value in scope["headers"])
        if size > self._config.max_header_bytes:
            raise HeadersTooLargeError(f"the headers exceed {self._config.max_header_bytes} bytes")

    def _check_host(self, scope: Mapping[str, Any]) -> None:
        host = header(scope, b"host")
        if not host:
            raise InvalidRequestError("the Host header is missing", param="Host")
        if not self._config.admits_host(host):
            raise PermissionDeniedError(
                f"this server does not answer for the host {host[:80]!r}; to allow it, add its name to "
                "SEMANTIC_SERVER_ALLOWED_HOSTS",
                param="Host",
            )

    def _allows_origin(self, origin: str) -> bool:
        return any(_matches(origin, pattern) for pattern in self._config.cors_origins)

    def _check_origin(self, scope: Mapping[str, Any], origin: str | None) -> None:
        # A page of another site may send some requests unasked; CORS only forbids to read their answers.
        if origin is None or scope["method"] in _SAFE_METHODS or self._allows_origin(origin):
            return
        if origin.split("://", 1)[-1] != header(scope, b"host"):
            raise PermissionDeniedError(
                f"pages from {origin[:80]!r} may not call this server; to allow them, add the origin to "
                "SEMANTIC_SERVER_CORS_ORIGINS",
                param="Origin",
            )

    def _check_site(self, scope: Mapping[str, Any], origin: str | None) -> None:
        # Browsers say so also where they send no Origin: a picture, a script, a link, a form that asks by GET.
        if header(scope, b"sec-fetch-site") != "cross-site":
            return
        if origin is None or not self._allows_origin(origin):
            raise PermissionDeniedError(
                "pages of other sites may not call this server; to allow one, add its origin to "
                "SEMANTIC_SERVER_CORS_ORIGINS",
                param="Sec-Fetch-Site",
            )

    def _preflight(self, scope: Mapping[str, Any]) -> EarlyAnswer:
        asked = header(scope, b"access-control-request-headers") or ""
        return EarlyAnswer(
            204,
            [
                (b"access-control-allow-methods", _CORS_METHODS),
                (b"access-control-allow-headers", asked.encode("latin-1")),
                (b"access-control-max-age", b"600"),
            ],
        )

    def _check_key(self, scope: Mapping[str, Any]) -> str:
        if not self._keys:
            return ANONYMOUS
        given = _given_keys(scope)
        if not given:
            raise AuthenticationError(
                "no API key was sent; send it as `Authorization: Bearer KEY` or `x-api-key: KEY`"
            )
        for key in given:
            digest = _digest(key)
            # All keys are compared, so that the time taken does not reveal which one was nearly right.
            if sum(hmac.compare_digest(digest, known) for known in self._keys):
                return f"key-{digest.hex()[:8]}"
        raise AuthenticationError("the API key is not one of this server's keys")

    def _check_peer(self, scope: Mapping[str, Any]) -> None:
        if not self._keys and not (self._config.is_loopback and _from_loopback(scope)):
            raise PermissionDeniedError(
                "no API key is configured; without one, blocks are shown on loopback only: set SEMANTIC_API_KEY"
            )

    def _check_admin(self, scope: Mapping[str, Any]) -> None:
        if self._admin_key is not None:
            given = header(scope, b"x-admin-key")
            if given is None:
                raise AuthenticationError("no admin key was sent; send it as `X-Admin-Key: KEY`")
            if not hmac.compare_digest(_digest(given), self._admin_key):
                raise AuthenticationError("the admin key is wrong")
            return
        if self._keys:
            raise PermissionDeniedError(
                "no admin key is configured; with API keys in use, /admin needs one of its own: set SEMANTIC_ADMIN_KEY"
            )
        if not self._config.is_loopback or not _from_loopback(scope):
            raise PermissionDeniedError(
                "no admin key is configured; without one, /admin answers on loopback only: set SEMANTIC_ADMIN_KEY"
            )


def _check_version(scope: Mapping[str, Any]) -> None:
    version = scope.get("http_version", "1.1")
    if version not in _HTTP_VERSIONS:
        raise HttpVersionError(f"HTTP/{version} is not supported; use HTTP/1.1")


def _check_single(scope: Mapping[str, Any]) -> None:
    seen: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in _ONE_VALUE and seen.setdefault(name, value) != value:
            shown = name.decode("ascii")
            raise InvalidRequestError("expected one value, got two different ones", param=shown)


def _given_keys(scope: Mapping[str, Any]) -> list[str]:
    given: list[str] = []
    scheme, _, token = (header(scope, b"authorization") or "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        given.append(token.strip())
    key = header(scope, b"x-api-key")
    if key:
        given.append(key.strip())
    return given


def _from_loopback(scope: Mapping[str, Any]) -> bool:
    client = scope.get("client")
    if not client:
        return True  # a Unix socket: its folder decides who may connect
    try:
        return ipaddress.ip_address(client[0]).is_loopback
    except ValueError:
        return False
