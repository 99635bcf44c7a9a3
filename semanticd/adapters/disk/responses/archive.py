"""Responses on disk: saved by a thread of their own, and readable at once though saving is queued."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from semanticd.adapters.disk.files.database import is_damage, set_aside
from semanticd.adapters.disk.files.write_queue import WriteQueue
from semanticd.adapters.disk.responses.tables import ResponseTables
from semanticd.application.ports.response_archive import StoredResponse
from semanticd.application.ports.telemetry import Clock, Log
from semanticd.domain.errors import CacheError
from semanticd.domain.ids import AgentId
from semanticd.domain.limits import LIMITS

_T = TypeVar("_T")
_MAX_WAITING = 256
"""Responses that wait to be saved; on a disk that hangs further ones are not kept."""
_DAY_S = 86_400.0


class DiskResponseArchive:
    """`ResponseArchive` in one file; make it with `DiskResponseArchive.open`."""

    def __init__(
        self, tables: ResponseTables, *, clock: Clock, log: Log, max_bytes: int, max_age_days: float
    ) -> None:
        """Take over open tables."""
        self._tables = tables
        self._clock = clock
        self._log = log
        self._max_bytes = max_bytes
        self._max_age_s = max_age_days * _DAY_S
        self._queue = WriteQueue(log=log)
        self._lock = threading.Lock()
        self._unsaved: dict[str, StoredResponse | None] = {}
        """Responses whose saving (None: forgetting) is queued."""
        self._closed = False

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        clock: Clock,
        log: Log,
        max_bytes: int = LIMITS.archived_responses_bytes,
        max_age_days: float = LIMITS.archived_responses_days,
    ) -> DiskResponseArchive:
        """Open the database; a damaged one is set aside as `….damaged` and an empty one begun.

        Raises:
            CacheError: the file cannot be opened, or a newer version wrote it.
        """
        try:
            try:
                tables = ResponseTables(path)
            except sqlite3.DatabaseError as error:
                if not is_damage(error):
                    raise
                set_aside(path)
                log.error("responses_set_aside", path=str(path), error=str(error))
                tables = ResponseTables(path)
        except (OSError, sqlite3.Error) as error:
            raise CacheError(
                f"cannot open the responses' database {path}: {error}; check the disk and its permissions"
            ) from error
        return cls(tables, clock=clock, log=log, max_bytes=max_bytes, max_age_days=max_age_days)

    def save(self, response: StoredResponse) -> None:
        """Store a response soon; see `ResponseArchive.save`."""
        with self._lock:
            if self._closed:
                return
            if len(self._queue) >= _MAX_WAITING:
                self._log.warning(
                    "response_not_kept", response=response.response_id, reason="the disk is slow"
                )
                return
            self._unsaved[response.response_id] = response
        self._queue.put(lambda: self._settle(response.response_id, response))

    def delete(self, response_id: str) -> None:
        """Forget a response; it is not returned from now on."""
        with self._lock:
            self._unsaved[response_id] = None
        self._queue.put(lambda: self._settle(response_id, None))

    def delete_agent(self, agent_id: AgentId) -> None:
        """Forget all responses of an agent, after what was queued before."""
        self._queue.put(lambda: self._try(lambda: self._tables.delete_agent(agent_id)))

    def load(self, response_id: str) -> StoredResponse | None:
        """Return a response, or None if it is not there or cannot be read (then it is logged)."""
        with self._lock:
            if response_id in self._unsaved:
                return self._unsaved[response_id]
        return self._ask(lambda: self._tables.load(response_id))

    def item(self, item_id: str) -> bytes | None:
        """Return an item of any response that is there, or None."""
        return self._ask(lambda: self._tables.item(item_id))

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until everything saved so far is stored; False when the time ran out."""
        return self._queue.flush(timeout_s)

    def close(self) -> None:
        """Store what waits, and close the database. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._queue.close()
        self._tables.close()

    def _settle(self, response_id: str, response: StoredResponse | None) -> None:
        if response is None:
            self._try(lambda: self._tables.delete(response_id))
        else:
            self._try(lambda: self._write(response))
        with self._lock:
            if self._unsaved.get(response_id) is response:
                self._unsaved.pop(response_id, None)

    def _write(self, response: StoredResponse) -> None:
        self._tables.save(response)
        pruned = self._tables.prune(max_bytes=self._max_bytes, before=self._clock.wall() - self._max_age_s)
        if pruned:
            self._log.info("responses_pruned", count=pruned)

    def _try(self, write: Callable[[], None]) -> None:
        try:
            write()
        except sqlite3.Error as error:
            self._log.error("response_not_stored", error=repr(error))

    def _ask(self, question: Callable[[], _T | None]) -> _T | None:
        try:
            return question()
        except (sqlite3.Error, ValueError) as error:
            self._log.error("response_not_read", error=repr(error))
            return None
