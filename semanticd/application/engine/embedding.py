"""Embedding: texts become vectors in slices between the engine's other steps; engine thread only.

```
take ──> slice ─> slice ─> … ─> vectors        (jobs take turns, a slice each)
         whole texts together, the longest first, as many as the slice has tokens for
         a longer text in parts, over a running cache of its own that counts in the budget
```
Nothing of it is kept: no block, no agent, no snapshot. `SliceBudget` says how large a slice may be, and when.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from semanticd.application.cache.agent_cache_store import AgentCacheStore
from semanticd.application.engine.embedding_job import EmbeddingJob
from semanticd.application.engine.memory_guard import MemoryGuard
from semanticd.application.engine.queue import EngineQueue
from semanticd.application.engine.room import Room, disk_does_not_respond
from semanticd.application.engine.running_sequence import Running
from semanticd.application.engine.running_size import running_size
from semanticd.application.engine.telemetry import EngineTelemetry
from semanticd.application.ports.inference import LoadedModel, ModelRunner
from semanticd.domain.errors import (
    ConflictError,
    EngineError,
    OutOfMemoryError,
    OverloadedError,
    RequestTooLargeError,
    SemanticError,
)
from semanticd.domain.ids import ModelId, SequenceId
from semanticd.domain.size_text import at_most
from semanticd.domain.slice_budget import SliceBudget

MAX_SHORTAGES = 3
"""Slices of a job that may run out of memory before it fails."""
_MAX_ROW = 512
"""Tokens of one text in a slice: what attention to them takes grows with the square."""
_RETRY_S = 30.0


@dataclass(slots=True)
class _Part:
    """A text that is too long for one slice."""

    index: int
    sequence_id: SequenceId
    num_done: int = 0


@dataclass(slots=True, eq=False)
class _Work:
    """A job under way."""

    job: EmbeddingJob
    left: list[int]
    """Indices of the texts that are to come, the longest last."""
    fits_beside_pins: bool
    """Whether all of it was found to fit next to pinned blocks, so that later pins are displaced by it."""
    vectors: dict[int, bytes] = field(default_factory=dict)
    part: _Part | None = None
    num_shortages: int = 0


class Embedding:
    """Computes the vectors of the jobs that were taken."""

    def __init__(
        self,
        *,
        models: Mapping[ModelId, LoadedModel],
        running: Running,
        queue: EngineQueue,
        store: AgentCacheStore,
        room: Room,
        guard: MemoryGuard,
        telemetry: EngineTelemetry,
    ) -> None:
        """Compute with the loaded `models`, alongside `running` sequences; both are read at every call."""
        self._models = models
        self._running = running
        self._queue = queue
        self._store = store
        self._room = room
        self._guard = guard
        self._clock, self._log = telemetry.clock, telemetry.log
        self._budget = SliceBudget()
        self._work: deque[_Work] = deque()
        # Below those of sequences, which are counted from one.
        self._ids = itertools.count(-1, -1)
        self._left_at = self._clock.monotonic()

    @property
    def is_waiting(self) -> bool:
        """Whether a job is unfinished."""
        return bool(self._work)

    def take(self, job: EmbeddingJob) -> None:
        """Begin a job."""
        if not self._work:
            self._left_at = self._clock.monotonic()
        left = sorted(range(len(job.texts)), key=lambda at: len(job.texts[at]))
        self._work.append(_Work(job, left, fits_beside_pins=self._fits(job)))

    def refuse(self, job: EmbeddingJob, error: Exception) -> None:
        """Answer a job that was not taken, and give its place back."""
        self._answer(job, error)

    def fail_all(self, error: SemanticError) -> None:
        """End every job with an error."""
        for work in list(self._work):
            self._end(work, error)

    def give_way(self) -> bool:
        """Give the running cache of a long text back for an answer that needs the room; returns whether there was one.

        The text begins again when there is room for all of it.
        """
        for work in self._work:
            model = self._models.get(work.job.model_id)
            if work.part is not None and model is not None:
                self._begin_again(work, work.part, model.runner)
                return True
        return False

    def step(self) -> float:
        """Compute a slice if there is one to compute now; returns the seconds that it took, 0: none."""
        if not self._work:
            return 0.0
        began, contended = self._clock.monotonic(), bool(self._running)
        if contended:
            self._budget.others_worked(began - self._left_at)
        self._left_at = began
        for _ in range(len(self._work)):
            work = self._work[0]
            if work.job.vectors.cancelled():
                self._end(work, None)
                continue
            size = self._budget.num_tokens(work.job.model_id, contended=contended)
            if not size:
                return 0.0
            num_tokens = self._guarded_slice(work, size)
            if num_tokens:
                break
            # It has no room: a text that is under way makes some by ending.
            self._work.rotate(-1)
        else:
            return 0.0
        self._left_at = self._clock.monotonic()
        seconds = self._left_at - began
        self._budget.record(work.job.model_id, num_tokens=num_tokens, seconds=seconds, contended=contended)
        if work in self._work:
            self._work.rotate(-1)
        # A slice that took no time on this clock still counts as one.
        return max(seconds, 1e-9)

    def _guarded_slice(self, work: _Work, size: int) -> int:
        """Compute a slice of about `size` tokens; returns how many it had, 0: there was no room."""
        model = self._models.get(work.job.model_id)
        if model is None:
            self._end(work, ConflictError(f"model {work.job.model_id} was unloaded meanwhile"))
            return 1
        try:
            num_tokens = self._slice(work, model.runner, size)
        except OutOfMemoryError as error:
            self._run_short(work, error)
            return size
        except SemanticError as error:
            self._end(work, error)
            return size
        except Exception as error:  # noqa: BLE001 (no exception leaves the engine's thread)
            self._log.error("embedding_failed", request_id=work.job.request_id, error=repr(error))
            self._end(work, EngineError(f"computing request {work.job.request_id} failed: {error}"))
            return size
        if len(work.vectors) == len(work.job.texts):
            self._end(work, None)
        return num_tokens

    def _slice(self, work: _Work, runner: ModelRunner, size: int) -> int:
        size = max(size >> work.num_shortages, 1)
        texts, row = work.job.texts, min(size, _MAX_ROW)
        if work.part is None and len(texts[work.left[-1]]) > row:
            index = work.left[-1]
            if not self._has_room(work, runner, len(texts[index])):
                return 0
            work.left.pop()
            work.part = _Part(index, SequenceId(next(self._ids)))
        if work.part is not None:
            return self._compute_part(work, work.part, runner, row) if self._may_grow(work, row) else 0
        longest = len(texts[work.left[-1]])
        num_rows = min(max(size // longest, 1), len(work.left))
        indices = [work.left[-1 - at] for at in range(num_rows)]
        vectors = runner.embed([texts[index] for index in indices], dimensions=work.job.dimensions)
        work.vectors.update(zip(indices, vectors, strict=True))
        del work.left[-num_rows:]
        return num_rows * longest

    def _compute_part(self, work: _Work, part: _Part, runner: ModelRunner, size: int) -> int:
        text = work.job.texts[part.index]
        ids = text[part.num_done : part.num_done + size]
        is_last = part.num_done + len(ids) == len(text)
        vector = runner.embed_part(part.sequence_id, ids, is_last=is_last, dimensions=work.job.dimensions)
        part.num_done += len(ids)
        if vector is not None:
            work.vectors[part.index] = vector
            self._drop_part(work, runner)
        self._room.measure()
        return len(ids)

    def _may_grow(self, work: _Work, size: int) -> bool:
        """Make room for the next tokens of a long text.

        Without, it waits for the disk, or gives way to the sequences and texts that took its room meanwhile.

        Raises:
            OverloadedError: It is alone, and the disk does not respond.
        """
        part, runner = work.part, self._models[work.job.model_id].runner
        assert part is not None, "a text is under way"
        left = len(work.job.texts[part.index]) - part.num_done
        before = running_size(runner.spec, part.num_done).num_bytes if part.num_done else 0
        after = running_size(runner.spec, part.num_done + min(size, left)).num_bytes
        if self._make(work, after - before):
            return True
        if not self._is_alone(work) and not self._room.may_come(after - before):
            self._begin_again(work, part, runner)
        return False

    def _make(self, work: _Work, num_bytes: int) -> bool:
        if self._room.make(num_bytes, over_pins=not self._running):
            return True
        if self._store.disk_stalled and self._is_alone(work):
            raise disk_does_not_respond()
        return False

    def _is_alone(self, work: _Work) -> bool:
        """Return whether no sequence and no other active text can free room by finishing."""
        return not self._running and all(one.part is None for one in self._work if one is not work)

    def _has_room(self, work: _Work, runner: ModelRunner, num_tokens: int) -> bool:
        """Make room for the running cache of a text.

        Raises:
            OverloadedError: There is none while memory is short, or it is alone and the disk does not respond.
            RequestTooLargeError: There can be none.
        """
        size = running_size(runner.spec, num_tokens)
        ledger = self._store.ledger()
        if size.num_bytes > self._beside_pins(work, ledger.budget_bytes):
            text = f"a text of {num_tokens} tokens needs {size} to be embedded"
            left = self._beside_pins(work, self._store.planned_bytes)
            if size.num_bytes <= left:
                raise OverloadedError(
                    f"{text}, and memory is short; try again in a minute", retry_after_s=_RETRY_S
                )
            raise RequestTooLargeError(
                f"{text}, more than the {at_most(left)} that the budget leaves; raise SEMANTIC_MLX_CACHE_BUDGET_MB, "
                "unpin agents or send shorter texts",
                param="input",
            )
        return self._make(work, size.num_bytes)

    def _beside_pins(self, work: _Work, budget_bytes: int) -> int:
        """Return what pins leave of a budget (bytes) to a job: pins set after it was accepted do not count."""
        return budget_bytes if work.fits_beside_pins else self._store.bytes_beside_pins(budget_bytes)

    def _fits(self, job: EmbeddingJob) -> bool:
        model, longest = self._models.get(job.model_id), max(map(len, job.texts), default=0)
        left = self._store.bytes_beside_pins(self._store.ledger().budget_bytes)
        return model is not None and running_size(model.runner.spec, longest).num_bytes <= left

    def _run_short(self, work: _Work, error: OutOfMemoryError) -> None:
        """Make room, and compute the slice again; a job that ran short too often fails."""
        self._guard.relieve("out_of_memory", "critical", now=self._clock.monotonic())
        work.num_shortages += 1
        if work.num_shortages >= MAX_SHORTAGES:
            self._end(work, error)
        elif work.part is not None:
            self._begin_again(work, work.part, self._models[work.job.model_id].runner)
        self._room.measure()

    def _begin_again(self, work: _Work, part: _Part, runner: ModelRunner) -> None:
        work.left.append(part.index)
        self._drop_part(work, runner)
        self._room.measure()

    def _drop_part(self, work: _Work, runner: ModelRunner) -> None:
        if work.part is not None:
            runner.close(work.part.sequence_id)
            work.part = None

    def _end(self, work: _Work, error: SemanticError | None) -> None:
        self._work.remove(work)
        model = self._models.get(work.job.model_id)
        if model is not None and work.part is not None:
            self._drop_part(work, model.runner)
            self._room.measure()
        if error is None and len(work.vectors) == len(work.job.texts):
            self._answer(work.job, tuple(work.vectors[index] for index in range(len(work.job.texts))))
        else:
            self._answer(work.job, error or ConflictError("no client waits for it"))

    def _answer(self, job: EmbeddingJob, answer: Exception | tuple[bytes, ...]) -> None:
        self._queue.release_place(job)
        if not job.vectors.set_running_or_notify_cancel():
            return
        if isinstance(answer, Exception):
            job.vectors.set_exception(answer)
        else:
            job.vectors.set_result(answer)
