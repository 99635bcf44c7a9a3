"""A disk with misfortunes: the real file system, which fails when a test says so, and a store that is killed."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from semanticd.adapters.disk.blocks.warm_store import DiskWarmStore
from semanticd.adapters.disk.files.atomic import FileSystem


def crash(store: DiskWarmStore) -> None:
    """End a store as if its process were killed: the next one finds the files as they are at this moment."""
    assert store.flush(60)
    root = store.folder.root
    left = root.with_name(f"{root.name}-left")
    shutil.copytree(root, left, symlinks=True)
    store.close()
    shutil.rmtree(root)
    left.rename(root)


class FaultyFileSystem(FileSystem):
    """Real files; `room_bytes` limits what may still be written, `fail` names the next operations to fail."""

    def __init__(self) -> None:
        """Begin in good health."""
        self.room_bytes: int | None = None
        self.fail: dict[str, int] = {}
        """Operation (`create`, `writev`, `sync`, `rename`, `read`) → errno it fails with from now on."""
        self.before: Callable[[str], None] = lambda operation: None
        """Called before each operation with its name; may raise."""
        self.says_free: int | None = None
        """What the volume says is free; None: `room_bytes`, or the truth."""
        self.says_size = 10**9
        """What it says of its size then."""
        self.removed_bytes_return = True
        """Whether removing a file makes room (snapshots of a file system may hold it)."""
        self.synced: list[bool] = []
        """One entry per sync: whether it was a full one."""

    def _happen(self, operation: str) -> None:
        self.before(operation)
        if operation in self.fail:
            code = self.fail[operation]
            raise OSError(code, os.strerror(code))

    def remove(self, path: Path) -> bool:
        """Remove a file; its bytes may be free then."""
        if self.says_free is not None and self.removed_bytes_return and path.exists():
            self.says_free += path.stat().st_size
        return super().remove(path)

    def create(self, path: Path) -> int:
        """Create a file, unless set to fail."""
        self._happen("create")
        return super().create(path)

    def free_bytes(self, path: Path) -> int:
        """Return what there is room for."""
        if self.says_free is not None:
            return self.says_free
        return super().free_bytes(path) if self.room_bytes is None else self.room_bytes

    def volume_bytes(self, path: Path) -> int:
        """Return the volume's size."""
        return super().volume_bytes(path) if self.says_free is None else self.says_size

    def writev(self, fd: int, pieces: Sequence[bytes | memoryview]) -> int:
        """Write what there is room for, at most 1,000 bytes at a time; a full disk raises ENOSPC."""
        self._happen("writev")
        piece = memoryview(pieces[0])[:1000]
        if self.room_bytes is not None:
            if self.room_bytes == 0 and len(piece):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            piece = piece[: self.room_bytes]
            self.room_bytes -= len(piece)
        return super().writev(fd, [piece])

    def sync(self, fd: int, *, full: bool) -> None:
        """Sync, unless set to fail."""
        self._happen("sync")
        self.synced.append(full)
        super().sync(fd, full=full)

    def rename(self, source: Path, target: Path) -> None:
        """Rename, unless set to fail."""
        self._happen("rename")
        super().rename(source, target)

    def read(self, path: Path) -> bytes:
        """Read, unless set to fail."""
        self._happen("read")
        return super().read(path)
