"""The error table: every error of the tree has its answer in every dialect."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from semanticd.adapters.http.core import errors
from semanticd.application.generation.prompt_size import check_characters
from semanticd.domain import errors as domain
from semanticd.domain.limits import LIMITS


def walk(cls: type[domain.SemanticError]) -> Iterator[type[domain.SemanticError]]:
    yield cls
    for child in cls.__subclasses__():
        yield from walk(child)


def make(cls: type[domain.SemanticError]) -> domain.SemanticError:
    if issubclass(cls, domain.PromptTooLongError):
        return cls(num_tokens=9000, maximum=8191)
    if issubclass(cls, domain.OverloadedError):
        return cls("doing it failed", retry_after_s=2.5)
    if issubclass(cls, domain.AgentBusyError):
        return cls("ann", "req_1")
    return cls("doing it failed", param="field")


TREE = sorted(set(walk(domain.SemanticError)), key=lambda cls: cls.__name__)

STATUSES = {
    domain.InvalidRequestError: (400, 400),
    domain.PromptTooLongError: (400, 400),
    domain.UnsupportedError: (400, 400),
    domain.RequestTooLargeError: (413, 413),
    domain.AuthenticationError: (401, 401),
    domain.PermissionDeniedError: (403, 403),
    domain.AgentNotFoundError: (404, 404),
    domain.ModelNotFoundError: (404, 404),
    domain.RequestNotFoundError: (404, 404),
    domain.ConflictError: (409, 409),
    domain.AgentBusyError: (409, 409),
    domain.QueueFullError: (529, 503),
    domain.RateLimitedError: (429, 429),
    domain.OutOfMemoryError: (529, 503),
    domain.DrainingError: (529, 503),
    domain.RanksLostError: (529, 503),
    domain.CancelledByCallerError: (409, 409),
    domain.ModelDownloadError: (503, 503),
    domain.ModelLoadError: (503, 503),
    domain.BrokenModelError: (400, 400),
    domain.ModelTooLargeError: (400, 400),
    domain.CacheError: (500, 500),
    domain.StorageFullError: (507, 507),
    domain.AgentExportError: (400, 400),
    domain.EngineError: (500, 500),
    domain.ConfigurationError: (500, 500),
    domain.RestartNeededError: (503, 503),
    errors.RouteNotFoundError: (404, 404),
    errors.HttpVersionError: (400, 400),
    errors.MethodNotAllowedError: (405, 405),
    errors.SlowBodyError: (408, 408),
    errors.MediaTypeError: (415, 415),
    errors.HeadersTooLargeError: (431, 431),
}

ANTHROPIC_TYPES = {
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "not_found_error",
    "request_too_large",
    "rate_limit_error",
    "timeout_error",
    "api_error",
    "overloaded_error",
}


@pytest.mark.parametrize("cls", TREE, ids=lambda cls: cls.__name__)
def test_every_error_of_the_tree_is_answered_in_every_dialect(cls: type[domain.SemanticError]) -> None:
    error = make(cls)
    anthropic = errors.answer(error, "anthropic", request_id="req_1")
    openai = errors.answer(error, "openai", request_id="req_1")
    assert anthropic.body["type"] == "error"
    assert anthropic.body["request_id"] == "req_1"
    assert anthropic.body["error"]["type"] in ANTHROPIC_TYPES
    assert error.message in anthropic.body["error"]["message"]
    assert set(openai.body["error"]) == {"message", "type", "param", "code"}
    assert error.message in openai.body["error"]["message"]
    assert openai.body["error"]["param"] == error.param


@pytest.mark.parametrize("cls", TREE, ids=lambda cls: cls.__name__)
def test_a_callers_mistake_is_never_a_5xx_and_our_failure_never_a_4xx(
    cls: type[domain.SemanticError],
) -> None:
    ours = (
        domain.ModelError,
        domain.CacheError,
        domain.EngineError,
        domain.ConfigurationError,
        domain.DaemonError,
        domain.OverloadedError,
    )
    status = errors.answer(make(cls), "anthropic", request_id="r").status
    if issubclass(cls, domain.RateLimitedError):
        assert status == 429
    elif cls in (domain.AgentExportError, domain.BrokenModelError, domain.ModelTooLargeError):
        assert status == 400, "the file, or the name of the model, is the caller's"
    elif cls is domain.SemanticError or issubclass(cls, ours):
        assert status >= 500
    else:
        assert 400 <= status < 500


@pytest.mark.parametrize("cls", STATUSES, ids=lambda cls: cls.__name__)
def test_the_status_is_the_original_services(cls: type[domain.SemanticError]) -> None:
    error = make(cls)
    found = tuple(errors.answer(error, dialect, request_id="r").status for dialect in ("anthropic", "openai"))
    assert found == STATUSES[cls]


def test_every_leaf_of_the_tree_has_its_status_written_down_here() -> None:
    leaves = {cls for cls in walk(domain.SemanticError) if not cls.__subclasses__()}
    ours = {cls for cls in leaves if cls.__module__.startswith("semanticd.domain")}
    assert ours <= set(STATUSES)


def test_a_prompt_that_is_too_long_is_told_in_the_wording_each_client_understands() -> None:
    error = domain.PromptTooLongError(num_tokens=9000, maximum=8191)
    anthropic = errors.answer(error, "anthropic", request_id="r").body["error"]
    openai = errors.answer(error, "openai", request_id="r").body["error"]
    assert anthropic["message"] == "prompt is too long: 9000 tokens > 8191 maximum"
    assert "maximum context length is 8191 tokens" in openai["message"]
    assert "9000 tokens" in openai["message"]
    assert openai["code"] == "context_length_exceeded"


def test_the_length_of_a_prompt_that_is_not_read_is_told_as_an_estimate() -> None:
    with pytest.raises(domain.PromptTooLongError) as refused:
        check_characters(900_000 * LIMITS.prompt_characters_per_token, 8192)
    told = {
        d: errors.answer(refused.value, d, request_id="r").body for d in ("anthropic", "openai", "agents")
    }
    # Coding agents read the numbers of this wording, and compact.
    assert told["anthropic"]["error"]["message"].startswith(
        "prompt is too long: 900000 tokens > 8191 maximum ("
    )
    assert "resulted in at least about 900000 tokens" in told["openai"]["error"]["message"]
    for body in told.values():
        assert "at least about 900000" in str(body)


def test_an_overloaded_server_says_when_to_come_back() -> None:
    made = errors.answer(domain.RateLimitedError("too many", retry_after_s=2.5), "openai", request_id="r")
    assert made.headers["retry-after"] == "3"
    assert made.headers["retry-after-ms"] == "2500"
    assert made.headers["x-should-retry"] == "true"


def test_an_exception_that_nobody_foresaw_tells_nothing_of_itself() -> None:
    made = errors.answer(ValueError("secret prompt"), "openai", request_id="r")
    assert made.status == 500
    assert "secret" not in str(made.body)


@pytest.mark.parametrize(
    ("route", "version", "dialect"),
    [
        ("/v1/messages", None, "anthropic"),
        ("/v1/messages/count_tokens", None, "anthropic"),
        ("/v1/models", "2023-06-01", "anthropic"),
        ("/v1/models", None, "openai"),
        ("/v1/chat/completions", "2023-06-01", "openai"),
        ("/v1/agents", None, "openai"),
        ("other", None, "openai"),
        ("other", "2023-06-01", "anthropic"),
    ],
)
def test_the_route_tells_whose_shape_an_error_has(route: str, version: str | None, dialect: str) -> None:
    assert errors.dialect_of(route, anthropic_version=version) == dialect


@pytest.mark.parametrize("error", [ModuleNotFoundError("no module"), ImportError("cannot import name")])
@pytest.mark.parametrize("dialect", ["openai", "anthropic", "ollama"])
def test_an_import_that_fails_under_a_running_daemon_asks_for_a_restart(
    error: ImportError, dialect: errors.Dialect
) -> None:
    answer = errors.answer(error, dialect, request_id="req_1")
    assert answer.status == 503
    assert "restart the daemon, its files changed" in str(answer.body)
