"""EmbeddingJob: texts that are to become vectors, as they enter the engine."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field

from semanticd.domain.agent_name import stand_in
from semanticd.domain.ids import AgentId, ModelId, RequestId

HOLDER = stand_in("embeddings")
"""Holder of the jobs' places in the queue: one for all jobs, with one place per job, whatever its number of texts."""


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingJob:
    """The texts of one request, as token ids; none of them is empty."""

    request_id: RequestId
    agent_id: AgentId
    model_id: ModelId
    texts: tuple[tuple[int, ...], ...]
    dimensions: int | None = None
    """Leading numbers of each vector that are wanted; None: all."""
    vectors: Future[tuple[bytes, ...]] = field(default_factory=Future)
    """Gets a vector for each text (float32, little-endian, of length one), or the error; cancelled: no client waits."""

    is_held_by_agent = False
    holder = HOLDER
