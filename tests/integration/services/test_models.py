"""Models come, go and change places without a failed request."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import replace
from typing import Any

import pytest

from semanticd.adapters.http.core.services import model_names
from semanticd.application.ports.models import InstalledModel, ModelEntry, PullProgress
from semanticd.application.services.model_facts import (
    ModelInUse,
    PulledModel,
    RemovedModel,
    SwappedModel,
    UnloadedModel,
)
from semanticd.application.services.model_progress import FETCH_FAILURE_SHOWN_S
from semanticd.domain.errors import (
    BrokenModelError,
    ConflictError,
    DrainingError,
    ModelDownloadError,
    ModelLoadError,
    ModelNotFoundError,
    ModelTooLargeError,
)
from semanticd.domain.generation import ModelDefaults, SamplingParams
from semanticd.domain.ids import ModelFingerprint, ModelId
from semanticd.domain.memory_plan import DeviceMemory
from tests.fakes.engine_rig import PATIENCE_S, wait_until
from tests.fakes.model_source import SIZE_BYTES, WRITTEN_AT
from tests.fakes.scripted_ranks import ScriptedRanks
from tests.fakes.service_rig import ServiceRig

LONG = SamplingParams(temperature=0, max_tokens=1500)


def loaded(rig: ServiceRig) -> set[str]:
    return {str(name) for name in rig.engine.models}


async def test_the_first_model_becomes_current_and_others_stand_beside_it() -> None:
    async with ServiceRig() as rig:
        assert await rig.models.load("two") == ModelInUse(ModelId("two"), loaded=True, current=False)
        assert await rig.models.load("two") == ModelInUse(ModelId("two"), loaded=True, current=False)
        assert rig.use.current == "one"
        assert (await rig.say("hello")).model == "one"
        assert (await rig.say("hello", model="two")).model == "two"
        stages = [event["stage"] for event in rig.bus.on("models") if event["model"] == "two"]
        assert stages[:3] == ["loading", "loading", "ready"]


async def test_a_daemon_that_ends_while_a_model_loads_blames_no_model() -> None:
    async with ServiceRig() as rig:
        rig.loader.gate = threading.Event()
        loading = asyncio.create_task(rig.models.load("two"))
        await asyncio.to_thread(wait_until, lambda: rig.progress.is_loading)
        await asyncio.to_thread(rig.engine.stop)
        with pytest.raises(DrainingError):
            await asyncio.wait_for(loading, PATIENCE_S)
        assert rig.engine_rig.log.events("error") == []
        assert (rig.progress.stage, rig.progress.last_error) == ("idle", None)


async def test_where_memory_is_short_the_least_recently_used_model_leaves_but_never_the_current_one() -> None:
    async with ServiceRig() as rig:
        await rig.models.load("two")
        rig.free_memory = lambda: 1_000_000 if "two" not in loaded(rig) else 0
        await rig.models.load("three")
        assert loaded(rig) == {"one", "three"}
        rig.free_memory = lambda: 0
        with pytest.raises(ModelLoadError, match="swap to it instead"):
            await rig.models.load("two")
        assert "one" in loaded(rig), "the current model serves on"
        assert (await rig.say("still there?")).model == "one"


async def test_models_are_listed_loaded_first_with_their_facts() -> None:
    async with ServiceRig() as rig:
        rows = await rig.models.list()
        assert [row.id for row in rows] == ["one", "three", "two", "four"]
        assert [(row.loaded, row.installed, row.current) for row in rows] == [
            (True, True, True),
            (False, True, False),
            (False, True, False),
            (False, False, False),
        ]
        assert rows[0].created > 0
        assert rows[0].details == {"quantization": "none"}
        current = await rig.models.current()
        assert current is not None
        assert current.id == "one"
        assert (await rig.models.info("TWO")).path == "/models/two"
        with pytest.raises(ModelNotFoundError):
            await rig.models.info("nobody")
        with pytest.raises(ModelNotFoundError):
            await rig.models.info("hf:somebody/something")


async def test_what_a_model_needs_follows_from_its_content_and_not_from_its_name() -> None:
    async with ServiceRig() as rig:
        rig.source.known["two"] = replace(rig.source.known["two"], memory_estimate_bytes=10**9)
        rows = {row.id: row.memory_needed_bytes for row in await rig.models.list()}
        assert rows["two"] == rows["three"] == SIZE_BYTES * 1.2
        loaded = await rig.models.info("one")
        assert loaded.weights_bytes is not None
        assert loaded.memory_needed_bytes == int(loaded.weights_bytes * 1.2)


async def test_default_is_the_current_model_as_in_requests() -> None:
    async with ServiceRig() as rig:
        assert (await rig.models.info("default")).id == "one"
        await rig.models.swap("two")
        assert (await rig.models.info("default")).id == "two"
        assert (await rig.models.unload("default")).id == "two"
        with pytest.raises(ModelNotFoundError):
            await rig.models.info("default")


async def test_a_folder_of_the_users_own_is_described_before_it_is_loaded_for_the_first_time() -> None:
    async with ServiceRig() as rig:
        rig.source.installed = list  # type: ignore[method-assign, assignment]
        assert (await rig.models.info("two")).path == "/models/two"


async def test_a_model_of_a_folder_is_found_again_by_the_name_it_is_listed_under() -> None:
    folder = "/home/user/mine"
    async with ServiceRig() as rig:
        rig.source.folders[folder] = ModelEntry("mine", folder)
        assert (await rig.models.swap(folder)).id == "mine"
        await rig.models.swap("one")
        listed = {row.id: row.start_name for row in await rig.models.list()}
        assert listed == {"one": None, "two": None, "three": None, "four": None, "mine": folder}
        assert (await rig.models.swap("mine")).id == "mine"
        assert (await rig.models.info("mine")).current
        await rig.models.swap("one")
        assert (await rig.models.load("mine")).loaded
        assert (await rig.models.pull("mine")).path == folder


async def test_a_failed_swap_from_a_folder_goes_back_to_it() -> None:
    folder = "/home/user/mine"
    async with ServiceRig() as rig:
        rig.source.folders[folder] = ModelEntry("mine", folder)
        await rig.models.swap(folder)
        rig.free_memory = lambda: 0
        rig.loader.failures["two"] = RuntimeError("a file is broken")
        with pytest.raises(ModelLoadError, match="a file is broken"):
            await rig.models.swap("two")
        assert rig.use.current == "mine"
        assert (await rig.say("still there?")).model == "mine"


async def test_a_model_that_was_fetched_and_removed_is_not_listed_as_installed() -> None:
    async with ServiceRig() as rig:
        await rig.models.pull("four")
        await rig.models.remove("four")
        row = next(row for row in await rig.models.list() if row.id == "four")
        assert not row.installed


async def test_models_have_dates_and_download_sizes() -> None:
    async with ServiceRig() as rig:
        rig.source.known["four"] = replace(rig.source.known["four"], weights_bytes=5000)
        rows = {row.id: row for row in await rig.models.list()}
        assert rows["one"].since == rows["one"].created > 0
        assert (rows["two"].created, rows["two"].since) == (0, int(WRITTEN_AT))
        assert (rows["four"].since, rows["four"].download_bytes) == (0, 5000)
        await rig.models.pull("four")
        assert (await rig.models.info("four")).download_bytes is None


async def test_a_model_that_is_not_here_is_fetched_when_it_is_to_be_loaded() -> None:
    async with ServiceRig() as rig:
        seen: list[PullProgress] = []
        pulled = await rig.models.pull("four", seen.append)
        assert pulled == PulledModel("four", "/models/four", 1000)
        await asyncio.sleep(0)
        assert [progress.done_bytes for progress in seen] == [0, 500]
        assert (await rig.models.load("four")).loaded
        rig.source.unreachable.add("three")
        rig.source.remove("three")
        with pytest.raises(ModelDownloadError):
            await rig.models.load("three")


async def test_a_loaded_model_cannot_be_removed_and_another_can() -> None:
    async with ServiceRig() as rig:
        with pytest.raises(ConflictError):
            await rig.models.remove("one")
        assert await rig.models.remove("two") == RemovedModel(
            "two", removed=True, freed_bytes=1000, path="/models/two"
        )
        assert rig.source.removed == ["two"]


@pytest.mark.parametrize("change", [{"fingerprint": "ee" * 32}, {"settings_digest": "ee" * 32}])
async def test_a_loaded_model_whose_files_were_replaced_is_not_said_to_be_loaded(
    change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ServiceRig() as rig:
        find = rig.source.find

        def replaced(name: str) -> InstalledModel | None:
            found = find(name)
            return found and replace(found, **change)

        monkeypatch.setattr(rig.source, "find", replaced)
        with pytest.raises(ConflictError, match="replaced since; unload it first"):
            await rig.models.load("one")
        assert (await rig.say("still there?")).model == "one"


async def test_a_swap_takes_new_sampling_defaults_and_keeps_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with ServiceRig() as rig:
        find = rig.source.find
        told = await rig.say(
            "a question that takes some tokens, so that there is something to keep", agent="a"
        )

        def changed(name: str) -> InstalledModel | None:
            found = find(name)
            return found and replace(
                found, settings_digest="ee" * 32, defaults=ModelDefaults(temperature=0.25)
            )

        monkeypatch.setattr(rig.source, "find", changed)
        await rig.models.swap("one")
        assert rig.engine.models[ModelId("one")].defaults.temperature == 0.25
        again = await rig.say(
            "a question that takes some tokens, so that there is something to keep", agent="a"
        )
        assert again.usage.cache.computed_tokens < told.usage.cache.computed_tokens / 2


FIRST, SECOND = "/v1/mine", "/v2/mine"


def two_of_one_name(rig: ServiceRig) -> None:
    for folder in (FIRST, SECOND):
        rig.source.folders[folder] = ModelEntry("mine", folder)


def fingerprint(rig: ServiceRig, path: str) -> ModelFingerprint:
    found = rig.source.find(path)
    assert found is not None
    return found.fingerprint


async def test_another_model_of_a_loaded_ones_name_is_not_said_to_be_loaded() -> None:
    async with ServiceRig() as rig:
        two_of_one_name(rig)
        await rig.models.load(FIRST)
        with pytest.raises(ConflictError, match=r"from /v1/mine, and /v2/mine is another .* unload mine"):
            await rig.models.load(SECOND)
        assert rig.engine.models[ModelId("mine")].fingerprint == fingerprint(rig, FIRST)
        assert (await rig.say("hello", model=FIRST)).model == "mine"
        with pytest.raises(ModelNotFoundError, match="not loaded"):
            await rig.say("hello", model=SECOND)
        assert (await rig.models.load(FIRST)).loaded


async def test_a_file_of_a_loaded_models_name_is_refused_before_it_is_converted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with ServiceRig() as rig:
        rig.source.folders[FIRST] = ModelEntry("mine", FIRST)
        rig.source.folders["/v1/mine.gguf"] = ModelEntry("mine", "/v1/mine.gguf")
        await rig.models.load(FIRST)
        find = rig.source.find
        monkeypatch.setattr(rig.source, "find", lambda name: None if name.endswith(".gguf") else find(name))
        monkeypatch.delattr(type(rig.source), "pull")
        with pytest.raises(ConflictError, match=r"/v1/mine\.gguf is another"):
            await rig.models.load("/v1/mine.gguf")


async def test_only_the_path_of_a_loaded_model_or_of_a_copy_unloads_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with ServiceRig() as rig:
        two_of_one_name(rig)
        await rig.models.load(FIRST)
        with pytest.raises(ModelNotFoundError, match=r"mine is, from /v1/mine: .*unload mine`"):
            await rig.models.unload(SECOND)
        assert "mine" in loaded(rig)
        find = rig.source.find
        monkeypatch.setattr(rig.source, "find", lambda name: find(FIRST if name == SECOND else name))
        assert await rig.models.unload(SECOND) == UnloadedModel(ModelId("mine"), loaded=False)
        assert loaded(rig) == {"one"}


@pytest.mark.parametrize("current", [FIRST, "one"])
async def test_a_swap_to_another_model_of_a_loaded_ones_name_takes_its_place(current: str) -> None:
    async with ServiceRig() as rig:
        two_of_one_name(rig)
        await rig.models.load(FIRST)
        await rig.models.swap(current)
        if current == "one":
            await rig.models.load(FIRST)
        running = await rig.open("hello", model="mine", sampling=LONG)
        swapping = asyncio.create_task(rig.models.swap(SECOND))
        assert (await running.result()).usage.completion_tokens == 1500
        assert (await swapping).id == "mine"
        assert loaded(rig) == {"mine"}
        assert rig.engine.models[ModelId("mine")].fingerprint == fingerprint(rig, SECOND)
        assert rig.use.current == "mine"
        assert (await rig.say("hello", model=SECOND)).model == "mine"
        assert (await rig.models.info(SECOND)).path == SECOND


async def test_a_failed_swap_to_another_model_of_the_same_name_goes_back() -> None:
    async with ServiceRig() as rig:
        two_of_one_name(rig)
        await rig.models.swap(FIRST)
        load = rig.loader.load

        def broken(installed: InstalledModel, **more: Any) -> Any:
            if installed.path == SECOND:
                raise ModelLoadError("a file is broken")
            return load(installed, **more)

        rig.loader.load = broken  # type: ignore[method-assign]
        with pytest.raises(ModelLoadError, match="a file is broken"):
            await rig.models.swap(SECOND)
        assert rig.use.current == "mine"
        assert rig.engine.models[ModelId("mine")].fingerprint == fingerprint(rig, FIRST)
        assert (await rig.say("hello", model=FIRST)).model == "mine"


@pytest.mark.parametrize("name", [FIRST, "mine", "default"])
async def test_a_swap_to_a_model_whose_files_were_replaced_loads_the_new_ones(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ServiceRig() as rig:
        two_of_one_name(rig)
        await rig.models.swap(FIRST)
        other = ModelFingerprint("ee" * 32)
        find = rig.source.find

        def replaced(path: str) -> InstalledModel | None:
            found = find(path)
            return found and replace(found, fingerprint=other if path == FIRST else found.fingerprint)

        monkeypatch.setattr(rig.source, "find", replaced)
        rig.loader.failures["mine"] = ModelLoadError("a file is broken")
        with pytest.raises(
            ModelLoadError, match="a file is broken; mine is not loaded any more, and its files"
        ):
            await rig.models.swap(name)
        assert loaded(rig) == set()
        rig.loader.failures.clear()
        await rig.models.swap(FIRST)
        other = ModelFingerprint("ef" * 32)
        await rig.models.swap(name)
        assert rig.engine.models[ModelId("mine")].fingerprint == other
        assert (await rig.say("hello")).model == "mine"


async def test_where_only_settings_are_broken_it_is_said_what_is_not_loaded_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with ServiceRig() as rig:
        find = rig.source.find

        def changed(name: str) -> InstalledModel | None:
            found = find(name)
            return found and replace(found, settings_digest="ee" * 32)

        monkeypatch.setattr(rig.source, "find", changed)
        rig.loader.failures["one"] = ModelLoadError("a file is broken")
        with pytest.raises(
            ModelLoadError, match="a file is broken; one is not loaded any more, and its files"
        ):
            await rig.models.swap("one")


@pytest.mark.parametrize(
    "change", [{"settings_digest": "ee" * 32}, {"fingerprint": ModelFingerprint("ee" * 32)}]
)
@pytest.mark.parametrize("memory_bytes", [0, 1_000_000])
async def test_a_loaded_model_whose_files_broke_serves_all_the_time_it_is_swapped_to(
    change: dict[str, Any], memory_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ServiceRig(memory_bytes=memory_bytes) as rig:
        model, find = rig.engine.models[ModelId("one")], rig.source.find

        def changed(name: str) -> InstalledModel | None:
            found = find(name)
            return found and replace(found, **change)

        monkeypatch.setattr(rig.source, "find", changed)
        found = changed("one")
        assert found is not None
        rig.loader.broken[found.path] = BrokenModelError("config.json is not valid JSON")
        with pytest.raises(BrokenModelError, match=r"^config\.json is not valid JSON$"):
            await rig.models.swap("one")
        assert rig.engine.models == {ModelId("one"): model}
        assert rig.use.current == "one"
        assert rig.progress.stage == "idle"
        assert (await rig.say("hello")).model == "one"


async def test_a_model_that_takes_anothers_place_is_looked_at_before_that_leaves() -> None:
    async with ServiceRig(memory_bytes=0) as rig:
        model = rig.engine.models[ModelId("one")]
        there = rig.source.find("two")
        assert there is not None
        rig.loader.broken[there.path] = BrokenModelError("a file is broken")
        with pytest.raises(BrokenModelError, match="a file is broken"):
            await rig.models.swap("two")
        assert rig.engine.models == {ModelId("one"): model}


@pytest.mark.parametrize("stage", ["checking", "draining", "loading"])
async def test_a_swap_is_made_whole_though_who_asked_for_it_left(stage: str) -> None:
    async with ServiceRig(memory_bytes=0) as rig:
        # It takes its time until the swap has been seen to wait for it.
        running = await rig.begin("hello", sampling=LONG) if stage == "draining" else None
        gate = threading.Event()
        rig.loader.gate = gate
        rig.loader.check_gate = gate if stage == "checking" else None
        swapping = asyncio.create_task(rig.models.swap("two"))
        await asyncio.to_thread(wait_until, lambda: rig.progress.stage == stage)
        swapping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await swapping
        gate.set()
        rig.runner.before = lambda operation: None
        if running is not None:
            assert (await running.result()).usage.completion_tokens == 1500
        assert (await rig.models.swap("two")).id == "two"
        assert loaded(rig) == {"two"}
        assert (await rig.say("hello")).model == "two"


async def test_commands_in_a_refusal_can_be_pasted_whatever_the_model_is_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with ServiceRig() as rig:
        name = "/v1/my model"
        rig.source.folders[name] = ModelEntry("my model", name)
        await rig.models.load(name)
        find = rig.source.find

        def replaced(path: str) -> InstalledModel | None:
            found = find(path)
            return found and replace(found, fingerprint=ModelFingerprint("ee" * 32))

        monkeypatch.setattr(rig.source, "find", replaced)
        with pytest.raises(ConflictError) as refused:
            await rig.models.load(name)
        assert "unload 'my model'`" in refused.value.message
        assert f"swap '{name}'`" in refused.value.message


async def test_a_broken_models_long_reason_is_still_the_callers_mistake() -> None:
    async with ServiceRig() as rig:
        rig.loader.failures["two"] = BrokenModelError("a file is broken\nat length")
        with pytest.raises(BrokenModelError, match="has the rest"):
            await rig.models.load("two")


async def test_advice_of_a_models_files_that_is_not_taken_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ServiceRig() as rig:
        find = rig.source.find

        def advised(name: str) -> InstalledModel | None:
            found = find(name)
            return found and replace(found, ignored_advice=("temperature = -5", "top_p = 7"))

        monkeypatch.setattr(rig.source, "find", advised)
        await rig.models.load("two")
        told = next(
            fields for _, event, fields in rig.engine_rig.log.lines if event == "model_defaults_ignored"
        )
        assert told["file"] == "/models/two/generation_config.json"
        assert told["reason"] == "out of range: temperature = -5, top_p = 7"


async def test_a_swap_beside_the_old_model_serves_all_the_time() -> None:
    async with ServiceRig() as rig:
        running = await rig.open("hello", sampling=LONG)
        swapping = asyncio.create_task(rig.models.swap("two"))
        answer = await running.result()
        assert answer.model == "one"
        assert answer.usage.completion_tokens == 1500
        assert await swapping == SwappedModel(ModelId("two"), current=True, previous=ModelId("one"))
        assert loaded(rig) == {"two"}
        assert (await rig.say("hello")).model == "two"


async def test_a_swap_to_the_current_model_changes_nothing() -> None:
    async with ServiceRig() as rig:
        assert (await rig.models.swap("one")).id == "one"
        assert loaded(rig) == {"one"}


async def test_a_swap_in_place_holds_requests_until_the_new_model_is_there() -> None:
    async with ServiceRig(memory_bytes=0) as rig:
        running = await rig.open("hello", sampling=LONG)
        rig.loader.gate = threading.Event()
        swapping = asyncio.create_task(rig.models.swap("two"))
        assert (await running.result()).usage.completion_tokens == 1500
        await asyncio.to_thread(wait_until, lambda: rig.progress.stage == "loading")
        assert loaded(rig) == set()
        waiting = asyncio.create_task(rig.say("hello"))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        rig.loader.gate.set()
        assert (await swapping).id == "two"
        assert (await waiting).model == "two"


async def test_swapping_back_is_warm() -> None:
    async with ServiceRig(memory_bytes=0) as rig:
        first = await rig.say("hello, this is long enough to be a block or two", agent="a")
        await rig.models.swap("two")
        await rig.say("hello, this is long enough to be a block or two", agent="a")
        await rig.models.swap("one")
        again = await rig.say("hello, this is long enough to be a block or two", agent="a")
        assert again.choices == first.choices
        assert again.usage.cache.tier == "warm"
        assert again.usage.cache.computed_tokens == 1


@pytest.mark.parametrize("error", [ModelLoadError("broken file"), RuntimeError("out of memory")])
@pytest.mark.parametrize("memory_bytes", [0, 1_000_000])
async def test_a_swap_that_fails_leaves_the_old_model_serving(error: Exception, memory_bytes: int) -> None:
    async with ServiceRig(memory_bytes=memory_bytes) as rig:
        rig.loader.failures["two"] = error
        with pytest.raises(ModelLoadError):
            await rig.models.swap("two")
        assert rig.use.current == "one"
        assert (await rig.say("hello")).model == "one"
        assert rig.progress.last_error is not None
        assert "two" in rig.progress.last_error
        assert rig.progress.stage == "idle"


async def test_requests_on_their_way_while_a_model_leaves_are_answered() -> None:
    async with ServiceRig(memory_bytes=0) as rig:
        streams = [await rig.open(f"hello {n}", agent=str(n)) for n in range(5)]
        # The engine is busy with something else: what was submitted has not been taken in yet.
        gate = threading.Event()
        rig.engine.call(lambda: gate.wait(PATIENCE_S))
        streams += [await rig.open(f"hello {n}", agent=str(n)) for n in range(5, 10)]
        swapping = asyncio.create_task(rig.models.swap("two"))
        await asyncio.to_thread(wait_until, lambda: rig.progress.stage != "idle")
        gate.set()
        answers = [await stream.result() for stream in streams]
        assert {answer.model for answer in answers} == {"one"}
        await swapping


async def test_many_requests_during_many_swaps_are_all_answered() -> None:
    async with ServiceRig(memory_bytes=0) as rig:

        async def talk(agent: int) -> None:
            for turn in range(6):
                answer = await rig.say(f"hello {turn}", agent=str(agent))
                assert answer.choices[0].text

        talking = [asyncio.create_task(talk(n)) for n in range(4)]
        for name in ("two", "one", "three", "one"):
            await rig.models.swap(name)
        await asyncio.gather(*talking)


async def test_a_model_is_unloaded_when_its_requests_are_answered() -> None:
    async with ServiceRig() as rig:
        await rig.models.load("two")
        running = await rig.open("hello", sampling=LONG)
        unloading = asyncio.create_task(rig.models.unload("one"))
        assert (await running.result()).usage.completion_tokens == 1500
        assert await unloading == UnloadedModel(ModelId("one"), loaded=False)
        assert rig.use.current == "two"
        assert rig.runner.released
        with pytest.raises(ModelNotFoundError):
            await rig.models.unload("one")
        with pytest.raises(ModelNotFoundError):
            await rig.open("hello", model="one")


async def test_a_model_that_nobody_asks_for_leaves_after_a_while_and_the_current_one_stays() -> None:
    async with ServiceRig() as rig:
        await rig.models.load("two")
        await rig.models.load("three")
        rig.clock.advance(50.0)
        await rig.say("hello", model="three")
        rig.clock.advance(20.0)
        await rig.models.expire(60.0)
        assert loaded(rig) == {"one", "three"}


async def test_a_pinned_model_stays_and_one_with_a_time_of_its_own_leaves_when_it_is_over() -> None:
    async with ServiceRig() as rig:
        entries = rig.source.known
        entries["two"] = replace(entries["two"], pinned=True)
        entries["three"] = replace(entries["three"], ttl_s=10.0)
        await rig.models.load("two")
        await rig.models.load("three")
        rig.clock.advance(20.0)
        await rig.models.expire(None)
        assert loaded(rig) == {"one", "two"}
        rig.clock.advance(1000.0)
        await rig.models.expire(60.0)
        assert loaded(rig) == {"one", "two"}


async def test_a_model_is_looked_up_by_its_other_names_too() -> None:
    async with ServiceRig() as rig:
        entries = rig.source.known
        entries["two"] = replace(entries["two"], aliases=("deux",))
        by_name = model_names(await rig.models.list())
    assert (by_name["deux"].id, by_name["two"].id) == ("two", "two")


async def test_a_failed_fetch_leaves_the_status_and_a_failed_load_stays_there() -> None:
    async with ServiceRig() as rig:
        rig.source.unreachable.add("four")
        with pytest.raises(ModelDownloadError):
            await rig.models.pull("four")
        assert (await rig.status.snapshot()).model_error == rig.progress.last_error is not None
        rig.clock.advance(FETCH_FAILURE_SHOWN_S)
        assert (await rig.status.snapshot()).model_error is None
        with pytest.raises(ModelDownloadError):
            await rig.models.load("four")
        rig.clock.advance(10 * FETCH_FAILURE_SHOWN_S)
        assert "four" in str((await rig.status.snapshot()).model_error)


async def test_a_reason_that_names_the_model_is_not_headed_by_its_name_again() -> None:
    async with ServiceRig() as rig:
        rig.source.unreachable.add("four")
        rig.source.reason = "cannot fetch four: no network"
        with pytest.raises(ModelDownloadError):
            await rig.models.pull("four")
        assert rig.progress.last_error == "cannot fetch four: no network"


async def test_a_failed_download_leaves_its_reason_in_one_sentence() -> None:
    async with ServiceRig() as rig:
        rig.source.unreachable.add("four")
        rig.source.reason = "cannot convert it\n" + "missing tensor\n" * 300
        with pytest.raises(ModelDownloadError):
            await rig.models.pull("four")
        assert (rig.progress.stage, rig.progress.share) == ("idle", 0.0)
        assert rig.progress.last_error == "four: cannot convert it … (`semanticd logs` has the rest)"
        rig.source.unreachable.clear()
        await rig.models.pull("four")
        assert (rig.progress.stage, rig.progress.last_error) == ("idle", None)


SMALL = DeviceMemory("metal", 12_000_000_000, 8_000_000_000)
"""Room for 6.5 GB of weights and KV."""


def sized(rig: ServiceRig, **gigabytes: float) -> None:
    """Give models of the registry weights of so many GB."""
    for name, size in gigabytes.items():
        known = rig.source.known[name]
        rig.source.known[name] = replace(known, weights_bytes=int(size * 1e9), kv_bytes_per_token=10_000)


@pytest.mark.parametrize("change", ["load", "swap"])
async def test_a_model_that_does_not_fit_is_refused_before_it_is_fetched(change: str) -> None:
    async with ServiceRig(device=SMALL) as rig:
        sized(rig, two=3.0, four=9.0)
        with pytest.raises(ModelTooLargeError) as refused:
            await getattr(rig.models, change)("four")
        for words in (
            "four does not fit",
            "9.0 GB for its weights",
            "lends 8.0 GB of 12.0 GB",
            "two (3.0 GB)",
        ):
            assert words in refused.value.message
        assert rig.source.find("four") is None, "nothing was fetched"
        assert rig.use.current == "one"
        assert (await rig.say("hello")).model == "one"
        assert rig.progress.last_error is not None
        assert (await rig.models.pull("four")).id == "four", "its files may be fetched"


@pytest.mark.parametrize("change", ["load", "swap"])
async def test_a_model_that_is_here_and_does_not_fit_is_refused_before_the_old_one_leaves(
    change: str,
) -> None:
    async with ServiceRig(device=SMALL, memory_bytes=0) as rig:
        rig.source.size_bytes["two"] = 9_000_000_000
        with pytest.raises(ModelTooLargeError):
            await getattr(rig.models, change)("two")
        assert loaded(rig) == {"one"}
        assert (await rig.say("hello")).model == "one"
        assert (await rig.models.swap("three")).id == "three"


async def test_the_first_model_is_refused_too() -> None:
    async with ServiceRig(device=SMALL, load=False) as rig:
        rig.source.size_bytes["one"] = 9_000_000_000
        with pytest.raises(ModelTooLargeError):
            await rig.models.load("one")
        assert (rig.progress.stage, rig.use.current) == ("idle", None)
        assert rig.progress.last_error is not None


async def test_two_models_stand_beside_each_other_only_within_the_plan() -> None:
    rig = ServiceRig(device=DeviceMemory("metal", 12_000_000_000, 1_600_000_000), memory_bytes=1 << 40)
    entries = rig.source.known
    for name, needed in (("one", 1000), ("two", 99_000_000), ("three", 101_000_000)):
        rig.source.size_bytes[name] = needed * 5 // 6
        entries[name] = replace(entries[name], kv_bytes_per_token=10)
    async with rig:
        await rig.models.load("two")
        with pytest.raises(ModelLoadError, match="swap to it instead"):
            await rig.models.load("three")


async def test_a_loaded_model_of_a_users_folder_answers_to_its_name_in_other_capitals() -> None:
    async with ServiceRig() as rig:
        rig.source.folders[FIRST] = ModelEntry("Mine", FIRST)
        await rig.models.load(FIRST)
        assert (await rig.models.info("MINE")).id == "Mine"
        assert (await rig.models.load("mine")).id == "Mine"
        assert (await rig.models.unload("mINE")).id == "Mine"
        rig.source.folders[SECOND] = ModelEntry("MINE", SECOND)
        await rig.models.load(FIRST)
        await rig.models.load(SECOND)
        with pytest.raises(ModelNotFoundError):
            await rig.models.unload("mine")
        assert loaded(rig) == {"one", "Mine", "MINE"}


async def test_the_current_model_is_shown_by_the_name_that_requests_give_it() -> None:
    async with ServiceRig() as rig:
        assert (await rig.models.info("default")).id == "one"
        await rig.models.swap("two")
        for name in ("default", "DEFAULT"):
            assert (await rig.models.info(name)).id == "two"
        assert (await rig.models.unload("default")).id == "two"
        for ask in (rig.models.info, rig.models.load, rig.models.swap, rig.models.remove):
            with pytest.raises(ModelNotFoundError, match="no model is loaded"):
                await ask("default")


async def test_ranks_that_compute_a_model_are_asked_for_no_other_one_before_it_is_fetched() -> None:
    with contextlib.closing(ScriptedRanks(2)) as ranks:
        for rank in range(2):
            ranks.joins(rank)
        async with ServiceRig(ranks=ranks.group) as rig:
            ranks.group.form("one")
            for change in (rig.models.load, rig.models.swap):
                with pytest.raises(ModelLoadError, match="unload it first"):
                    await change("four")
            assert rig.source.find("four") is None, "nothing was fetched"
            await rig.models.pull("four")


async def test_a_model_that_ranks_await_is_unloaded_under_any_of_its_names() -> None:
    with contextlib.closing(ScriptedRanks(2)) as ranks:
        async with ServiceRig(ranks=ranks.group) as rig:
            for name in ("two", "TWO"):
                ranks.group.awaited = "two"
                with pytest.raises(ModelNotFoundError, match="'three' is not loaded"):
                    await rig.models.unload("three")
                assert rig.status.why_no_model() == ranks.group.why_away()
                assert await rig.models.unload(name) == UnloadedModel(ModelId("two"), loaded=False)
                assert ranks.group.awaited is None


async def test_the_model_that_ranks_await_is_the_default_while_none_is_loaded() -> None:
    with contextlib.closing(ScriptedRanks(2)) as ranks:
        async with ServiceRig(ranks=ranks.group) as rig:
            ranks.group.awaited = "two"
            assert (await rig.models.info("default")).id == "one"
            assert (await rig.models.unload("default")).id == "one"
            assert ranks.group.awaited == "two"
            assert (await rig.models.info("default")).id == "two"
            for name in ("two", "default"):
                with pytest.raises(ConflictError, match="as soon as all machines have joined; unload it"):
                    await rig.models.remove(name)
            assert await rig.models.unload("DEFAULT") == UnloadedModel(ModelId("two"), loaded=False)
            assert ranks.group.awaited is None
            with pytest.raises(ModelNotFoundError, match="'default' is not loaded"):
                await rig.models.unload("default")


async def test_a_model_whose_ranks_were_lost_while_its_user_unloads_it_is_not_awaited() -> None:
    with contextlib.closing(ScriptedRanks(2)) as ranks:
        async with ServiceRig(ranks=ranks.group) as rig:
            model = rig.engine.models[ModelId("one")]
            ranks.group.awaited = "one"
            await rig.models.lose(model)
            assert ranks.group.awaited == "one"
            assert not rig.engine.models
            await rig.models.lose(model)
            assert ranks.group.awaited is None, "another one has let it leave"
