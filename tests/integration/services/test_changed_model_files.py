"""Files of a loaded model that change on disk: status and the list of models say so, and nothing waits for a disk."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import pytest

from semanticd.application.ports.models import FileFacts
from semanticd.application.services.plain import plain
from semanticd.domain.ids import ModelId
from tests.fakes.model_source import FILES
from tests.fakes.service_rig import ServiceRig

CONFIG, WEIGHTS = FILES
FOLDER = "/models/one"
SERVED = "the loaded version stays in use"
SWAP = "`semanticd models swap one` loads the new files"


async def warnings(rig: ServiceRig, *, after_s: float = 5.0) -> list[str | None]:
    """Return what status and the list of models say of the model `one`."""
    rig.clock.advance(after_s)
    [shown] = [model.warning for model in (await rig.status.snapshot()).models if model.id == "one"]
    [listed] = [row for row in plain(await rig.models.list()) if row["id"] == "one"]
    return [shown, listed.get("warning")]


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ((CONFIG, replace(WEIGHTS, size_bytes=7)), f"(changed: model.safetensors); {SERVED}: {SWAP}"),
        ((CONFIG, replace(WEIGHTS, modified_ns=7)), f"(changed: model.safetensors); {SERVED}: {SWAP}"),
        ((CONFIG, replace(WEIGHTS, inode=7)), f"(changed: model.safetensors); {SERVED}: {SWAP}"),
        ((CONFIG,), f"(removed: model.safetensors); {SERVED}: {SWAP}"),
        ((*FILES, FileFacts("new.json", 1, 1, 1)), f"(added: new.json); {SERVED}: {SWAP}"),
        (
            (replace(CONFIG, inode=7), FileFacts("b", 1, 1, 1)),
            "(removed: model.safetensors; changed: config.json; added: b)",
        ),
        ((), f"(removed: config.json, model.safetensors); {SERVED}: it cannot be loaded again"),
        (
            (*FILES, *(FileFacts(f"{n}.json", 1, 1, 1) for n in range(9))),
            "(added: 0.json, 1.json, 2.json and 6 more)",
        ),
    ],
)
async def test_what_changed_is_said_until_the_files_are_as_they_were(
    now: tuple[FileFacts, ...], said: str
) -> None:
    async with ServiceRig() as rig:
        assert await warnings(rig) == [None, None]
        rig.source.on_disk[FOLDER] = now
        shown, listed = await warnings(rig)
        assert shown is not None
        assert shown.startswith(f"its files in {FOLDER} changed since it was loaded (")
        assert said in shown
        assert listed == shown
        del rig.source.on_disk[FOLDER]
        assert await warnings(rig) == [None, None]


async def test_a_folder_that_cannot_be_looked_at_is_named() -> None:
    async with ServiceRig() as rig:
        rig.source.unreadable.add(FOLDER)
        shown, listed = await warnings(rig)
        assert shown == listed == f"its files in {FOLDER} can no longer be read; {SERVED}"


async def test_what_the_loader_warns_of_stays() -> None:
    async with ServiceRig() as rig:
        rig.source.on_disk[FOLDER] = (CONFIG,)
        model = rig.engine.models[ModelId("one")]
        model.description["warning"] = "packed"  # type: ignore[index]
        assert all(one is not None and one.startswith("packed; its files in") for one in await warnings(rig))


async def test_files_are_looked_at_seldom_and_by_a_thread_of_their_own() -> None:
    async with ServiceRig() as rig:
        looked_from = rig.source.looked_from
        await warnings(rig)
        assert len(looked_from) == 1
        for _ in range(20):
            await warnings(rig, after_s=0.2)
        assert len(looked_from) == 1
        await warnings(rig, after_s=1.0)
        assert len(looked_from) == 2
        assert threading.current_thread() not in looked_from
        assert not [thread for thread in looked_from if thread.name == "engine"]


async def test_a_disk_that_does_not_answer_holds_up_no_status() -> None:
    async with ServiceRig() as rig:
        rig.source.on_disk[FOLDER] = (CONFIG,)
        before = await warnings(rig)
        rig.source.looking = threading.Event()
        rig.source.on_disk[FOLDER] = (WEIGHTS,)
        try:
            assert await warnings(rig) == before
            assert await warnings(rig) == before
            assert len(rig.source.looked_from) == 2
        finally:
            rig.source.looking.set()
        looking = asyncio.get_running_loop().time() + 60
        while (shown := await warnings(rig)) == before:
            assert asyncio.get_running_loop().time() < looking
        assert all("removed: config.json" in str(one) for one in shown)


async def test_a_swap_to_files_that_were_only_copied_settles_it() -> None:
    async with ServiceRig() as rig:
        rig.source.on_disk[FOLDER] = (replace(CONFIG, inode=7), WEIGHTS)
        assert None not in await warnings(rig)
        runner = rig.engine.models[ModelId("one")].runner
        await rig.models.swap("one")
        assert rig.engine.models[ModelId("one")].runner is runner
        assert await warnings(rig, after_s=0.0) == [None, None]


async def test_a_model_that_was_loaded_again_is_compared_with_what_it_was_loaded_from() -> None:
    async with ServiceRig() as rig:
        rig.source.on_disk[FOLDER] = (replace(WEIGHTS, inode=8),)
        assert None not in await warnings(rig)
        await rig.models.swap("two")
        assert [model.id for model in (await rig.status.snapshot()).models] == ["two"]
        await rig.models.load("one")
        assert await warnings(rig) == [None, None]
        del rig.source.on_disk[FOLDER]
        assert None not in await warnings(rig)


async def test_a_file_of_the_users_that_a_model_was_converted_from_is_watched_too() -> None:
    async with ServiceRig() as rig:
        assert await warnings(rig) == [None, None]
        rig.source.replaced[FOLDER] = "/home/ann/one.gguf"
        shown, listed = await warnings(rig)
        assert shown == listed
        assert shown == (
            f"the file /home/ann/one.gguf, which it was converted from, changed since it was loaded; {SERVED}: {SWAP}"
        )
        # What lay in its folder is deleted if the file was converted again.
        rig.source.on_disk[FOLDER] = ()
        assert await warnings(rig) == [shown, shown]
        rig.source.on_disk.clear()
        rig.source.replaced.clear()
        assert await warnings(rig) == [None, None]
