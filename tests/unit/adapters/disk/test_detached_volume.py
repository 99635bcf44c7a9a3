"""The cache's volume is detached while stores use it, and attached again: nothing goes to what lies there meanwhile."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from semanticd.adapters.disk.blocks.warm_store import DiskWarmStore, WarmOptions
from semanticd.adapters.disk.files.atomic import FileSystem
from semanticd.domain.errors import CacheError
from semanticd.domain.ids import AgentId
from tests.fakes.agents import full_agent
from tests.fakes.blocks import make_chain, names, same
from tests.fakes.engine_rig import wait_until
from tests.fakes.full_volume import attach, detach, small_volume
from tests.unit.adapters.disk.test_removed_folder import Stores, response, stores

_GONE = r"is gone, with its volume; attach the volume again, or run `semanticd restart`"


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Path]:
    with small_volume(tmp_path / "drive", num_bytes=64_000_000) as volume:
        yield volume


@pytest.fixture
def place(tmp_path: Path, drive: Path) -> Iterator[Path]:
    """Where the drive is attached; something is attached there at the end, too."""
    path = tmp_path / "place"
    path.mkdir()
    attach(drive, path)
    yield path
    detach(path)


def wait_for_problem(held: Stores, *, gone: bool) -> None:
    wait_until(lambda: (held.warm.stats().folder_problem is not None) is gone)


def move_back(folder: Path, root: Path) -> None:
    """Put a folder where it was before; the stores make one there by themselves, at any moment."""
    while folder.exists():
        shutil.rmtree(root, ignore_errors=True)
        with suppress(OSError):
            folder.rename(root)


@pytest.mark.parametrize("root_is", ["the place", "a folder"])
@pytest.mark.parametrize("meanwhile", ["nothing", "another volume"])
def test_a_detached_volume_is_one_state_until_it_is_attached_again(
    tmp_path: Path, drive: Path, place: Path, meanwhile: str, root_is: str
) -> None:
    root = place if root_is == "the place" else place / "caches"
    chain, more = make_chain(3), make_chain(2, start=500)
    with stores(root) as held:
        held.warm.write(chain).result(60)
        held.agents.save(full_agent("before"))
        held.responses.save(response("before")).result(60)
        assert held.warm.flush(60)
        assert held.warm.recovery is None or held.warm.recovery.wait(60)
        detach(place)
        other = tmp_path / "other"
        other.mkdir()
        if meanwhile == "another volume":
            attach(other, place)
        wait_for_problem(held, gone=True)
        stats = held.warm.stats()
        assert stats.free_disk_bytes is None
        for ask in (
            held.warm.clear,
            lambda: held.warm.prune(target_bytes=0),
            lambda: held.warm.verify(fix=True),
        ):
            with pytest.raises(CacheError, match=_GONE) as caught:
                ask()
            assert caught.value.message == stats.folder_problem
        # Reads are misses, writes are refused, and nothing comes to lie on another volume.
        assert held.warm.read(names(chain)[0]).result(60) is None
        assert held.warm.write(more).result(60).num_refused == 2
        held.agents.save(full_agent("meanwhile"))
        assert not held.agents.is_saved(AgentId("meanwhile")).result(60)
        assert not held.responses.save(response("meanwhile")).result(60)
        assert list(place.iterdir()) == []
        if meanwhile == "another volume":
            detach(place)
        attach(drive, place)
        wait_for_problem(held, gone=False)
        assert "cache_folder_is_back" in held.events
        assert "cache_folder_made_anew" not in held.events
        wait_until(lambda: held.warm.stats().free_disk_bytes is not None)
        assert all(same(held.warm.read(r.block.block_hash).result(60), r) for r in chain)
        assert held.warm.write(more).result(60).num_written == 2
        agent = full_agent("after")
        held.agents.save(replace(agent, last_used_at=agent.last_used_at + 1))
        assert held.agents.is_saved(AgentId("meanwhile")).result(60)
        assert held.responses.save(response("after")).result(60)
        assert held.warm.prune(target_bytes=0, dry_run=True) > 0
    with stores(root) as again:
        assert sorted(again.agents.ids()) == ["after", "before", "meanwhile"]
        assert all(same(again.warm.read(r.block.block_hash).result(60), r) for r in (*chain, *more))


class SlowListing(FileSystem):
    """A disk that lists so many folders more, then none until that is allowed."""

    num_allowed: int | None = None
    """None: any number."""

    def list_files(self, folder: Path) -> list[str]:
        """List a folder once it is allowed."""
        wait_until(lambda: self.num_allowed is None or self.num_allowed > 0, "the listing is allowed")
        if self.num_allowed is not None:
            self.num_allowed -= 1
        return super().list_files(folder)


def test_what_is_looked_through_while_the_volume_is_gone_forgets_no_block(drive: Path, place: Path) -> None:
    chain, fs = make_chain(3), SlowListing()
    store = DiskWarmStore.open(place, options=WarmOptions(verify_every_s=None), fs=fs)
    try:
        assert store.recovery is not None
        assert store.recovery.wait(60)
        store.write(chain).result(60)
        store.close()
        (place / "unclean").touch()
        fs.num_allowed = 1  # the quarantine: the blocks are not looked through yet
        store = DiskWarmStore.open(place, options=WarmOptions(verify_every_s=None), fs=fs)
        detach(place)
        fs.num_allowed = None
        assert store.recovery is not None
        assert store.recovery.wait(60)
        attach(drive, place)
        assert [store.get(name) for name in names(chain)] == [record.block for record in chain]
        assert all(same(store.read(r.block.block_hash).result(60), r) for r in chain)
    finally:
        store.close()


@pytest.mark.parametrize("what", ["moved away and back", "removed and made anew"])
def test_a_folder_that_was_moved_on_its_volume_is_used_again(tmp_path: Path, what: str) -> None:
    root, elsewhere = tmp_path / "caches", tmp_path / "elsewhere"
    chain = make_chain(3)
    with stores(root) as held:
        held.warm.write(chain).result(60)
        held.agents.save(full_agent("before"))
        assert held.warm.flush(60)
        assert held.warm.recovery is None or held.warm.recovery.wait(60)
        root.rename(elsewhere)
        if what == "removed and made anew":
            shutil.rmtree(elsewhere)
            root.mkdir(mode=0o700)
        # At once: before the daemon has made the folder anew by itself.
        assert held.warm.clear() == 0
        assert held.warm.write(chain).result(60).num_written == 3
        assert held.warm.stats().folder_problem is None
        if what == "moved away and back":
            move_back(elsewhere, root)
            assert held.warm.prune(target_bytes=1 << 40) == 0
            assert held.warm.flush(60)
            assert held.warm.recovery is None or held.warm.recovery.wait(60)
            assert [held.warm.get(name) for name in names(chain)] == [record.block for record in chain]
            assert held.agents.ids() == ["before"]
        assert all(same(held.warm.read(r.block.block_hash).result(60), r) for r in chain)


def test_a_folder_that_another_daemon_took_is_a_problem_with_a_remedy(tmp_path: Path) -> None:
    root = tmp_path / "caches"
    with stores(root) as held:
        shutil.rmtree(root)
        with stores(root):
            wait_for_problem(held, gone=True)
            assert "is using it" in (held.warm.stats().folder_problem or "")
            with pytest.raises(CacheError, match="is using it; stop it, or set SEMANTIC_AGENT_CACHE_DIR"):
                held.warm.clear()
        wait_for_problem(held, gone=False)
        assert held.warm.clear() == 0
