"""A request gets the model that it names, one that may be loaded for it, or a reason why not."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from semanticd.application.ports.models import ModelProfile
from semanticd.domain.errors import (
    NO_MODEL_LOADED,
    BrokenModelError,
    ModelLoadError,
    ModelNotFoundError,
    ModelTooLargeError,
    OverloadedError,
    SemanticError,
)
from semanticd.domain.generation import ModelDefaults, SamplingParams
from semanticd.domain.memory_plan import DeviceMemory
from tests.fakes.engine_rig import wait_until
from tests.fakes.service_rig import ServiceRig

LONG = SamplingParams(temperature=0, max_tokens=1500)
SMALL = DeviceMemory("metal", 12_000_000_000, 8_000_000_000)
"""Room for 6.5 GB of weights and KV."""


def loaded(rig: ServiceRig) -> set[str]:
    return {str(name) for name in rig.engine.models}


async def test_without_any_model_requests_are_refused() -> None:
    async with ServiceRig(load=False) as rig:
        assert await rig.models.current() is None
        with pytest.raises(ModelNotFoundError, match="no model is loaded; run `semanticd models load NAME`"):
            await rig.open("hello")
        rig.loader.gate = threading.Event()
        loading = asyncio.create_task(rig.models.load("one"))
        await asyncio.to_thread(wait_until, lambda: rig.progress.stage == "loading")
        with pytest.raises(OverloadedError, match="still loading"):
            await rig.open("hello")
        rig.loader.gate.set()
        await loading
        assert (await rig.say("hello")).model == "one"


async def test_while_the_last_model_leaves_requests_and_the_status_say_that_there_is_none() -> None:
    async with ServiceRig() as rig:
        assert (rig.status.state(), (await rig.status.snapshot()).state) == ("ready", "ready")
        running = await rig.begin("hello")
        unloading = asyncio.create_task(rig.models.unload("one"))
        await asyncio.to_thread(wait_until, lambda: rig.progress.stage == "draining")
        for name in ("", "one"):
            with pytest.raises(ModelNotFoundError) as refused:
                await rig.open("hello", model=name)
            assert refused.value.message == NO_MODEL_LOADED == rig.status.why_no_model()
        assert rig.status.state() == "no_model"
        await running.aclose()
        await unloading
        assert ((await rig.status.snapshot()).state, rig.status.why_no_model()) == (
            "no_model",
            NO_MODEL_LOADED,
        )
        with pytest.raises(SemanticError):
            await rig.models.pull("nobody/has-this")
        assert rig.status.why_no_model().startswith(f"{NO_MODEL_LOADED} (last failure: ")


async def test_while_one_of_two_models_leaves_only_the_other_is_said_to_be_loaded() -> None:
    async with ServiceRig() as rig:
        await rig.models.load("two")
        running = await rig.begin("hello", model="one")
        unloading = asyncio.create_task(rig.models.unload("one"))
        await asyncio.to_thread(wait_until, lambda: rig.progress.stage == "draining")
        with pytest.raises(ModelNotFoundError, match=r"loaded: two\. Ask for `default`, which is two"):
            await rig.open("hello", model="one")
        assert rig.status.state() == "ready"
        await running.aclose()
        await unloading


async def test_while_a_model_takes_the_last_ones_place_the_status_says_so() -> None:
    async with ServiceRig(memory_bytes=0) as rig:
        rig.loader.gate = threading.Event()
        swapping = asyncio.create_task(rig.models.swap("two"))
        await asyncio.to_thread(wait_until, lambda: rig.progress.stage == "loading")
        assert rig.status.state() == "no_model"
        assert rig.status.why_no_model().startswith("the model is being swapped")
        rig.loader.gate.set()
        await swapping
        assert rig.status.state() == "ready"


async def test_a_model_named_by_a_request_is_loaded_when_that_is_wanted() -> None:
    async with ServiceRig(load_on_demand=True) as rig:
        assert (await rig.say("hello", model="two")).model == "two"
        with pytest.raises(ModelNotFoundError):
            await rig.open("hello", model="four")


async def test_a_folder_is_not_loaded_because_a_request_names_it() -> None:
    async with ServiceRig(load_on_demand=True) as rig:
        rig.source.known["/models/three"] = rig.source.known["three"]
        rig.source.paths_asked.clear()
        for name in ("/models/three", "~nosuchuser/x", "../three"):
            with pytest.raises(ModelNotFoundError):
                await rig.open("hello", model=name)
        assert rig.source.paths_asked == []
        assert loaded(rig) == {"one"}


async def test_a_model_that_an_administrator_loaded_answers_to_its_path() -> None:
    async with ServiceRig() as rig:
        await rig.models.load("two")
        assert (await rig.say("hello", model="/models/two")).model == "two"


async def test_a_model_named_by_requests_that_does_not_fit_is_refused_and_logged_once() -> None:
    async with ServiceRig(device=SMALL, load_on_demand=True) as rig:
        rig.source.size_bytes["two"] = 9_000_000_000
        for _ in range(3):
            with pytest.raises(ModelTooLargeError, match=r"9\.0 GB for its weights") as refused:
                await rig.open("hello", model="two")
            assert refused.value.param == "model"
        assert rig.engine_rig.log.events("warning").count("model_on_demand_refused") == 1
        assert rig.engine_rig.log.events("error") == []
        assert (rig.progress.last_error, rig.progress.stage) == (None, "idle")
        assert (await rig.say("hello")).model == "one"
        # It has become smaller, or another folder lies there.
        rig.source.size_bytes["two"] = 1000
        assert (await rig.say("hello", model="two")).model == "two"


async def test_a_broken_model_named_by_many_requests_is_tried_once_a_minute() -> None:
    async with ServiceRig(load_on_demand=True) as rig:
        rig.loader.failures["two"] = BrokenModelError("a file is broken")
        for _ in range(3):
            with pytest.raises(BrokenModelError, match="a file is broken"):
                await rig.open("hello", model="two")
        assert rig.engine_rig.log.events("error").count("model_load_failed") == 1
        del rig.loader.failures["two"]
        with pytest.raises(ModelLoadError):
            await rig.open("hello", model="two")
        rig.clock.advance(61.0)
        assert (await rig.say("hello", model="two")).model == "two"


async def test_a_profile_asks_its_model_with_its_own_settings_where_a_request_is_silent() -> None:
    async with ServiceRig() as rig:
        rig.source.profiles["brief"] = ModelProfile("brief", "one", ModelDefaults(max_tokens=3))
        rig.source.profiles["of-two"] = ModelProfile("of-two", "two", ModelDefaults(max_tokens=3))
        silent = SamplingParams.of(temperature=0.0)
        brief = await rig.say("hello", model="brief", sampling=silent)
        assert (brief.model, brief.usage.completion_tokens) == ("one", 3)
        said = await rig.say(
            "hello", model="brief", sampling=SamplingParams.of(temperature=0.0, max_tokens=5)
        )
        assert said.usage.completion_tokens == 5
        plain = await rig.say("hello", model="one", sampling=SamplingParams.of(temperature=0.0, max_tokens=5))
        assert plain.usage.completion_tokens == 5
        with pytest.raises(ModelNotFoundError, match="of-two"):
            await rig.say("hello", model="of-two")
        listed = {model.id: model.profiles for model in await rig.models.list()}
        assert (listed["one"], listed["two"]) == (("brief",), ("of-two",))
        await rig.models.swap("of-two")
        assert rig.use.current == "two"
        assert (await rig.say("hello", model="of-two", sampling=silent)).usage.completion_tokens == 3


async def test_a_profile_loads_its_model_where_requests_may() -> None:
    async with ServiceRig(load_on_demand=True) as rig:
        rig.source.profiles["of-two"] = ModelProfile("of-two", "two", ModelDefaults(max_tokens=3))
        found = await rig.say("hello", model="of-two", sampling=SamplingParams.of(temperature=0.0))
        assert (found.model, found.usage.completion_tokens) == ("two", 3)


async def test_files_are_looked_at_outside_of_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ServiceRig(load_on_demand=True) as rig:
        looked: list[tuple[str, bool]] = []
        here = threading.current_thread()
        for name in ("find", "pull", "installed", "remove"):
            method = getattr(rig.source, name)

            def noted(*given: Any, _name: str = name, _method: Any = method, **more: Any) -> Any:
                looked.append((_name, threading.current_thread() is here))
                return _method(*given, **more)

            monkeypatch.setattr(rig.source, name, noted)
        await rig.models.list()
        await rig.models.load("two")
        assert (await rig.say("hello", model="three")).model == "three"
        await rig.models.swap("three")
        await rig.models.pull("four")
        await rig.models.info("four")
        await rig.models.remove("four")
        assert {name for name, _ in looked} == {"find", "pull", "installed", "remove"}
        assert [name for name, is_here in looked if is_here] == []
