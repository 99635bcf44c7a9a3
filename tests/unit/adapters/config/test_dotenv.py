"""A `.env` file of the working folder: the user's own decides all, one that may have come from elsewhere does not."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from semanticd.adapters.config import load_settings
from semanticd.adapters.config.dotenv import from_dotenv, why_not_trusted
from semanticd.adapters.config.schema import Settings, declared, read_setting
from semanticd.domain.errors import ConfigurationError

GUARDED = {
    "mlx.cache_budget_mb": "1000000",
    "mlx.memory_mb": "1000000",
    "mlx.wired_weights": "true",
    "mlx.max_queue": "1000000",
    "mlx.max_queue_per_agent": "1000000",
    "mlx.literal_content": "false",
    "mlx.load_on_demand": "true",
    "agent.cache_dir": "/tmp/theirs",
    "agent.cache_max_gb": "0",
    "agent.disk_reserve_gb": "0",
    "agent.anonymous_max": "1",
    "agent.anonymous_days": "0.01",
    "agent.write_policy": "second_use",
    "agent.write_budget_gb_per_day": "1000000",
    "agent.peers": "http://192.0.2.1:8000",
    "server.host": "0.0.0.0",
    "server.port": "8123",
    "server.ollama_port": "11434",
    "server.log_level": "error",
    "server.otlp_endpoint": "http://192.0.2.1/v1/traces",
    "server.rate_limit_per_agent": "1000000",
    "server.rate_limit_global": "1000000",
    "server.cors_origins": "*",
    "server.allowed_hosts": "*",
    "server.model_patterns": "*",
    "server.strict": "true",
    "security.api_key": "known-to-them",
    "security.admin_key": "known-to-them",
    "security.peer_key": "known-to-them",
    "paths.models_dir": "/tmp/theirs",
    "paths.runtime_dir": "/tmp/theirs",
    "paths.log_dir": "/tmp/theirs",
    "trace.dir": "/tmp/theirs",
    "trace.content": "hashed",
    "trace.max_mb": "1000000",
    "distributed.hosts": "/tmp/theirs",
    "distributed.key": "known-to-them-all",
    "distributed.port": "8711",
    "distributed.ring_port": "8721",
    "distributed.timeout_s": "3600",
}
HARMLESS = {
    "agent.preload_share": "0.5",
    "mlx.model_id": "smollm2-135m",
    "mlx.max_batch_size": "256",
    "mlx.kv_bits": "8",
    "mlx.block_tokens": "128",
    "mlx.snapshot_tokens": "0",
    "mlx.prefill_chunk": "16",
    "mlx.cpu_math": "false",
    "mlx.speculation": "off",
    "mlx.decode_share": "0.9",
    "mlx.max_stall_ms": "60000",
    "mlx.canonicalize": "false",
    "mlx.move_volatile": "true",
    "mlx.gguf_bits": "4",
    "mlx.model_ttl_s": "1",
    "agent.max_agents_in_memory": "1000000",
    "server.log_format": "console",
    "server.log_console": "false",
    "server.drain_timeout_s": "0",
}
"""All that a file from elsewhere may set. A new setting belongs here only if no value of it weakens anything."""


def written(folder: Path, values: dict[str, str]) -> Path:
    names = {one.name: one.env for one in declared()}
    path = folder / ".env"
    path.write_text("".join(f"{names[name]}={value}\n" for name, value in values.items()))
    path.chmod(0o600)
    return path


def tracked(path: Path) -> None:
    for words in (["init"], ["add", "-f", path.name]):
        subprocess.run(["git", *words], cwd=path.parent, check=True, capture_output=True, timeout=60)


def tracked_through_a_link(path: Path) -> None:
    target = path.with_name("settings.env")
    path.rename(target)
    tracked(target)
    path.symlink_to(target.name)


def writable_by_all(path: Path) -> None:
    path.chmod(0o602)


def test_the_table_names_every_setting_that_decides_about_security() -> None:
    assert set(HARMLESS) == {one.name for one in declared() if not one.guarded}
    assert set(GUARDED) == {one.name for one in declared() if one.guarded}
    assert {one.name for one in declared() if one.secret} <= set(GUARDED)


@pytest.mark.parametrize("name", [*GUARDED, *HARMLESS])
def test_the_users_own_file_sets_everything(tmp_path: Path, name: str) -> None:
    source = from_dotenv(written(tmp_path, {**GUARDED, **HARMLESS}))
    assert name in source.values
    assert source.file is not None
    assert (source.file.ignored, source.file.reason) == ((), "")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (tracked, "git tracks it"),
        (tracked_through_a_link, "git tracks it"),
        (writable_by_all, "other users can write"),
    ],
)
def test_a_file_from_elsewhere_decides_nothing_about_security(
    tmp_path: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    path = written(tmp_path, {**GUARDED, **HARMLESS})
    spoil(path)
    loaded = load_settings(environ={"SEMANTIC_CONFIG_FILE": str(config(tmp_path))}, folder=tmp_path)
    settings, default = loaded.settings, Settings()
    names = [one.name for one in declared()]
    assert {name for name in names if read_setting(settings, name) != read_setting(default, name)} == set(
        HARMLESS
    )
    (warning,) = loaded.warnings
    assert reason in warning
    assert all(name in warning for name in GUARDED)
    assert "known-to-them" not in "\n".join(loaded.explained())


def config(folder: Path) -> Path:
    path = folder / "config.toml"
    path.write_text("")
    return path


def test_another_users_file_decides_nothing_about_security(tmp_path: Path) -> None:
    source = from_dotenv(written(tmp_path, {**GUARDED, **HARMLESS}), uid=os.geteuid() + 4242)
    assert set(source.values) == set(HARMLESS)
    assert source.file is not None
    assert set(source.file.ignored) == set(GUARDED)
    assert "belongs to user" in source.file.reason


@pytest.mark.parametrize(
    ("model", "applied"),
    [("smollm2-135m", True), ("hf:org/name", False), ("org/name", False), ("theirs", False), ("./theirs", False),
     ("theirs/model.gguf", False), ("~/x", False)],
)  # fmt: skip
def test_a_tracked_file_names_a_model_but_brings_none(tmp_path: Path, model: str, applied: bool) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "model.gguf").touch()
    path = written(tmp_path, {"mlx.model_id": model})
    tracked(path)
    assert ("mlx.model_id" in from_dotenv(path).values) is applied


def test_a_group_may_write_only_where_it_is_the_users_own(tmp_path: Path) -> None:
    path = written(tmp_path, GUARDED)
    own, unknown_group = path.stat(), 54_321
    facts = (0o100660, own.st_ino, own.st_dev, 1, own.st_uid, unknown_group, own.st_size, 0, 0, 0)
    assert why_not_trusted(path, os.stat_result(facts), uid=own.st_uid) == "other users can write to it"
    assert why_not_trusted(path, os.stat_result((0o100640, *facts[1:])), uid=own.st_uid) == ""


def test_a_pipe_in_the_files_place_is_a_mistake_and_no_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".env")
    (complaint,) = from_dotenv(tmp_path / ".env").complaints
    assert "not a regular file" in complaint


def test_a_line_that_assigns_nothing_is_pointed_out_and_an_open_quote_is_refused(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("# ours\nSEMANTIC_SERVER_PORT=8123\n\n garbage line\n: more\n")
    loaded = load_settings(environ={}, folder=tmp_path)
    assert loaded.settings.server.port == 8123
    assert loaded.warnings == (f"{path}: not NAME=value, so ignored: lines 4, 5",)
    path.write_text('SEMANTIC_API_KEY="unterminated\nOTHERS="open\n')
    with pytest.raises(ConfigurationError, match="the quote of SEMANTIC_API_KEY is not closed") as refused:
        load_settings(environ={}, folder=tmp_path)
    assert "OTHERS" not in str(refused.value)
    assert "unterminated" not in str(refused.value)
    path.write_text('garbage line\nOTHERS="open\n')
    assert load_settings(environ={}, folder=tmp_path).warnings == (), "another program's file"
