"""Files of figures that outlive the daemon: a line that names kind and version, then JSON, compressed.

```
semanticd history 1
<zlib: {"ended_at": 1796000000.0, "seconds": {"queue": [0.0, ...], ...}, ...}>
```
Rule: figures are for people, and no start and no request depends on them. A file that is damaged, another's or a newer
version's is left out, with a line in the log, and the next save takes its place; it is whole or the one before.
"""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from semanticd.adapters.disk.files.atomic import TEMP_SUFFIX, FileSystem, NewFile, write_group
from semanticd.application.ports.telemetry import Log

MAX_FILE_BYTES = 4 * 1024 * 1024
MAX_TEXT_BYTES = 16 * 1024 * 1024
_LEVEL = 6

_T = TypeVar("_T")


class FiguresFile:
    """One file; the methods take as long as the disk, and may be called from any thread."""

    def __init__(self, path: Path, *, version: int, fs: FileSystem, log: Log) -> None:
        """Keep figures at this path, whose name identifies them, in this version of their format."""
        self._path = path
        self._kind = f"semanticd {path.name} ".encode()
        self._version = version
        self._fs = fs
        self._log = log
        self._has_failed = False
        self._writing = threading.Lock()

    def read(self, take: Callable[[Mapping[str, Any]], _T]) -> _T | None:
        """Return what `take` makes of the figures; None where there are none, or none that can be used.

        `take` raises `ValueError` for what it does not know.
        """
        self._remove_left()
        try:
            start, size = self._fs.read_start(self._path, MAX_FILE_BYTES)
            if size > MAX_FILE_BYTES:
                raise ValueError(f"{size} bytes are more than the maximum")
            return take(self._decode(start))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, zlib.error, RecursionError) as error:
            self._log.warning("figures_left_out", file=str(self._path), reason=str(error) or repr(error))
            return None

    def write(self, figures: Mapping[str, Any]) -> bool:
        """Replace the file's figures, readable by this user only; returns whether that was done.

        Where it fails, the log has a line, and none for those that fail next.
        """
        text = json.dumps(figures, separators=(",", ":"), allow_nan=False).encode()
        content = b"%s%d\n%s" % (self._kind, self._version, zlib.compress(text, _LEVEL))
        with self._writing:
            try:
                write_group(self._fs, [NewFile(self._path, [content])])
            except OSError as error:
                if not self._has_failed:
                    self._log.warning("figures_not_saved", file=str(self._path), reason=str(error))
                self._has_failed = True
            else:
                self._has_failed = False
        return not self._has_failed

    def _decode(self, content: bytes) -> Mapping[str, Any]:
        head, _, packed = content.partition(b"\n")
        if not head.startswith(self._kind):
            raise ValueError("it was written by another program")
        version = head.removeprefix(self._kind)
        if version != b"%d" % self._version:
            raise ValueError(f"its version {version[:16]!r} is not {self._version}")
        unpacking = zlib.decompressobj()
        text = unpacking.decompress(packed, MAX_TEXT_BYTES)
        if not unpacking.eof:
            raise ValueError("it is truncated or too large")
        figures = json.loads(text)
        if not isinstance(figures, dict):
            raise ValueError("it holds no figures")
        return figures

    def _remove_left(self) -> None:
        """Remove partial files of a killed process."""
        prefix, folder = f"{self._path.name}.", self._path.parent
        for name in self._fs.list_files(folder):
            if name.startswith(prefix) and name.endswith(TEMP_SUFFIX):
                try:
                    self._fs.remove(folder / name)
                except OSError as error:
                    self._log.warning("figures_left_out", file=name, reason=str(error))
