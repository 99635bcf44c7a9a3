"""An agent that moves takes its computed conversation along: real engine, real files, tiny models."""

from __future__ import annotations

from pathlib import Path

import pytest

from semanticd.adapters.disk.agents.archive import DiskAgentArchive
from semanticd.adapters.disk.agents.export_file import DiskAgentExportFile
from semanticd.adapters.disk.blocks.warm_store import DiskWarmStore
from semanticd.application.ports.telemetry import NullMetrics
from semanticd.application.services.agent_export import AgentExporter
from semanticd.application.services.agents import AgentsService
from semanticd.application.services.arrivals import Arrivals
from semanticd.application.services.model_progress import ModelProgress
from semanticd.application.services.observations import Observations
from semanticd.application.services.outcomes import Outcomes
from semanticd.application.services.savings import Savings
from semanticd.application.services.waits import Waits
from semanticd.domain.errors import AgentExportError, ConflictError
from semanticd.domain.ids import AgentId, ModelId
from tests.fakes.agent_file import forge, with_zeros
from tests.fakes.mlx_rig import MlxRig, cold_answer, prompt_of, turns


async def no_warnings() -> dict[ModelId, str]:
    return {}


def service(rig: MlxRig) -> AgentsService:
    exporter = AgentExporter(
        engine=rig.engine,
        store=rig.store,
        clock=rig.clock,
        export_file=DiskAgentExportFile(),
    )
    progress = ModelProgress(rig.telemetry)
    arrivals = Arrivals(clock=rig.clock, progress=progress)
    return AgentsService(
        engine=rig.engine,
        agents=rig.agents,
        cache=rig.cache,
        exporter=exporter,
        observations=Observations(
            arrivals=arrivals,
            waits=Waits(rig.scheduler, arrivals),
            outcomes=Outcomes(clock=rig.clock),
            savings=Savings(clock=rig.clock, metrics=NullMetrics()),
            progress=progress,
            model_warnings=no_warnings,
        ),
        clock=rig.clock,
    )


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "mamba2", "deepseek_v2"])
async def test_on_another_machine_the_next_turn_computes_only_what_is_new(
    family: str, tmp_path: Path
) -> None:
    first, more = turns(70)
    path = str(tmp_path / "a.agent")
    with MlxRig(family) as rig:
        said, _ = rig.tell(first)
        rig.idle()
        exported = await service(rig).export("a", path)
    assert exported.num_blocks >= len(first) // 16
    assert (exported.num_missing_blocks, exported.bytes) == (0, Path(path).stat().st_size)
    there = DiskWarmStore.open(tmp_path / "there")
    archive = DiskAgentArchive.open(there.folder, write_queue=there.write_queue)
    prompt = first + said + more
    with MlxRig(family, warm=there, archive=archive) as rig:
        imported = await service(rig).import_(path)
        assert imported.num_imported_blocks == imported.num_file_blocks == exported.num_blocks
        assert imported.agent.num_tokens == len(first) + len(said)
        warm, answer = rig.tell(prompt)
    archive.close()
    there.close()
    assert answer.cache.computed_tokens == len(more)
    assert answer.cache.restored_warm_tokens == len(first) + len(said)
    assert warm == cold_answer(family, prompt)


async def test_blocks_that_only_the_disk_has_are_exported_too_and_without_a_disk_they_become_hot(
    tmp_path: Path,
) -> None:
    first, more = turns(72)
    path = str(tmp_path / "a.agent")
    with MlxRig("llama") as rig:
        said, _ = rig.tell(first)
        rig.idle()
        rig.on_engine(lambda: rig.tables.evict_agent(AgentId("a")))
        await service(rig).export("a", path)
    prompt = first + said + more
    with MlxRig("llama", no_warm=True) as rig:
        await service(rig).import_(path, "b")
        warm, answer = rig.tell(prompt, agent="b")
    assert answer.cache.reused_hot_tokens == len(first) + len(said)
    assert warm == cold_answer("llama", prompt)


async def test_what_was_pruned_meanwhile_is_computed_again_where_the_agent_goes(tmp_path: Path) -> None:
    first, more = turns(74)
    path = str(tmp_path / "a.agent")
    with MlxRig("llama") as rig:
        said, _ = rig.tell(first)
        rig.idle()
        rig.on_engine(lambda: rig.tables.evict_agent(AgentId("a")))
        gone = rig.agents.get(AgentId("a")).block_table[2]
        rig.warm.delete([gone])
        exported = await service(rig).export("a", path)
    assert exported.num_missing_blocks == 1
    prompt = first + said + more
    with MlxRig("llama") as rig:
        await service(rig).import_(path)
        warm, answer = rig.tell(prompt)
    assert answer.cache.restored_warm_tokens == 32
    assert warm == cold_answer("llama", prompt)


async def test_an_agent_of_other_weights_is_refused_with_both_fingerprints(tmp_path: Path) -> None:
    path = str(tmp_path / "a.agent")
    with MlxRig("llama") as rig:
        rig.tell(prompt_of(40, 76))
        await service(rig).export("a", path)
    with MlxRig("llama", seed=1) as rig:
        with pytest.raises(AgentExportError, match=r"fingerprint llama-0.*fingerprint llama-1.*load"):
            await service(rig).import_(path)
        assert rig.warm.stats().num_blocks == 0
        assert rig.agents.find(AgentId("a")) is None


async def test_an_agent_in_another_storage_precision_is_refused_with_both_layouts(tmp_path: Path) -> None:
    path = str(tmp_path / "a.agent")
    with MlxRig("llama") as rig:
        rig.tell(prompt_of(40, 77))
        await service(rig).export("a", path)
    with (
        MlxRig("llama", precision="q8") as rig,
        pytest.raises(
            AgentExportError, match=r"laid out as v1-exact-b16-.* as v2-q8-b16-.*SEMANTIC_MLX_KV_BITS"
        ),
    ):
        await service(rig).import_(path)


async def test_an_agent_does_not_take_anothers_place(tmp_path: Path) -> None:
    path = str(tmp_path / "a.agent")
    with MlxRig("llama") as rig:
        rig.tell(prompt_of(40, 78))
        await service(rig).export("a", path)
        with pytest.raises(ConflictError, match="choose another"):
            await service(rig).import_(path)
        before = rig.agents.get(AgentId("a"))
        await service(rig).pin("a")
        await service(rig).export("a", path)
        copy = await service(rig).import_(path, "copy", trust=True)
        assert (copy.agent.pinned, copy.agent.shared_with) == (False, ("a",))
        assert rig.agents.get(AgentId("copy")).transcript == before.transcript


async def test_tensors_of_a_forged_file_change_no_other_agents_answer(tmp_path: Path) -> None:
    first, _ = turns(79)
    path = tmp_path / "a.agent"
    with MlxRig("llama") as rig:
        rig.tell(first)
        rig.idle()
        await service(rig).export("a", str(path))
    forge(path, edit_block=with_zeros)
    honest = cold_answer("llama", first)
    for trust in (False, True):
        with MlxRig("llama") as rig:
            await service(rig).import_(str(path), "forged", trust=trust)
            said, answer = rig.tell(first, agent="victim")
            assert (said == honest) is not trust, "only an administrator's word lets a file speak for others"
            assert (answer.cache.computed_tokens == len(first)) is not trust
