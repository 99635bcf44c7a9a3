"""Models as files: which are known, which are here, and how to get one.

A `ModelSource` may be called from any thread; `pull` blocks for as long as the download takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from semanticd.domain.generation import ModelDefaults
from semanticd.domain.ids import ModelFingerprint
from semanticd.domain.memory_plan import DeviceMemory, ModelFootprint, WeightRoom

Pooling = Literal["mean", "last"]
"""Positions of a text that make up its vector: all of them, or the last one."""

_HALF_BITS = 16


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model that can be asked for by name.

    `source` says where its files come from (`hf:org/name`, a folder, a `.gguf` file, `wheel:name==version`).
    Unknown numbers are None: bytes it needs in memory, and its context in tokens.
    """

    name: str
    source: str
    description: str = ""
    aliases: tuple[str, ...] = ()
    context_length: int | None = None
    memory_estimate_bytes: int | None = None
    tool_parser: str | None = None
    thinking: bool | None = None
    trust_remote_code: bool = False
    pinned: bool = False
    """Never unloaded to make room or because no request named it."""
    ttl_s: float | None = None
    """Seconds without a request after which it is unloaded; None: the daemon's own setting."""
    defaults: ModelDefaults = field(default_factory=ModelDefaults)
    """For what a request leaves open; before what the model's own files recommend."""
    weights_bytes: int | None = None
    """Size of its weights."""
    kv_bytes_per_token: int | None = None
    """Bytes of a token's KV in 16 bits, in all layers that keep every position."""
    recommended: bool = False
    """Whether a machine on which it fits may choose it by itself."""
    pooling: Pooling | None = None
    """Pooling of an embedding; None: as its files say, else the mean of all positions."""

    def footprint(self) -> ModelFootprint | None:
        """Return the memory it takes, as far as known before its files are downloaded; None: unknown."""
        weights = self.weights_bytes or self.memory_estimate_bytes
        if weights is None:
            return None
        return ModelFootprint(
            name=self.name,
            weights_bytes=weights,
            kv_bytes_per_token=self.kv_bytes_per_token,
            recommended=self.recommended,
        )


@dataclass(frozen=True, slots=True)
class ModelProfile:
    """A model under another name, with defaults for requests that use this name."""

    name: str
    model: str
    defaults: ModelDefaults
    description: str = ""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file of a model as the file system shows it: enough to see that it was changed or replaced."""

    name: str
    """Below the model's folder."""
    size_bytes: int
    modified_ns: int
    inode: int


@dataclass(frozen=True, slots=True)
class InstalledModel:
    """A model whose files are complete on this machine."""

    model_id: str
    path: str
    fingerprint: ModelFingerprint
    context_length: int
    size_bytes: int
    entry: ModelEntry
    defaults: ModelDefaults = field(default_factory=ModelDefaults)
    """For what a request leaves open: the entry's, else those of the model's `generation_config.json`."""
    ignored_advice: tuple[str, ...] = ()
    """Out-of-range values in its `generation_config.json`, as `top_p = 7`; they are ignored."""
    kv_bytes_per_token: int | None = None
    """As the entry's; from the model's own config."""
    weight_bits: int | None = None
    """Bits of its matrices; None: not known."""
    wide_bytes: int | None = None
    """Bytes of its weights in float32, which a CPU uses if they fit; None: unknown."""
    pooling: Pooling = "mean"
    modified_at: float = 0.0
    """Modification time of its weights, seconds since the epoch; 0: unknown."""
    settings_digest: str = ""
    """Of files that the loader reads though they compute no KV, so that no fingerprint covers them; empty: none."""

    files: tuple[FileFacts, ...] = ()
    """Files that a loader may read, as they were when the model was found; empty: unknown."""

    @property
    def content(self) -> tuple[ModelFingerprint, str]:
        """All that is loaded: a model of another content must be loaded again, though its blocks may be the same."""
        return self.fingerprint, self.settings_digest

    def footprint(self) -> ModelFootprint:
        """Return the memory it takes."""
        return ModelFootprint(
            name=self.model_id,
            weights_bytes=self.size_bytes,
            kv_bytes_per_token=self.kv_bytes_per_token or self.entry.kv_bytes_per_token,
            weight_bits=self.weight_bits,
            recommended=self.entry.recommended,
        )

    def held_bytes(self, device: DeviceMemory | None) -> int:
        """Return what its weights take in memory on this device, by its plan (None: as in the files)."""
        if device is None or device.kind != "cpu" or self.wide_bytes is None:
            return self.size_bytes
        token_bytes = self.footprint().token_bytes("exact", kind="cpu")
        fits = self.wide_bytes <= WeightRoom(device, lambda: 0).planned_bytes(token_bytes)
        return self.wide_bytes if fits else self.size_bytes

    def missing_bytes(self, device: DeviceMemory) -> int:
        """Return how much memory a CPU lacks so that packed weights stay packed, which is slow; 0: none, or no CPU."""
        is_packed = self.weight_bits is not None and self.weight_bits < _HALF_BITS
        if device.kind != "cpu" or self.wide_bytes is None or not is_packed:
            return 0
        token_bytes = self.footprint().token_bytes("exact", kind="cpu")
        return WeightRoom(device, lambda: device.total_bytes).missing_bytes(self.wide_bytes, token_bytes)


@dataclass(frozen=True, slots=True)
class PullProgress:
    """Progress of a pull: a short `stage`, bytes so far, and total bytes (0 if not yet known)."""

    stage: str
    done_bytes: int = 0
    total_bytes: int = 0


class ModelSource(Protocol):
    """The registry and the files behind it."""

    def entries(self) -> list[ModelEntry]:
        """Return the models known by name."""

    def profile(self, name: str) -> ModelProfile | None:
        """Return the profile of this name, if there is one. Reads no file."""

    def profiles_of(self, name: str) -> tuple[str, ...]:
        """Return the names of the profiles of this entry. Reads no file."""

    def installed(self) -> list[InstalledModel]:
        """Return the models whose files are here."""

    def resolve(self, name: str) -> ModelEntry:
        """Return the entry a name stands for (alias, `org/name`, folder, file).

        Raises:
            ModelNotFoundError: There is no such model.
        """

    def known_name(self, name: str) -> str | None:
        """Return the name to `find` a model by that a client named; None for folders and files. Reads no file."""

    def find(self, name: str) -> InstalledModel | None:
        """Return the model if its files are here."""

    def files(self, folder: str) -> tuple[FileFacts, ...]:
        """Return the files of a model's folder as they are now; empty where it is gone.

        Raises:
            OSError: The folder cannot be read.
        """

    def replaced_source(self, model: InstalledModel) -> str | None:
        """Return the path of the user's file that a model was converted from, where it is not as it was then.

        None also where it is gone: its conversion is what is loaded.

        Raises:
            OSError: The file cannot be examined.
        """

    def pull(self, name: str, on_progress: Callable[[PullProgress], None]) -> InstalledModel:
        """Download and prepare a model; a model that is already there is not downloaded again.

        Raises:
            ModelDownloadError: The download failed; the message has the remedy.
        """

    def remove(self, name: str) -> int:
        """Delete a model's files; returns the bytes freed."""
