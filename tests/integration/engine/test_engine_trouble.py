"""What the engine does when somebody leaves, something breaks, or there is too much of it."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import pytest

from semanticd.application.engine.running_sequence import SequenceText
from semanticd.domain.errors import (
    CacheError,
    CancelledByCallerError,
    ConflictError,
    DrainingError,
    EngineError,
    QueueFullError,
)
from semanticd.domain.ids import AgentId, ModelId, RequestId
from semanticd.domain.scheduler import Scheduler, SchedulerLimits, Step
from tests.fakes.engine_rig import PATIENCE_S, Ask, EngineRig, wait_until
from tests.fakes.model_runner import HashRunner, continuation, loaded_model
from tests.fakes.tokenizer import CharTokenizer
from tests.fakes.warm_store import MemoryAgentArchive, MemoryWarmStore

TOKENS = CharTokenizer()


def prompt(length: int, seed: int = 0) -> list[int]:
    return [random.Random(seed).randrange(95) for _ in range(length)] if length else []


def truth(token_ids: list[int], num_tokens: int = 8, **options: object) -> str:
    return TOKENS.decode(continuation(token_ids, num_tokens, **options))  # type: ignore[arg-type]


def stop_at(rig: EngineRig, operation: str, number: int, then: object) -> None:
    """Do something on the engine thread when the runner's operation is about to run for the n-th time."""
    counted = iter(range(1_000_000))

    def before(name: str) -> None:
        if name == operation and next(counted) == number:
            then()  # type: ignore[operator]

    rig.runner.before = before


@pytest.mark.parametrize("has_state", [False, True])
def test_a_prefill_that_is_cancelled_keeps_what_it_computed(has_state: bool) -> None:
    ids = prompt(1000)
    limits = SchedulerLimits(prefill_chunk=16)
    with EngineRig(runner=HashRunner(has_state=has_state), limits=limits) as rig:
        stop_at(rig, "prefill", 40, lambda: rig.engine.cancel(RequestId("leaving")))
        ask = rig.ask(ids, request_id="leaving")
        assert isinstance(ask.error(), CancelledByCallerError)
        computed = rig.runner.num_prefilled
        # One step: the chunk that was running when the cancel came is the last one, and left where that loses little.
        assert rig.runner.calls["prefill"] == 41
        assert computed == (41 if has_state else 40) * 16
        retry = rig.ask(ids).answer()
        assert retry.text == truth(ids, has_state=has_state)
        assert retry.cache.cached_tokens >= 0.95 * computed


def test_a_client_that_gives_up_before_a_block_is_full_comes_further_each_time() -> None:
    ids, limits = prompt(1000), SchedulerLimits(prefill_chunk=16)
    with EngineRig(runner=HashRunner(block_tokens=256), limits=limits) as rig:
        for attempt in range(4):
            stop_at(rig, "prefill", 2, lambda: rig.engine.cancel(RequestId("leaving")))
            before = rig.runner.num_prefilled
            ask = rig.ask(ids, request_id="leaving")
            assert isinstance(ask.error(), CancelledByCallerError)
            assert rig.runner.num_prefilled - before == 3 * 16, attempt
        answer = rig.ask(ids).answer()
        assert answer.cache.cached_tokens == 4 * 3 * 16
        assert answer.text == truth(ids)


@pytest.mark.parametrize("has_state", [False, True])
@pytest.mark.parametrize("step", [0, 1, 7])
def test_an_answer_that_is_cancelled_keeps_what_it_computed(step: int, has_state: bool) -> None:
    ids = prompt(100)
    with EngineRig(runner=HashRunner(has_state=has_state)) as rig:
        stop_at(rig, "decode", step, lambda: rig.engine.cancel(RequestId("leaving")))
        ask = rig.ask(ids, max_tokens=10_000, request_id="leaving")
        assert isinstance(ask.error(), CancelledByCallerError)
        assert rig.runner.calls["decode"] == step + 1
        retry = rig.ask(ids, max_tokens=30).answer()
        assert retry.text == truth(ids, 30, has_state=has_state)
        assert retry.cache.cached_tokens == 99
        follow = ids + continuation(ids, step + 1, has_state=has_state) + [1]
        assert rig.ask(follow).answer().text == truth(follow, has_state=has_state)


def test_tokens_that_were_computed_for_who_left_are_counted() -> None:
    with EngineRig() as rig:
        rig.ask(prompt(100), max_tokens=1).answer()
        ask = rig.ask(prompt(100) + prompt(60, seed=1), max_tokens=1_000_000)
        wait_until(lambda: len(ask.updates) > 40, "an answer")
        rig.engine.cancel(ask.request_id)
        ask.wait()
        num_answered = sum(isinstance(update, SequenceText) for update in ask.updates)
        computed = rig.metrics.counters["unanswered_tokens_total", "cancelled"]
        # The last one or two may be computed and not sent.
        assert 60 + num_answered - 2 <= computed <= 60 + num_answered + 2
        assert rig.metrics.counters["unanswered_tokens_total", "error"] == 0


@pytest.mark.parametrize("has_state", [False, True])
def test_a_cancel_between_prefill_and_decode_leaves_nothing_wrong_behind(has_state: bool) -> None:
    ids = prompt(100)
    with EngineRig(runner=HashRunner(has_state=has_state)) as rig:
        stop_at(rig, "start_decode", 0, lambda: rig.engine.cancel(RequestId("leaving")))
        assert isinstance(rig.ask(ids, request_id="leaving").error(), CancelledByCallerError)
        for follow in ([*ids, 1], [*ids, 2], ids):
            assert rig.ask(follow).answer().text == truth(follow, has_state=has_state)


def test_a_request_is_cancelled_while_its_blocks_are_read() -> None:
    warm = SlowReads()
    archive = MemoryAgentArchive()
    ids = prompt(100)
    with EngineRig(warm=warm, archive=archive) as rig:
        rig.ask(ids).answer()
    with EngineRig(warm=warm, archive=archive) as rig:
        warm.hold_reads = True
        ask = rig.ask(ids)
        wait_until(lambda: bool(warm.waiting), "the reads")
        rig.engine.cancel(ask.request_id)
        assert isinstance(ask.error(), CancelledByCallerError)
        warm.let_go()
        assert rig.ask(ids).answer().text == truth(ids)


def test_other_agents_are_answered_while_blocks_are_read() -> None:
    warm = SlowReads()
    archive = MemoryAgentArchive()
    ids = prompt(100)
    with EngineRig(warm=warm, archive=archive) as rig:
        rig.ask(ids).answer()
    with EngineRig(warm=warm, archive=archive) as rig:
        warm.hold_reads = True
        slow = rig.ask(ids)
        wait_until(lambda: bool(warm.waiting), "the reads")
        assert rig.ask(prompt(50, 1), agent="b").answer().text == truth(prompt(50, 1))
        assert not slow.started
        warm.let_go()
        assert slow.answer().cache.restored_warm_tokens == 99


def test_blocks_being_read_for_one_request_may_be_evicted_or_deleted_by_name() -> None:
    warm = SlowReads()
    archive = MemoryAgentArchive()
    ids = prompt(100)
    with EngineRig(warm=warm, archive=archive) as rig:
        rig.ask(ids).answer()
    with EngineRig(warm=warm, archive=archive) as rig:
        # The first blocks are hot, the others are still to be read.
        rig.ask(ids[:50], agent="c").answer()
        warm.hold_reads = True
        ask = rig.ask(ids, agent="b")
        wait_until(lambda: bool(warm.waiting), "the reads")
        rig.on_engine(lambda: rig.tables.evict_agent("a"))  # type: ignore[arg-type]
        rig.on_engine(lambda: rig.tables.delete_agent(AgentId("a"), rig.tables.blocks_of(AgentId("a"))))
        warm.let_go()
        assert ask.answer().text == truth(ids)


def test_a_block_that_cannot_be_read_is_computed() -> None:
    warm, archive = MemoryWarmStore(), MemoryAgentArchive()
    ids = prompt(100)
    with EngineRig(warm=warm, archive=archive) as rig:
        rig.ask(ids).answer()
        table = rig.agents.get("a").block_table  # type: ignore[arg-type]
    warm.break_block(table[2])
    with EngineRig(warm=warm, archive=archive) as rig:
        answer = rig.ask(ids).answer()
        assert answer.text == truth(ids)
        assert answer.cache.cached_tokens == 32


def test_a_block_with_foreign_tensors_is_computed() -> None:
    warm, archive = MemoryWarmStore(), MemoryAgentArchive()
    ids = prompt(100)
    with EngineRig(warm=warm, archive=archive) as rig:
        rig.ask(ids).answer()
    with EngineRig(warm=warm, archive=archive) as rig:
        rig.runner.fail(
            "restore", CacheError("cannot restore a block: its tensors are not this model's"), after=3
        )
        answer = rig.ask(ids).answer()
        assert answer.text == truth(ids)
        assert answer.cache.cached_tokens == 48
        assert "block_not_restored" in rig.log.events("warning")


@pytest.mark.parametrize("operation", ["open", "prefill", "start_decode"])
def test_a_sequence_that_fails_fails_alone(operation: str) -> None:
    asked: list[Ask] = []
    with EngineRig() as rig:

        def ask() -> None:
            rig.runner.fail(operation)
            asked.append(rig.ask(prompt(200)))

        with rig.held():
            other = rig.ask(prompt(30, seed=9), agent="b", max_tokens=400)
            # Once it is decoded: before, it could be the one that fails.
            other.meanwhile(ask)
        assert other.answer().text == truth(prompt(30, seed=9), 400)
        broken = asked[0].error()
        assert isinstance(broken, EngineError)
        assert f"{operation} broke" in broken.message
        assert rig.ask(prompt(200)).answer().text == truth(prompt(200))


def test_a_block_that_cannot_be_copied_costs_no_answer() -> None:
    with EngineRig() as rig:
        for after in (0, 3, 8):
            rig.runner.fail("copy_block", after=after)
        asks = [rig.ask(prompt(100, seed=n), agent=str(n), max_tokens=60) for n in range(3)]
        for n, ask in enumerate(asks):
            assert ask.answer().text == truth(prompt(100, seed=n), 60)
        assert rig.ask(prompt(100)).answer().cache.cached_tokens > 80
        assert "block_not_kept" in rig.log.events("warning")


def test_a_failing_decode_step_fails_those_in_it_and_the_engine_goes_on() -> None:
    with EngineRig() as rig:
        rig.runner.fail("decode", after=3)
        asks = [rig.ask(prompt(30, seed=n), agent=str(n), max_tokens=50) for n in range(2)]
        errors = [ask.updates[-1] for ask in asks if ask.wait() is None]
        assert any(isinstance(getattr(update, "error", None), EngineError) for update in errors)
        assert rig.ask(prompt(30)).answer().text == truth(prompt(30))


def test_a_listener_that_breaks_harms_nobody_else() -> None:
    with EngineRig() as rig:
        rig.expects_defect = True
        bad = rig.ask(prompt(30), agent="bad", max_tokens=50)

        def refuse(_: object) -> None:
            raise OSError("nobody listens")

        bad.on_update = refuse
        good = rig.ask(prompt(30, seed=1), agent="good", max_tokens=50)
        assert good.answer().text == truth(prompt(30, seed=1), 50)
        wait_until(lambda: rig.engine.num_unanswered == 0)
        assert rig.ask(prompt(30)).answer().text == truth(prompt(30))


def test_an_action_that_breaks_is_reported_to_whoever_asked_for_it() -> None:
    def broken() -> None:
        raise ValueError("no")

    with EngineRig() as rig:
        future = rig.engine.call(broken)
        with pytest.raises(ValueError, match="no"):
            future.result(PATIENCE_S)
        cancelled = rig.engine.call(lambda: 1)
        cancelled.cancel()
        assert rig.ask(prompt(30)).answer().text == truth(prompt(30))


class BrokenScheduler(Scheduler):
    """A scheduler with a defect: its next decisions raise."""

    num_failures = 0
    look: Callable[[], None]

    def decide(self, now: float) -> Step:
        """Fail as often as the test says."""
        if self.num_failures:
            self.look()
            type(self).num_failures -= 1
            raise AssertionError("an invariant broke")
        return super().decide(now)


def test_an_engine_defect_fails_every_request_and_the_engine_goes_on() -> None:
    scheduler = BrokenScheduler(limits=SchedulerLimits(), block_tokens=16)
    told: list[str | None] = []
    with EngineRig(scheduler=scheduler) as rig:
        rig.expects_defect = True
        # By the engine's thread: half a second later it is well again.
        scheduler.look = lambda: told.append(rig.engine.failure)
        asks = [rig.ask(prompt(30, seed=n), agent=str(n), max_tokens=1_000_000) for n in range(3)]
        wait_until(lambda: all(ask.started for ask in asks))
        BrokenScheduler.num_failures = 5
        for ask in asks:
            assert isinstance(ask.error(), EngineError)
        wait_until(lambda: not BrokenScheduler.num_failures and rig.engine.failure is None, "its recovery")
        assert [one is not None for one in told] == [False] * 3 + [True] * 2
        assert rig.ask(prompt(30)).answer().text == truth(prompt(30))
        assert rig.log.events("error").count("engine_failed") == 3, "the 1st, 2nd and 4th failure are logged"


def test_a_broken_action_harms_no_request() -> None:
    with EngineRig() as rig:
        rig.expects_defect = True
        asks = [rig.ask(prompt(30, seed=n), agent=str(n), max_tokens=200) for n in range(3)]

        def broken() -> None:
            raise AssertionError("an invariant broke")

        rig.queue.post(broken)
        for n, ask in enumerate(asks):
            assert ask.answer().text == truth(prompt(30, seed=n), 200)


def test_what_arrives_beside_a_broken_action_is_not_lost() -> None:
    with EngineRig() as rig:
        rig.expects_defect = True

        def broken() -> None:
            raise AssertionError("an invariant broke")

        with rig.held():
            rig.queue.post(broken)
            ask = rig.ask(prompt(30))
            number = rig.engine.call(lambda: 42)
        assert number.result(PATIENCE_S) == 42
        ask.wait()


def test_a_full_queue_refuses_and_says_so() -> None:
    with EngineRig(max_queue=3, max_queue_per_agent=2) as rig:
        with rig.held():
            asks = [rig.ask(prompt(30, seed=n), agent="busy") for n in range(2)]
            with pytest.raises(QueueFullError, match="'busy' has 2 requests"):
                rig.ask(prompt(30), agent="busy")
            asks.append(rig.ask(prompt(30, seed=3), agent="other"))
            with pytest.raises(QueueFullError, match="the queue is full: 3"):
                rig.ask(prompt(30), agent="third")
        for ask in asks:
            ask.answer()
        assert rig.ask(prompt(30), agent="busy").answer().text == truth(prompt(30))


def test_draining_refuses_new_requests_and_finishes_the_others() -> None:
    with EngineRig() as rig:
        ask = rig.ask(prompt(30), max_tokens=100)
        rig.engine.drain()
        assert rig.engine.draining
        with pytest.raises(DrainingError):
            rig.ask(prompt(30))
        assert ask.answer().text == truth(prompt(30), 100)


def test_stopping_fails_what_runs_and_persists_what_was_computed() -> None:
    warm, archive = MemoryWarmStore(), MemoryAgentArchive()
    with EngineRig(warm=warm, archive=archive) as rig:
        ask = rig.ask(prompt(300), max_tokens=1_000_000)
        wait_until(lambda: bool(ask.text))
        rig.engine.stop()
        rig.engine.stop()
        assert isinstance(ask.error(), DrainingError)
        with pytest.raises(DrainingError):
            rig.ask(prompt(30))
    with EngineRig(warm=warm, archive=archive) as rig:
        assert rig.ask(prompt(300)).answer().cache.restored_warm_tokens >= 288


def test_nobody_waits_for_ever_when_the_engine_stops() -> None:
    rig = EngineRig()
    with rig:
        gate = threading.Event()
        rig.engine.call(lambda: gate.wait(PATIENCE_S))
        stopper = threading.Thread(target=rig.engine.stop)
        ask = rig.ask(prompt(30), max_tokens=1_000_000)
        number = rig.engine.call(lambda: 42)
        stopper.start()
        wait_until(lambda: rig.queue.stopping)
        gate.set()
        stopper.join(PATIENCE_S)
        assert isinstance(ask.error(), DrainingError)
        number.exception(PATIENCE_S)
    with pytest.raises(Exception, match="stopped"):
        rig.engine.call(lambda: 1).result(PATIENCE_S)


def test_a_model_leaves_when_its_requests_are_done_and_its_blocks_stay_on_disk() -> None:
    with EngineRig() as rig:
        ask = rig.ask(prompt(50), max_tokens=1_000_000)
        wait_until(lambda: ask.started)
        with pytest.raises(ConflictError):
            rig.engine.remove_model(ModelId("tiny")).result(PATIENCE_S)
        rig.engine.cancel(ask.request_id)
        ask.wait()
        rig.idle()
        rig.engine.remove_model(ModelId("tiny")).result(PATIENCE_S)
        assert rig.runner.released
        assert len(rig.store.pool) == 0
        assert isinstance(rig.ask(prompt(50)).error(), ConflictError)
        fresh = HashRunner()
        rig.add_model(loaded_model(fresh))
        assert rig.ask(prompt(50)).answer().cache.restored_warm_tokens == 49


def test_two_models_of_one_shape_share_no_block() -> None:
    with EngineRig() as rig:
        other = HashRunner(fingerprint="cd" * 32, seed=5)
        rig.add_model(loaded_model(other, model_id="other"))
        ids = prompt(100)
        with rig.held():
            asks = [rig.ask(ids, max_tokens=40), rig.ask(ids, max_tokens=40, model="other")]
        assert asks[0].answer().text == truth(ids, 40)
        assert asks[1].answer().text == truth(ids, 40, seed=5)
        assert asks[1].answer().cache.cached_tokens == 0


class SlowReads(MemoryWarmStore):
    """A warm store whose reads end when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.hold_reads = False
        self.waiting: list[tuple[object, object]] = []

    def read(self, block_hash):  # type: ignore[no-untyped-def]
        from concurrent.futures import Future

        if not self.hold_reads:
            return super().read(block_hash)
        future: Future[object] = Future()
        self.waiting.append((future, block_hash))
        return future

    def let_go(self) -> None:
        """Let held reads, and all later ones, end."""
        self.hold_reads = False
        for future, block_hash in self.waiting:
            if future.set_running_or_notify_cancel():  # type: ignore[attr-defined]
                future.set_result(super().read(block_hash).result())  # type: ignore[attr-defined]
