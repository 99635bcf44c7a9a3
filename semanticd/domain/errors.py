"""Everything that can go wrong, as one tree; each edge (HTTP dialects, control, CLI) translates it once.

```
SemanticError
├── InvalidRequestError          the caller's mistake; `param` names the field
│   ├── PromptTooLongError       more tokens than the model's context holds
│   ├── UnsupportedError         well-formed, but not something this server or model does
│   └── RequestTooLargeError     a body, or a request's KV cache, that can never fit
├── AuthenticationError          no key, or a wrong one
├── PermissionDeniedError        a good key, but not for this
├── NotFoundError
│   ├── AgentNotFoundError
│   ├── ModelNotFoundError
│   └── RequestNotFoundError
├── ConflictError                the state of things forbids it now (agent exists, model in use)
│   └── AgentBusyError           it answers another request
├── OverloadedError              try again later; `retry_after_s` says when
│   ├── QueueFullError
│   ├── RateLimitedError
│   ├── OutOfMemoryError
│   ├── RanksLostError           the machines that compute together lost one of them during this request
│   └── DrainingError
├── CancelledByCallerError       the client left, or the request was cancelled
├── ModelError
│   ├── ModelDownloadError
│   └── ModelLoadError
│       ├── BrokenModelError     its files are damaged, or no model that we know
│       └── ModelTooLargeError   its weights leave no room for KV on this machine
├── CacheError                   the cache could not do what was asked
│   ├── StorageFullError         the disk has no room for it
│   └── AgentExportError         a file that is not a whole agent export, or of a model that is not loaded
├── EngineError                  the engine failed while it worked on this request
├── ConfigurationError           a setting is unknown, badly formed or contradicts another
└── DaemonError                  starting, stopping or finding the daemon failed
    └── RestartNeededError       its files were changed or removed since it started
```
A message says what we were doing, to what, why it failed and what to do about it.
"""

from __future__ import annotations

from urllib.parse import quote

NO_MODEL_LOADED = "no model is loaded; run `semanticd models load NAME`"
"""The one text for it, in answers, in readiness, and on the command line."""


class SemanticError(Exception):
    """Root of all errors that semanticd raises on purpose."""

    code = "internal_error"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        """Keep the message for people and the field path (`messages.0.content`) for programs."""
        super().__init__(message)
        self.message = message
        self.param = param


class InvalidRequestError(SemanticError):
    """The request is malformed or contradicts itself; sending it again unchanged cannot help."""

    code = "invalid_request"


class PromptTooLongError(InvalidRequestError):
    """The prompt alone is longer than the model's context."""

    code = "prompt_too_long"

    def __init__(self, *, num_tokens: int, maximum: int, is_estimate: bool = False) -> None:
        """Put both numbers into the message, in the wording that makes coding agents compact.

        An estimate is made of texts that are too long to be read: they have at least about so many tokens.
        """
        text = f"prompt is too long: {num_tokens} tokens > {maximum} maximum"
        if is_estimate:
            text += f" (at least about {num_tokens}, estimated from its length)"
        super().__init__(text, param="messages")
        self.num_tokens = num_tokens
        self.is_estimate = is_estimate
        self.maximum = maximum


class UnsupportedError(InvalidRequestError):
    """The request is well-formed, but asks for something this server or model does not do."""

    code = "unsupported"


class RequestTooLargeError(InvalidRequestError):
    """The request can never fit: its body into the limit, or its KV cache into the budget."""

    code = "request_too_large"


class AuthenticationError(SemanticError):
    """The key is missing or wrong."""

    code = "authentication_failed"


class PermissionDeniedError(SemanticError):
    """The caller is known, or anonymous on purpose, and may not do this."""

    code = "permission_denied"


class NotFoundError(SemanticError):
    """The named object does not exist."""

    code = "not_found"


class AgentNotFoundError(NotFoundError):
    """No agent has this id."""

    code = "agent_not_found"


class ModelNotFoundError(NotFoundError):
    """No model is known under this name."""

    code = "model_not_found"


class RequestNotFoundError(NotFoundError):
    """No running or waiting request has this id."""

    code = "request_not_found"


class ConflictError(SemanticError):
    """The present state forbids it; it may work later or after another command."""

    code = "conflict"


class AgentBusyError(ConflictError):
    """The agent answers a request, and its turns follow one another."""

    def __init__(self, agent_id: str, request_id: str) -> None:
        """Name the request in the message, and how to end it."""
        route = f"/v1/agents/{quote(agent_id, safe='')}/cancel"
        super().__init__(
            f"agent {agent_id!r} is answering request {request_id}; wait for it, or cancel it: POST {route}, "
            f"or `semanticd ctl requests.cancel request={request_id}`"
        )


class OverloadedError(SemanticError):
    """The server cannot take this now; `retry_after_s` seconds later it may."""

    code = "overloaded"

    def __init__(self, message: str, *, retry_after_s: float = 1.0, param: str | None = None) -> None:
        """Keep the message and the suggested wait in seconds."""
        super().__init__(message, param=param)
        self.retry_after_s = retry_after_s


class QueueFullError(OverloadedError):
    """The global queue, or the agent's own, is full."""

    code = "queue_full"


class RateLimitedError(OverloadedError):
    """The key or agent sends more requests per minute than its limit."""

    code = "rate_limited"


class OutOfMemoryError(OverloadedError):
    """A computation ran out of the machine's memory, again after the cache had made room."""

    code = "out_of_memory"


class RanksLostError(OverloadedError):
    """One of the machines that compute the model together was lost while the request ran; they are reconnecting."""

    code = "ranks_lost"


class DrainingError(OverloadedError):
    """The daemon is stopping or a model is leaving; new work is not taken."""

    code = "draining"


class CancelledByCallerError(SemanticError):
    """The request was cancelled by its client or through the control plane."""

    code = "cancelled"


class ModelError(SemanticError):
    """A model could not be fetched or used."""

    code = "model_error"


class ModelDownloadError(ModelError):
    """Fetching a model failed."""

    code = "model_download_failed"


class ModelLoadError(ModelError):
    """The model's files are there, but could not be loaded."""

    code = "model_load_failed"


class BrokenModelError(ModelLoadError):
    """The files are damaged, incomplete or of an unknown model: a retry is useless."""


class ModelTooLargeError(ModelLoadError):
    """The model was not loaded, because this machine's memory does not hold it with a conversation."""

    code = "model_too_large"


class CacheError(SemanticError):
    """The KV cache could not perform the operation."""

    code = "cache_error"


class StorageFullError(CacheError):
    """The disk has no room for the operation; nothing was done, or the message says how much."""

    code = "storage_full"


class AgentExportError(CacheError):
    """The file is not an agent export, is damaged, or belongs to a model or layout that is not loaded here."""

    code = "agent_file_refused"


class EngineError(SemanticError):
    """The engine failed while it worked on this request; other requests continue."""

    code = "engine_error"


class ConfigurationError(SemanticError):
    """A setting is unknown, badly formed or contradicts another."""

    code = "configuration_error"


class DaemonError(SemanticError):
    """Starting, stopping or reaching the daemon failed."""

    code = "daemon_error"


class RestartNeededError(DaemonError):
    """A part of the running program is missing: its files were changed or removed since it started."""

    code = "restart_needed"
