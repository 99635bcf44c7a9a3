"""Services as the control edge needs them, over a few rows in memory: real code, no engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from semanticd.adapters.control.event_hub import EventHub
from semanticd.adapters.control.services import Services
from semanticd.application.services.agent_facts import ShownMessage
from semanticd.application.services.history import HistoryFacts
from semanticd.application.services.outcomes import Failure, OutcomeFacts
from semanticd.application.services.savings import SavedFacts, SavingsFacts
from semanticd.application.services.status_facts import (
    CancelledRequest,
    DaemonStatus,
    EngineFacts,
    RequestFacts,
    RequestPrompt,
)
from semanticd.domain.errors import RequestNotFoundError
from semanticd.domain.ids import AgentId, ModelId, RequestId
from semanticd.domain.sequence import SequenceState
from tests.fakes.agents_service import FakeAgents
from tests.fakes.cache_service import CACHE, FakeCache
from tests.fakes.models_service import FakeModels

Row = dict[str, Any]


class FakeStatus:
    """Counts how often it was asked."""

    def __init__(self) -> None:
        """Begin ready."""
        self.state = "ready"
        self.num_asked = 0
        self.facts: Row = {"version": "0.1.0", "pid": 4711, "address": "http://127.0.0.1:8000"}

    async def snapshot(self) -> DaemonStatus:
        """Return the facts with a changing number."""
        self.num_asked += 1
        saved = SavedFacts(0, 0.0, 0, 0.0)
        return DaemonStatus(
            fixed=self.facts,
            state=self.state,
            uptime_s=float(self.num_asked),
            model=None,
            models=(),
            model_stage="idle",
            model_progress=0.0,
            model_error=None,
            free_memory_bytes=1 << 30,
            engine=EngineFacts(
                0, 0, 0, 0, 8, 0.0, 0.0, 0.0, 1.0, 0, 0, draft_sources=(), draining=False, failure=None
            ),
            cache=CACHE,
            outcomes=OutcomeFacts(0, 0, 0, 0, 0, 0, None),
            savings=SavingsFacts(saved, saved),
        )


class FakeRequests:
    """One running request."""

    def __init__(self) -> None:
        """Begin with it."""
        self.ids = ["req-1"]

    async def cancel(self, request_id: str) -> CancelledRequest:
        """Forget it."""
        if request_id not in self.ids:
            raise RequestNotFoundError(f"no request has the id {request_id!r}")
        self.ids.remove(request_id)
        return CancelledRequest(request_id, cancelled=True)

    async def prompt(self, request_id: str) -> RequestPrompt:
        """Return its words."""
        messages = (ShownMessage("transcript", "<|im_start|>user\nWhy?<|im_end|>\n", 9),)
        return RequestPrompt(RequestId(request_id), AgentId("planner"), messages)

    async def failures(self) -> tuple[Failure, ...]:
        """Return one refusal."""
        return (Failure(1.0, "refused", "queue_full", "full", request="req-0", agent="planner", status=429),)

    async def list(self) -> list[RequestFacts]:
        """Return what is left."""
        return [_request(one) for one in self.ids]


def _request(request_id: str) -> RequestFacts:
    return RequestFacts(
        id=RequestId(request_id),
        agent=AgentId("planner"),
        model=ModelId("small"),
        state=SequenceState.DECODING,
        priority="interactive",
        prompt_tokens=10,
        prefilled_tokens=10,
        prefill_progress=1.0,
        completion_tokens=1,
        max_new_tokens=100,
        age_s=1.0,
        ttft_ms=100.0,
        tokens_per_s=10.0,
        tokens_per_step=1.0,
        cached_tokens=0,
        num_preemptions=0,
        restore_progress=None,
        wait_reason=None,
        wait_behind=None,
    )


class FakeChat:
    """Says it back, word by word."""

    def __init__(self, hub: EventHub) -> None:
        """Publish the words there."""
        self._hub = hub

    async def say(
        self, agent_id: str, text: str, *, fork: bool = False, max_tokens: int | None = None
    ) -> Row:
        """Answer with the same words, at most `max_tokens` of them."""
        agent, words = f"{agent_id}-fork" if fork else agent_id, text.split()[:max_tokens]
        for at, word in enumerate(words, 1):
            data = {"agent": agent, "request": "say-1", "text": f"{word} ", "num_tokens": at}
            self._hub.publish("tokens", data)
        return {"agent": agent, "request": "say-1", "text": " ".join(words), "ttft_ms": 12.0, "cached_tokens": 3,
                "prompt_tokens": 5, "completion_tokens": len(words), "model": "small"}  # fmt: skip


class FakeHistory:
    """Two samples."""

    def facts(self, *, step_s: int = 1, after: int = -1) -> HistoryFacts:
        """Return those after a number."""
        queue = (0.0, 2.0)[after + 1 :]
        return HistoryFacts(step_s, first=after + 1, last=1, ended_at=1.0, series={"queue": queue})


class FakeConfig:
    """One setting."""

    async def show(self) -> Row:
        """Return it."""
        return {"settings": [{"name": "server.port", "value": 8000, "origin": "default"}]}


class FakeDoctor:
    """All is well."""

    async def run(self, generate: bool = True) -> Row:
        """Return one finding, and one more if the model is asked too."""
        generated = [{"check": "generation", "state": "ok", "message": "10 tokens", "advice": ""}] * generate
        return {
            "ok": True,
            "findings": [{"check": "python", "state": "ok", "message": "3.11", "advice": ""}, *generated],
        }


class FakeLifecycle:
    """Remembers how it was asked to end."""

    def __init__(self, on_shutdown: Callable[[], None] = lambda: None) -> None:
        """Call `on_shutdown` when asked."""
        self.told: list[tuple[str, float | None, bool]] = []
        self.num_unsaved_agents = 0
        """How many agents the disk refused, as it says when it is asked to end."""
        self._on_shutdown = on_shutdown

    async def drain(self, timeout_s: float | None = None) -> Row:
        """Remember it."""
        self.told.append(("drain", timeout_s, False))
        return {"state": "draining"}

    async def shutdown(self, timeout_s: float | None = None, now: bool = False) -> Row:
        """Remember it."""
        self.told.append(("shutdown", timeout_s, now))
        self._on_shutdown()
        return {"state": "draining", "num_requests": 0, "num_unsaved_agents": self.num_unsaved_agents}


class FakeLogLevel:
    """Remembers the level."""

    def __init__(self) -> None:
        """Begin at info."""
        self.level = "info"
        self.lines: list[Row] = [{"level": "info", "event": "daemon_ready", "fields": {}}]

    def recent(self) -> list[Row]:
        """Return the lines."""
        return list(self.lines)

    async def set_level(self, level: str) -> Row:
        """Set it."""
        previous, self.level = self.level, level
        return {"level": level, "previous": previous}


class NullLog:
    """Keeps what was logged."""

    def __init__(self) -> None:
        """Begin empty."""
        self.lines: list[tuple[str, str, Row]] = []

    def info(self, event: str, **fields: object) -> None:
        """Keep it."""
        self.lines.append(("info", event, fields))

    def warning(self, event: str, **fields: object) -> None:
        """Keep it."""
        self.lines.append(("warning", event, fields))

    def error(self, event: str, **fields: object) -> None:
        """Keep it."""
        self.lines.append(("error", event, fields))


def fake_services(*, max_queued: int = 1024, on_shutdown: Callable[[], None] = lambda: None) -> Services:
    """Return a full set; make it on the event loop's thread."""
    hub = EventHub(max_queued=max_queued)
    return Services(
        status=FakeStatus(),
        agents=FakeAgents("planner", "coder"),
        chat=FakeChat(hub),
        models=FakeModels("small", "large", hub=hub),
        cache=FakeCache(),
        requests=FakeRequests(),
        history=FakeHistory(),
        config=FakeConfig(),
        doctor=FakeDoctor(),
        lifecycle=FakeLifecycle(on_shutdown),
        log=FakeLogLevel(),
        events=hub,
    )
