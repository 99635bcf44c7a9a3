"""The doctor: checks everything that the daemon depends on. Every finding that is not ok has a remedy.

Rule: a check never raises and never waits for long; what it cannot find out is a finding too. MLX itself is touched
only where no engine thread owns it, that is, outside the daemon.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import platform
import shutil
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import psutil

from semanticd.adapters.config import Settings, load_settings
from semanticd.adapters.config.resolve import config_file_path
from semanticd.adapters.disk.files.folder import not_a_folder
from semanticd.adapters.disk.files.volume import VolumeSpace, default_reserve
from semanticd.adapters.mlx.platform.blas import load_fast_blas
from semanticd.adapters.mlx.platform.descriptors import BACK_END_ADVICE
from semanticd.adapters.models.registry import ModelRegistry
from semanticd.adapters.peers.probe import PeerTree
from semanticd.adapters.process import bind_listener
from semanticd.application.ports.models import InstalledModel
from semanticd.application.ports.ranks import RankFacts
from semanticd.control.address import SocketPathTooLongError, socket_path_in
from semanticd.domain.errors import SemanticError
from semanticd.domain.memory_plan import DeviceKind, DeviceMemory, ModelFootprint, fit, packed_on_cpu
from semanticd.domain.size_text import size
from semanticd.entrypoints.doctor_peers import check_peers
from semanticd.entrypoints.doctor_ranks import check_ranks, memory_of_all, why_no_generation
from semanticd.entrypoints.findings import Finding
from semanticd.entrypoints.model_fit import default_model_name, fixed_budget, machine_without_mlx
from semanticd.entrypoints.offline_models import OfflineModels

_GIB = 1024**3
_LOW_DISK_BYTES = 5 * _GIB
_FULL_DISK_BYTES = _GIB // 2
_HUB_TIMEOUT_S = 3.0
_FOLDER_ADVICE = (
    "once the folder is back, the daemon uses it within seconds; until then it keeps new state in memory only"
)
_NUM_TOKENS = 10

Generate = Callable[[], Awaitable[int]]
"""Generates a few tokens with the current model; returns how many."""


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """All findings; `ok` unless one is an error. Clients read it as `control.results.DoctorResult`."""

    ok: bool
    findings: tuple[Finding, ...]


class Doctor:
    """Examines from inside the running daemon; fits the control plane's `DoctorService`."""

    def __init__(
        self,
        settings: Settings,
        *,
        generate: Generate | None,
        device: DeviceMemory,
        trees: Callable[[], Sequence[PeerTree]] = tuple,
        ranks: Callable[[], Sequence[RankFacts]] | None = None,
        folder_problem: Callable[[], str | None] = lambda: None,
    ) -> None:
        """`generate` asks the current model for a few tokens; `device` is what the models run on.

        `trees` returns what is loaded, to be compared with what peers have; `ranks` the machines that compute together;
        `folder_problem` why the cache folder in use is gone from its path, or None.
        """
        self._settings = settings
        self._device = device
        self._generate = generate
        self._trees = trees
        self._ranks = ranks
        self._folder_problem = folder_problem

    async def run(self, generate: bool = True) -> DoctorReport:
        """Return all findings; the engine is used with `generate` only."""
        problem = self._folder_problem()
        findings = await asyncio.to_thread(
            lambda: list(examine(self._settings, device=self._device, folder_problem=problem))
        )
        findings += await check_peers(self._settings, self._trees())
        ranks = self._ranks() if self._ranks is not None else None
        findings += await asyncio.to_thread(check_ranks, self._settings, ranks)
        if generate:
            skipped = why_no_generation(self._settings, ranks)
            findings.append(skipped or await check_generation(self._generate))
        return report(findings)


def report(findings: Sequence[Finding]) -> DoctorReport:
    """Return findings with their verdict."""
    return DoctorReport(all(one.state != "error" for one in findings), tuple(findings))


def examine_here(*, generate: bool) -> DoctorReport:
    """Examine without a daemon, in this process."""
    try:
        settings = load_settings().settings
    except SemanticError as error:
        advice = "`semanticd config --all` lists every setting with its expected values"
        return report([Finding("settings", "error", error.message, advice)])
    findings = list(examine(settings))
    findings += asyncio.run(check_peers(settings, ()))
    findings += check_ranks(settings, None)
    if generate:
        findings.append(why_no_generation(settings, None) or asyncio.run(_generation_here(settings)))
    return report(findings)


def examine(
    settings: Settings, *, device: DeviceMemory | None = None, folder_problem: str | None = None
) -> Iterator[Finding]:
    """Yield what every check finds, except the generation; `device` is the running daemon's (None: there is none).

    `folder_problem` is why the daemon's cache folder is gone: then what lies at its path is not judged.
    """
    in_daemon = device is not None
    yield check_settings_file()
    yield check_platform()
    yield check_mlx(touch=not in_daemon)
    device = device or machine_without_mlx(settings)
    yield check_blas(device.kind)
    yield check_memory(settings, device)
    for name, folder, private in (
        ("caches", settings.agent.cache_dir, True),
        ("models", settings.paths.models_dir, False),
        ("runtime", settings.paths.runtime_dir, True),
        ("logs", settings.paths.log_dir, False),
    ):
        if name == "caches" and folder_problem is not None:
            yield Finding(name, "error", folder_problem, _FOLDER_ADVICE)
        else:
            yield check_folder(name, folder, private=private)
    if folder_problem is None:
        yield check_disk(settings.agent.cache_dir, reserve_gb=settings.agent.disk_reserve_gb)
    yield check_socket(settings.paths.runtime_dir, in_daemon=in_daemon)
    yield check_port(settings.server.host, settings.server.port, in_daemon=in_daemon)
    yield check_models(settings, device)
    yield check_hub()


def check_settings_file() -> Finding:
    """Check the settings file and report its location."""
    file, _ = config_file_path(os.environ)
    return Finding("settings", "ok", str(file) if file.exists() else f"{file} (not there: defaults)")


def check_platform() -> Finding:
    """System and Python."""
    text = f"{platform.system()} {platform.release()} on {platform.machine()}, Python {platform.python_version()}"
    if sys.platform == "darwin" and platform.machine() != "arm64":
        return Finding(
            "platform", "error", text, "MLX needs Apple Silicon; under Rosetta, install an arm64 Python"
        )
    if not (3, 10) <= sys.version_info[:2] <= (3, 14):
        return Finding("platform", "warning", text, "tested with Python 3.10 to 3.14; use one of them")
    return Finding("platform", "ok", text)


def check_mlx(*, touch: bool) -> Finding:
    """MLX and its back-end."""
    try:
        versions = {name: importlib.metadata.version(name) for name in ("mlx", "mlx-lm")}
    except importlib.metadata.PackageNotFoundError as error:
        return Finding(
            "mlx", "error", f"{error.name} is not installed", "install again: `pip install semanticd`"
        )
    text = f"mlx {versions['mlx']}, mlx-lm {versions['mlx-lm']}"
    if not touch:
        return Finding("mlx", "ok", text, facts=dict(versions))
    try:
        from semanticd.adapters.mlx.platform.probe import probe_mlx

        probe = probe_mlx()
    except Exception as error:  # noqa: BLE001 (whatever a broken back-end raises is the finding)
        return Finding("mlx", "error", f"{text}, but it does not work: {error}", BACK_END_ADVICE)
    text = f"{text}, {probe.device}, first matrix product in {probe.took_ms:.0f} ms"
    return Finding("mlx", "ok", text, facts=dict(versions))


def check_blas(kind: DeviceKind = "cpu") -> Finding:
    """The CPU's linear algebra, where that is what computes."""
    choice = load_fast_blas()
    text = f"{choice.name} ({choice.reason})"
    if kind == "cuda":
        return Finding(
            "blas", "ok", f"{choice.name}; not used: the GPU computes", facts={"path": choice.path}
        )
    if choice.name == "reference" and sys.platform != "darwin":
        return Finding(
            "blas", "warning", text, "about fifty times slower than necessary: `pip install 'semanticd[cpu]'`"
        )
    return Finding("blas", "ok", text, facts={"path": choice.path})


def check_memory(settings: Settings, device: DeviceMemory) -> Finding:
    """The device's memory against the model to serve and the cache's budget."""
    free = psutil.virtual_memory().available
    budget, (model, installed) = fixed_budget(settings), _to_serve(settings, device)
    everywhere = memory_of_all(settings, device)
    found = fit(everywhere, model, budget_bytes=budget) if model is not None else None
    text = (
        f"{device.kind}: {size(device.total_bytes)}, of them {size(device.working_set_bytes)} for "
        f"weights and KV; {size(free)} of RAM free; cache budget "
    )
    text += size(budget) if budget is not None else "by what weights leave"
    if budget is None and model is not None and found is not None:
        text += f", {size(found.kv_bytes)} with {model.name}"
    facts = {
        "total_bytes": device.total_bytes,
        "working_set_bytes": device.working_set_bytes,
        "available_bytes": free,
        "budget_bytes": budget if budget is not None else found.kv_bytes if found is not None else None,
    }
    if model is not None and found is not None and not found.fits:
        advice = "`semanticd models fit` lists the models that fit"
        return Finding("memory", "error", f"{text}; {model.name} does not fit", advice, facts)
    if budget is not None and budget > everywhere.room_bytes - (
        model.weights_bytes if model is not None else 0
    ):
        advice = "weights need room too: lower SEMANTIC_MLX_CACHE_BUDGET_MB, or set it to auto"
        return Finding("memory", "warning", text, advice, facts)
    if installed is not None and (missing := installed.missing_bytes(device)):
        return Finding("memory", "warning", f"{text}; {installed.model_id}", packed_on_cpu(missing), facts)
    return Finding("memory", "ok", text, facts=facts)


def _to_serve(
    settings: Settings, device: DeviceMemory
) -> tuple[ModelFootprint | None, InstalledModel | None]:
    """Return what the model to serve takes, as far as that is known, and its files if they are here."""
    try:
        source = _registry(settings)
        name = settings.mlx.model_id or default_model_name(source, device)
        found, entry = source.find(name), source.resolve(name)
    except SemanticError:
        return None, None  # another check says so
    return (found.footprint() if found is not None else entry.footprint()), found


def check_folder(name: str, folder: Path, *, private: bool) -> Finding:
    """Check that a folder is writable, and which other users can open it."""
    # A link that leads nowhere, or to itself, is there too: no folder can be made in its place.
    existing = next((one for one in (folder, *folder.parents) if os.path.lexists(one)), Path("/"))
    variable = {
        "caches": "SEMANTIC_AGENT_CACHE_DIR",
        "models": "SEMANTIC_MODELS_DIR",
        "runtime": "SEMANTIC_RUNTIME_DIR",
        "logs": "SEMANTIC_LOG_DIR",
    }[name]
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return Finding(
            name,
            "error",
            f"{folder} cannot be written",
            f"change its permissions or set {variable} to another folder",
        )
    if name == "caches" and (blocking := not_a_folder(folder)) is not None:
        return Finding(name, "error", f"{blocking} is not a folder", "move it away")
    if private and existing == folder and folder.stat().st_mode & 0o077:
        return Finding(
            name, "warning", f"{folder} can be opened by others", f"close it: `chmod 700 {folder}`"
        )
    return Finding(name, "ok", str(folder) if existing == folder else f"{folder} (will be created)")


def check_disk(folder: Path, *, reserve_gb: float | None = None) -> Finding:
    """Check the room for the warm tier; `reserve_gb` stays free, None: a default by volume size."""
    existing = next((one for one in (folder, *folder.parents) if one.exists()), Path("/"))
    usage = shutil.disk_usage(existing)
    space = VolumeSpace(usage.free, usage.total)
    reserve = default_reserve(space) if reserve_gb is None else int(reserve_gb * _GIB)
    return room_on_disk(folder, free_bytes=space.free_bytes, reserve_bytes=reserve)


def room_on_disk(folder: Path, *, free_bytes: int, reserve_bytes: int) -> Finding:
    """Judge a folder's free space: an error if hardly any file can be written."""
    text = f"{size(free_bytes)} free for {folder}"
    advice = "make room; `semanticd cache prune SIZE` removes the least recently used blocks"
    facts = {"free_bytes": free_bytes, "reserve_bytes": reserve_bytes}
    state: Literal["ok", "warning", "error"] = "warning" if free_bytes < _LOW_DISK_BYTES else "ok"
    if free_bytes < reserve_bytes:
        state = "warning"
        text += f"; no block is written while less than {size(reserve_bytes)} are free"
        advice += "; SEMANTIC_AGENT_DISK_RESERVE_GB says how much stays free (0: no reserve)"
    if free_bytes < _FULL_DISK_BYTES:
        state = "error"
    return Finding("disk", state, text, advice, facts)


def check_socket(runtime_dir: Path, *, in_daemon: bool) -> Finding:
    """The control socket's place."""
    try:
        path = socket_path_in(runtime_dir)
    except SocketPathTooLongError as error:
        return Finding("socket", "error", str(error), "set SEMANTIC_RUNTIME_DIR to a shorter folder")
    if in_daemon:
        return Finding("socket", "ok", f"listening on {path}")
    if not path.exists():
        return Finding("socket", "ok", f"{path} is free")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except OSError:
            return Finding("socket", "ok", f"{path} is stale; the next start replaces it")
    return Finding("socket", "ok", f"a daemon is listening on {path}")


def check_port(host: str, port: int, *, in_daemon: bool) -> Finding:
    """The HTTP port."""
    if in_daemon:
        return Finding("port", "ok", f"listening on {host}:{port}")
    try:
        bind_listener(host, port).close()
    except SemanticError as error:
        return Finding(
            "port", "warning", error.message, "a running semanticd is fine; else choose another --port"
        )
    return Finding("port", "ok", f"{host}:{port} is free")


def check_models(settings: Settings, device: DeviceMemory) -> Finding:
    """Check that the configured model is installed."""
    try:
        source = _registry(settings)
        models = OfflineModels(source, device)
        name = settings.mlx.model_id or default_model_name(source, device)
        facts = models.info(name)
    except SemanticError as error:
        return Finding("model", "error", error.message, "`semanticd models list` lists the models")
    if not facts.installed:
        return Finding(
            "model", "warning", f"{name} is not installed", f"download it: `semanticd models pull {name}`"
        )
    return Finding("model", "ok", f"{name} is installed in {facts.path}")


def check_hub() -> Finding:
    """Check that models can be downloaded."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return Finding("hub", "ok", "offline: HF_HUB_OFFLINE is set")
    url = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    address = (url.hostname or "huggingface.co", url.port or (80 if url.scheme == "http" else 443))
    try:
        socket.create_connection(address, timeout=_HUB_TIMEOUT_S).close()
    except OSError as error:
        return Finding(
            "hub",
            "warning",
            f"{address[0]} cannot be reached: {error}",
            "installed models work; smollm2-135m also comes from the package registry; "
            "behind a proxy set HF_ENDPOINT or use a local folder",
        )
    return Finding("hub", "ok", f"{address[0]} can be reached")


async def check_generation(generate: Generate | None) -> Finding:
    """Ten tokens from the current model."""
    if generate is None:
        return Finding("generation", "warning", "skipped: no model is loaded", "`semanticd models load NAME`")
    started = time.perf_counter()
    try:
        num_tokens = await generate()
    except SemanticError as error:
        return Finding("generation", "error", f"failed: {error.message}", "read `semanticd logs`")
    took_s = time.perf_counter() - started
    return Finding("generation", "ok", f"{num_tokens} tokens in {took_s:.1f} s", facts={"took_s": took_s})


async def _generation_here(settings: Settings) -> Finding:
    from semanticd.entrypoints.doctor_generation import generate_here

    source = _registry(settings)
    name = settings.mlx.model_id or default_model_name(source, machine_without_mlx(settings))
    if source.find(name) is None:
        return Finding(
            "generation", "warning", "skipped: no model is installed", f"`semanticd models pull {name}`"
        )
    return await check_generation(lambda: generate_here(settings, name, num_tokens=_NUM_TOKENS))


def _registry(settings: Settings) -> ModelRegistry:
    def never(gguf: Path, folder: Path, **_: object) -> None:
        raise AssertionError("the doctor downloads nothing")

    return ModelRegistry(
        settings.paths.models_dir,
        convert_gguf=never,
        user_models=settings.models,
        user_profiles=settings.profiles,
    )
