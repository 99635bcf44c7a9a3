"""A daemon for the occasion: the real composition with one model, without sockets, on a cache folder that is removed.

The doctor asks it for ten tokens, the self-test for everything else. Nothing of the user's is written but models that
are fetched, and no agent is left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from typing_extensions import Self

from semanticd.adapters.config import Settings
from semanticd.adapters.disk.files.atomic import FileSystem
from semanticd.application.ports.inference import LoadedModel, ModelLoader
from semanticd.application.ports.models import InstalledModel
from semanticd.domain.chat import Prompt
from semanticd.domain.errors import ModelNotFoundError
from semanticd.domain.generation import GenerationRequest, GenerationResult, SamplingParams
from semanticd.domain.ids import AgentId, ModelId, RequestId
from semanticd.entrypoints.model_fit import open_registry

if TYPE_CHECKING:
    from semanticd.entrypoints.bootstrap import Daemon

_T = TypeVar("_T")

_PREFIX = "semanticd-temporary-"
_LEFT_BEHIND_S = 86_400.0

Progress = Callable[[str, float], None]
"""Takes the stage of a model that is fetched or loaded, and the share that is done."""


def remove_leftovers(beside: Path, *, now: float) -> int:
    """Remove folders of temporary daemons that were killed, once they are a day old; returns how many.

    `now` is the time in seconds since the epoch. Files that cannot be removed stay.
    """
    removed = 0
    for folder in beside.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if now - folder.lstat().st_mtime > _LEFT_BEHIND_S and not folder.is_symlink():
                shutil.rmtree(folder)
                removed += 1
    return removed


@dataclass(frozen=True, slots=True)
class Replacements:
    """Replacements of real parts, with which tests make them fail."""

    files: FileSystem | None = None
    """The file system of the warm tier."""
    loader: Callable[[ModelLoader], ModelLoader] = lambda loader: loader
    """Returns what loads models, around the real loader."""


class TemporaryDaemon:
    """The composition on a temporary cache folder, with one loaded model. For one event loop."""

    def __init__(
        self,
        settings: Settings,
        model: str,
        *,
        beside: Path | None = None,
        replacements: Replacements | None = None,
        progress: Progress = lambda stage, share: None,
    ) -> None:
        """Serve `model`, a name or a path, by these settings; the caches lie in a folder of their own in `beside`."""
        self._wanted = settings
        self._beside = beside
        self._replacements = replacements or Replacements()
        self._ids = itertools.count(1)
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._parts: Daemon | None = None
        self._loaded: LoadedModel | None = None
        self._bus = _ModelProgress(progress)
        self.model = model
        self.log = WarningsLog()

    async def __aenter__(self) -> Self:
        """Start, and load the model."""
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Put the parts together and load the model.

        Raises:
            SemanticError: The model cannot be loaded; the message has the reason.
        """
        from semanticd.adapters.mlx.platform.blas import load_fast_blas
        from semanticd.adapters.mlx.platform.descriptors import import_mlx_lm

        load_fast_blas()  # before mlx.core is imported
        import_mlx_lm()
        from semanticd.entrypoints.assembly import assemble

        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(
                prefix=_PREFIX, dir=self._beside, ignore_cleanup_errors=True
            )
        self._parts = assemble(
            self._settings(Path(self._folder.name)),
            bus=self._bus,
            log=self.log,
            state=lambda: "ready",
            facts={},
            files=self._replacements.files,
            around_loader=self._replacements.loader,
        )
        self._parts.engine.start()
        used = await self._parts.models.load(self.model)
        self._loaded = self._parts.engine.models[ModelId(used.id)]

    def _settings(self, folder: Path) -> Settings:
        """Return the user's settings, except what would write to his folders, refuse to write, or notify others."""
        wanted = self._wanted
        agent = replace(
            wanted.agent,
            cache_dir=folder / "caches",
            cache_max_gb=0.0,
            disk_reserve_gb=0.0,
            write_policy="always",
            write_budget_gb_per_day=None,
        )
        return replace(
            wanted,
            agent=agent,
            trace=replace(wanted.trace, dir=None),
            server=replace(wanted.server, otlp_endpoint=None),
            # The machine itself is examined: other machines would not join.
            distributed=replace(wanted.distributed, hosts=None),
        )

    @property
    def is_running(self) -> bool:
        """Whether the model is loaded and answers requests."""
        return self._loaded is not None

    @property
    def parts(self) -> Daemon:
        """Components of the daemon."""
        assert self._parts is not None, "the temporary daemon was not started"
        return self._parts

    @property
    def loaded(self) -> LoadedModel:
        """The model."""
        assert self._loaded is not None, "the temporary daemon was not started"
        return self._loaded

    def library_model(self) -> Any:
        """Return the model as mlx-lm knows it; for the engine thread."""
        runner: Any = self.loaded.runner
        return runner.model

    def installed(self) -> InstalledModel:
        """Return the model's files.

        Raises:
            ModelNotFoundError: The model is not installed.
        """
        found = open_registry(self._wanted).find(self.model)
        if found is None:
            raise ModelNotFoundError(f"model {self.model} is not installed", param="model")
        return found

    @property
    def cache_folder(self) -> Path:
        """Folder of the stored blocks."""
        assert self._folder is not None, "the temporary daemon was not started"
        return Path(self._folder.name) / "caches"

    async def on_engine(self, function: Callable[[], _T]) -> _T:
        """Run a function on the engine thread, which owns MLX, and return its result."""
        return await asyncio.wrap_future(self.parts.engine.call(function))

    async def ask(
        self, prompt: Prompt, *, max_tokens: int, agent: str | None = None, **more: Any
    ) -> GenerationResult:
        """Answer greedily with `max_tokens` tokens; options of the sampling and of the request go where they belong.

        Raises:
            SemanticError: The request was not admitted, or failed.
        """
        names = SamplingParams.__dataclass_fields__
        sampling = SamplingParams(
            max_tokens=max_tokens,
            temperature=0.0,
            **{"ignore_eos": True, **{name: more.pop(name) for name in list(more) if name in names}},
        )
        request = GenerationRequest(
            RequestId(f"temporary-{next(self._ids)}"),
            model="",
            prompt=prompt,
            sampling=sampling,
            agent_id=None if agent is None else AgentId(agent),
            **more,
        )
        stream = await self.parts.generate.open(request)
        return await stream.result()

    async def restart(self) -> None:
        """Stop as a daemon stops, with all blocks on disk, and start again on the same folder."""
        await self._close()
        await self.start()

    async def _close(self) -> None:
        from semanticd.entrypoints.bootstrap import close

        parts, loaded = self._parts, self._loaded
        self._parts = self._loaded = None
        if parts is not None:
            await asyncio.to_thread(close, parts)
        if loaded is not None:
            # The engine thread is gone; what it held must not stay alongside the model that comes next.
            loaded.runner.release()
        del parts, loaded
        gc.collect()

    async def stop(self) -> None:
        """Stop, and remove the folder; idempotent."""
        try:
            await self._close()
        finally:
            if self._folder is not None:
                self._folder.cleanup()
                self._folder = None


class _ModelProgress:
    """An event bus on which only a model's progress is heard."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def publish(self, topic: str, data: Mapping[str, object]) -> None:
        """Pass a model's stage on, and drop everything else."""
        share = data.get("progress")
        if topic == "models" and isinstance(share, float):
            self._progress(str(data.get("stage")), share)

    def wanted(self, topic: str) -> bool:
        """There is no subscriber for costly events."""
        return False


class WarningsLog:
    """A log that keeps the names of warnings and errors."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def info(self, event: str, **fields: object) -> None:
        """Drop it."""

    def warning(self, event: str, **fields: object) -> None:
        """Keep its name."""
        self.events.append(event)

    def error(self, event: str, **fields: object) -> None:
        """Keep its name."""
        self.events.append(event)
