"""Models as files that are not there: a registry in memory, and a loader that makes hash models of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator

from semanticd.application.ports.inference import LoadedModel, Tokenizer
from semanticd.application.ports.models import (
    FileFacts,
    InstalledModel,
    ModelEntry,
    ModelProfile,
    PullProgress,
)
from semanticd.domain.errors import ModelDownloadError, ModelNotFoundError
from semanticd.domain.ids import ModelFingerprint
from tests.fakes.model_runner import HashRunner, loaded_model
from tests.fakes.tokenizer import CharTokenizer

SIZE_BYTES = 1000
WRITTEN_AT = 1_700_000_000.5
FILES = (FileFacts("config.json", 10, 1, 1), FileFacts("model.safetensors", SIZE_BYTES, 2, 2))


class MemoryModelSource:
    """A `ModelSource` of models named in advance; some are installed, the others can be pulled."""

    def __init__(self, *, installed: tuple[str, ...] = (), others: tuple[str, ...] = ()) -> None:
        """Know these models; each also answers to its name in capitals."""
        self.known = {
            name: ModelEntry(name=name, source=f"folder:/models/{name}", description=f"model {name}")
            for name in (*installed, *others)
        }
        """The registry's entries by name."""
        self._installed = set(installed)
        self.profiles: dict[str, ModelProfile] = {}
        self.unreachable: set[str] = set()
        """Models whose download fails."""
        self.reason = ""
        """What the failure says, where it says something of its own."""
        self.size_bytes: dict[str, int] = {}
        """Bytes of models' files, where they are not small."""
        self.removed: list[str] = []
        self.folders: dict[str, ModelEntry] = {}
        """Models in the user's own folders, by path: they are no entries, and their names alone say nothing."""
        self.on_disk: dict[str, tuple[FileFacts, ...]] = {}
        """Files of folders whose files are not `FILES`."""
        self.replaced: dict[str, str] = {}
        """The files that folders were converted from, where they were replaced since."""
        self.unreadable: set[str] = set()
        """Folders that may not be looked at."""
        self.looked_from: list[threading.Thread] = []
        """Threads that looked at files."""
        self.looking: threading.Event | None = None
        """When set, looking at files waits for it."""
        self.paths_asked: list[str] = []
        """Paths that were inspected."""

    def entries(self) -> list[ModelEntry]:
        """Return the models known by name."""
        return list(self.known.values())

    def profile(self, name: str) -> ModelProfile | None:
        """Return the profile of this name."""
        return self.profiles.get(name)

    def profiles_of(self, name: str) -> tuple[str, ...]:
        """Return the names of the profiles of this model."""
        return tuple(one.name for one in self.profiles.values() if one.model == name)

    def installed(self) -> list[InstalledModel]:
        """Return the models whose files are here."""
        return [self._describe(name) for name in sorted(self._installed)]

    def _in_folder(self, path: str) -> InstalledModel:
        entry = self.folders[path]
        number = len(self.known) + list(self.folders).index(path)
        return InstalledModel(
            model_id=entry.name,
            path=path,
            fingerprint=ModelFingerprint(f"{number:02x}" * 32),
            context_length=4096,
            size_bytes=SIZE_BYTES,
            entry=entry,
            modified_at=WRITTEN_AT,
            files=self._found(path),
        )

    def _describe(self, name: str) -> InstalledModel:
        number = sorted(self.known).index(name)
        return InstalledModel(
            model_id=name,
            path=f"/models/{name}",
            fingerprint=ModelFingerprint(f"{number:02x}" * 32),
            context_length=4096,
            size_bytes=self.size_bytes.get(name, SIZE_BYTES),
            entry=self.known[name],
            defaults=self.known[name].defaults,
            modified_at=WRITTEN_AT,
            files=self._found(f"/models/{name}"),
        )

    def resolve(self, name: str) -> ModelEntry:
        """Return the entry a name stands for; whatever begins with `hf:` stands for itself."""
        if name in self.profiles:
            name = self.profiles[name].model
        if name.startswith("hf:"):
            return ModelEntry(name=name, source=name)
        if name in self.folders:
            return self.folders[name]
        entry = self.known.get(name.lower())
        if entry is None:
            raise ModelNotFoundError(f"no model is known as {name!r}", param="model")
        return entry

    def known_name(self, name: str) -> str | None:
        """Return the name to find it by; None for whatever looks like a path."""
        if name in self.profiles:
            name = self.profiles[name].model
        if name.startswith(("/", "~", ".")):
            return None
        entry = self.known.get(name.lower())
        return entry.name if entry is not None else name if name.startswith("hf:") else None

    def find(self, name: str) -> InstalledModel | None:
        """Return the model if its files are here."""
        if name.startswith(("/", "~", ".")):
            self.paths_asked.append(name)
        if name in self.folders:
            return self._in_folder(name)
        known = self.resolve(name).name
        return self._describe(known) if known in self._installed else None

    def files(self, folder: str) -> tuple[FileFacts, ...]:
        """Return the files of a model's folder."""
        self.looked_from.append(threading.current_thread())
        if self.looking is not None:
            self.looking.wait()
        if folder in self.unreadable:
            raise PermissionError(folder)
        return self._found(folder)

    def replaced_source(self, model: InstalledModel) -> str | None:
        """Return where the model was converted from, if another file lies there."""
        return self.replaced.get(model.path)

    def _found(self, folder: str) -> tuple[FileFacts, ...]:
        return self.on_disk.get(folder, FILES)

    def pull(self, name: str, on_progress: Callable[[PullProgress], None]) -> InstalledModel:
        """Make the files be here."""
        if name in self.folders:
            return self._in_folder(name)
        known = self.resolve(name).name
        if known in self.unreachable:
            raise ModelDownloadError(self.reason or f"cannot fetch {known}: nobody is reachable")
        on_progress(PullProgress("download", 0, 0))
        on_progress(PullProgress("download", 500, SIZE_BYTES))
        self._installed.add(known)
        return self._describe(known)

    def remove(self, name: str) -> int:
        """Delete a model's files."""
        self._installed.discard(self.resolve(name).name)
        self.removed.append(name)
        return SIZE_BYTES


class HashLoader:
    """A `ModelLoader` whose models differ by their place in the registry; loading can fail or take its time.

    What fails fails as it is loaded (memory is short, a disk cannot read the weights), or as it is checked already.
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer | None = None,
        has_state: bool = False,
        context_length: int = 4096,
        max_drafts: int = 0,
    ) -> None:
        """Give every model this tokenizer."""
        self._max_drafts = max_drafts
        self._tokenizer = tokenizer or CharTokenizer()
        self._has_state = has_state
        self._context_length = context_length
        self.block_tokens = 16
        self.failures: dict[str, Exception] = {}
        self.broken: dict[str, Exception] = {}
        """What is wrong with models' files, by their paths."""
        self.runners: dict[str, HashRunner] = {}
        self.gate: threading.Event | None = None
        """When set, loading waits for it."""
        self.long_slice: threading.Event | None = None
        """When set, one slice of loading takes until it is: the engine's thread does nothing else meanwhile."""
        self.in_long_slice = threading.Event()
        self.check_gate: threading.Event | None = None
        """When set, looking at files waits for it."""

    def check(self, installed: InstalledModel) -> Generator[None, None, None]:
        """Look at its files, in slices."""
        yield
        while self.check_gate is not None and not self.check_gate.wait(0.001):
            yield
        if installed.path in self.broken:
            raise self.broken[installed.path]

    def load(
        self, installed: InstalledModel, *, on_progress: Callable[[float], None]
    ) -> Generator[None, None, LoadedModel]:
        """Load it, in slices; while `gate` is set and closed, slice after slice without getting on."""
        on_progress(0.5)
        yield
        if self.long_slice is not None:
            self.in_long_slice.set()
            self.long_slice.wait()
        while self.gate is not None and not self.gate.wait(0.001):
            yield
        if (error := self.broken.get(installed.path) or self.failures.get(installed.model_id)) is not None:
            raise error
        runner = HashRunner(
            fingerprint=installed.fingerprint,
            seed=int(installed.fingerprint[:2], 16),
            has_state=self._has_state,
            block_tokens=self.block_tokens,
            max_drafts=self._max_drafts,
        )
        self.runners[installed.model_id] = runner
        return loaded_model(
            runner,
            model_id=installed.model_id,
            tokenizer=self._tokenizer,
            context_length=self._context_length,
            defaults=installed.defaults,
            settings_digest=installed.settings_digest,
        )
