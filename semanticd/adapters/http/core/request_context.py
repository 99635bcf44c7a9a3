"""The context of a request: ids, client, priority, and the clean-up at its end."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from falcon.asgi import Request, Response

from semanticd.adapters.http.core.gen_ai import GenAiFacts
from semanticd.adapters.http.core.recording import Recording
from semanticd.adapters.http.core.routes import UNKNOWN, Route
from semanticd.application.ports.telemetry import Span
from semanticd.domain.agent_name import RESERVED_AGENT_IDS, checked_agent_id, is_agent_id
from semanticd.domain.errors import InvalidRequestError, ModelNotFoundError, NotFoundError, SemanticError
from semanticd.domain.generation import CacheReport, Priority
from semanticd.domain.ids import AgentId, RequestId
from semanticd.domain.limits import LIMITS

SCOPE_KEY = "semanticd.exchange"
ANONYMOUS = "anonymous"
"""The caller where no keys are configured."""

_RESPONSE_ID = re.compile("[A-Za-z0-9_-]{1,128}")

_SESSION_HEADERS = ("X-Session-ID", "X-Session-Affinity")
"""Headers that name the session; all but the first are other programs', and may hold anything."""

_SUB_AGENT_HEADERS = ("X-Claude-Code-Agent-Id",)
"""Headers by which a program names the sub-agent that asks, under its own session."""

_PARENT_HEADERS = ("X-Parent-Session-Id", "X-Codex-Parent-Thread-Id")
"""Headers by which a sub-agent's session names the one that it works for."""

_TIER_PRIORITY: dict[str, Priority] = {"flex": "background", "batch": "background"}


@dataclass(slots=True)
class RequestContext:
    """One request and its answer, from the first byte to the last or to the client's leaving."""

    request_id: RequestId
    """Ours, never used twice at a time; the engine knows the request by it."""
    echoed_id: str
    """Value of the answer's `x-request-id`: the client's own id if it sent one."""
    path: str
    route: Route = UNKNOWN
    """The route that matches the path; its template has few enough values for a metric's label."""
    refusal: SemanticError | None = None
    """The error of an unreadable path; None: it was read."""
    caller: str = ANONYMOUS
    """A name for the key that was used, safe to log."""
    address: str = ""
    """The client's IP address; empty: a Unix socket."""
    agent_id: AgentId | None = None
    """The agent of its generation, once that was opened."""
    error: BaseException | None = None
    """The error that was returned instead of a result, or that ended a stream."""
    span: Span | None = None
    """Its span, when generations are traced."""
    gen_ai: GenAiFacts | None = None
    """Attributes of its span about the generation."""
    recording: Recording | None = None
    """Its record, if requests are recorded."""
    answer_headers: dict[bytes, bytes] = field(default_factory=dict)
    """Additional headers of the answer, such as the list of changes to the request."""
    at_end: AsyncExitStack = field(default_factory=AsyncExitStack)
    """Run when the exchange ends in any way; an unfinished generation is closed here, which cancels it."""

    @property
    def client(self) -> str:
        """The client, as far as it is known: a key, or without keys an address."""
        return f"at {self.address}" if self.caller == ANONYMOUS else self.caller

    def on_end(self, close: Callable[[], Awaitable[Any]]) -> None:
        """Have `close` awaited when the exchange ends."""
        self.at_end.push_async_callback(close)


def request_context_of(req: Request) -> RequestContext:
    """Return the exchange that the outermost wrapper put into the scope."""
    found: RequestContext = req.scope[SCOPE_KEY]
    return found


def make_request_id() -> str:
    """Return a fresh id in the form that the original services use."""
    return f"req_{secrets.token_hex(12)}"


def make_id(prefix: str) -> str:
    """Return a fresh object id such as `msg_…`; the prefix holds its own separator."""
    return f"{prefix}{secrets.token_hex(12)}"


def agent_id_of(req: Request, *candidates: str | None) -> AgentId | None:
    """Return the agent: the `X-Session-ID` header, else another program's, else the first candidate of the body.

    None if none of them is there. An id that cannot be part of a URL (some clients send a JSON text) is replaced by
    its digest.

    Raises:
        InvalidRequestError: the value of `X-Session-ID` is not usable as an agent id.
    """
    own, *others = _SESSION_HEADERS
    header = req.get_header(own)
    if header:
        return _sub_agent(req, checked_agent_id(header, param=own))
    for candidate in (*map(req.get_header, others), *candidates):
        if candidate:
            return _sub_agent(req, _usable(candidate))
    return None


def _sub_agent(req: Request, session: AgentId) -> AgentId:
    """Return the session's own id, or for a sub-agent, whose conversation is another one, an id below its parent's."""
    for name in _SUB_AGENT_HEADERS:
        part = req.get_header(name)
        if part and part != session:
            return _below(session, part)
    for name in _PARENT_HEADERS:
        parent = req.get_header(name)
        if parent and parent != session:
            return _below(_usable(parent), session)
    return session


def _below(parent: AgentId, part: str) -> AgentId:
    longer = max(parent, part, key=len)
    if (part.startswith(f"{parent}.") or parent.endswith(f".{part}")) and is_agent_id(longer):
        # An earlier response's agent, which is a sub-agent already.
        return AgentId(longer)
    made = f"{parent}.{part}"
    return AgentId(made if is_agent_id(made) else f"{parent[:90]}.{_digest(part)}")


def _usable(text: str) -> AgentId:
    return AgentId(text if is_agent_id(text) and text not in RESERVED_AGENT_IDS else _digest(text))


def checked_ids(params: dict[str, str]) -> None:
    """Check the names in a path of any route.

    Raises:
        InvalidRequestError: an agent's id could not be one.
        NotFoundError: a response or a model cannot have this name.
    """
    if "agent_id" in params:
        checked_agent_id(params["agent_id"], param="agent_id")
    if not _RESPONSE_ID.fullmatch(params.get("response_id", "resp")):
        raise NotFoundError("there is no response with this id", param="response_id")
    if len(params.get("name", "")) > LIMITS.name_characters:
        raise ModelNotFoundError(
            f"a model's name has at most {LIMITS.name_characters} characters", param="model"
        )


def _digest(text: str) -> str:
    return "user-" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def priority_of(
    req: Request, *, service_tier: str | None = None, default: Priority = "interactive"
) -> Priority:
    """Return the class: `X-Priority` (interactive or background), else what the service tier implies.

    Raises:
        InvalidRequestError: the header names no class.
    """
    header = req.get_header("X-Priority")
    if header is None:
        return _TIER_PRIORITY.get(service_tier or "", default)
    word = header.strip().lower()
    if word == "interactive":
        return "interactive"
    if word == "background":
        return "background"
    raise InvalidRequestError(f"expected interactive or background, got {word[:40]!r}", param="X-Priority")


def show_cache(resp: Response, cache: CacheReport) -> None:
    """Report the prompt's cost in `X-Semantic-Cache`, in tokens, with position and cause of a miss."""
    words = [
        f"hot={cache.reused_hot_tokens} warm={cache.restored_warm_tokens}",
        f"computed={cache.computed_tokens} tier={cache.tier}",
    ]
    if cache.miss is not None:
        words.append(f"miss={cache.miss.cause}@{cache.miss.position}")
    if cache.canonicalized:
        words.append(f"canonicalized={','.join(cache.canonicalized)}")
    resp.set_header("X-Semantic-Cache", " ".join(words))
