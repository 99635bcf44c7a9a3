"""When memory is short the cache gives way, and requests are answered; when it runs out, one fails at most."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import pytest

from semanticd.adapters.mlx.model.runner import MlxModelRunner
from semanticd.application.engine.loop import MAX_SHORTAGES
from semanticd.application.engine.memory_guard import CALM_S, LOWER_EVERY_S, RAISE_EVERY_S
from semanticd.domain.errors import OutOfMemoryError, OverloadedError, RequestTooLargeError
from semanticd.domain.ids import ModelId
from semanticd.domain.memory_plan import BudgetPlan, device_memory
from tests.fakes.engine_rig import Ask, EngineRig
from tests.fakes.memory import FakeMemory
from tests.fakes.mlx_rig import WITHOUT_END, MlxRig, cold_answer, prompt_of
from tests.fakes.model_runner import BYTES_PER_TOKEN, HashRunner, already_loaded, continuation, loaded_model

KIB = 1024
BUDGET = 64 * KIB
PROMPT_TOKENS = 900


def prompt(number: int, length: int = PROMPT_TOKENS) -> list[int]:
    return [(number * 31 + at * 7) % 89 + 1 for at in range(length)]


def look(rig: EngineRig, seconds: float) -> None:
    """Let time pass, and the engine look at its memory."""
    rig.clock.advance(seconds)
    rig.on_engine(lambda: None)
    rig.on_engine(lambda: None)


def budget(rig: EngineRig) -> int:
    return rig.store.ledger().budget_bytes


def truth(rig: EngineRig, number: int) -> str:
    return rig.tokenizer.decode(continuation(prompt(number), 8))


def test_pressure_takes_blocks_from_ram_and_the_budget_comes_back_by_itself() -> None:
    memory = FakeMemory()
    with EngineRig(memory=memory, budget_bytes=BUDGET) as rig:
        for number in range(6):
            rig.ask(prompt(number), agent=f"agent-{number}").answer()
        rig.idle()
        used = rig.store.ledger().used_bytes
        assert used > 6 * PROMPT_TOKENS * BYTES_PER_TOKEN
        memory.level = "warning"
        look(rig, 2.0)
        rig.idle()
        assert used // 2 < budget(rig) < used
        assert rig.store.ledger().used_bytes <= budget(rig)
        assert (rig.store.planned_bytes, memory.num_given_back) == (BUDGET, 1)
        assert rig.metrics.counters["memory_short_total", "pressure"] == 1
        memory.level = "critical"
        look(rig, LOWER_EVERY_S)
        first = budget(rig)
        again = rig.ask(prompt(0), agent="agent-0").answer()
        assert again.text == truth(rig, 0), "what left RAM is on disk"
        assert again.cache.computed_tokens < PROMPT_TOKENS
        for _ in range(6):
            look(rig, LOWER_EVERY_S)
        assert BUDGET // 8 <= budget(rig) <= first
        rig.idle()
        assert rig.store.ledger().used_bytes <= budget(rig)

        assert rig.ask(prompt(1), agent="agent-1").answer().text == truth(rig, 1), "with next to nothing"

        memory.level = "none"
        look(rig, CALM_S / 2)
        low = budget(rig)
        look(rig, CALM_S)
        assert low < budget(rig) < BUDGET
        for _ in range(10):
            look(rig, RAISE_EVERY_S)
        assert budget(rig) == BUDGET
        assert "memory_budget_restored" in rig.log.events("info")


def test_a_budget_that_is_looked_at_more_often_is_not_lowered_more_often() -> None:
    memory = FakeMemory()
    with EngineRig(memory=memory, budget_bytes=BUDGET) as rig:
        for number in range(6):
            rig.ask(prompt(number), agent=f"agent-{number}").answer()
        memory.level = "critical"
        look(rig, 2.0)
        rig.idle()
        once = budget(rig)
        for _ in range(5):
            look(rig, 0.3)
        assert budget(rig) == once


def test_running_sequences_go_on_while_memory_is_short() -> None:
    memory = FakeMemory()
    with EngineRig(memory=memory, budget_bytes=BUDGET) as rig:
        seen: list[int] = []

        def shorten(operation: str) -> None:
            if operation == "decode" and rig.runner.calls["decode"] % 3 == 0:
                memory.level = "critical"
                rig.clock.advance(LOWER_EVERY_S)
                seen.append(budget(rig))

        rig.runner.before = shorten
        with rig.held():
            asked = [rig.ask(prompt(number), agent=f"agent-{number}") for number in range(4)]
        assert [ask.answer().text for ask in asked] == [truth(rig, number) for number in range(4)]
        assert min(seen) < BUDGET


def test_a_prompt_that_fits_the_planned_budget_is_asked_to_come_again() -> None:
    memory = FakeMemory()
    with EngineRig(memory=memory, budget_bytes=BUDGET) as rig:
        memory.level = "critical"
        look(rig, 2.0)
        with pytest.raises(OverloadedError, match="the budget was lowered to") as refused:
            rig.ask(prompt(0, 5000), agent="a").answer()
        assert refused.value.retry_after_s == 60.0
        with pytest.raises(RequestTooLargeError):
            rig.ask(prompt(0, 50_000), agent="a").answer()
        memory.level = "none"
        for _ in range(12):
            look(rig, CALM_S)
        assert rig.ask(prompt(0, 5000), agent="a").answer()


@pytest.mark.parametrize("operation", ["prefill", "start_decode", "decode", "copy_block"])
def test_a_step_that_runs_out_of_memory_once_costs_no_request(operation: str) -> None:
    memory = FakeMemory()
    with EngineRig(memory=memory, budget_bytes=BUDGET) as rig:
        rig.ask(prompt(9), agent="other").answer()
        for after in (0, 3):
            rig.runner.fail(operation, OutOfMemoryError("no memory"), after=after)
        with rig.held():
            asked = [rig.ask(prompt(number), agent=f"agent-{number}") for number in range(3)]
        assert [ask.answer().text for ask in asked] == [truth(rig, number) for number in range(3)]
        assert rig.metrics.counters["memory_short_total", "out_of_memory"] >= 1
        assert memory.num_given_back >= 1
        assert budget(rig) < BUDGET
        assert rig.log.events("error") == []


def test_a_batch_that_never_fits_loses_its_youngest_only() -> None:
    with EngineRig(memory=FakeMemory(), budget_bytes=BUDGET) as rig:

        def limit(operation: str) -> None:
            if operation == "decode" and rig.runner.num_open > 2:
                raise OutOfMemoryError("no memory")

        rig.runner.before = limit
        with rig.held():
            asked = [rig.ask(prompt(number), agent=f"agent-{number}") for number in range(3)]
        failed = [number for number, ask in enumerate(asked) if not_answered(ask)]
        assert len(failed) <= 1
        for number, ask in enumerate(asked):
            if number not in failed:
                assert ask.answer().text == truth(rig, number)


def not_answered(ask: Ask) -> bool:
    try:
        ask.answer()
    except OutOfMemoryError:
        return True
    return False


def test_a_request_that_never_fits_fails_alone_and_soon() -> None:
    with EngineRig(memory=FakeMemory(), budget_bytes=BUDGET) as rig:
        tried: list[str] = []

        def limit(operation: str) -> None:
            if operation == "prefill" and rig.clock.monotonic() < 1000.0:
                tried.append(operation)
                raise OutOfMemoryError("no memory")

        rig.runner.before = limit
        assert isinstance(rig.ask(prompt(0)).error(), OutOfMemoryError | OverloadedError)
        assert 1 <= len(tried) <= MAX_SHORTAGES + 1
        rig.clock.advance(1000.0)
        assert rig.ask(prompt(1)).answer().text == truth(rig, 1)


def test_the_budget_follows_the_models_that_are_loaded() -> None:
    memory = FakeMemory()
    device = device_memory("cpu", 24 << 30)
    with EngineRig(memory=memory, plan=BudgetPlan(device, None)) as rig:
        assert budget(rig) == device.room_bytes - 1000
        second = loaded_model(HashRunner(seed=1, fingerprint="cd" * 32), model_id="second")
        rig.engine.load_model(already_loaded(second), weights_bytes=5000).result()
        assert budget(rig) == device.room_bytes - 2000
        assert memory.num_given_back == 0
        rig.engine.remove_model(ModelId("second")).result()
        assert budget(rig) == device.room_bytes - 1000
        assert memory.num_given_back == 1, "what the model took"
        # Announced before they are loaded, and then as they are.
        assert memory.resident == [0, 1000, 6000, 2000, 1000]


class ShortRunner(MlxModelRunner):
    """The real runner with a model that runs out of memory now and then, in MLX's own words."""

    def __init__(self, model: Any, **options: Any) -> None:
        """Fail never, until `short_at` says when."""
        self.num_calls = 0
        self.short_at: Callable[[int], bool] = lambda number: False
        super().__init__(self._short(model), **options)

    def _short(self, model: Any) -> Any:
        runner, original = self, type(model).__call__

        class Short(type(model)):  # type: ignore[misc]
            def __call__(self, *args: Any, **kwargs: Any) -> mx.array:
                runner.num_calls += 1
                result: mx.array = original(self, *args, **kwargs)
                if runner.short_at(runner.num_calls):
                    raise RuntimeError("[metal::malloc] Attempting to allocate 9 bytes: Insufficient Memory")
                return result

        model.__class__ = Short
        return model


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_the_real_engine_answers_all_the_same(family: str) -> None:
    prompts = [prompt_of(60, seed) for seed in range(3)]
    expected = [cold_answer(family, one) for one in prompts]
    memory = FakeMemory()
    with MlxRig(family, runner_class=ShortRunner, memory=memory) as rig:
        runner: Any = rig.runner
        began = runner.num_calls
        runner.short_at = lambda number: (number - began) in (3, 9, 16, 24)

        def ids(ask: Ask) -> Sequence[int]:
            return rig.tokenizer.encode(ask.answer().text)

        with rig.held():
            asked = [
                rig.ask(one, agent=str(at), max_tokens=12, sampling=WITHOUT_END)
                for at, one in enumerate(prompts)
            ]
        assert [ids(ask) for ask in asked] == expected
        assert rig.metrics.counters["memory_short_total", "out_of_memory"] == 4
        assert memory.num_given_back == 4
