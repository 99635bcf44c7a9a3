"""`semanticd models fit`: what this machine holds, and another one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from semanticd.domain.errors import ModelTooLargeError
from semanticd.entrypoints.cli.models import commands
from semanticd.entrypoints.model_fit import fit_table, refuse_what_never_fits
from tests.unit.entrypoints.test_doctor import settings_with

GIB = 1 << 30


def test_the_table_has_every_known_model_and_one_default(tmp_path: Path) -> None:
    table = fit_table(settings=settings_with(tmp_path))
    assert {"smollm2-135m", "qwen3-next-80b"} <= {row.id for row in table.models}
    assert [row.id for row in table.models if row.default] == ["smollm2-135m"], (
        "a CPU starts with the smallest"
    )
    assert table.working_set_bytes <= table.memory_bytes
    assert table.budget_bytes is None


def test_another_machine_and_the_users_limits_are_taken_into_account(tmp_path: Path) -> None:
    table = fit_table(8 * GIB, settings_with(tmp_path, cache_budget_mb=256, model_id="llama-3.2-3b"))
    rows = {row.id: row for row in table.models}
    assert (table.memory_bytes, table.budget_bytes) == (8 * GIB, 256 << 20)
    assert rows["llama-3.2-3b"].default
    assert rows["llama-3.2-3b"].kv_bytes == 256 << 20
    assert not rows["qwen3-coder-30b"].fits
    larger = fit_table(64 * GIB, settings_with(tmp_path, memory_mb=4096))
    assert larger.working_set_bytes == 4 * GIB


def test_a_model_that_never_fits_is_refused_by_name(tmp_path: Path) -> None:
    settings = settings_with(tmp_path, memory_mb=4096)
    refuse_what_never_fits(settings, "smollm2-135m")
    refuse_what_never_fits(settings, "hf:somebody/unknown")
    with pytest.raises(ModelTooLargeError, match="qwen3-8b does not fit"):
        refuse_what_never_fits(settings, "qwen3-8b")


def test_people_get_a_table_and_programs_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMANTIC_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(commands, ["fit", "--memory", "16GB"])
    assert shown.exit_code == 0, shown.output
    assert "16.0 GiB: 10.7 GiB for weights and KV, of that 1.4 GiB of reserve" in shown.output
    lines = {words[0]: words[1:] for line in shown.output.splitlines() if (words := line.split())}
    assert lines["qwen3-next-80b"][:2] == ["too", "large"]
    assert lines["smollm2-135m"][0] == "default"
    read = json.loads(CliRunner().invoke(commands, ["fit", "--memory", "16GB", "--json"]).stdout)
    assert read["memory_bytes"] == 16 * GIB
    assert set(read["models"][0]["tokens"]) == {"exact", "q8", "q6", "q4"}
