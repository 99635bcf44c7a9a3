"""The volume that the cache folder is on: how much of it the cache takes, and how much it leaves alone."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from semanticd.adapters.disk.files.atomic import FileSystem

GIB = 1024**3
_CAP_BYTES, _CAP_SHARE = 64 * GIB, 0.2
_RESERVE_BYTES, _RESERVE_SHARE = 10 * GIB, 0.05


@dataclass(frozen=True, slots=True)
class VolumeSpace:
    """Bytes that the user may still write, and the volume's size."""

    free_bytes: int
    total_bytes: int


UNKNOWN_SPACE = VolumeSpace(_CAP_BYTES * 5, 0)
"""Of a volume that does not say: the cap is the largest, the reserve the smallest."""


def default_reserve(space: VolumeSpace) -> int:
    """Return the free bytes that the cache leaves to others unless it is set: 10 GiB, or 5 % of a large volume."""
    return max(_RESERVE_BYTES, int(space.total_bytes * _RESERVE_SHARE))


def default_cap(path: Path, space: VolumeSpace, *, stored_bytes: int, fs: FileSystem) -> int:
    """Return the default cap of a folder, as decided at its first start.

    That is 20 % of what was free then (the cache itself counts as free), or what a cache without a cap held by then, at
    most 64 GiB. `path` is where it is written down: a volume that fills up with other things must not shrink the cache
    from start to start. Nothing is written down while less than the default reserve is free, nor where it cannot be:
    then it is to be asked for again, or what a full volume allowed would be the cap when there is room again.
    """
    try:
        return int(fs.read(path))
    except (OSError, ValueError):
        share = int((space.free_bytes + stored_bytes) * _CAP_SHARE)
        cap = min(_CAP_BYTES, max(share, stored_bytes))
    if space.free_bytes >= default_reserve(space):
        with contextlib.suppress(OSError):
            fs.remove(path)
            fs.write_small(path, f"{cap}\n".encode())
    return cap
