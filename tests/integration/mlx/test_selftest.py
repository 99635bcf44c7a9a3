"""The self-test on the real composition and a tiny model: green, and the right line red for each injected fault."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from semanticd.adapters.config import PathSettings, Settings
from semanticd.adapters.disk.files.atomic import TEMP_SUFFIX, FileSystem
from semanticd.adapters.machine_record import MachineRecord
from semanticd.application.ports.inference import DecodedToken, LoadedModel, ModelLoader
from semanticd.application.ports.models import InstalledModel
from semanticd.entrypoints.selftest import model_checks, speed_checks, storage_checks
from semanticd.entrypoints.selftest.checks import SelfTest
from semanticd.entrypoints.selftest.outcome import Outcome
from semanticd.entrypoints.selftest.run import run
from semanticd.entrypoints.temporary_daemon import Replacements, TemporaryDaemon
from tests.fakes.tiny_folder import write_tiny_model

SPEED = {"decode", "schema", "batches", "prefill"}
"""Lines whose verdict goes by the speed of a machine: that of a tiny model on a busy one means nothing."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny", ends=False)


def settings_in(home: Path) -> Settings:
    defaults = Settings()
    paths = PathSettings(models_dir=home / "models", runtime_dir=home / "run", log_dir=home / "logs")
    mlx = replace(defaults.mlx, cache_budget_mb=256)
    return replace(
        defaults, mlx=mlx, paths=paths, agent=replace(defaults.agent, cache_dir=home / "x" / "caches")
    )


class FaultyRunner:
    """The real runner; `faults` are methods that stand in the place of its own, and get it first."""

    def __init__(self, runner: Any, **faults: Callable[..., Any]) -> None:
        self._real = runner
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        fault = self._faults.get(name)
        if fault is None:
            return getattr(self._real, name)
        return lambda *given, **named: fault(self._real, *given, **named)


class FaultyLoader:
    """The real loader; what it loads is changed."""

    def __init__(self, loader: ModelLoader, change: Callable[[LoadedModel], LoadedModel]) -> None:
        self._loader = loader
        self._change = change

    def load(self, installed: InstalledModel, *, on_progress: Any) -> Generator[None, None, LoadedModel]:
        return self._change((yield from self._loader.load(installed, on_progress=on_progress)))

    def check(self, installed: InstalledModel) -> Generator[None, None, None]:
        return self._loader.check(installed)


def changed(change: Callable[[LoadedModel], LoadedModel]) -> Replacements:
    return Replacements(loader=lambda loader: FaultyLoader(loader, change))


def with_runner(**faults: Callable[..., Any]) -> Replacements:
    return changed(lambda loaded: replace(loaded, runner=cast("Any", FaultyRunner(loaded.runner, **faults))))


async def found(
    home: Path,
    model: Path,
    check: Callable[[TemporaryDaemon], Coroutine[Any, Any, Outcome]],
    replacements: Replacements | None = None,
) -> Outcome:
    """Return what a check finds on a daemon with these parts."""
    settings = settings_in(home)
    async with TemporaryDaemon(settings, str(model), beside=home, replacements=replacements) as daemon:
        return await check(daemon)


def test_a_healthy_machine_is_green_and_nothing_is_left(tmp_path: Path, model: Path) -> None:
    old = tmp_path / "semanticd-temporary-killed"
    (old / "caches").mkdir(parents=True)
    os.utime(old, (0, 0))
    folders = {
        "SEMANTIC_AGENT_CACHE_DIR": "x/caches",
        "SEMANTIC_MODELS_DIR": "models",
        "SEMANTIC_RUNTIME_DIR": "run",
    }
    env = {
        **os.environ,
        "HOME": str(tmp_path),
        **{name: str(tmp_path / one) for name, one in folders.items()},
    }
    command = [sys.executable, "-m", "semanticd", "selftest", "--quick", "--json", "--model", str(model)]
    ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    report = json.loads(ran.stdout)
    found = {check["name"]: check for check in report["checks"]}
    record = MachineRecord(tmp_path / "machine.json")
    assert list(found) == [
        check.name for check in SelfTest(settings_in(tmp_path), "", quick=True, record=record).checks()
    ]
    red = {name: check for name, check in found.items() if check["verdict"] == "fail"}
    assert set(red) <= SPEED, red
    assert not any("where" in check["figures"] for check in red.values()), "no check was broken off"
    for name in ("blocks", "turns", "shortage", "tokenizer", "load", "peer"):
        assert found[name]["verdict"] == "ok", found[name]
    assert found["rest"]["verdict"] == "skipped"
    assert ran.returncode == (1 if red else 0) == (not report["ok"])
    assert report["log"] == ["memory_budget_lowered"]
    assert str(tmp_path) not in ran.stdout
    kept = {path.name: path for path in tmp_path.rglob("*.json")}
    assert json.loads(kept["selftest.json"].read_text()) == report
    assert MachineRecord(kept["machine.json"]).interrupted_check is None
    assert list(tmp_path.rglob("semanticd-temporary-*")) == []


async def test_a_model_that_is_not_there_is_red_and_ends_no_other_check(tmp_path: Path) -> None:
    events: list[Any] = []
    record = MachineRecord(tmp_path / "machine.json")
    test = SelfTest(settings_in(tmp_path), str(tmp_path / "none"), quick=True, record=record)
    await run(test, record, events.append, quick=True)
    verdicts = {event["name"]: event["verdict"] for event in events if event["kind"] == "found"}
    assert (verdicts["model"], verdicts["load"], verdicts["decode"]) == ("fail", "fail", "skipped")
    assert events[-1]["kind"] == "ended"


async def test_weights_larger_than_planned(tmp_path: Path, model: Path) -> None:
    async def check(replacements: Replacements | None) -> Outcome:
        settings = settings_in(tmp_path)
        daemon = TemporaryDaemon(settings, str(model), beside=tmp_path, replacements=replacements)
        try:
            return await model_checks.check_load(daemon)
        finally:
            await daemon.stop()

    assert (await check(None)).verdict == "ok"
    larger = changed(lambda loaded: replace(loaded, weights_bytes=loaded.weights_bytes + (200 << 20)))
    assert (await check(larger)).verdict == "fail"


async def test_a_tokenizer_that_drops_spaces(tmp_path: Path, model: Path) -> None:
    class Spaceless:
        def __init__(self, tokenizer: Any) -> None:
            self._tokenizer = tokenizer

        def __getattr__(self, name: str) -> Any:
            return getattr(self._tokenizer, name)

        def decode(self, token_ids: Sequence[int]) -> str:
            return str(self._tokenizer.decode(token_ids)).replace(" ", "")

    async def check(daemon: TemporaryDaemon) -> Outcome:
        return model_checks.check_tokenizer(daemon.loaded.tokenizer)

    assert (await found(tmp_path, model, check)).verdict == "ok"
    spaceless = changed(lambda loaded: replace(loaded, tokenizer=cast("Any", Spaceless(loaded.tokenizer))))
    assert (await found(tmp_path, model, check, spaceless)).verdict == "fail"


async def test_a_decode_slower_than_the_librarys_own(tmp_path: Path, model: Path) -> None:
    def slow(real: Any, *given: Any) -> list[DecodedToken]:
        time.sleep(0.01)
        return cast("list[DecodedToken]", real.decode(*given))

    assert (
        await found(tmp_path, model, speed_checks.check_decode, with_runner(decode=slow))
    ).verdict == "fail"


async def test_a_form_that_is_not_enforced(tmp_path: Path, model: Path) -> None:
    def free(real: Any, *given: Any, **named: Any) -> None:
        real.start_decode(*given, **{**named, "constraint": None})

    assert (await found(tmp_path, model, speed_checks.check_schema)).verdict != "fail"
    assert (
        await found(tmp_path, model, speed_checks.check_schema, with_runner(start_decode=free))
    ).verdict == "fail"


async def test_rows_that_disturb_one_another(tmp_path: Path, model: Path) -> None:
    def disturbed(real: Any, *given: Any) -> list[DecodedToken]:
        tokens = cast("list[DecodedToken]", real.decode(*given))
        if len(tokens) < 2:
            return tokens
        return [replace(one, logprob=None if one.logprob is None else one.logprob - 1) for one in tokens]

    assert (
        await found(tmp_path, model, speed_checks.check_batches, with_runner(decode=disturbed))
    ).verdict == "fail"


class FlippingDisk(FileSystem):
    """A disk that changes a byte of each file that gets its name."""

    def rename(self, source: Path, target: Path) -> None:
        """Change the last byte, and rename."""
        if source.suffix == TEMP_SUFFIX:
            content = bytearray(source.read_bytes())
            content[-1] ^= 1
            source.write_bytes(content)
        super().rename(source, target)


async def test_a_flipped_byte_on_disk(tmp_path: Path, model: Path) -> None:
    outcome = await found(tmp_path, model, storage_checks.check_blocks, Replacements(files=FlippingDisk()))
    assert outcome.verdict == "fail"
    assert "could not be read back" in outcome.message


async def test_a_block_from_which_the_model_goes_on_otherwise(tmp_path: Path, model: Path) -> None:
    def wrong(real: Any, tensors: Sequence[Any]) -> Any:
        zeros = [replace(one, data=bytes(len(memoryview(one.data).cast("B")))) for one in tensors]
        return real.restore(zeros)

    outcome = await found(tmp_path, model, storage_checks.check_blocks, with_runner(restore=wrong))
    assert outcome.verdict == "fail"
    assert "differs after the restore" in outcome.message


class ForgetfulDisk(FileSystem):
    """A disk that takes files and does not give them back."""

    def open_regular(self, path: Path) -> Any:
        """Refuse to open what holds blocks."""
        raise FileNotFoundError(str(path))


async def test_a_restore_that_computes(tmp_path: Path, model: Path) -> None:
    outcome = await found(tmp_path, model, storage_checks.check_turns, Replacements(files=ForgetfulDisk()))
    assert outcome.verdict == "fail"
    assert "the restarted one computed cached tokens again" in outcome.message


class Epidemic(storage_checks.Shortage):
    """A shortage that ends all prompts computed together with the one that caused it."""

    def strikes(self, token_ids: Sequence[int]) -> bool:
        """Fail any computation."""
        return self.token_id is not None


async def test_an_allocation_that_kills_more_than_one_request(tmp_path: Path, model: Path) -> None:
    shortage = Epidemic()
    outcome = await found(
        tmp_path,
        model,
        lambda daemon: storage_checks.check_shortage(daemon, shortage),
        Replacements(loader=shortage.around),
    )
    assert outcome.verdict == "fail"
    assert "other requests failed too" in outcome.message


async def test_the_best_chunk_is_kept_and_used_from_the_next_load_on(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    async def measure(daemon: TemporaryDaemon) -> Outcome:
        assert daemon.loaded.best_chunk is None
        await speed_checks.check_prefill(daemon, (32, 64, 128), record=None)
        await daemon.restart()
        assert daemon.loaded.best_chunk is None
        outcome = await speed_checks.check_prefill(daemon, (32, 64, 128), record=MachineRecord())
        await daemon.restart()
        assert daemon.loaded.chunks.best_tokens == outcome.figures["best_chunk"] == 128
        return outcome

    def with_a_price(real: Any, *given: Any) -> None:
        time.sleep(0.1)  # of each call, so that long chunks are the fast ones, whatever else the machine does
        real.prefill(*given)

    outcome = await found(tmp_path, model, measure, with_runner(prefill=with_a_price))
    assert set(outcome.figures["tokens_per_s"]) == {"32", "64", "128"}
