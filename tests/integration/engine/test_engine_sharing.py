"""Who computes what, and how much of it stays in memory: single flight, budgets, batches."""

from __future__ import annotations

import random
import threading
from concurrent.futures import Future
from dataclasses import replace

import pytest

from semanticd.application.engine.restore import READ_WINDOW
from semanticd.application.ports.warm_store import BlockRecord
from semanticd.domain.errors import CancelledByCallerError, RequestTooLargeError
from semanticd.domain.generation import FinishReason, SamplingParams
from semanticd.domain.ids import AgentId, BlockHash
from semanticd.domain.scheduler import SchedulerLimits
from tests.fakes.engine_rig import Ask, EngineRig, wait_until
from tests.fakes.model_runner import BYTES_PER_TOKEN, CAPACITY_STEP, HashRunner, continuation
from tests.fakes.telemetry import ManualClock
from tests.fakes.tokenizer import CharTokenizer
from tests.fakes.warm_store import MemoryAgentArchive, MemoryWarmStore

TOKENS = CharTokenizer()


def prompt(length: int, seed: int = 0) -> list[int]:
    return [random.Random(seed).randrange(95) for _ in range(length)] if length else []


class SlowReads(MemoryWarmStore):
    """A warm store whose reads end one by one, when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.held = False
        self.asked: list[BlockHash] = []
        self.pending: list[tuple[Future[BlockRecord | None], BlockHash]] = []

    def read(self, block_hash: BlockHash) -> Future[BlockRecord | None]:
        """Read later, while reads are held."""
        if not self.held:
            return super().read(block_hash)
        future: Future[BlockRecord | None] = Future()
        self.asked.append(block_hash)
        self.pending.append((future, block_hash))
        return future

    def answer_one(self) -> None:
        """End the oldest read."""
        future, block_hash = self.pending.pop(0)
        future.set_running_or_notify_cancel()
        future.set_result(super().read(block_hash).result())


def truth(token_ids: list[int], num_tokens: int = 8) -> str:
    return TOKENS.decode(continuation(token_ids, num_tokens))


def slow_down(rig: EngineRig) -> None:
    """Let a decode step take a little, so that an answer lasts while the test does something."""
    rig.runner.before = lambda name: threading.Event().wait(0.003) if name == "decode" else None


def test_four_requests_with_one_prefix_of_1000_tokens_compute_it_once() -> None:
    shared = prompt(1000)
    prompts = [shared + prompt(20, seed=n + 1) for n in range(4)]
    with EngineRig(runner=HashRunner(block_tokens=64)) as rig:
        with rig.held():
            asks = [rig.ask(ids, agent=f"agent-{n}") for n, ids in enumerate(prompts)]
        for ids, ask in zip(prompts, asks, strict=True):
            assert ask.answer().text == truth(ids)
        # The shared part ends inside a block: its last few tokens may be computed more than once, no more.
        assert rig.runner.num_prefilled <= 1000 + 4 * 20 + 3 * 64
        cached = sorted(ask.answer().cache.cached_tokens for ask in asks)
        assert cached[0] == 0
        assert cached[1] >= 960


def test_two_long_prompts_do_not_block_a_short_one() -> None:
    long, short, clock = prompt(1353), prompt(389, seed=9), ManualClock()
    runner = HashRunner(block_tokens=64)
    runner.before = lambda name: clock.advance(0.1) if name == "prefill" else None
    with EngineRig(runner=runner, clock=clock, limits=SchedulerLimits(prefill_chunk=64)) as rig:
        with rig.held():
            pair = [rig.ask(long, agent=agent, max_tokens=2) for agent in "ab"]
            other = rig.ask(short, agent="other", max_tokens=2)
        over: list[bool] = []
        other.on_update = lambda update: over.extend(ask.over for ask in pair)
        assert other.answer().text == truth(short, 2)
        assert not any(over), "the two took the engine to themselves"
        assert [ask.answer().text for ask in pair] == [truth(long, 2)] * 2
        assert rig.runner.num_prefilled <= 1353 + 389 + 64, "and their prompt is computed once"


def test_a_prefix_that_is_partly_on_disk_is_read_and_completed_once() -> None:
    warm, archive = MemoryWarmStore(), MemoryAgentArchive()
    shared = prompt(1000)
    with EngineRig(runner=HashRunner(block_tokens=64), warm=warm, archive=archive) as rig:
        rig.ask(shared[:257]).answer()
    with EngineRig(runner=HashRunner(block_tokens=64), warm=warm, archive=archive) as rig:
        with rig.held():
            asks = [rig.ask(shared + prompt(20, seed=n + 1), agent=f"agent-{n}") for n in range(4)]
        for ask in asks:
            ask.answer()
        assert rig.runner.num_prefilled <= 1000 - 256 + 4 * 20 + 3 * 64


def test_a_request_does_not_wait_for_one_whose_blocks_cannot_be_kept() -> None:
    shared, others = prompt(2000), prompt(40, seed=5)
    num_begun: list[int] = []
    with EngineRig() as rig:
        for number in range(400):
            rig.runner.fail("copy_block", after=number)

        def note(operation: str) -> None:
            if operation == "start_decode":
                num_begun.append(rig.runner.calls["open"])

        rig.runner.before = note
        with rig.held():
            leader = rig.ask(shared, agent="a")
            follower = rig.ask([*shared[:300], *others], agent="b")
        assert follower.answer().text == truth([*shared[:300], *others])
        assert leader.answer().text == truth(shared)
    assert num_begun[0] == 2, "the second request began while the first was computed"


def test_a_restore_ends_when_computing_would_have_been_quicker() -> None:
    warm, archive, ids = SlowReads(), MemoryAgentArchive(), prompt(640)
    with EngineRig(warm=warm, archive=archive) as rig:
        rig.ask(ids).answer()
    clock = ManualClock()
    runner = HashRunner(clock=clock, prefill_token_s=0.01)
    with EngineRig(warm=warm, archive=archive, runner=runner, clock=clock) as rig:
        rig.ask(prompt(200, seed=3), agent="b").answer()
        warm.held = True
        ask = rig.ask(ids)
        # Each block comes within its time, but the 40 of them would take minutes; they are computed in seconds.
        for _ in range(2):
            wait_until(lambda: bool(warm.pending), "a read")
            clock.advance(6.0)
            warm.answer_one()
        assert ask.answer().text == truth(ids)
        assert len(warm.asked) <= 2 + READ_WINDOW


def test_choices_of_one_request_share_its_prompt() -> None:
    ids = prompt(300)
    with EngineRig() as rig:
        pairs = [rig.submission(ids, choice=n, request_id="one", records_turn=n == 0) for n in range(3)]
        rig.engine.submit(*(submission for _, submission in pairs))
        for ask, _ in pairs:
            assert ask.answer().text == truth(ids)
        # What is left of it when fewer tokens are missing than are worth waiting for may be computed by each.
        assert rig.runner.num_prefilled <= 299 + 2 * 32


def test_eight_agents_in_round_robin_with_room_for_two_compute_only_what_is_new() -> None:
    # Blocks of two agents, and the running cache of one.
    budget = BYTES_PER_TOKEN * (2 * 600 + 2 * CAPACITY_STEP * 3)
    system = prompt(200, seed=99)
    talks = {f"agent-{n}": system + prompt(300, seed=n) for n in range(8)}
    with EngineRig(budget_bytes=budget) as rig:
        for turn in range(4):
            for n, agent in enumerate(talks):
                new = prompt(10, seed=100 * turn + n)
                talks[agent] += new
                before = rig.runner.num_prefilled
                answer = rig.ask(talks[agent], agent=agent).answer()
                assert answer.text == truth(talks[agent])
                if turn:
                    assert answer.cache.computed_tokens == len(new)
                    assert rig.runner.num_prefilled - before == len(new) - 1
                talks[agent] += TOKENS.encode(answer.text)
                assert rig.on_engine(rig.store.ledger).free_bytes >= 0
        assert rig.store.counters.lost_blocks == 0


def test_in_short_ram_agents_beyond_the_limit_leave_early() -> None:
    with EngineRig(max_agents=2, budget_bytes=BYTES_PER_TOKEN * (CAPACITY_STEP + 200)) as rig:
        for n in range(5):
            rig.ask(prompt(50, seed=n), agent=f"agent-{n}").answer()
            rig.idle()
        assert rig.store.counters.evictions.keys() == {"max_agents"}
        assert 2 <= len(rig.store.pool.hot_agents()) <= 3
        again = rig.ask(prompt(50, seed=0), agent="agent-0").answer()
        assert again.cache.restored_warm_tokens == 49


def test_a_request_that_can_never_fit_is_refused_with_the_numbers() -> None:
    with EngineRig(budget_bytes=1024 * 1024) as rig:
        error = rig.ask(prompt(200_000)).error()
        assert isinstance(error, RequestTooLargeError)
        assert "200000 tokens" in error.message
        assert "of 1.0 MiB" in error.message
        assert rig.ask(prompt(20)).answer().text == truth(prompt(20))


def test_a_refusal_says_what_its_running_cache_takes_and_why() -> None:
    with EngineRig(budget_bytes=BYTES_PER_TOKEN * 700) as rig:
        error = rig.ask(prompt(600)).error()
        assert isinstance(error, RequestTooLargeError)
        # 768 tokens of 8 bytes; 600 of them would fit.
        assert (
            "600 tokens needs 0.1 MiB of KV cache (room for 768 tokens: it grows by 256 at a time)"
            in error.message
        )
        assert "the budget leaves 0.0 MiB of 0.0 MiB;" in error.message


def test_an_answer_that_outgrows_the_budget_ends_there_and_its_conversation_goes_on() -> None:
    ids = prompt(300)
    endless = SamplingParams(temperature=0, ignore_eos=True)
    # Room for a running cache of two steps, not of three.
    with EngineRig(budget_bytes=BYTES_PER_TOKEN * (3 * CAPACITY_STEP - 1)) as rig:
        answer = rig.ask(ids, max_tokens=5000, sampling=endless).answer()
        assert answer.reason is FinishReason.LENGTH
        assert answer.usage.is_cut_short
        assert rig.agents.peek(AgentId("a")).turns[-1].finish_reason == "kv_budget"
        assert 0 <= len(ids) + answer.usage.completion_tokens - 2 * CAPACITY_STEP <= 1
        assert answer.text == truth(ids, answer.usage.completion_tokens)
        assert "answer_cut_short" in rig.log.events("warning")
        assert rig.store.ledger().free_bytes >= 0
        after = rig.ask(prompt(20)).answer()
        assert after.text == truth(prompt(20))
        assert not after.usage.is_cut_short


@pytest.mark.parametrize("length", range(100, 1100, 50))
def test_every_prompt_is_either_answered_or_refused(length: int) -> None:
    with EngineRig(budget_bytes=BYTES_PER_TOKEN * 700) as rig:
        ask = rig.ask(prompt(length))
        # A running cache grows in steps, and the answer needs a place too.
        if length < 2 * CAPACITY_STEP:
            assert ask.answer().text == truth(prompt(length))
        else:
            assert isinstance(ask.error(), RequestTooLargeError)


def test_a_request_that_fits_later_waits_until_another_is_done() -> None:
    # Room for one running cache of 512 tokens and its blocks.
    with EngineRig(budget_bytes=BYTES_PER_TOKEN * (2 * 512 + 100)) as rig:
        with rig.held():
            asks = [rig.ask(prompt(400, seed=n), agent=str(n), max_tokens=40) for n in range(3)]
        for n, ask in enumerate(asks):
            assert ask.answer().text == truth(prompt(400, seed=n), 40)
        assert max(rig.runner.batch_sizes) == 1


def test_a_request_that_waits_for_the_disk_starts_while_another_still_decodes() -> None:
    warm = MemoryWarmStore(hold_writes=True)
    long_running = prompt(20, seed=1)
    # Room for two running caches, what they grow by, and little else.
    with EngineRig(budget_bytes=BYTES_PER_TOKEN * 1400, warm=warm) as rig:
        slow_down(rig)
        first = rig.ask(long_running, agent="b", max_tokens=100_000)
        wait_until(lambda: bool(first.text))
        rig.ask(prompt(200)).answer()
        second = rig.ask(prompt(450, seed=2), agent="c")
        wait_until(lambda: len(rig.engine.running()) == 2)
        assert not second.started
        warm.hold_writes = False
        rig.on_engine(warm.catch_up)
        assert second.answer().text == truth(prompt(450, seed=2))
        assert not first.over
        rig.engine.cancel(first.request_id)
        first.wait()


def note_used_bytes(rig: EngineRig) -> list[int]:
    """Return the bytes that are used whenever the running caches have been measured, as they come."""
    seen: list[int] = []
    note = rig.store.note_running

    def noted(num_bytes: int, **more: int) -> None:
        note(num_bytes, **more)
        seen.append(rig.store.ledger().used_bytes)

    rig.store.note_running = noted  # type: ignore[method-assign]
    return seen


@pytest.mark.parametrize("has_state", [False, True])
def test_a_request_takes_no_room_into_which_another_answer_grows_with_its_next_token(has_state: bool) -> None:
    """The one that comes has room beside a running cache of 512 tokens, but not beside one of 768."""
    budget = BYTES_PER_TOKEN * 1000
    second: list[Ask] = []
    with EngineRig(runner=HashRunner(has_state=has_state), budget_bytes=budget) as rig:
        seen = note_used_bytes(rig)
        with rig.held():
            first = rig.ask(prompt(300), agent="a", max_tokens=240)
            first.meanwhile(
                lambda: second.append(rig.ask(prompt(197, seed=1), agent="b")),
                when=lambda: len(first.text) == 2 * CAPACITY_STEP - 300,
            )
        assert first.answer().text == TOKENS.decode(continuation(prompt(300), 240, has_state=has_state))
        answer = second[0].answer()
        assert answer.text == TOKENS.decode(continuation(prompt(197, seed=1), 8, has_state=has_state))
        # Twice a block: one that is kept, and one on its way to the disk.
        assert max(seen) <= budget + 2 * 16 * BYTES_PER_TOKEN
        assert rig.metrics.counters["preemptions_total",] == 0


def test_a_batch_never_has_more_rows_than_allowed() -> None:
    with EngineRig(limits=SchedulerLimits(max_batch_size=2)) as rig:
        with rig.held():
            asks = [rig.ask(prompt(20, seed=n), agent=str(n), max_tokens=30) for n in range(6)]
        for ask in asks:
            ask.answer()
        assert max(rig.runner.batch_sizes) == 2


def test_a_pinned_agent_stays_hot_when_room_is_needed() -> None:
    budget = BYTES_PER_TOKEN * (1500 + CAPACITY_STEP)
    with EngineRig(budget_bytes=budget) as rig:
        rig.ask(prompt(200), agent="pinned").answer()
        rig.agents.update("pinned", lambda agent: replace(agent, pinned=True))
        for n in range(1, 12):
            rig.ask(prompt(200, seed=n), agent=f"agent-{n}").answer()
        answer = rig.ask(prompt(200), agent="pinned").answer()
        assert answer.cache.reused_hot_tokens == 199


def test_an_agents_own_pin_makes_way_for_its_next_turn() -> None:
    first = prompt(680)
    more = [*first, *prompt(95, seed=9)]
    with EngineRig(budget_bytes=BYTES_PER_TOKEN * 1460) as rig:
        rig.ask(first, agent="pinned").answer()
        rig.agents.update("pinned", lambda agent: replace(agent, pinned=True))  # type: ignore[arg-type]
        rig.idle()
        # What the pin leaves of the budget is less than the running cache takes.
        assert rig.store.ledger().pinned_bytes > BYTES_PER_TOKEN * (1460 - 4 * CAPACITY_STEP)
        answer = rig.ask(more, agent="pinned").answer()
        assert answer.text == truth(more)
        assert answer.cache.reused_hot_tokens >= 400, "as much as fits next to its running cache"


def test_an_agents_own_pin_does_not_make_way_for_a_turn_that_never_fits() -> None:
    with EngineRig(budget_bytes=BYTES_PER_TOKEN * 1460) as rig:
        rig.ask(prompt(680), agent="pinned").answer()
        rig.agents.update("pinned", lambda agent: replace(agent, pinned=True))  # type: ignore[arg-type]
        rig.idle()
        error = rig.ask(prompt(2000), agent="pinned").error()
        assert isinstance(error, RequestTooLargeError)
        assert rig.tables.is_pinned(AgentId("pinned"))


def test_what_is_faster_computed_than_read_is_computed_and_the_disk_gets_another_chance() -> None:
    clock = ManualClock()
    ids = prompt(200)
    runner = HashRunner(clock=clock, prefill_token_s=0.001)
    with EngineRig(runner=runner, clock=clock) as rig:
        rig.ask(ids).answer()
        rig.idle()
        counters = rig.store.counters
        # Reading a block took a second where computing it takes 16 ms.
        counters.restored_bytes, counters.restore_s = 16 * BYTES_PER_TOKEN, 1.0
        computed_until = None
        for attempt in range(40):
            rig.on_engine(lambda: rig.tables.evict_agent(AgentId("a")))
            answer = rig.ask(ids).answer()
            assert answer.text == truth(ids)
            if answer.cache.restored_warm_tokens:
                computed_until = attempt
                break
            rig.idle()
        assert computed_until is not None
        assert computed_until > 5


def test_a_first_read_that_failed_says_nothing_about_the_disks_speed() -> None:
    clock = ManualClock()

    class SlowReads(MemoryWarmStore):
        def read(self, block_hash: BlockHash) -> Future[BlockRecord | None]:
            clock.advance(1.0)
            return super().read(block_hash)

    warm, archive = SlowReads(), MemoryAgentArchive()
    ids = prompt(100)
    with EngineRig(warm=warm, archive=archive) as rig:
        rig.ask(ids).answer()
        table = rig.agents.get("a").block_table  # type: ignore[arg-type]
    warm.break_block(table[0])
    with EngineRig(
        runner=HashRunner(clock=clock, prefill_token_s=0.001), clock=clock, warm=warm, archive=archive
    ) as rig:
        for number in range(3):
            assert rig.ask(ids).answer().text == truth(ids)
            if number == 0:
                assert (rig.store.counters.restored_bytes, rig.store.counters.restore_s) == (0, 0)
            rig.idle()
            rig.on_engine(lambda: rig.tables.evict_agent(AgentId("a")))
        assert rig.store.counters.restored_bytes > 0


def test_without_a_warm_store_blocks_live_in_memory_only() -> None:
    ids = prompt(100)
    budget = BYTES_PER_TOKEN * (2 * CAPACITY_STEP + 150)
    with EngineRig(no_warm=True, budget_bytes=budget) as rig:
        rig.ask(ids).answer()
        assert rig.ask(ids).answer().cache.reused_hot_tokens == 99
        for seed in range(1, 6):
            assert rig.ask(prompt(100, seed), agent=str(seed)).answer().text == truth(prompt(100, seed))
        assert rig.ask(ids).answer().text == truth(ids)
        assert rig.store.counters.lost_blocks == 0
        assert rig.store.counters.evictions["budget"] > 0


def test_a_conversation_that_fills_the_budget_alone_is_reused_entirely() -> None:
    ids = prompt(700)
    # The running cache takes 768 tokens: of 700 known ones few fit beside it, the others are brought straight into it.
    with EngineRig(budget_bytes=BYTES_PER_TOKEN * (768 + 100)) as rig:
        said = rig.ask(ids).answer().text
        assert said == truth(ids)
        rig.idle()
        more = ids + TOKENS.encode(said) + prompt(10, seed=1)
        again = rig.ask(more).answer()
        assert again.text == truth(more)
        # The last token of an answer was never fed.
        assert again.cache.computed_tokens <= 11
        assert again.cache.restored_warm_tokens >= 600
        rig.idle()
        assert rig.store.ledger().used_bytes <= rig.store.ledger().budget_bytes


def test_a_long_conversation_whose_blocks_are_damaged_is_computed_from_there_on() -> None:
    ids = prompt(700)
    with EngineRig(budget_bytes=BYTES_PER_TOKEN * (768 + 100)) as rig:
        rig.ask(ids, agent="a").answer()
        agent = rig.agents.find(AgentId("a"))
        assert agent is not None
        rig.idle()
        rig.on_engine(lambda: rig.tables.evict_agent(AgentId("a")))
        rig.idle()
        rig.warm.break_block(agent.block_table[25])
        again = rig.ask(ids, agent="b").answer()
        assert again.text == truth(ids)
        assert again.cache.restored_warm_tokens == 25 * 16


def test_a_long_conversation_that_is_cancelled_while_it_is_brought_in_leaves_nothing_behind() -> None:
    ids = prompt(700)
    with EngineRig(budget_bytes=BYTES_PER_TOKEN * (768 + 100)) as rig:
        rig.ask(ids).answer()
        rig.idle()
        ask = rig.ask(ids, max_tokens=1000)
        rig.engine.cancel(ask.request_id)
        assert isinstance(ask.error(), CancelledByCallerError)
        assert rig.ask(ids).answer().text == truth(ids)


def test_a_pinned_agent_whose_blocks_are_on_disk_is_answered_where_they_do_not_fit() -> None:
    ids = prompt(400)
    warm, archive = MemoryWarmStore(), MemoryAgentArchive()
    with EngineRig(warm=warm, archive=archive) as rig:
        rig.ask(ids, agent="pinned").answer()
        rig.agents.update("pinned", lambda agent: replace(agent, pinned=True))  # type: ignore[arg-type]
    with EngineRig(warm=warm, archive=archive, budget_bytes=BYTES_PER_TOKEN * (512 + 200)) as rig:
        answer = rig.ask(ids, agent="pinned").answer()
        assert answer.text == truth(ids)
        # Its own pin makes way: what does not fit into the pool is read into the running cache.
        assert answer.cache.restored_warm_tokens == 399
