"""What the doctor says of the machines that compute one model together."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from semanticd.adapters.config import DistributedSettings, Settings
from semanticd.application.ports.ranks import RankFacts, RankState
from semanticd.domain.memory_plan import device_memory
from semanticd.entrypoints.doctor import Doctor, check_memory
from semanticd.entrypoints.doctor_ranks import check_ranks, why_no_generation

GIB = 1024**3


def settings(folder: Path, hosts: Any = None) -> Settings:
    file = folder / "hosts.json"
    file.write_text(json.dumps([["127.0.0.1:5000"], ["10.0.0.2:5000"]] if hosts is None else hosts))
    return Settings(distributed=DistributedSettings(hosts=file, key="0123456789abcdef"))


def rank(number: int, state: RankState, failure: str | None = None) -> RankFacts:
    return RankFacts(number, f"10.0.0.{number + 1}", state, 0, 0.0, 0, 0, failure)


def test_a_machine_that_computes_alone_has_no_finding() -> None:
    assert check_ranks(Settings(), None) == []
    assert why_no_generation(Settings(), None) is None


def test_a_missing_rank_is_an_error_with_the_command_to_run_there(tmp_path: Path) -> None:
    ranks = [
        rank(0, "joined"),
        rank(1, "missing"),
        rank(2, "missing", "was refused: its key is not the daemon's"),
    ]
    joined, first, second = check_ranks(settings(tmp_path), ranks)
    assert (joined.state, joined.message) == ("ok", "joined: rank 0 (10.0.0.1)")
    assert (first.state, first.message) == ("error", "rank 1 (10.0.0.2) has not joined")
    assert "on 10.0.0.2, run `semanticd worker 10.0.0.1:8710 --rank 1`" in first.advice
    assert "SEMANTIC_DISTRIBUTED_KEY" in first.advice
    assert "its key is not the daemon's" in second.message


def test_what_all_ranks_were_lost_by_is_said_once(tmp_path: Path) -> None:
    why = "rank 1 (10.0.0.2): the connection was closed"
    lost, *missing = check_ranks(settings(tmp_path), [rank(number, "missing", why) for number in range(3)])
    assert (lost.state, lost.message) == ("error", f"lost: {why}")
    assert [one.message for one in missing] == [
        f"rank {number} (10.0.0.{number + 1}) has not joined" for number in range(3)
    ]


def test_rank_0_is_started_by_the_daemon(tmp_path: Path) -> None:
    _, found = check_ranks(settings(tmp_path), [rank(0, "missing"), rank(1, "joined")])
    assert "semanticd logs" in found.advice
    assert "semanticd worker" not in found.advice


def test_ranks_that_compute_are_named(tmp_path: Path) -> None:
    (found,) = check_ranks(settings(tmp_path), [rank(0, "ready"), rank(1, "ready")])
    assert (found.state, found.advice) == ("ok", "")
    assert found.message == "all 2 machines compute: rank 0 (10.0.0.1), rank 1 (10.0.0.2)"


@pytest.mark.parametrize(
    ("failure", "state"), [(None, "ok"), ("rank 1: the connection was closed", "warning")]
)
def test_joined_ranks_without_a_model_say_why(failure: str | None, state: str, tmp_path: Path) -> None:
    (found,) = check_ranks(settings(tmp_path), [rank(0, "joined", failure), rank(1, "joined", failure)])
    assert found.state == state
    assert "no model is loaded" in found.message
    assert (failure or "") in found.message


def test_without_a_daemon_the_hostfile_is_judged(tmp_path: Path) -> None:
    (found,) = check_ranks(settings(tmp_path), None)
    assert (found.state, "names 2 machines" in found.message) == ("ok", True)
    (found,) = check_ranks(settings(tmp_path, [["0.0.0.0:5000"]]), None)
    assert (found.state, "is not the address of one machine" in found.message) == ("error", True)
    (found,) = check_ranks(settings(tmp_path, [["192.0.2.250:5000"], ["10.0.0.2:5000"]]), None)
    assert (found.state, "is not an address of this machine" in found.message) == ("error", True)


async def test_no_tokens_are_asked_for_while_a_rank_is_missing(tmp_path: Path) -> None:
    asked: list[int] = []

    async def generate() -> int:
        asked.append(1)
        return 10

    now: list[RankFacts] = [rank(0, "joined"), rank(1, "missing")]
    doctor = Doctor(
        settings(tmp_path), generate=generate, device=device_memory("cpu", 16 * GIB), ranks=lambda: now
    )
    report = await doctor.run()
    (generation,) = [one for one in report.findings if one.check == "generation"]
    assert not report.ok
    assert (generation.state, asked) == ("warning", [])
    assert "missing: rank 1 (10.0.0.2)" in generation.message
    now[:] = [rank(0, "ready"), rank(1, "ready")]
    report = await doctor.run()
    assert asked == [1]
    assert [one.state for one in report.findings if one.check == "ranks"] == ["ok"]


def test_the_memory_of_all_machines_counts_for_the_model(tmp_path: Path) -> None:
    device = device_memory("metal", 16 * GIB)
    chosen = replace(Settings().mlx, model_id="qwen3-coder-30b")
    alone = replace(Settings(), mlx=chosen)
    assert check_memory(alone, device).state == "error"
    found = check_memory(replace(settings(tmp_path), mlx=chosen), device)
    assert found.state == "ok", found
