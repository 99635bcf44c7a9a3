"""Arrivals: requests from their arrival until the engine has begun their work.

```
arrived ─> its model loads ─> its prompt is read ─> it lies in the engine's queue ─> begun, refused or left
```
The engine lists what it has taken from its queue, and it takes nothing while a slice of a model's load runs. Rule: the
event loop keeps these records and asks the engine for nothing, so that they are current while the engine's thread
computes; only `outside` may be called from another thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from semanticd.application.engine.running_sequence import LongestWait, RunningSequence
from semanticd.application.ports.telemetry import Clock
from semanticd.application.services.model_progress import ModelProgress
from semanticd.domain.conversation_key import anonymous_id, begins_large
from semanticd.domain.errors import CancelledByCallerError
from semanticd.domain.generation import GenerationRequest, WaitReason
from semanticd.domain.ids import AgentId, ModelId, RequestId
from semanticd.domain.transcript import Segment

Stage = Literal["model", "prompt", "queue"]
"""Stages of a request before it reaches the engine."""


@dataclass(slots=True, eq=False)
class Arrival:
    """A request that the engine has not begun."""

    request: GenerationRequest
    """As the client asked; once its prompt is read, as it is answered."""
    arrived_at: float
    """On the monotonic clock, seconds."""
    _there: dict[Arrival, None]
    """All listed arrivals, this one included until it ends."""
    _cancel: Callable[[], object]
    stage: Stage = "model"
    model_id: ModelId | None = None
    """None: its model is not there yet."""
    prompt: tuple[Segment, ...] = ()
    """Empty: not read yet."""
    num_tokens: int = 0
    max_new_tokens: int = 0
    was_cancelled: bool = False
    waited: LongestWait = field(default_factory=LongestWait)
    _agent_id: AgentId | None = field(default=None)

    @property
    def request_id(self) -> RequestId:
        return self.request.request_id

    @property
    def agent_id(self) -> AgentId:
        """The turn's agent; empty while another thread reads the beginning of a large anonymous prompt.

        A small one is read once, when requested.
        """
        if self._agent_id is None:
            if self.request.agent_id is None and begins_large(self.request.prompt):
                return AgentId("")
            self._agent_id = self.request.agent_id or anonymous_id(self.request.prompt)
        return self._agent_id

    async def name(self) -> None:
        """Have the beginning of a large anonymous prompt read outside of the event loop: it names the agent."""
        if self.request.agent_id is None and begins_large(self.request.prompt):
            self._agent_id = await asyncio.to_thread(anonymous_id, self.request.prompt)

    def has_model(self, model_id: ModelId) -> None:
        """Record that its model is loaded: its prompt is read now."""
        self.stage, self.model_id = "prompt", model_id

    def was_read(self, agent_id: AgentId, prompt: tuple[Segment, ...], *, max_new_tokens: int) -> None:
        """Record its prompt and its model."""
        self._agent_id, self.prompt, self.max_new_tokens = agent_id, prompt, max_new_tokens
        self.num_tokens = sum(segment.num_tokens for segment in prompt)

    def submitted(self, cancel: Callable[[], object]) -> None:
        """Note that the engine's queue has it; `cancel` ends it from here on."""
        self.stage, self._cancel = "queue", cancel

    def cancel(self) -> None:
        """End the request now, wherever it waits: the engine itself could cancel it only later."""
        self.was_cancelled = True
        cancel = self._cancel
        self.end()
        cancel()

    def end(self) -> None:
        """Remove the arrival: the engine has begun it, or it has ended. Idempotent."""
        self._there.pop(self, None)
        # It belongs to the answer, which has this record: both would stay until garbage is looked for.
        self._cancel = _nothing


class Arrivals:
    """The requests on their way to the engine, oldest first."""

    def __init__(self, *, clock: Clock, progress: ModelProgress) -> None:
        """`progress` reports whether a model is loading."""
        self._clock = clock
        self._progress = progress
        # Clients may give two requests one id.
        self._there: dict[Arrival, None] = {}

    @contextlib.contextmanager
    def of(self, requests: Sequence[GenerationRequest]) -> Iterator[list[Arrival]]:
        """Keep a record of each of these requests while they are admitted, and after that until it is ended.

        Raises:
            CancelledByCallerError: One of them was cancelled by `Arrival.cancel` before it was submitted.
        """
        task = asyncio.current_task()
        cancel: Callable[[], object] = task.cancel if task is not None else _nothing
        now = self._clock.monotonic()
        arrivals = [Arrival(request, now, self._there, cancel) for request in requests]
        self._there.update(dict.fromkeys(arrivals))
        try:
            yield arrivals
        except BaseException as error:
            for one in arrivals:
                one.end()
            cancelled = next((one for one in arrivals if one.was_cancelled), None)
            if isinstance(error, asyncio.CancelledError) and cancelled is not None:
                if sys.version_info >= (3, 11) and task is not None:
                    task.uncancel()
                raise CancelledByCallerError(f"request {cancelled.request_id} was cancelled") from None
            raise

    def find(self, request_id: str) -> Arrival | None:
        """Return the record of a request; None once the engine has begun it."""
        return next((one for one in self._there if one.request_id == request_id), None)

    def outside(self, running: Iterable[RunningSequence]) -> list[Arrival]:
        """Return those that the engine's own list, which is this, has not yet; oldest first."""
        known = {one.submission.request_id for one in running}
        return [one for one in list(self._there) if one.request_id not in known]

    def reason(self, arrival: Arrival) -> WaitReason:
        """Return the reason why a request waits."""
        if arrival.stage == "queue":
            return "model" if self.model_loads else "turn"
        return arrival.stage

    @property
    def model_loads(self) -> bool:
        """Whether the engine's thread is reading a model's files, so that its queue waits."""
        return self._progress.is_loading


def _nothing() -> None:
    """Do nothing: the action that cancels an arrival that has ended."""
