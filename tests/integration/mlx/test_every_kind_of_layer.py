"""Cold and warm answers are the same, token for token, for every kind of cache layer and on every path.

The models are tiny and random; the engine, the runner and the library under it are the real ones.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from semanticd.adapters.disk.blocks.codec import decode
from semanticd.adapters.disk.blocks.warm_store import DiskWarmStore
from semanticd.adapters.mlx.model.runner import MlxModelRunner
from semanticd.application.engine.running_sequence import SequenceText
from semanticd.application.engine.running_size import running_size
from semanticd.application.ports.inference import DecodedToken
from semanticd.application.services.preload import Preload
from semanticd.domain.block import hash_block, root_hash
from semanticd.domain.errors import CancelledByCallerError
from semanticd.domain.generation import SamplingParams
from semanticd.domain.ids import AgentId, BlockHash, RequestId, SequenceId
from semanticd.domain.model_cache_spec import StoragePrecision
from semanticd.domain.scheduler import SchedulerLimits
from tests.fakes.engine_rig import Ask, wait_until
from tests.fakes.mlx_rig import BLOCK, WITHOUT_END, CardRunner, MlxRig, cold_answer, prompt_of, turns
from tests.fakes.tiny_mlx import BUILDERS
from tests.fakes.warm_store import MemoryAgentArchive, MemoryWarmStore

FAMILIES = sorted(BUILDERS)
PINNED = AgentId("pinned")
QUANTIZED = [precision for precision in get_args(StoragePrecision) if precision != "exact"]
OLD_BLOCK = Path(__file__).resolve().parents[2] / "data" / "disk" / "block-q4-v1.safetensors"
OLD_NAME = BlockHash(bytes.fromhex("b13537b8f3819653fda6ae51aaf46d77bdfe187b58d8edb78ed28b376fe82a23"))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_next_turn_is_computed_from_hot_blocks_only_as_far_as_it_is_new(family: str) -> None:
    first, more = turns(1)
    with MlxRig(family) as rig:
        said, _ = rig.tell(first)
        prompt = first + said + more
        warm, answer = rig.tell(prompt)
    assert answer.cache.computed_tokens == len(more)
    assert answer.cache.reused_hot_tokens == len(first) + len(said)
    assert warm == cold_answer(family, prompt)


@pytest.mark.parametrize("family", FAMILIES)
def test_chunks_of_several_blocks_leave_the_same_blocks_and_snapshots(family: str) -> None:
    first, more = prompt_of(90, 21), prompt_of(9, 22)
    limits = SchedulerLimits(prefill_chunk=64, min_chunk=16)
    with MlxRig(family, limits=limits, snapshot_tokens=32) as rig:
        rig.tell(first)
        rig.idle()
        rig.on_engine(lambda: rig.tables.evict_agent(rig.agents.get("a").agent_id))  # type: ignore[arg-type]
        # Forked in the middle: at a block's end, or at the snapshot before it.
        prompt = first[:80] + more
        warm, answer = rig.tell(prompt, agent="b")
    assert answer.cache.restored_warm_tokens >= 64
    assert warm == cold_answer(family, prompt)


@pytest.mark.parametrize("family", FAMILIES)
def test_after_a_restart_the_next_turn_is_restored_from_bytes(family: str) -> None:
    first, more = turns(3)
    warm_tier, archive = MemoryWarmStore(), MemoryAgentArchive()
    with MlxRig(family, warm=warm_tier, archive=archive) as rig:
        said, _ = rig.tell(first)
    prompt = first + said + more
    with MlxRig(family, warm=warm_tier, archive=archive) as rig:
        warm, answer = rig.tell(prompt)
    assert answer.cache.restored_warm_tokens == len(first) + len(said)
    assert answer.cache.computed_tokens == len(more)
    assert warm == cold_answer(family, prompt)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_device_with_memory_of_its_own_answers_alike_and_reads_what_a_cpu_wrote(family: str) -> None:
    first, more = turns(13)
    warm_tier, archive = MemoryWarmStore(), MemoryAgentArchive()
    with MlxRig(family, warm=warm_tier, archive=archive, runner_class=CardRunner) as rig:
        said, _ = rig.tell(first)
        hot, _ = rig.tell(first + said + more, max_tokens=4)
        assert hot == cold_answer(family, first + said + more)[:4]
    for runner_class in (MlxModelRunner, CardRunner):
        with MlxRig(family, warm=warm_tier, archive=archive, runner_class=runner_class) as rig:
            warm, answer = rig.tell(first + said + more)
        assert answer.cache.restored_warm_tokens >= len(first) + len(said)
        assert warm == cold_answer(family, first + said + more)


@pytest.mark.parametrize("family", FAMILIES)
async def test_after_a_restart_and_the_preload_the_next_turn_is_hot_and_the_same(family: str) -> None:
    first, more = turns(3)
    warm_tier, archive = MemoryWarmStore(), MemoryAgentArchive()
    with MlxRig(family, warm=warm_tier, archive=archive) as rig:
        said, _ = rig.tell(first)
    prompt = first + said + more
    with MlxRig(family, warm=warm_tier, archive=archive) as rig:
        parts = {"engine": rig.engine, "store": rig.store, "agents": rig.agents, "log": rig.log}
        await Preload(warm=warm_tier, share=1.0, **parts).run()  # type: ignore[arg-type]
        warm, answer = await asyncio.to_thread(rig.tell, prompt)
    assert (answer.cache.restored_warm_tokens, answer.cache.computed_tokens) == (0, len(more))
    assert warm == cold_answer(family, prompt)


@pytest.mark.parametrize("family", FAMILIES)
def test_after_eviction_the_next_turn_is_warm_and_the_same(family: str) -> None:
    first, more = turns(5)
    with MlxRig(family) as rig:
        said, _ = rig.tell(first)
        rig.idle()
        rig.on_engine(lambda: rig.tables.evict_agent(rig.agents.get("a").agent_id))  # type: ignore[arg-type]
        prompt = first + said + more
        warm, answer = rig.tell(prompt)
    assert answer.cache.restored_warm_tokens == len(first) + len(said)
    assert warm == cold_answer(family, prompt)


@pytest.mark.parametrize(
    ("family", "precision"),
    [("llama", "exact"), ("qwen3", "exact"), ("deepseek_v2", "exact"), ("llama", "q8")],
)
def test_a_conversation_that_fills_the_budget_is_reused_to_its_last_block(
    family: str, precision: StoragePrecision
) -> None:
    first, more = prompt_of(200, 80), prompt_of(21, 81)
    with MlxRig(family, precision=precision) as roomy:
        spec = roomy.runner.spec
        said, _ = roomy.tell(first)
        expected, _ = roomy.tell(first + said + more)
    # A running cache of 256 tokens and three blocks.
    budget_bytes = 256 * spec.running_bytes_per_token + spec.stored_bytes(48, begins=True)
    with MlxRig(family, precision=precision, budget_bytes=budget_bytes) as rig:
        said, _ = rig.tell(first)
        rig.idle()
        again, answer = rig.tell(first + said + more)
    assert answer.cache.computed_tokens == len(more)
    assert again == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_sequences_in_one_batch_answer_as_they_would_alone(family: str) -> None:
    prompts = [prompt_of(20 + 13 * number, 10 + number) for number in range(4)]
    with MlxRig(family) as rig:
        with rig.held():
            asks = [
                rig.ask(prompt, agent=f"agent-{number}", max_tokens=12, sampling=WITHOUT_END)
                for number, prompt in enumerate(prompts)
            ]
        together = [list(rig.tokenizer.encode(ask.answer().text)) for ask in asks]
    assert together == [cold_answer(family, prompt) for prompt in prompts]


@pytest.mark.parametrize("family", FAMILIES)
def test_one_that_leaves_before_its_first_token_leaves_nothing_false_behind(family: str) -> None:
    """Its running cache has the last token of the prompt already, which its snapshot does not name."""
    first = prompt_of(101, 97)
    with MlxRig(family, runner_class=LeftRunner) as rig:
        said, _ = rig.tell(first)
        prompt = first + said + prompt_of(5, 98)
        with rig.held():
            asked = rig.ask(prompt, sampling=WITHOUT_END)
            rig.runner.joined = lambda: rig.engine.cancel(asked.request_id)  # type: ignore[attr-defined]
        assert isinstance(asked.error(), CancelledByCallerError)
        rig.runner.joined = None  # type: ignore[attr-defined]
        again, answer = rig.tell(prompt)
    assert again == cold_answer(family, prompt)
    assert answer.cache.reused_hot_tokens >= len(first) + len(said)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_that_breaks_leaves_nothing_false_behind(family: str) -> None:
    """The step in which it broke has computed a token more than its answer has."""
    first = prompt_of(101, 99)
    whole = _told_alone(family, first)
    with MlxRig(family, runner_class=LeftRunner) as rig:
        runner: Any = rig.runner
        with rig.held():
            asked = rig.ask(first, max_tokens=90, sampling=WITHOUT_END)
            asked.meanwhile(runner.break_rows, when=lambda: len(asked.text) > 20)
        asked.error()
        for num_said in range(len(asked.text), len(asked.text) + 2):
            prompt = first + whole[:num_said] + prompt_of(7, 100)
            assert rig.tell(prompt)[0] == cold_answer(family, prompt)


class LeftRunner(MlxModelRunner):
    """Says when a sequence has joined a decode batch, and breaks rows."""

    joined: Callable[[], None] | None = None

    def start_decode(self, *args: Any, **named: Any) -> None:
        super().start_decode(*args, **named)
        if self.joined is not None:
            self.joined()

    def break_rows(self) -> None:
        for row in self._decoding.values():
            row.note(ValueError("broken"))


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_that_left_are_copied_from_the_running_cache_as_they_are_on_disk(family: str) -> None:
    first = prompt_of(300, 93)
    with MlxRig(family) as rig:
        with rig.held():
            long = rig.ask(first, agent="long", max_tokens=180, sampling=WITHOUT_END)
            long.meanwhile(lambda: rig.store.demote(list(rig.store.pool), "budget"))
        said = list(rig.tokenizer.encode(long.answer().text))
        rig.idle()
        rig.on_engine(lambda: _compare_tiers(rig))
        assert all(map(rig.store.is_hot, rig.runner.spec.chain(first).hashes))
        prompt = first + said + prompt_of(9, 95)
        again, answer = rig.tell(prompt, agent="long")
    assert again == cold_answer(family, prompt)
    assert answer.cache.computed_tokens == 9


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fork_of_what_runs_takes_its_blocks_from_the_running_cache(family: str) -> None:
    first = prompt_of(300, 93)
    warm_tier, archive = MemoryWarmStore(), MemoryAgentArchive()
    with MlxRig(family, warm=warm_tier, archive=archive, snapshot_tokens=32) as rig:
        full = rig.runner.spec.chain(first).hashes
        prompt = first[:290] + prompt_of(9, 94)
        forks: list[Ask] = []

        def leave() -> None:
            assert rig.store.demote(list(rig.store.pool), "budget")
            forks.append(rig.ask(prompt, agent="fork", max_tokens=12, sampling=WITHOUT_END))

        with rig.held():
            long = rig.ask(first, agent="long", max_tokens=180, sampling=WITHOUT_END)
            long.meanwhile(leave, when=lambda: all(map(rig.warm.get, full[:-1])))
        wait_until(lambda: bool(forks))
        answer = forks[0].answer()
        assert list(rig.tokenizer.encode(answer.text)) == cold_answer(family, prompt)
        # What a layer cannot give back is read: its snapshot.
        assert answer.cache.cached_tokens >= 256
        assert not rig.runner.spec.cuts_anywhere or answer.cache.restored_warm_tokens <= BLOCK
        said = list(rig.tokenizer.encode(long.answer().text))
        rig.on_engine(lambda: _compare_tiers(rig))
    prompt = first + said + prompt_of(9, 95)
    with MlxRig(family, warm=warm_tier, archive=archive) as rig:
        again, answer = rig.tell(prompt, agent="long")
    assert again == cold_answer(family, prompt)
    assert answer.cache.computed_tokens == 9


@pytest.mark.parametrize("family", FAMILIES)
def test_what_leaves_for_its_own_running_cache_comes_back_as_the_turn_ends(family: str) -> None:
    first = prompt_of(300, 101)
    warm_tier, archive = MemoryWarmStore(), MemoryAgentArchive()
    with MlxRig(family) as roomy:
        spec = roomy.runner.spec
    alone = running_size(spec, 400).num_bytes
    budget_bytes = alone + spec.stored_bytes(480, begins=True) + 4 * spec.state_bytes
    with MlxRig(family, warm=warm_tier, archive=archive, budget_bytes=budget_bytes) as rig:
        rig.tell(prompt_of(200, 103), agent="idle")
        said, _ = rig.tell(first, agent="long", max_tokens=80)
        rig.idle()
        rig.on_engine(lambda: _compare_tiers(rig))
        assert rig.store.counters.evictions["budget"] > (4 if spec.cuts_anywhere else 0)
        if spec.cuts_anywhere:
            assert rig.on_engine(lambda: all(map(rig.store.is_hot, spec.chain(first[:280]).hashes)))
    prompt = first + said + prompt_of(9, 102)
    with MlxRig(family, warm=warm_tier, archive=archive) as rig:
        again, answer = rig.tell(prompt, agent="long")
    assert again == cold_answer(family, prompt)
    assert answer.cache.computed_tokens == 9


@pytest.mark.parametrize("family", FAMILIES)
def test_after_a_kill_while_its_blocks_are_in_its_running_cache_only_it_goes_on_from_the_disk(
    family: str,
) -> None:
    first = prompt_of(300, 105)
    disk = MemoryWarmStore()
    with MlxRig(family, snapshot_tokens=32) as rig:
        full = rig.runner.spec.chain(first).hashes

        def kill() -> None:
            """Keep what is on disk at this moment."""
            assert rig.store.demote(list(rig.store.pool), "budget")
            records = [rig.warm.read(name).result() for name in rig.warm.stored()]
            disk.write([record for record in records if record is not None])

        with rig.held():
            long = rig.ask(first, agent="long", max_tokens=180, sampling=WITHOUT_END)
            long.meanwhile(kill, when=lambda: all(map(rig.warm.get, full[:-1])))
        said = list(rig.tokenizer.encode(long.answer().text))
    prompt = first + said + prompt_of(9, 106)
    with MlxRig(family, warm=disk) as rig:
        again, answer = rig.tell(prompt, agent="long")
    assert again == cold_answer(family, prompt)
    assert answer.cache.restored_warm_tokens >= 256


@pytest.mark.parametrize("precision", ["q8", "q4"])
def test_blocks_that_would_be_rounded_again_stay_on_disk(precision: StoragePrecision) -> None:
    first = prompt_of(100, 96)
    with MlxRig("llama", precision=precision) as rig:
        with rig.held():
            long = rig.ask(first, agent="long", max_tokens=120, sampling=WITHOUT_END)
            long.meanwhile(lambda: rig.store.demote(list(rig.store.pool), "budget"))
        long.answer()
        rig.idle()
        assert not any(map(rig.store.is_hot, rig.runner.spec.chain(first).hashes))


def _compare_tiers(rig: MlxRig) -> None:
    """Check that each block that is both hot and on disk has the same bytes in both."""
    for block in rig.store.pool:
        record = rig.warm.read(block.block_hash).result()
        assert record is not None
        assert rig.runner.dump(rig.store.payload(block.block_hash)) == record.tensors, block.kind


def _told_alone(family: str, prompt: list[int]) -> list[int]:
    with MlxRig(family) as rig:
        return rig.tell(prompt, max_tokens=90)[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sequence_that_was_preempted_goes_on_as_if_nothing_had_happened(family: str) -> None:
    first, second = prompt_of(40, 20), prompt_of(44, 21)
    with MlxRig(family, runner_class=GrowingRunner) as rig:
        old = rig.ask(first, agent="old", max_tokens=60, sampling=WITHOUT_END)
        young = rig.ask(second, agent="young", max_tokens=60, sampling=WITHOUT_END)
        answers = [list(rig.tokenizer.encode(ask.answer().text)) for ask in (old, young)]
    assert rig.metrics.counters["preemptions_total",] == 1
    for prompt, answer in zip((first, second), answers, strict=True):
        with MlxRig(family) as rig:
            assert answer == rig.tell(prompt, max_tokens=60)[0]


class GrowingRunner(MlxModelRunner):
    """A runner whose caches outgrow all memory once, when two sequences have decoded, until one of them is closed."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.surplus_bytes = 0
        self.has_outgrown = False
        self.num_decoded: Counter[SequenceId] = Counter()

    def decode(self, group: int = 0) -> list[DecodedToken]:
        """Compute a step; when both sequences have five tokens, it was one too many."""
        tokens = super().decode(group)
        self.num_decoded.update(token.sequence_id for token in tokens)
        if not self.has_outgrown and len(self.num_decoded) == 2 and min(self.num_decoded.values()) == 5:
            self.surplus_bytes, self.has_outgrown = 1 << 40, True
        return tokens

    def running_bytes(self) -> int:
        """Return what the running caches take."""
        return super().running_bytes() + self.surplus_bytes

    def close(self, sequence_id: SequenceId) -> None:
        """End a sequence, and the shortage."""
        self.surplus_bytes = 0
        super().close(sequence_id)


class LeavingRunner(MlxModelRunner):
    """Whose fourth chunk is in its middle when the client leaves."""

    leave: Callable[[], None]
    was_whole: list[bool]

    def prefill(
        self,
        sequence_id: SequenceId,
        token_ids: Sequence[int],
        *,
        is_unwanted: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Compute a chunk; the client leaves before the second part of it."""
        asked = itertools.count()

        def leave_and_ask() -> bool:
            if next(asked) == 1 and len(self.was_whole) == 3:
                self.leave()
            return is_unwanted()

        self.was_whole.append(super().prefill(sequence_id, token_ids, is_unwanted=leave_and_ask))
        return self.was_whole[-1]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_chunk_that_is_left_in_the_middle_costs_that_chunk_and_nothing_else(family: str) -> None:
    prompt = prompt_of(200, 31)
    with MlxRig(family, runner_class=LeavingRunner) as rig:
        runner: Any = rig.runner
        runner.was_whole, runner.leave = [], lambda: rig.engine.cancel(RequestId("leaving"))
        assert isinstance(rig.ask(prompt, request_id="leaving").error(), CancelledByCallerError)
        assert runner.was_whole == [True, True, True, not rig.runner.spec.cuts_anywhere]
        warm, answer = rig.tell(prompt)
        assert "cancelled_blocks_lost" not in rig.log.events("error")
    assert answer.cache.reused_hot_tokens >= 3 * BLOCK
    assert warm == cold_answer(family, prompt)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prefill_that_was_cancelled_is_taken_up_again(family: str) -> None:
    prompt = prompt_of(480, 30)
    with MlxRig(family) as rig:
        prefill = rig.runner.prefill

        def leave_at_96(*given: Any, **more: Any) -> bool:
            if any(one.sequence.num_cached >= 96 for one in rig.engine.running()):
                rig.engine.cancel(RequestId("leaving"))
            return prefill(*given, **more)

        rig.runner.prefill = leave_at_96  # type: ignore[method-assign]
        ask = rig.ask(prompt, agent="a", max_tokens=4, sampling=WITHOUT_END, request_id="leaving")
        assert isinstance(ask.error(), CancelledByCallerError)
        assert not ask.started or not ask.text
        answer_ids, answer = rig.tell(prompt)
    assert 96 <= answer.cache.reused_hot_tokens < len(prompt) - 1
    assert answer_ids == cold_answer(family, prompt)


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_shapes_with_other_weights_share_nothing(family: str) -> None:
    prompt = prompt_of(60, 40)
    warm_tier = MemoryWarmStore()
    with MlxRig(family, warm=warm_tier) as rig:
        rig.tell(prompt)
    with MlxRig(family, seed=1, warm=warm_tier) as rig:
        _, answer = rig.tell(prompt)
    assert answer.cache.cached_tokens == 0


@pytest.mark.parametrize("precision", QUANTIZED)
@pytest.mark.parametrize("family", FAMILIES)
def test_quantized_blocks_say_after_a_restart_what_they_said_before(
    family: str, precision: StoragePrecision
) -> None:
    # Blocks of 80 tokens have both kinds of groups, and a prompt of 200 has a tail.
    options: dict[str, Any] = {"precision": precision, "block_tokens": 80}
    first, more = prompt_of(200, 51), prompt_of(21, 52)
    with MlxRig(family, **options) as rig:
        said, _ = rig.tell(first)
        hot, _ = rig.tell(first + said + more)
    warm_tier, archive = MemoryWarmStore(), MemoryAgentArchive()
    with MlxRig(family, warm=warm_tier, archive=archive, **options) as rig:
        rig.tell(first)
    with MlxRig(family, warm=warm_tier, archive=archive, **options) as rig:
        warm, answer = rig.tell(first + said + more)
    assert answer.cache.restored_warm_tokens == len(first) + len(said)
    assert answer.cache.computed_tokens == len(more)
    assert warm == hot


def test_blocks_of_an_old_form_are_not_asked_for_and_the_answer_is_computed(tmp_path: Path) -> None:
    """An old file whose layout differs in nothing but the revision: its tensors would be misread."""
    old = decode(OLD_BLOCK.read_bytes(), expected=OLD_NAME)
    prompt = [*old.block.token_ids, *prompt_of(30, 53)]
    with MlxRig("llama", precision="q4") as rig:
        expected, _ = rig.tell(prompt)
        spec = rig.runner.spec
    layout = spec.layout.replace("v2-", "v1-", 1)
    assert layout.startswith("v1-q4-")
    parent = root_hash(spec.fingerprint, layout)
    name = hash_block(
        fingerprint=spec.fingerprint, layout=layout, parent=parent, token_ids=old.block.token_ids
    )
    record = replace(
        old,
        block=replace(old.block, block_hash=name, parent=parent),
        fingerprint=spec.fingerprint,
        layout=layout,
    )
    warm_tier = DiskWarmStore.open(tmp_path)
    try:
        assert warm_tier.write([record]).result(timeout=60).num_written == 1
        with MlxRig("llama", precision="q4", warm=warm_tier) as rig:
            said, answer = rig.tell(prompt)
        assert answer.cache.cached_tokens == 0
        assert said == expected
        assert warm_tier.get(name) is not None, "it leaves the disk when others need its room"
    finally:
        warm_tier.close()


@pytest.mark.parametrize("precision", QUANTIZED)
def test_quantized_blocks_are_smaller_and_restored_close_to_what_they_were(
    precision: StoragePrecision,
) -> None:
    first, more = turns(50)
    sizes = {}
    for kind in ("exact", precision):
        with MlxRig("llama", precision=kind) as rig:  # type: ignore[arg-type]
            said, _ = rig.tell(first)
            _, answer = rig.tell(first + said + more)
            sizes[kind] = rig.runner.spec.bytes_per_token
            assert answer.cache.computed_tokens == len(more)
            spec = rig.runner.spec
            assert any(block.parent == spec.root for block in rig.store.pool)
            for block in rig.store.pool:
                # Heads of 32 numbers, groups of 64: an odd token takes as much as two.
                tokens = block.num_tokens + (block.num_tokens % 2 if kind != "exact" else 0)
                assert block.num_bytes == spec.stored_bytes(tokens, begins=block.parent == spec.root)
    assert sizes[precision] < sizes["exact"] / (2 if precision == "q8" else 3)


def test_a_seed_gives_the_same_answer_alone_and_in_a_batch() -> None:
    sampling = SamplingParams(temperature=1.0, top_p=0.9, top_k=40, min_p=0.01, ignore_eos=True)
    prompt = prompt_of(30, 60)

    def alone() -> str:
        with MlxRig("llama") as rig:
            return rig.ask(prompt, max_tokens=20, sampling=sampling, seed=7).answer().text

    with MlxRig("llama") as rig:
        with rig.held():
            asks = [
                rig.ask(
                    prompt_of(25 + n, 61 + n), agent=f"other-{n}", max_tokens=20, sampling=sampling, seed=n
                )
                for n in range(3)
            ]
            asks.append(rig.ask(prompt, agent="mine", max_tokens=20, sampling=sampling, seed=7))
        mine = asks[-1].answer().text
    assert mine == alone() == alone()


def test_the_library_still_has_the_surface_we_build_on() -> None:
    from mlx_lm.generate import GenerationBatch, PromptProcessingBatch

    for name in ("prompt", "generate", "extract_cache", "filter", "extend"):
        assert callable(getattr(PromptProcessingBatch, name)), name
    for name in ("next", "extend", "filter", "extract_cache", "empty", "_step"):
        assert callable(getattr(GenerationBatch, name)), name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pin_during_an_answer_changes_no_answer(
    family: str,
) -> None:
    first, asked, length = prompt_of(200, 61), prompt_of(240, 62), 30
    with MlxRig(family) as roomy:
        expected, _ = roomy.tell(asked, max_tokens=length)
        said, _ = roomy.tell(first, agent="pinned")
        num_bytes = roomy.on_engine(lambda: roomy.store.pool.agent_bytes(PINNED))
        running_bytes = running_size(roomy.runner.spec, len(asked) + length).num_bytes
        prompt = first + said + prompt_of(5, 63)
        next_turn, _ = roomy.tell(prompt, agent="pinned")
    tiers: dict[str, Any] = {"warm": MemoryWarmStore(), "archive": MemoryAgentArchive()}
    # The answer fits; next to the pinned blocks it does not.
    budget_bytes = max(running_bytes + num_bytes // 2, 2 * num_bytes)
    with MlxRig(family, budget_bytes=budget_bytes, **tiers) as rig:
        rig.tell(first, agent="pinned")
        rig.idle()
        pins = [lambda: rig.agents.update(PINNED, lambda agent: replace(agent, pinned=True))]
        with rig.held():
            ask = rig.ask(asked, max_tokens=length, sampling=WITHOUT_END)
            ask.on_update = lambda update: pins.pop()() if pins and isinstance(update, SequenceText) else None
        answer = ask.answer()
        assert not answer.usage.is_cut_short
        assert list(rig.tokenizer.encode(answer.text)) == expected
        assert rig.tables.is_pinned(PINNED)
        assert rig.on_engine(lambda: rig.store.pool.agent_bytes(PINNED)) < num_bytes, "some made way"
    with MlxRig(family, budget_bytes=budget_bytes, **tiers) as rig:
        again, answer = rig.tell(prompt, agent="pinned")
        assert again == next_turn
        assert answer.cache.restored_warm_tokens > 0
