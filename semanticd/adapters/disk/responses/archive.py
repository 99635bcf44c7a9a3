"""Responses on disk: saved by a thread of their own, and readable at once though saving is queued."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from semanticd.adapters.disk.files.database import files_set_aside, is_damage, set_aside
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
        self,
        tables: ResponseTables,
        *,
        path: Path,
        clock: Clock,
        log: Log,
        max_bytes: int,
        max_age_days: float,
    ) -> None:
        """Take over open tables of the database at `path`."""
        self._tables = tables
        self._path = path
        self._clock = clock
        self._log = log
        self._max_bytes = max_bytes
        self._max_age_s = max_age_days * _DAY_S
        self._queue = WriteQueue(log=log)
        self._lock = threading.Lock()
        self._unsaved: dict[str, StoredResponse | None] = {}
        """Responses whose saving is queued; None: whose forgetting is queued, or has failed."""
        self._agents_to_forget: frozenset[AgentId] = frozenset()
        """Agents of which what the database holds is to be forgotten: it is queued, or has failed."""
        self._closed = False
        self.num_refused = 0
        """How many responses the disk refused since the start."""
        self.is_refusing = False
        """Whether it refused what was last to be stored."""

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
        return cls(tables, path=path, clock=clock, log=log, max_bytes=max_bytes, max_age_days=max_age_days)

    def save(self, response: StoredResponse) -> None:
        """Store a response soon; see `ResponseArchive.save`."""
        with self._lock:
            if self._closed:
                return
            if len(self._queue) >= _MAX_WAITING:
                self._log.warning(
                    "response_not_kept", response=response.response_id, reason="the disk is slow"
                )
                self.num_refused += 1
                self.is_refusing = True
                return
            self._unsaved[response.response_id] = response
        self._queue.put(lambda: self._save(response))

    def delete(self, response_id: str) -> Future[bool]:
        """Forget a response; see the port."""
        with self._lock:
            self._unsaved[response_id] = None
        return self._queue_forgetting(lambda: response_id not in self._to_forget()[0])

    def delete_agent(self, agent_id: AgentId) -> Future[bool]:
        """Forget all responses that an agent asked for or holds; see the port."""
        with self._lock:
            self._agents_to_forget |= {agent_id}
            for response_id, response in self._unsaved.items():
                if response is not None and response.is_of({agent_id}):
                    self._unsaved[response_id] = None
        return self._queue_forgetting(lambda: agent_id not in self._to_forget()[1])

    def _queue_forgetting(self, is_done: Callable[[], bool]) -> Future[bool]:
        def forget() -> bool:
            self._forget()
            return is_done()

        return self._queue.ask(forget, otherwise=False)

    def load(self, response_id: str) -> StoredResponse | None:
        """Return a response, or None if it is not there or cannot be read (then it is logged)."""
        with self._lock:
            if response_id in self._unsaved:
                return self._unsaved[response_id]
            to_forget = self._agents_to_forget
        found = self._ask(lambda: self._tables.load(response_id))
        return None if found is not None and found.is_of(to_forget) else found

    def item(self, item_id: str) -> bytes | None:
        """Return a referable item of any response that is there, or None."""
        without, agents = self._to_forget()
        return self._ask(lambda: self._tables.item(item_id, without=without, without_agents=agents))

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until everything saved so far is stored; False when the time ran out."""
        return self._queue.flush(timeout_s)

    def close(self) -> None:
        """Store what waits, and close the database. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._queue.put(self._forget)  # what failed is tried again
        self._queue.close()
        self._tables.close()

    def _save(self, response: StoredResponse) -> None:
        # What is to be forgotten goes first, also what failed before: the response's agent may be among it.
        self._forget()
        with self._lock:
            is_wanted = self._unsaved.get(response.response_id) is response
            is_blocked = response.is_of(self._agents_to_forget)
        if is_wanted and is_blocked:
            self._log.error(
                "response_not_stored", error="what its agent left before could not be deleted yet"
            )
            self._note_stored(is_stored=False)
        elif is_wanted:
            self._note_stored(is_stored=self._try("response_not_stored", lambda: self._write(response)))
        with self._lock:
            if self._unsaved.get(response.response_id) is response:
                del self._unsaved[response.response_id]

    def _note_stored(self, *, is_stored: bool) -> None:
        with self._lock:
            self.is_refusing = not is_stored
            self.num_refused += not is_stored

    def _write(self, response: StoredResponse) -> None:
        self._tables.save(response)
        pruned = self._tables.prune(max_bytes=self._max_bytes, before=self._clock.wall() - self._max_age_s)
        if pruned:
            self._log.info("responses_pruned", count=pruned)

    def _to_forget(self) -> tuple[frozenset[str], frozenset[AgentId]]:
        with self._lock:
            responses = frozenset(name for name, response in self._unsaved.items() if response is None)
            return responses, self._agents_to_forget

    def _forget(self) -> None:
        """Forget what is to be forgotten, from all files; what fails is tried again with the next job."""
        responses, agents = self._to_forget()
        if not (responses or agents):
            return

        def delete() -> None:
            for response_id in responses:
                self._tables.delete(response_id)
            for agent_id in agents:
                self._tables.delete_agent(agent_id)
            self._tables.scrub()

        if not self._try("response_not_deleted", delete):
            return
        self._remove_damaged()
        with self._lock:
            self._agents_to_forget -= agents
            for response_id in responses:
                if response_id in self._unsaved and self._unsaved[response_id] is None:
                    del self._unsaved[response_id]

    def _remove_damaged(self) -> None:
        for damaged in files_set_aside(self._path):
            # A database that was set aside may hold the response as well, and nothing reads it.
            with suppress(OSError):
                damaged.unlink()
                self._log.warning("responses_set_aside_removed", path=str(damaged))

    def _try(self, event: str, write: Callable[[], None]) -> bool:
        try:
            write()
        except sqlite3.Error as error:
            self._log.error(event, error=repr(error))
            return False
        return True

    def _ask(self, question: Callable[[], _T | None]) -> _T | None:
        try:
            return question()
        except (sqlite3.Error, ValueError) as error:
            self._log.error("response_not_read", error=repr(error))
            return None
