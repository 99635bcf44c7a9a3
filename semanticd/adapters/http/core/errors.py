"""One table from the domain's errors to the answers of each dialect's original service.

A leaf of the error tree finds its row through its nearest mapped ancestor; a test walks the tree. Bodies:

- Anthropic: `{"type": "error", "error": {"type", "message"}, "request_id"}`
- Ollama: `{"error": "message"}`
- OpenAI (also the agent API, admin and everything else): `{"error": {"message", "type", "param", "code"}}`
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from semanticd.domain import errors as domain

Dialect = Literal["anthropic", "openai", "ollama"]


class HttpOnlyError(domain.InvalidRequestError):
    """A mistake that exists only on the wire; it never reaches the application."""

    code = "bad_request"


class RouteNotFoundError(HttpOnlyError):
    """No resource lives at this path."""

    code = "unknown_url"


class InvalidPathError(HttpOnlyError):
    """The path is not spelled the one way that it has."""

    code = "invalid_path"


class InvalidHttpError(HttpOnlyError):
    """The received bytes are not valid HTTP, or two parsers may read them differently."""

    code = "invalid_http"


class HttpVersionError(HttpOnlyError):
    """The request names a version of HTTP that is not spoken here."""

    code = "unsupported_http_version"


class MethodNotAllowedError(HttpOnlyError):
    """The resource exists, but not for this method."""

    code = "method_not_allowed"


class SlowBodyError(HttpOnlyError):
    """The body did not arrive in time."""

    code = "request_timeout"


class MediaTypeError(HttpOnlyError):
    """The body is not declared as JSON."""

    code = "unsupported_media_type"


class HeadersTooLargeError(HttpOnlyError):
    """The request's headers are larger than the limit."""

    code = "headers_too_large"


@dataclass(frozen=True, slots=True)
class Row:
    """Response to one kind of error; `retry` is sent to SDKs in `x-should-retry` unless None."""

    status: int
    anthropic: str
    openai: str
    openai_status: int | None = None
    code: str | None = None
    retry: bool | None = None


_INVALID = "invalid_request_error"

TABLE: Mapping[type[domain.SemanticError], Row] = {
    domain.SemanticError: Row(500, "api_error", "server_error"),
    domain.InvalidRequestError: Row(400, _INVALID, _INVALID),
    domain.PromptTooLongError: Row(400, _INVALID, _INVALID, code="context_length_exceeded"),
    domain.UnsupportedError: Row(400, _INVALID, _INVALID),
    domain.RequestTooLargeError: Row(413, "request_too_large", _INVALID),
    HttpOnlyError: Row(400, _INVALID, _INVALID),
    RouteNotFoundError: Row(404, "not_found_error", _INVALID),
    InvalidPathError: Row(400, _INVALID, _INVALID),
    InvalidHttpError: Row(400, _INVALID, _INVALID),
    # Not 505: the mistake is the client's, and a 5xx counts as a failure of this server.
    HttpVersionError: Row(400, _INVALID, _INVALID),
    MethodNotAllowedError: Row(405, _INVALID, _INVALID),
    SlowBodyError: Row(408, "timeout_error", _INVALID, retry=False),
    MediaTypeError: Row(415, _INVALID, _INVALID),
    HeadersTooLargeError: Row(431, _INVALID, _INVALID),
    domain.AuthenticationError: Row(401, "authentication_error", _INVALID, code="invalid_api_key"),
    domain.PermissionDeniedError: Row(403, "permission_error", "permission_error"),
    domain.NotFoundError: Row(404, "not_found_error", _INVALID),
    domain.ConflictError: Row(409, _INVALID, _INVALID, retry=False),
    domain.OverloadedError: Row(529, "overloaded_error", "server_error", openai_status=503, retry=True),
    domain.RateLimitedError: Row(429, "rate_limit_error", "requests", code="rate_limit_exceeded", retry=True),
    domain.CancelledByCallerError: Row(409, "api_error", "server_error", retry=False),
    domain.ModelError: Row(503, "api_error", "server_error", retry=False),
    domain.BrokenModelError: Row(400, _INVALID, _INVALID),
    domain.ModelTooLargeError: Row(400, _INVALID, _INVALID),
    domain.CacheError: Row(500, "api_error", "server_error", retry=False),
    domain.StorageFullError: Row(507, "api_error", "server_error", retry=False),
    domain.AgentExportError: Row(400, _INVALID, _INVALID),
    domain.EngineError: Row(500, "api_error", "server_error"),
    domain.ConfigurationError: Row(500, "api_error", "server_error", retry=False),
    domain.DaemonError: Row(503, "api_error", "server_error", retry=False),
}

UNEXPECTED = domain.SemanticError(
    "answering the request failed because of a bug in the server; its log names it by the request id"
)
"""The answer for an unexpected exception; details stay in the log."""

RESTART = domain.RestartNeededError(
    "a part of the server could not be loaded: restart the daemon, its files changed since it started "
    "(`semanticd restart`)"
)
"""The answer where an import failed: all that a request needs was there when the daemon started."""

TOO_DEEP = domain.InvalidRequestError("the request is nested too deeply to be translated")
"""The message where Python's stack ended: only what a request brings is nested, and sent again it fails again."""


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """A finished answer: status, extra headers, and a body ready to be encoded."""

    status: int
    headers: Mapping[str, str]
    body: dict[str, Any]


def dialect_of(route: str, *, anthropic_version: str | None) -> Dialect:
    """Return whose error shape a client of this route (its template, or `other`) expects."""
    if route.startswith("/v1/messages"):
        return "anthropic"
    if route.startswith("/api/"):
        return "ollama"
    if anthropic_version is not None and (route.startswith("/v1/models") or route == "other"):
        return "anthropic"
    return "openai"


def row_for(error: BaseException) -> Row:
    """Return the table's row for an error, by its nearest mapped class."""
    for cls in type(error).__mro__:
        row = TABLE.get(cls)
        if row is not None:
            return row
    return TABLE[domain.SemanticError]


def foreseen(error: BaseException) -> domain.SemanticError:
    """Return the error itself if it is ours, else the one that hides the details."""
    if isinstance(error, RecursionError):
        return TOO_DEEP
    if isinstance(error, ImportError):
        return RESTART
    return error if isinstance(error, domain.SemanticError) else UNEXPECTED


def answer(error: BaseException, dialect: Dialect, *, request_id: str) -> ErrorAnswer:
    """Translate an error into a dialect's complete answer."""
    known = foreseen(error)
    row = row_for(known)
    status = row.status
    if dialect != "anthropic" and row.openai_status is not None:
        status = row.openai_status
    headers: dict[str, str] = {}
    if row.retry is not None:
        headers["x-should-retry"] = "true" if row.retry else "false"
    if isinstance(known, domain.OverloadedError):
        headers["retry-after"] = str(max(1, math.ceil(known.retry_after_s)))
        headers["retry-after-ms"] = str(max(1, math.ceil(known.retry_after_s * 1000)))
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    return ErrorAnswer(status, headers, body(known, dialect, request_id=request_id))


def body(error: domain.SemanticError, dialect: Dialect, *, request_id: str) -> dict[str, Any]:
    """Return the error body, which is also the payload of an error event inside a stream."""
    row = row_for(error)
    if dialect == "anthropic":
        message = _with_param(error)
        return {
            "type": "error",
            "error": {"type": row.anthropic, "message": message},
            "request_id": request_id,
        }
    if dialect == "ollama":
        return {"error": _with_param(error)}
    return {
        "error": {
            "message": _openai_message(error),
            "type": row.openai,
            "param": error.param,
            "code": row.code or error.code,
        }
    }


def _with_param(error: domain.SemanticError) -> str:
    # Coding agents match "prompt is too long: N tokens > M maximum" from the start of the message.
    if error.param is None or isinstance(error, domain.PromptTooLongError):
        return error.message
    if error.message.startswith(error.param):
        return error.message
    return f"{error.param}: {error.message}"


def _openai_message(error: domain.SemanticError) -> str:
    if isinstance(error, domain.PromptTooLongError):
        about = "at least about " if error.is_estimate else ""
        return (
            f"This model's maximum context length is {error.maximum} tokens. However, your messages resulted "
            f"in {about}{error.num_tokens} tokens. Please reduce the length of the messages. ({error.message})"
        )
    return _with_param(error)
