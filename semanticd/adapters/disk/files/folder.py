"""The cache folder: its layout, its owner, and whether the last owner shut down cleanly.

One process at a time owns a folder, by an advisory lock that the kernel drops when the process dies. The mark
of an unfinished session is made before anything is written and removed by a clean close: found at the next
start, it means that files and index may disagree. A folder that is removed while it is used is recreated and owned
again before the next write: writes to removed files are lost without an error.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
from dataclasses import dataclass
from pathlib import Path

from semanticd.adapters.disk.files.atomic import FileSystem
from semanticd.adapters.disk.files.ballast import Ballast
from semanticd.adapters.disk.files.database import is_out_of_room
from semanticd.adapters.disk.files.placement import FilePlace
from semanticd.application.ports.telemetry import Log
from semanticd.control.private_files import UnsafePathError, open_private, prepare_private_folder
from semanticd.domain.errors import CacheError
from semanticd.domain.ids import BlockHash, ModelFingerprint

BLOCK_SUFFIX = ".safetensors"
_OURS = (
    "blocks",
    "quarantine",
    "index.sqlite",
    "agents.sqlite",
    "cap",
    "responses.sqlite",
    "savings",
    "history",
    "lock",
    "unclean",
    "ballast",
)
_FOLDERS = ("blocks", "quarantine")
CACHE_TAG = "CACHEDIR.TAG"
_TAG_TEXT = b"""Signature: 8a477f597d28d172789f06886806bc55
# Blocks of semanticd's cache: they can be computed again, so that backups may leave this folder out.
# See https://bford.info/cachedir/
"""
SHARDS = tuple(f"{number:02x}" for number in range(256))


@dataclass(frozen=True, slots=True)
class _Owned:
    """A folder that was made or found, and locked."""

    root: Path
    lock_fd: int
    was_unclean: bool
    place: FilePlace
    """Of the lock: where it is, the folder is."""


class CacheFolder:
    """An owned cache folder; make it with `CacheFolder.open`."""

    def __init__(self, owned: _Owned, *, fs: FileSystem) -> None:
        self.root = root = owned.root
        self.blocks = root / "blocks"
        self.quarantine = root / "quarantine"
        self.index = root / "index.sqlite"
        self.agents = root / "agents.sqlite"
        self.cap = root / "cap"
        """File that records the default cap."""
        self.responses = root / "responses.sqlite"
        self.savings = root / "savings"
        self.history = root / "history"
        """Counters and the figures of the last hour: see `figures_file`."""
        self.ballast = Ballast(root / "ballast")
        """Room for deletions on a full disk."""
        self.was_unclean = owned.was_unclean
        """Whether the owner before us did not close the folder."""
        self._fs = fs
        self._lock_fd: int | None = owned.lock_fd
        self._place = owned.place
        self._placing = threading.Lock()
        self.problem: str | None = None
        """Reason and remedy while the folder is gone and cannot be made again, as last found by `keep_in_place`."""

    @classmethod
    def open(cls, root: Path, *, fs: FileSystem) -> CacheFolder:
        """Create the folder if it is missing, and own it.

        Raises:
            CacheError: The folder cannot be used, or another process (or another store of this one) owns it.
        """
        return cls(cls._own(root.expanduser().absolute(), fs=fs), fs=fs)

    @staticmethod
    def _own(root: Path, *, fs: FileSystem) -> _Owned:
        try:
            root = prepare_private_folder(root, ours=_OURS)
            if (blocking := not_a_folder(root)) is not None:
                raise UnsafePathError(f"{blocking} is not a folder; move it away")
            for name in _FOLDERS:
                fs.make_folder(root / name)
            lock_fd = _lock(root / "lock", root)
            # Blocks can be computed again, agents cannot: only the folder of blocks is marked as a cache for backups.
            _mark_as_cache(root / "blocks" / CACHE_TAG, fs=fs)
            marker = root / "unclean"
            was_unclean = marker.exists()
            os.close(open_private(marker, os.O_WRONLY | os.O_CREAT))
            return _Owned(root, lock_fd, was_unclean, FilePlace.of(root / "lock"))
        except UnsafePathError as error:
            # It says what to do with the folder.
            raise CacheError(
                f"cannot use the cache folder {root}: {error}; set SEMANTIC_AGENT_CACHE_DIR to another"
            ) from error
        except OSError as error:
            remedy = "make room on its volume" if is_out_of_room(error, folder=root) else "make it writable"
            raise CacheError(
                f"cannot open the cache folder {root}: {error.strerror or error}; "
                f"{remedy} or choose another with SEMANTIC_AGENT_CACHE_DIR"
            ) from error

    @property
    def is_in_place(self) -> bool:
        """Whether the folder that is owned lies at its path."""
        return self._place.is_held()

    def require(self) -> None:
        """Do nothing while the folder that is owned lies at its path.

        Raises:
            OSError: It does not.
        """
        if not self.is_in_place:
            raise FileNotFoundError(errno.ENOENT, "the cache folder is gone", str(self.root))

    def keep_in_place(self, log: Log) -> None:
        """Recreate and own the folder if it was removed; callable from any thread.

        Raises:
            CacheError: Its volume is not there any more, another process owns what lies there, or it cannot be made.
        """
        with self._placing:
            try:
                was_made = self._take_place()
            except CacheError as error:
                self.problem = error.message
                raise
            if self.problem is not None:
                log.info("cache_folder_is_back", path=str(self.root))
            self.problem = None
        if was_made:
            log.error(
                "cache_folder_made_anew",
                path=str(self.root),
                reason="it was removed or replaced while it was used",
                remedy="stop the daemon before you remove it",
            )

    def _take_place(self) -> bool:
        """Own what lies at the folder's path now; returns whether that is another folder than before."""
        if self._lock_fd is None or self._place.is_held():
            return False
        if not self._place.volume_is_there():
            raise CacheError(
                f"the cache folder {self.root} is gone, with its volume; attach the volume again, or run "
                "`semanticd restart`, which uses what lies there now (SEMANTIC_AGENT_CACHE_DIR names another folder)"
            )
        owned = self._own(self.root, fs=self._fs)
        os.close(self._lock_fd)
        self._lock_fd, self._place = owned.lock_fd, owned.place
        return True

    def block_path(self, fingerprint: ModelFingerprint, block_hash: BlockHash) -> Path:
        """Return where a block's file belongs."""
        return self.path_in(self.blocks / self.model_name(fingerprint), block_hash)

    @staticmethod
    def path_in(model_folder: Path, block_hash: BlockHash) -> Path:
        """Return where a block's file belongs in the folder of its model."""
        name = block_hash.hex()
        return model_folder / name[:2] / f"{name}{BLOCK_SUFFIX}"

    @staticmethod
    def model_name(fingerprint: ModelFingerprint) -> str:
        """Return the folder name of a model's blocks (the block's own hash covers the whole fingerprint)."""
        safe = "".join(char for char in fingerprint[:16] if char.isalnum() or char in "-_")
        return safe or "model"

    def model_folders(self) -> list[Path]:
        """Return the folders that hold models' blocks; none where there is no folder of blocks."""
        try:
            return sorted(path for path in self.blocks.iterdir() if path.is_dir() and not path.is_symlink())
        except FileNotFoundError:
            return []

    def shard_files(self, shard: str) -> list[Path]:
        """Return everything that lies in the folders of one two-digit shard, over all models."""
        found: list[Path] = []
        for model in self.model_folders():
            folder = model / shard
            found.extend(folder / name for name in self._fs.list_files(folder))
        return found

    def database_bytes(self) -> int:
        """Return the size of the databases other than the index, with their logs."""
        num_bytes = 0
        for path in self.root.glob("*.sqlite*"):
            if not path.name.startswith(self.index.name):
                with contextlib.suppress(OSError):
                    num_bytes += self._fs.size(path)
        return num_bytes

    def release(self, *, clean: bool) -> None:
        """Release the folder; `clean`: files and index agree. Idempotent."""
        if self._lock_fd is None:
            return
        if clean and self._place.is_held():
            with contextlib.suppress(OSError):
                (self.root / "unclean").unlink(missing_ok=True)
        os.close(self._lock_fd)
        self._lock_fd = None


def not_a_folder(root: Path) -> Path | None:
    """Return the path in the cache folder that should be a folder and is not one; None where all is well."""
    places = [root / name for name in _FOLDERS]
    return next((place for place in places if os.path.lexists(place) and not place.is_dir()), None)


def _mark_as_cache(path: Path, *, fs: FileSystem) -> None:
    # A full disk must not keep the daemon from starting.
    with contextlib.suppress(OSError):
        if not path.exists():
            fs.write_small(path, _TAG_TEXT)


def hash_of(path: Path) -> BlockHash | None:
    """Return the block a file is named for, or None if it is not a block's name."""
    name = path.name
    if not name.endswith(BLOCK_SUFFIX) or len(name) != 64 + len(BLOCK_SUFFIX):
        return None
    try:
        block_hash = bytes.fromhex(name[:64])
    except ValueError:
        return None
    # fromhex takes upper case and spaces; a name must be exactly what block_path makes.
    return BlockHash(block_hash) if block_hash.hex() == name[:64] else None


def private_file(path: Path) -> Path:
    """Create a file private to the user unless it is there, and return it.

    Raises:
        OSError: The file cannot be created.
    """
    os.close(open_private(path, os.O_WRONLY | os.O_CREAT))
    return path


def _lock(path: Path, root: Path) -> int:
    fd = open_private(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        raise CacheError(
            f"cannot open the cache folder {root}: the process with pid {owner} is using it; "
            "stop it, or set SEMANTIC_AGENT_CACHE_DIR to another folder"
        ) from None
    except OSError:
        os.close(fd)
        raise
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except OSError:
        os.close(fd)
        raise
    return fd
