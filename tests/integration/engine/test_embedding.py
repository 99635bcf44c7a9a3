"""Vectors from an engine that has other things to do too."""

from __future__ import annotations

import struct
import threading
from concurrent.futures import Future
from itertools import pairwise
from typing import Any

import pytest

from semanticd.application.engine.embedding_job import EmbeddingJob
from semanticd.domain.errors import (
    ConflictError,
    DrainingError,
    EngineError,
    InvalidRequestError,
    OutOfMemoryError,
    OverloadedError,
    QueueFullError,
    RequestTooLargeError,
    SemanticError,
)
from semanticd.domain.ids import AgentId, ModelId, RequestId
from tests.fakes.engine_rig import PATIENCE_S, EngineRig, ticking, wait_until
from tests.fakes.model_runner import BYTES_PER_TOKEN, STATE_BYTES, HashRunner, continuation, vector_of
from tests.fakes.telemetry import ManualClock
from tests.fakes.tokenizer import CharTokenizer
from tests.fakes.warm_store import MemoryWarmStore

TEXTS = ((1, 2, 3), (4,), tuple(range(40)), (9, 9), (5,) * 700)


def job(rig: EngineRig, *texts: tuple[int, ...], name: str = "e", **more: Any) -> EmbeddingJob:
    return EmbeddingJob(RequestId(name), AgentId(name), rig.model.model_id, texts, **more)


def embed(rig: EngineRig, *texts: tuple[int, ...], **more: Any) -> Future[tuple[bytes, ...]]:
    made = job(rig, *texts, **more)
    rig.engine.embed(made)
    return made.vectors


def timed(*, has_state: bool = False, **more: Any) -> EngineRig:
    """Return a rig on whose clock a token takes a millisecond, and a decode step twenty."""
    clock = ManualClock()
    runner = HashRunner(clock=clock, prefill_token_s=0.001, decode_step_s=0.02, has_state=has_state)
    return EngineRig(runner=runner, clock=clock, **more)


def error_of(future: Future[tuple[bytes, ...]]) -> SemanticError:
    error = future.exception(PATIENCE_S)
    assert isinstance(error, SemanticError)
    return error


def test_every_text_gets_its_vector_in_order() -> None:
    with EngineRig() as rig:
        assert embed(rig, *TEXTS).result(PATIENCE_S) == tuple(map(vector_of, TEXTS))
        (short,) = embed(rig, (1, 2), dimensions=2).result(PATIENCE_S)
        assert struct.unpack("<2f", short) == (2.0, 3.0)
        assert rig.engine.num_unanswered == 0
        assert not rig.store.ledger().hot_bytes, "nothing of it is kept"


def test_short_texts_are_computed_together_and_a_long_one_in_parts() -> None:
    with timed() as rig:
        embed(rig, (1,) * 50).result(PATIENCE_S)  # to know the speed
        rig.runner.embedded.clear()
        embed(rig, *[(1, 2, 3, 4)] * 60, (1,) * 500).result(PATIENCE_S)
        sizes = rig.runner.embedded
        parts = [rows[0] for rows in sizes if len(rows) == 1]
        assert sum(parts) == 500
        assert 190 <= max(parts) <= 200, "a fifth of a second"
        assert 45 <= max(map(len, sizes)) <= 50
        assert all(len(rows) * max(rows) <= 200 for rows in sizes)


def test_answers_go_on_while_texts_are_embedded_and_wait_a_moment_only() -> None:
    with timed() as rig:
        embed(rig, (1,) * 50).result(PATIENCE_S)
        steps: list[tuple[str, float]] = []
        rig.runner.before = lambda operation: steps.append((operation, rig.clock.monotonic()))
        with rig.held():
            asking = rig.ask([1, 2, 3], agent="a", max_tokens=300)
            vectors = embed(rig, *[(1,) * 60] * 40)
        answer = asking.answer()
        rig.runner.before = None
        assert len(answer.text) == 300
        decodes = [at for operation, at in steps if operation == "decode"]
        gaps = [later - earlier for earlier, later in pairwise(decodes)]
        assert max(gaps) <= 0.02 + 0.05 + 0.001, "a decode step, and one slice"
        during = [operation for operation, at in steps if at < decodes[-1]]
        assert sum(operation.startswith("embed") for operation in during) > 20, "and it went on meanwhile"
        assert len(vectors.result(PATIENCE_S)) == 40


def test_jobs_take_turns() -> None:
    with timed() as rig:
        first = job(rig, *[(1,) * 500] * 20, name="large")
        second = job(rig, (2, 3), name="small")
        with rig.held():
            rig.engine.embed(first)
            rig.engine.embed(second)
        assert second.vectors.result(PATIENCE_S) == (vector_of((2, 3)),)
        assert len(first.vectors.result(PATIENCE_S)) == 20
        assert rig.runner.embedded.index((2,)) == 1
        assert len(rig.runner.embedded) > 20


def test_a_running_cache_counts_in_the_budget_and_what_can_never_fit_is_refused() -> None:
    with EngineRig(budget_bytes=512 * 8 + 64) as rig:
        used: list[int] = []
        rig.runner.before = lambda operation: used.append(rig.store.ledger().running_bytes)
        assert embed(rig, (1,) * 500).result(PATIENCE_S) == (vector_of((1,) * 500),)
        rig.runner.before = None
        assert max(used) > 0
        assert isinstance(error_of(embed(rig, (1,) * 600)), RequestTooLargeError)
        assert rig.store.ledger().running_bytes == 0
        assert rig.engine.num_unanswered == 0


@pytest.mark.parametrize("lengths", [(1600, 1600), (2600, 1600, 900)])
def test_long_texts_that_do_not_fit_together_are_computed_one_after_the_other(
    lengths: tuple[int, ...],
) -> None:
    texts = [tuple(range(number, number + length)) for number, length in enumerate(lengths)]
    with EngineRig(budget_bytes=3000 * BYTES_PER_TOKEN) as rig:
        with rig.held():
            asked = [embed(rig, text, (1, 2), name=f"e{number}") for number, text in enumerate(texts)]
        for text, vectors in zip(texts, asked, strict=True):
            assert vectors.result(PATIENCE_S) == (vector_of(text), vector_of((1, 2)))
        rig.idle()
        assert rig.store.ledger().running_bytes == 0


def behind_a_disk_that_takes_nothing() -> EngineRig:
    """Return a rig whose hot blocks are on their way to the disk, together with their copies: 600 of 3,000 tokens."""
    return EngineRig(budget_bytes=3000 * BYTES_PER_TOKEN, warm=MemoryWarmStore(hold_writes=True))


@pytest.mark.parametrize("lengths", [(1600, 1600), (1100, 1000, 1000)])
def test_long_texts_do_not_wait_for_one_another_behind_a_disk_that_takes_nothing(
    lengths: tuple[int, ...],
) -> None:
    texts = [tuple(range(number, number + length)) for number, length in enumerate(lengths)]
    with behind_a_disk_that_takes_nothing() as rig:
        rig.ask([7] * 300, agent="a", max_tokens=1).answer()
        with rig.held():
            asked = [embed(rig, text, name=f"e{number}") for number, text in enumerate(texts)]
        with ticking(lambda: rig.clock.advance(1.0)):
            for text, vectors in zip(texts, asked, strict=True):
                assert vectors.result(PATIENCE_S) == (vector_of(text),)
        assert rig.on_engine(rig.store.ledger).in_flight_bytes > 0, "it takes nothing still"
        assert rig.store.ledger().running_bytes == 0


def test_a_text_alone_behind_a_disk_that_does_not_respond_is_refused_for_now() -> None:
    with behind_a_disk_that_takes_nothing() as rig:
        rig.ask([7] * 300, agent="a", max_tokens=1).answer()
        vectors = embed(rig, (1,) * 2800)
        with ticking(lambda: rig.clock.advance(1.0)):
            error = error_of(vectors)
        assert isinstance(error, OverloadedError)
        assert "does not respond" in str(error)
        rig.warm.hold_writes = False
        rig.on_engine(rig.warm.catch_up)
        assert embed(rig, (1,) * 2800).result(PATIENCE_S) == (vector_of((1,) * 2800),)


def test_a_failure_fails_its_own_job_alone() -> None:
    with EngineRig() as rig:
        rig.runner.fail("embed")
        failing = embed(rig, (1, 2), name="bad")
        assert isinstance(error_of(failing), EngineError)
        assert "embed broke" in error_of(failing).message
        assert isinstance(error_of(embed(rig, (1,), dimensions=5)), InvalidRequestError)
        assert embed(rig, (1, 2)).result(PATIENCE_S)
        unknown = EmbeddingJob(RequestId("x"), AgentId("x"), ModelId("gone"), ((1,),))
        rig.engine.embed(unknown)
        assert isinstance(error_of(unknown.vectors), ConflictError)
        assert rig.engine.num_unanswered == 0


@pytest.mark.parametrize(("operation", "text"), [("embed", (1, 2)), ("embed_part", (1,) * 400)])
def test_a_shortage_of_memory_is_overcome_or_said(operation: str, text: tuple[int, ...]) -> None:
    with EngineRig() as rig:
        rig.runner.fail(operation, OutOfMemoryError("short", retry_after_s=1.0))
        assert embed(rig, text).result(PATIENCE_S) == (vector_of(text),)
        for after in range(3):
            rig.runner.fail(operation, OutOfMemoryError("short", retry_after_s=1.0), after=after)
        assert isinstance(error_of(embed(rig, text)), OutOfMemoryError)
        assert rig.runner.num_open == 0


def test_a_job_that_nobody_waits_for_ends() -> None:
    with timed() as rig:
        vectors = embed(rig, *[(1,) * 500] * 2000)
        wait_until(lambda: rig.runner.calls["embed_part"] > 3)
        assert vectors.cancel()
        wait_until(lambda: rig.engine.num_unanswered == 0)
        assert rig.runner.num_open == 0


def test_jobs_take_places_in_the_queue_and_end_with_the_engine() -> None:
    with timed(max_queue=1) as rig:
        vectors = embed(rig, *[(1,) * 500] * 2000)
        with pytest.raises(QueueFullError):
            embed(rig, (1,))
        rig.engine.stop()
        assert isinstance(error_of(vectors), DrainingError)
        with pytest.raises(DrainingError):
            embed(rig, (1,))


@pytest.mark.parametrize("has_state", [False, True])
def test_an_answer_that_runs_alone_is_not_cut_short_for_a_long_text(has_state: bool) -> None:
    budget = 2048 * BYTES_PER_TOKEN + 4 * STATE_BYTES
    with timed(budget_bytes=budget, has_state=has_state) as rig:
        ids, text = [(3 + i) % 90 for i in range(900)], (7,) * 1700
        halfway, asked, largest = threading.Event(), threading.Event(), 0

        def look(operation: str) -> None:
            nonlocal largest
            largest = max(largest, rig.runner.running_bytes())
            if sum(map(sum, rig.runner.embedded)) > 500 and not halfway.is_set():
                halfway.set()
                asked.wait(PATIENCE_S)

        rig.runner.before = look
        vectors = embed(rig, text)
        assert halfway.wait(PATIENCE_S)
        asking = rig.ask(ids, agent="a", max_tokens=800)
        asked.set()
        answer = asking.answer()
        assert not answer.usage.is_cut_short
        assert answer.text == CharTokenizer().decode(continuation(ids, 800, has_state=has_state))
        assert vectors.result(PATIENCE_S) == (vector_of(text),), "it began again when there was room"
        rig.runner.before = None
        assert largest <= budget
