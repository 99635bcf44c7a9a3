"""Many threads at one store: none sees an exception or a wrong byte, and afterwards everything is consistent."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from semanticd.adapters.disk.agents.archive import DiskAgentArchive
from semanticd.adapters.disk.blocks.warm_store import DiskWarmStore, WarmOptions
from tests.fakes.agents import full_agent
from tests.fakes.blocks import make_chain, names, same

NUM_THREADS = 6
NUM_STEPS = 120


def test_threads_that_write_read_delete_and_prune_at_once_leave_a_sound_store(tmp_path: Path) -> None:
    chains = [make_chain(6, start=start, num_bytes=4096) for start in range(5)]
    options = WarmOptions(cap_bytes=100_000, verify_every_s=0.05)
    store = DiskWarmStore.open(tmp_path / "caches", options=options)
    archive = DiskAgentArchive.open(store.folder, write_queue=store.write_queue)

    def work(seed: int) -> int:
        choose = random.Random(seed)
        num_read = 0
        for _ in range(NUM_STEPS):
            chain = choose.choice(chains)
            deed = choose.randrange(8)
            if deed <= 1:
                result = store.write(chain[: choose.randint(1, 6)]).result(60)
                assert not result.reason.startswith(("failed", "the disk failed")), result.reason
            elif deed <= 4:
                record = choose.choice(chain)
                read = store.read(record.block.block_hash).result(60)
                assert read is None or same(read, record)
                num_read += read is not None
            elif deed == 5:
                store.touch(names(chain))
                store.protect(names(chain[:2]), owner=f"agent {seed}")
                store.get_many(names(chain))
                store.children(chain[0].block.block_hash)
            elif deed == 6 and choose.random() < 0.5:
                store.delete(names(chain[-2:])).result()
            elif deed == 6:
                store.prune(target_bytes=50_000)
                store.stats()
            else:
                agent = full_agent(f"agent-{choose.randrange(3)}")
                if choose.random() < 0.5:
                    archive.save(agent)
                else:
                    archive.delete(agent.agent_id)
                assert archive.load(agent.agent_id) in (None, agent)
                archive.ids()
        return num_read

    try:
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            assert sum(pool.map(work, range(NUM_THREADS))) > 0
        assert store.flush(60)
        report = store.verify(fix=False)
        assert (report.num_broken, report.num_missing, report.num_orphaned) == (0, 0, 0)
        assert (store.stats().num_quarantined, store.stats().num_write_errors) == (0, 0)
        files = [path for path in store.folder.blocks.glob("*/**/*") if path.is_file()]
        assert store.stats().bytes_stored == sum(path.stat().st_size for path in files) <= 100_000
    finally:
        archive.close()
        store.close()
