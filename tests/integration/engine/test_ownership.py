"""One client's cancel, one slow disk, one swap or one broken request costs another request nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from semanticd.adapters.disk.blocks.warm_store import DiskWarmStore, WarmOptions
from semanticd.adapters.disk.files.atomic import FileSystem
from semanticd.application.cache.agent_registry import MAX_AGENTS_KEPT
from semanticd.application.engine.loop import backoff_s
from semanticd.application.engine.model_changes import LEAVING_WRITES_S
from semanticd.application.engine.queue import EngineQueue
from semanticd.application.engine.restore import READ_DEADLINE_S, READ_WINDOW
from semanticd.application.engine.room import ROOM_DEADLINE_S
from semanticd.application.ports.inference import StreamDecoder
from semanticd.application.ports.warm_store import BlockRecord
from semanticd.domain.chat import ChatPrompt, Message
from semanticd.domain.errors import CancelledByCallerError, DrainingError, EngineError
from semanticd.domain.generation import SamplingParams
from semanticd.domain.ids import AgentId, BlockHash, ModelId
from tests.fakes.engine_rig import PATIENCE_S, EngineRig, ticking, wait_until
from tests.fakes.model_runner import BYTES_PER_TOKEN, HashRunner, continuation, loaded_model
from tests.fakes.service_rig import ServiceRig
from tests.fakes.tokenizer import CharTokenizer
from tests.fakes.warm_store import MemoryAgentArchive, MemoryWarmStore

TOKENS = CharTokenizer()
ENDLESS = 1_000_000


def prompt(length: int, seed: int = 0) -> list[int]:
    """Return ids that differ from those of other seeds from the first one on."""
    return [(7 + seed * 13 + i * (seed + 1)) % 90 for i in range(length)]


def truth(ids: list[int], num_tokens: int = 8, *, has_state: bool = False) -> str:
    """Return what the model answers without any cache."""
    return TOKENS.decode(continuation(ids, num_tokens, has_state=has_state))


class HungReads(MemoryWarmStore):
    """A warm store whose disk stops answering when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.hung = False
        self.asked: list[BlockHash] = []
        self.pending: list[Future[BlockRecord | None]] = []

    def read(self, block_hash: BlockHash) -> Future[BlockRecord | None]:
        """Never end while the disk hangs."""
        self.asked.append(block_hash)
        if not self.hung:
            return super().read(block_hash)
        future: Future[BlockRecord | None] = Future()
        self.pending.append(future)
        return future


@pytest.fixture
def cold() -> tuple[HungReads, MemoryAgentArchive]:
    """A warm store that holds the blocks of six agents' prompts of 640 tokens, and the agents' records."""
    warm, archive = HungReads(), MemoryAgentArchive()
    with EngineRig(warm=warm, archive=archive) as rig:
        for seed in range(6):
            rig.ask(prompt(640, seed), agent=str(seed)).answer()
    warm.asked.clear()
    return warm, archive


Cold = tuple[HungReads, MemoryAgentArchive]


def test_a_model_can_leave_after_a_client_hung_up_during_its_restore(cold: Cold) -> None:
    warm, archive = cold
    with EngineRig(warm=warm, archive=archive) as rig:
        warm.hung = True
        ask = rig.ask(prompt(640), agent="0")
        wait_until(lambda: bool(warm.pending), "the reads")
        rig.engine.cancel(ask.request_id)
        assert isinstance(ask.error(), CancelledByCallerError)
        rig.engine.remove_model(ModelId("tiny")).result(PATIENCE_S)
        assert rig.runner.released
        warm.hung = False
        rig.add_model(loaded_model(HashRunner()))
        assert rig.ask(prompt(640), agent="0").answer().cache.restored_warm_tokens == 639


def test_a_cancelled_restore_reads_no_more_than_its_window(cold: Cold) -> None:
    warm, archive = cold
    with EngineRig(warm=warm, archive=archive) as rig:
        warm.hung = True
        ask = rig.ask(prompt(640), agent="0")
        wait_until(lambda: len(warm.pending) == READ_WINDOW, "the window")
        rig.engine.cancel(ask.request_id)
        ask.wait()
        rig.idle()
        assert len(warm.asked) == READ_WINDOW
        assert all(read.cancelled() for read in warm.pending)


def test_reads_that_never_return_cost_other_requests_nothing(cold: Cold) -> None:
    warm, archive = cold
    with EngineRig(warm=warm, archive=archive) as rig:
        warm.hung = True
        stuck = [rig.ask(prompt(640, seed), agent=str(seed)) for seed in range(6)]
        wait_until(lambda: len(warm.pending) == 6 * READ_WINDOW, "the reads")
        assert rig.ask(prompt(20, 50), agent="other").answer().text == truth(prompt(20, 50))
        rig.clock.advance(READ_DEADLINE_S + 1)
        for seed, ask in enumerate(stuck):
            answer = ask.answer()
            assert answer.text == truth(prompt(640, seed))
            assert answer.cache.computed_tokens == 640
        assert rig.metrics.counters["restore_timeouts_total",] == 6


def test_what_a_restore_was_promised_makes_way_for_an_answer_that_grows(cold: Cold) -> None:
    warm, archive = cold
    budget, largest = 2600 * BYTES_PER_TOKEN, 0
    with EngineRig(warm=warm, archive=archive, budget_bytes=budget) as rig:

        def measure(operation: str) -> None:
            nonlocal largest
            largest = max(largest, rig.store.ledger().used_bytes)

        rig.runner.before = measure
        ids = prompt(100, 50)
        with rig.held():
            long = rig.ask(ids, agent="other", max_tokens=1500)
        wait_until(lambda: long.started, "the answer's beginning")
        with rig.held():
            warm.hung = True
            stuck = rig.ask(prompt(640), agent="0")
        wait_until(lambda: bool(warm.pending), "the reads")
        assert long.answer().text == truth(ids, 1500)
        warm.hung = False
        rig.clock.advance(READ_DEADLINE_S + 1)
        assert stuck.answer().text == truth(prompt(640))
        rig.runner.before = None
    assert largest <= budget + 16 * BYTES_PER_TOKEN


def test_two_models_with_equal_weights_share_blocks_and_leave_one_by_one() -> None:
    with EngineRig() as rig:
        copy = HashRunner()
        rig.add_model(loaded_model(copy, model_id="copy"))
        ids = prompt(200)
        assert rig.ask(ids).answer().text == truth(ids)
        assert rig.ask(ids, model="copy").answer().cache.reused_hot_tokens == 199
        rig.engine.remove_model(ModelId("copy")).result(PATIENCE_S)
        assert rig.ask(ids).answer().cache.reused_hot_tokens == 199
        assert rig.ask(prompt(300, 1)).answer().text == truth(prompt(300, 1))
        rig.add_model(loaded_model(HashRunner(), model_id="copy"))
        rig.engine.remove_model(ModelId("tiny")).result(PATIENCE_S)
        assert rig.ask(ids, model="copy").answer().text == truth(ids)


def test_a_cancel_that_comes_while_a_model_leaves_reaches_its_request() -> None:
    with EngineRig() as rig:
        rig.add_model(loaded_model(HashRunner(fingerprint="cd" * 32), model_id="leaving"))
        rig.ask(prompt(200), model="leaving").answer()
        rig.warm.hold_writes = True
        rig.ask(prompt(200, 1), model="leaving").answer()
        with rig.held():
            removed = rig.engine.remove_model(ModelId("leaving"))
            asks = [rig.ask(prompt(2000, n), agent=str(n), max_tokens=ENDLESS) for n in range(3)]
            for ask in asks:
                rig.engine.cancel(ask.request_id)
        for ask in asks:
            assert isinstance(ask.error(), CancelledByCallerError)
        rig.warm.hold_writes = False
        rig.warm.catch_up()
        removed.result(PATIENCE_S)


def test_a_submission_that_cannot_be_taken_fails_alone() -> None:
    class BrokenDecoder(CharTokenizer):
        broken = False

        def stream_decoder(self) -> StreamDecoder:
            if self.broken:
                raise RuntimeError("no decoder")
            return super().stream_decoder()

    tokenizer = BrokenDecoder()
    with EngineRig(tokenizer=tokenizer) as rig:
        other = rig.ask(prompt(30), agent="b", max_tokens=300)
        wait_until(lambda: other.started)
        tokenizer.broken = True
        assert isinstance(rig.ask(prompt(40, 1)).error(), EngineError)
        tokenizer.broken = False
        assert other.answer().text == truth(prompt(30), 300)
        assert rig.engine.num_unanswered == 0


@pytest.mark.parametrize("disk", ["slow", "hung"])
def test_memory_stays_within_the_budget_behind_a_disk_that_is_slower_than_prefill(disk: str) -> None:
    budget = 2048 * BYTES_PER_TOKEN
    # One block that is published while others wait for the disk.
    slack = 16 * BYTES_PER_TOKEN
    largest = 0
    with EngineRig(budget_bytes=budget) as rig:
        rig.warm.hold_writes = True

        def measure(operation: str) -> None:
            nonlocal largest
            largest = max(largest, rig.store.ledger().used_bytes)

        def tick() -> None:
            rig.clock.advance(1.0)
            if disk == "slow":
                rig.engine.call(rig.warm.catch_up)

        rig.runner.before = measure
        with ticking(tick):
            for seed in range(8):
                ids = prompt(700, seed)
                assert rig.ask(ids, agent=str(seed), max_tokens=100).answer().text == truth(ids, 100)
        rig.runner.before = None
        if disk == "hung":
            assert rig.metrics.counters["cache_skipped_blocks_total",] > 0
    assert largest <= budget + slack


@contextmanager
def filled_behind_a_slow_disk(num_tokens: int) -> Iterator[EngineRig]:
    """Give an engine whose RAM is full of blocks that the disk has not taken, but for a running cache or two."""
    with EngineRig(budget_bytes=num_tokens * BYTES_PER_TOKEN) as rig:
        rig.warm.hold_writes = True
        seed = 10
        while rig.store.ledger().free_bytes >= 2 * 256 * BYTES_PER_TOKEN:
            rig.ask(prompt(200, seed), agent=str(seed), max_tokens=1).answer()
            seed += 1
        yield rig
        rig.runner.before = None


def until_it_waits_for_room(rig: EngineRig) -> None:
    """Wait until a request has looked for room and found none: from then on it waits for the disk."""

    def is_blocked() -> bool:
        return any(rig.scheduler.is_blocked(one.sequence_id) for one in rig.engine.running())

    wait_until(lambda: rig.on_engine(is_blocked), "the look for room")


def test_a_row_that_joins_one_batch_leaves_the_room_that_another_is_about_to_take() -> None:
    budget = 24_000
    largest = 0

    def measure(operation: str) -> None:
        nonlocal largest
        ledger = rig.store.ledger()
        largest = max(largest, ledger.used_bytes - ledger.promised_bytes)

    with EngineRig(budget_bytes=budget) as rig:
        rig.runner.before = measure
        # Rows join one batch while the other has filled its room and not grown yet.
        asked = [(540, 48, 4), (425, 21, 3), (242, 58, 3), (81, 15, 3), (444, 38, 3)]
        with rig.held():
            asks = [
                (
                    rig.ask(prompt(length, seed), agent=f"agent-{length}", max_tokens=answer),
                    length,
                    answer,
                    seed,
                )
                for length, answer, seed in asked
            ]
        for ask, length, answer, seed in asks:
            assert ask.answer().text == truth(prompt(length, seed), answer)
        rig.idle()
        rig.runner.before = None
    assert largest <= budget + len(asked) * rig.runner.spec.stored_bytes(rig.runner.spec.block_tokens)


def test_a_slow_disk_stops_no_answer_that_has_begun() -> None:
    with filled_behind_a_slow_disk(3000) as rig:

        def take_time(operation: str) -> None:
            if operation == "decode":
                rig.clock.advance(0.02)

        rig.runner.before = take_time
        with rig.held():
            asks = [rig.ask(prompt(20, seed), agent=str(seed), max_tokens=400) for seed in (1, 2)]
        for seed, ask in zip((1, 2), asks, strict=True):
            assert ask.answer().text == truth(prompt(20, seed), 400)
        assert rig.metrics.counters["preemptions_total",] == 0


def test_answers_that_grow_at_once_go_on_together_behind_a_hung_disk() -> None:
    with filled_behind_a_slow_disk(5000) as rig:
        with rig.held():
            asks = [rig.ask(prompt(20, seed), agent=str(seed), max_tokens=400) for seed in range(1, 6)]
        with ticking(lambda: rig.clock.advance(0.01)):
            for seed, ask in enumerate(asks, start=1):
                assert ask.answer().text == truth(prompt(20, seed), 400)
        assert rig.metrics.counters["preemptions_total",] == 0


def test_a_request_waits_for_a_slow_disk_for_a_moment_only() -> None:
    with filled_behind_a_slow_disk(3000) as rig:
        ids = prompt(600, 1)
        ask = rig.ask(ids)
        until_it_waits_for_room(rig)
        assert not ask.started
        rig.clock.advance(ROOM_DEADLINE_S)
        assert ask.answer().text == truth(ids)


def test_requests_in_turn_wait_for_a_hung_disk_once() -> None:
    with filled_behind_a_slow_disk(3000) as rig:
        # Each is longer than the one before: what that one left free is not enough.
        first, *others = (prompt(300 * seed, seed) for seed in range(1, 5))
        ask = rig.ask(first)
        until_it_waits_for_room(rig)
        rig.clock.advance(ROOM_DEADLINE_S)
        assert ask.answer().text == truth(first)
        # The clock stands still from now on.
        for number, ids in enumerate(others):
            assert rig.ask(ids, agent=f"other{number}").answer().text == truth(ids)


def test_a_disk_that_has_caught_up_is_waited_for_again() -> None:
    with filled_behind_a_slow_disk(3000) as rig:
        ask = rig.ask(prompt(600, 1))
        until_it_waits_for_room(rig)
        rig.clock.advance(ROOM_DEADLINE_S)
        ask.answer()
        rig.warm.hold_writes = False
        rig.on_engine(rig.warm.catch_up)
        rig.idle()
        lost = rig.store.counters.lost_blocks
        assert lost > 0
        for seed in range(2, 8):
            rig.ask(prompt(600, seed), agent=str(seed)).answer()
        assert rig.store.counters.lost_blocks == lost


def test_what_is_waited_for_is_forgotten_when_the_disk_has_caught_up() -> None:
    with filled_behind_a_slow_disk(3000) as rig:
        ask = rig.ask(prompt(600, 1))
        until_it_waits_for_room(rig)
        rig.engine.cancel(ask.request_id)
        ask.wait()
        rig.warm.hold_writes = False
        rig.on_engine(rig.warm.catch_up)
        rig.idle()
        rig.clock.advance(ROOM_DEADLINE_S)
        rig.ask(prompt(600, 2), agent="b").answer()
        assert rig.store.counters.lost_blocks == 0


@pytest.mark.parametrize("has_state", [False, True])
def test_a_disk_tier_that_is_full_is_not_behind(has_state: bool) -> None:
    with EngineRig(budget_bytes=3000 * BYTES_PER_TOKEN, runner=HashRunner(has_state=has_state)) as rig:
        rig.warm.refuse = "the cap is reached"
        with ticking(lambda: rig.clock.advance(0.5)):
            for seed in range(9):
                asked = rig.ask(prompt(1100, seed), agent=str(seed), max_tokens=300)
                assert asked.answer().text == truth(prompt(1100, seed), 300, has_state=has_state)
                rig.idle()
        assert not {"disk_is_behind", "disk_caught_up"} & {
            *rig.log.events("warning"),
            *rig.log.events("info"),
        }
        assert rig.metrics.counters["cache_skipped_blocks_total",] == 0, "what was used last stays in RAM"
        answer = rig.ask(prompt(1100, 8), agent="8").answer()
        assert answer.cache.reused_hot_tokens >= 1088


def test_a_short_request_does_not_wait_for_a_long_answer_to_end() -> None:
    with EngineRig(budget_bytes=16_000 * BYTES_PER_TOKEN) as rig:
        long = rig.ask(prompt(1000), agent="long", max_tokens=ENDLESS)
        wait_until(lambda: len(long.updates) > 8000, "a long answer")
        assert rig.ask(prompt(20, 1), agent="short", max_tokens=20).answer().text == truth(prompt(20, 1), 20)
        assert not long.over
        rig.engine.cancel(long.request_id)
        long.wait()


class CallingThreads(FileSystem):
    """Real files; notes the threads that write, sync and remove, and takes its time."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: set[str] = set()

    def sync(self, fd: int, *, full: bool) -> None:
        """Note the thread."""
        self.threads.add(threading.current_thread().name)
        super().sync(fd, full=full)

    def read(self, path: Path) -> bytes:
        """Note the thread."""
        self.threads.add(threading.current_thread().name)
        return super().read(path)

    def remove(self, path: Path) -> None:
        """Note the thread."""
        self.threads.add(threading.current_thread().name)
        super().remove(path)


class AskedFrom(MemoryAgentArchive):
    """Agents in a dictionary; notes which threads ask what a disk would be read for."""

    QUESTIONS = frozenset(
        {"load", "load_recent", "page", "summary", "block_tables", "first_blocks", "expired", "pinned", "ids"}
        | {"surplus_anonymous", "holders", "own_blocks"}
    )

    def __init__(self) -> None:
        super().__init__()
        self.asked: set[tuple[str, str]] = set()

    def __getattribute__(self, name: str) -> Any:
        """Note a question and the thread that asks it."""
        if name in AskedFrom.QUESTIONS:
            self.asked.add((threading.current_thread().name, name))
        return super().__getattribute__(name)


SYSTEM = Message.of("system", "A system text that takes up a few blocks of sixteen tokens each. " * 2)


async def test_the_engine_thread_never_reads_the_archive() -> None:
    archive = AskedFrom()
    async with ServiceRig(archive=archive) as rig:
        engine = rig.engine_rig.on_engine(lambda: threading.current_thread().name)
        await rig.say([SYSTEM, Message.of("user", "hello")], agent="a")
        await rig.say("what is the title of this?", agent="a")
        await rig.say("nobody asks", agent=None)
        await rig.say("one turn", agent="kept", conversation=True)
        turns = (await rig.agents.agent("a")).num_turns
        stream = await rig.begin(
            [SYSTEM, Message.of("user", "hello"), Message.of("user", "again")], agent="a"
        )
        for number in range(MAX_AGENTS_KEPT + 8):
            rig.engine_rig.agents.get_or_create(AgentId(f"other-{number}"))
        assert not rig.engine_rig.agents.is_in_memory(AgentId("kept"))
        assert rig.engine_rig.agents.is_in_memory(AgentId("a"))
        rig.runner.before = lambda operation: None
        await stream.result()
        assert (await rig.agents.agent("a")).num_turns == turns + 1
        for number in range(MAX_AGENTS_KEPT + 8):
            rig.engine_rig.agents.get_or_create(AgentId(f"another-{number}"))
        assert not rig.engine_rig.agents.is_in_memory(AgentId("a")), "the request has let it go"
        await rig.say([SYSTEM, Message.of("user", "hello")], agent="a")
        assert (await rig.agents.agent("a")).num_turns == turns + 2
    assert {name for thread, name in archive.asked if thread == engine} == set()
    assert "load" in {name for _, name in archive.asked}


class GatedTokenizer(CharTokenizer):
    """Reads no text before `gate` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.waiting = threading.Event()

    def render(self, prompt: ChatPrompt, *, add_generation_prompt: bool = True) -> str:
        """Render when the gate is open."""
        self.waiting.set()
        assert self.gate.wait(PATIENCE_S)
        return super().render(prompt, add_generation_prompt=add_generation_prompt)


@pytest.mark.parametrize("ending", ["left while it is read", "refused", "left while it runs", "answered"])
async def test_a_request_lets_its_agents_go_however_it_ends(ending: str) -> None:
    tokenizer = GatedTokenizer()
    async with ServiceRig(archive=MemoryAgentArchive(), tokenizer=tokenizer) as rig:
        if ending == "left while it is read":
            loop, readers = asyncio.get_running_loop(), ThreadPoolExecutor()
            loop.set_default_executor(readers)
            opening = asyncio.create_task(rig.open("hello", agent="a"))
            assert await asyncio.to_thread(tokenizer.waiting.wait, PATIENCE_S)
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
            tokenizer.gate.set()
            readers.shutdown()  # the thread has come to its end, and held what it holds
            assert rig.engine_rig.agents.num_held == 2
            loop.set_default_executor(ThreadPoolExecutor())
        tokenizer.gate.set()
        agents = rig.engine_rig.agents
        if ending == "refused":
            rig.engine.drain()
            with pytest.raises(DrainingError):
                await rig.open("hello", agent="a")
        elif ending == "left while it runs":
            stream = await rig.begin("hello", agent="a")
            assert agents.num_held == 2
            await stream.aclose()
        elif ending == "answered":
            await rig.say("hello", agent="a", num_choices=3)
        await asyncio.to_thread(wait_until, lambda: agents.num_held == 0, "the end of what is held")


def test_the_engine_thread_touches_no_block_file(tmp_path: Path) -> None:
    fs = CallingThreads()
    warm = DiskWarmStore.open(tmp_path / "caches", options=WarmOptions(verify_every_s=None), fs=fs)
    with EngineRig(warm=warm, budget_bytes=1024 * BYTES_PER_TOKEN) as rig:
        for seed in range(4):
            rig.ask(prompt(500, seed), agent=str(seed), max_tokens=40).answer()
        rig.ask(prompt(500), agent="0").answer()
        names = rig.tables.blocks_of(AgentId("0"))
        _, freed = rig.on_engine(lambda: rig.tables.delete_agent(AgentId("0"), names))
        assert freed.result(PATIENCE_S) > 0
    warm.close()
    assert len(fs.threads) > 1
    assert "engine" not in fs.threads


def test_deleting_an_agent_waits_for_no_write_that_is_under_way(tmp_path: Path) -> None:
    class StuckSync(FileSystem):
        gate = threading.Event()

        def sync(self, fd: int, *, full: bool) -> None:
            self.gate.wait(PATIENCE_S)
            super().sync(fd, full=full)

    StuckSync.gate.set()
    warm = DiskWarmStore.open(tmp_path / "caches", options=WarmOptions(verify_every_s=None), fs=StuckSync())
    with EngineRig(warm=warm) as rig:
        rig.ask(prompt(300), agent="old").answer()
        rig.idle()
        StuckSync.gate.clear()
        try:
            rig.ask(prompt(300, 1), agent="new").answer()
            names = rig.tables.blocks_of(AgentId("old"))
            freed_hot, freed = rig.on_engine(lambda: rig.tables.delete_agent(AgentId("old"), names))
            assert freed_hot > 0
            assert not freed.done()
            assert rig.ask(prompt(300), agent="again").answer().cache.computed_tokens == 300
        finally:
            StuckSync.gate.set()
        assert freed.result(PATIENCE_S) > 0
    warm.close()


def test_what_clients_ask_to_keep_makes_room_for_others() -> None:
    with EngineRig(budget_bytes=2048 * BYTES_PER_TOKEN) as rig:
        for seed in range(6):
            rig.ask(prompt(400, seed), agent=str(seed), cache_ttl_s=3600.0).answer()
        assert rig.ask(prompt(1500, 9), agent="plain").answer().text == truth(prompt(1500, 9))


def test_what_clients_ask_to_keep_is_evicted_after_the_rest() -> None:
    with EngineRig(budget_bytes=2048 * BYTES_PER_TOKEN) as rig:
        rig.ask(prompt(400), agent="kept", cache_ttl_s=3600.0).answer()
        for seed in range(1, 8):
            rig.ask(prompt(400, seed), agent=str(seed)).answer()
        assert rig.ask(prompt(400), agent="kept").answer().cache.reused_hot_tokens == 399


def test_blocks_of_a_long_answer_are_kept_as_decoding_fills_them() -> None:
    with EngineRig() as rig:
        ask = rig.ask(prompt(50), max_tokens=ENDLESS)
        wait_until(lambda: len(ask.updates) > 500, "a long answer")
        kept = len(rig.store.pool)
        assert kept > 500 // 16 // 2
        before = rig.runner.calls["copy_block"]
        rig.engine.cancel(ask.request_id)
        ask.wait()
        assert rig.runner.calls["copy_block"] - before <= 2 + (len(ask.updates) - 500) // 16


def test_a_row_whose_sampling_fails_ends_alone() -> None:
    with EngineRig() as rig:
        with rig.held():
            asks = [rig.ask(prompt(30, seed), agent=str(seed), max_tokens=400) for seed in range(3)]

            def break_it(_: object) -> None:
                # In the middle of its answer, on the engine's thread.
                if len(asks[1].updates) == 4:
                    broken = next(one for one in rig.engine.running() if one.submission.agent_id == "1")
                    rig.runner.broken_rows[broken.sequence_id] = ValueError("no such rule")

            asks[1].on_update = break_it
        assert "no such rule" in str(asks[1].error())
        for seed in (0, 2):
            assert asks[seed].answer().text == truth(prompt(30, seed), 400)


def test_a_model_loads_between_the_steps_of_another() -> None:
    gate = threading.Event()

    def slowly():  # type: ignore[no-untyped-def]
        while not gate.wait(0.001):
            yield
        return loaded_model(HashRunner(fingerprint="cd" * 32, seed=3), model_id="second")

    with EngineRig() as rig:
        loading = rig.engine.load_model(slowly())
        assert rig.ask(prompt(100)).answer().text == truth(prompt(100))
        assert not loading.done()
        gate.set()
        assert loading.result(PATIENCE_S).model_id == "second"
        assert rig.ask(prompt(50), model="second").answer().usage.completion_tokens == 8


def test_the_engine_stops_while_a_model_loads() -> None:
    def forever():  # type: ignore[no-untyped-def]
        while True:
            yield

    with EngineRig() as rig:
        loading = rig.engine.load_model(forever())
    with pytest.raises(Exception, match="stopped"):
        loading.result(PATIENCE_S)


def test_a_model_that_fails_to_load_changes_nothing() -> None:
    def failing():  # type: ignore[no-untyped-def]
        yield
        raise ValueError("bad weights")

    with EngineRig() as rig:
        with pytest.raises(ValueError, match="bad weights"):
            rig.engine.load_model(failing()).result(PATIENCE_S)
        assert rig.ask(prompt(100)).answer().text == truth(prompt(100))


def test_the_text_up_to_a_stop_string_is_kept_although_a_special_token_was_silent() -> None:
    class WithSilentToken(CharTokenizer):
        """Decodes id 5 to a marker that no client sees; counts what it decodes."""

        num_decoded = 0

        def decode(self, token_ids):  # type: ignore[no-untyped-def]
            self.num_decoded += len(token_ids)
            return "".join(
                "<|silent|>" if token == 5 else super(WithSilentToken, self).decode([token])
                for token in token_ids
            )

        def stream_decoder(self) -> StreamDecoder:
            inner = super().stream_decoder()

            class Silent:
                def add(self, token_id: int) -> str:
                    return "" if token_id == 5 else inner.add(token_id)

                def finish(self) -> str:
                    return inner.finish()

            return Silent()

    tokenizer = WithSilentToken()
    script = [10, 5, *[20 + i % 40 for i in range(900)], 70, 71, 72]
    stop = tokenizer.decode([70, 71])
    with EngineRig(runner=HashRunner(script=script), tokenizer=tokenizer) as rig:
        answer = rig.ask(
            prompt(50), max_tokens=1000, sampling=SamplingParams(temperature=0, stop=(stop,))
        ).answer()
        assert answer.stop_sequence == stop
        rig.idle()
        assert rig.agents.get(AgentId("a")).transcript.num_tokens == 50 + 902
        assert tokenizer.num_decoded < 10 * len(script), (
            "each token is decoded a few times, not once for each other"
        )


def test_anonymous_clients_have_a_quota_of_their_own() -> None:
    queue = EngineQueue(max_queue=100, max_queue_per_agent=2)
    with EngineRig(max_queue_per_agent=2) as rig, rig.held():
        for number in range(6):
            _, submission = rig.submission(
                prompt(20), agent="anon-1", max_tokens=2, anonymous=True, share=f"request-{number}"
            )
            queue.submit(submission)
        assert queue.num_unanswered == 6


def test_two_callers_that_remove_one_model_both_hear_of_the_end() -> None:
    with EngineRig() as rig:
        rig.ask(prompt(200)).answer()
        with rig.held():
            removals = [rig.engine.remove_model(ModelId("tiny")) for _ in range(2)]
        for removed in removals:
            removed.result(PATIENCE_S)


def test_the_disk_takes_the_blocks_of_a_model_that_leaves_before_all_others() -> None:
    with EngineRig(budget_bytes=4000 * BYTES_PER_TOKEN) as rig:
        rig.add_model(loaded_model(HashRunner(fingerprint="cd" * 32), model_id="leaving"))
        rig.warm.hold_writes = True
        rig.ask(prompt(1200), agent="stays").answer()
        rig.ask(prompt(600, 1), agent="leaves", model="leaving").answer()
        removed = rig.engine.remove_model(ModelId("leaving"))
        while not removed.done():
            rig.engine.call(rig.warm.catch_up).result(PATIENCE_S)
        assert rig.store.counters.lost_blocks == 0
        num_waiting = rig.store.ledger().dirty_bytes // (16 * BYTES_PER_TOKEN)
        assert num_waiting > 10, "the other model's blocks were written before"


def test_a_model_that_leaves_waits_for_a_slow_disk_for_a_limited_time() -> None:
    with EngineRig(budget_bytes=4000 * BYTES_PER_TOKEN) as rig:
        rig.warm.hold_writes = True
        rig.ask(prompt(1200)).answer()
        removed = rig.engine.remove_model(ModelId("tiny"))
        while not removed.done():
            # The disk does take blocks, one by one.
            rig.engine.call(lambda: rig.warm.catch_up(most=1)).result(PATIENCE_S)
            rig.clock.advance(LEAVING_WRITES_S / 4)
        assert rig.store.counters.lost_blocks > 0
        assert "model_left_unwritten" in rig.log.events("warning")


def test_a_load_that_is_asked_for_while_the_engine_stops_gets_an_answer() -> None:
    def forever():  # type: ignore[no-untyped-def]
        while True:
            yield

    rig = EngineRig()
    with rig:
        rig.warm.hold_writes = True
        rig.ask(prompt(200)).answer()
        stopper = threading.Thread(target=rig.engine.stop)
        stopper.start()
        wait_until(lambda: rig.queue.stopping, "the stop")
        loading = rig.engine.load_model(forever())
        rig.engine.call(rig.warm.catch_up).exception(PATIENCE_S)
        rig.warm.hold_writes = False
        with ticking(lambda: rig.clock.advance(1.0)):
            stopper.join(PATIENCE_S)
        with pytest.raises(DrainingError):
            loading.result(PATIENCE_S)


def test_the_wait_after_a_failure_has_a_limit_however_many_there_were() -> None:
    assert backoff_s(1) < backoff_s(2) < backoff_s(9) <= backoff_s(1_000_000)
