"""Responses on disk: saved by a thread of their own, and readable at once though saving is queued.

Responses that the disk refused stay readable, and their writes are retried: after the next stored response, while
nothing else is written, and at the end. They are bounded in number and bytes; beyond that the oldest is dropped.
Responses that the disk refused to delete are listed again, unchanged.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from semanticd.adapters.disk.files.ballast import Ballast
from semanticd.adapters.disk.files.database import files_set_aside, is_damage, is_out_of_room, set_aside
from semanticd.adapters.disk.files.folder import CacheFolder
from semanticd.adapters.disk.files.write_queue import WriteQueue
from semanticd.adapters.disk.responses.tables import ResponseTables
from semanticd.application.ports.response_archive import StoredResponse
from semanticd.application.ports.telemetry import Clock, Log
from semanticd.domain.deletion import Deletion
from semanticd.domain.errors import CacheError
from semanticd.domain.ids import AgentId
from semanticd.domain.limits import LIMITS

_T = TypeVar("_T")
_MAX_WAITING = 256
"""Responses that wait to be saved; on a disk that hangs further ones are not kept."""
_MAX_REFUSED_BYTES = 32 * 1024 * 1024
"""Bytes of refused responses that wait to be tried again, by estimate: items of several count in each."""
_RETRY_EVERY_S = 30.0
_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class _Bounds:
    """Limits of the archive; the oldest responses are removed first."""

    max_bytes: int
    max_age_s: float


class DiskResponseArchive:
    """`ResponseArchive` in one file; make it with `DiskResponseArchive.open`."""

    def __init__(
        self,
        tables: ResponseTables,
        *,
        path: Path,
        clock: Clock,
        log: Log,
        bounds: _Bounds,
        idle_s: float,
        folder: CacheFolder | None,
    ) -> None:
        """Take over open tables of the database at `path`; after `idle_s` without a job it looks what to try again."""
        self._folder = folder
        self._ballast = None if folder is None else folder.ballast
        self._tables = tables
        self._path = path
        self._clock = clock
        self._log = log
        self._bounds = bounds
        self._lock = threading.Lock()
        self._unsaved: dict[str, StoredResponse | None] = {}
        """Responses whose saving is queued or was refused; None: whose forgetting is queued."""
        self._refused: OrderedDict[str, int] = OrderedDict()
        """Bytes of the responses that the disk refused and that are tried again, oldest first."""
        self._retry_at = 0.0
        self._agents_to_forget: frozenset[AgentId] = frozenset()
        """Agents of which what the database holds is to be forgotten: it is queued."""
        self._closed = False
        self._num_given_up = 0
        self.is_refusing = False
        """Whether it refused the last write."""
        self._queue = WriteQueue(log=log, on_idle=self._retry_while_idle, idle_s=idle_s)

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        clock: Clock,
        log: Log,
        max_bytes: int = LIMITS.archived_responses_bytes,
        max_age_days: float = LIMITS.archived_responses_days,
        idle_s: float = 2.0,
        folder: CacheFolder | None = None,
    ) -> DiskResponseArchive:
        """Open the database; a damaged one is set aside as `….damaged` and an empty one begun.

        `folder` is where the database lies: nothing is written while it is gone, and its ballast is given up where a
        full disk refuses a deletion.

        Raises:
            CacheError: the file cannot be opened, or a newer version wrote it.
        """
        try:
            try:
                tables = _with_room(None if folder is None else folder.ballast, lambda: ResponseTables(path))
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
        return cls(
            tables,
            path=path,
            clock=clock,
            log=log,
            bounds=_Bounds(max_bytes, max_age_days * _DAY_S),
            idle_s=idle_s,
            folder=folder,
        )

    @property
    def num_refused(self) -> int:
        """Number of responses that the disk refused: waiting for a retry, or given up."""
        with self._lock:
            return len(self._refused) + self._num_given_up

    def save(self, response: StoredResponse) -> Future[bool]:
        """Store a response soon; see `ResponseArchive.save`."""
        refused: Future[bool] = Future()
        refused.set_result(False)
        with self._lock:
            if self._closed:
                return refused
            if len(self._queue) >= _MAX_WAITING:
                self._log.warning(
                    "response_not_kept", response=response.response_id, reason="the disk is slow"
                )
                self._num_given_up += 1
                self.is_refusing = True
                return refused
            self._unsaved[response.response_id] = response
        return self._queue.ask(lambda: self._save(response), otherwise=False)

    def delete(self, response_id: str) -> Future[Deletion]:
        """Forget a response; see the port."""
        with self._lock:
            before = {response_id: self._unsaved.get(response_id)}
            self._unsaved[response_id] = None
            self._refused.pop(response_id, None)
        return self._queue_forgetting(before, agents=frozenset())

    def delete_agent(self, agent_id: AgentId) -> Future[Deletion]:
        """Forget all responses that an agent asked for or holds; see the port."""
        with self._lock:
            self._agents_to_forget |= {agent_id}
            before: dict[str, StoredResponse | None] = {
                response_id: response
                for response_id, response in self._unsaved.items()
                if response is not None and response.is_of({agent_id})
            }
            for response_id in before:
                self._unsaved[response_id] = None
                self._refused.pop(response_id, None)
        return self._queue_forgetting(before, agents=frozenset([agent_id]))

    def _queue_forgetting(
        self, before: dict[str, StoredResponse | None], *, agents: frozenset[AgentId]
    ) -> Future[Deletion]:
        failed: Deletion = "failed"

        def forget() -> Deletion:
            with self._lock:
                # Another deletion of the same may have failed meanwhile, and have put back what it was to delete.
                self._agents_to_forget |= agents
                for response_id in before:
                    before[response_id] = self._unsaved.get(response_id) or before[response_id]
                    self._unsaved[response_id] = None
                    self._refused.pop(response_id, None)
            error = self._forget()
            if error is None:
                return "done"
            self._put_back(before, agents)
            return "no room" if is_out_of_room(error, folder=self._path.parent) else "failed"

        return self._queue.ask(forget, otherwise=failed)

    def _put_back(self, before: Mapping[str, StoredResponse | None], agents: frozenset[AgentId]) -> None:
        """Restore responses that could not be deleted to their state `before`: None of what is on disk."""
        with self._lock:
            self._agents_to_forget -= agents
            for response_id, response in before.items():
                if response_id not in self._unsaved or self._unsaved[response_id] is not None:
                    continue  # it was stored again
                del self._unsaved[response_id]
                if response is not None:
                    self._unsaved[response_id] = response
                    self._keep_refused(response)

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
        """Store the queued responses, and close the database. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._queue.put(self._retry)  # what failed is tried again
        self._queue.close()
        if self._refused:
            self._log.error("responses_not_stored", count=len(self._refused))
        self._tables.close()

    def _save(self, response: StoredResponse) -> bool:
        is_stored = self._store(response)
        if is_stored:
            self._retry()
        return is_stored

    def _store(self, response: StoredResponse) -> bool:
        """Store a response that is still wanted; one that the disk refuses is kept. Returns whether it refused none."""
        # Deletions come first, those that failed before too: the response's agent may be among them.
        self._forget()
        with self._lock:
            if self._unsaved.get(response.response_id) is not response:
                return True
            is_blocked = response.is_of(self._agents_to_forget)
        if is_blocked:
            self._log.error("response_not_stored", error="earlier data of its agent could not be deleted yet")
        is_stored = not is_blocked and not self._try("response_not_stored", lambda: self._write(response))
        with self._lock:
            self.is_refusing = not is_stored
            # It may have been deleted meanwhile, and is then about to be forgotten.
            if self._unsaved.get(response.response_id) is response:
                self._refused.pop(response.response_id, None)
                if is_stored:
                    del self._unsaved[response.response_id]
                else:
                    self._keep_refused(response)
        return is_stored

    def _keep_refused(self, response: StoredResponse) -> None:
        """Keep a response to be tried again, within the bounds; the lock is held."""
        num_bytes = _num_bytes(response)
        self._refused[response.response_id] = num_bytes
        # One that is too large by itself costs no others their place.
        self._refused.move_to_end(response.response_id, last=num_bytes <= _MAX_REFUSED_BYTES)
        while len(self._refused) > _MAX_WAITING or sum(self._refused.values()) > _MAX_REFUSED_BYTES:
            given_up, _ = self._refused.popitem(last=False)
            del self._unsaved[given_up]
            self._num_given_up += 1
            self._log.error("response_given_up", response=given_up)

    def _retry(self) -> None:
        """Retry refused deletions and writes, oldest first, until the disk refuses one."""
        self._retry_at = self._clock.monotonic() + _RETRY_EVERY_S
        self._forget()
        with self._lock:
            waiting = [self._unsaved.get(response_id) for response_id in self._refused]
        num_stored = 0
        for response in waiting:
            if response is None:
                continue
            if not self._store(response):
                break
            num_stored += 1
        if num_stored:
            self._log.info("refused_responses_stored", count=num_stored)

    def _retry_while_idle(self) -> None:
        if self._clock.monotonic() >= self._retry_at:
            with self._lock:
                is_waiting = bool(self._refused or self._agents_to_forget or None in self._unsaved.values())
            if is_waiting:
                self._retry()

    def _write(self, response: StoredResponse) -> None:
        self._tables.save(response)
        before = self._clock.wall() - self._bounds.max_age_s
        pruned = self._tables.prune(max_bytes=self._bounds.max_bytes, before=before)
        if pruned:
            self._log.info("responses_pruned", count=pruned)

    def _to_forget(self) -> tuple[frozenset[str], frozenset[AgentId]]:
        with self._lock:
            responses = frozenset(name for name, response in self._unsaved.items() if response is None)
            return responses, self._agents_to_forget

    def _forget(self) -> Exception | None:
        """Delete the pending responses and agents from all files; returns the error, if any."""
        responses, agents = self._to_forget()
        if not (responses or agents):
            return None

        def delete() -> None:
            for response_id in responses:
                self._tables.delete(response_id)
            for agent_id in agents:
                self._tables.delete_agent(agent_id)
            self._tables.scrub()

        error = self._try(
            "response_not_deleted", lambda: _with_room(self._ballast, delete, after=self._tables.scrub)
        )
        if error is not None:
            return error
        self._remove_damaged()
        with self._lock:
            self._agents_to_forget -= agents
            for response_id in responses:
                if response_id in self._unsaved and self._unsaved[response_id] is None:
                    del self._unsaved[response_id]
        return None

    def _remove_damaged(self) -> None:
        for damaged in files_set_aside(self._path):
            # A database that was set aside may hold the response as well, and nothing reads it.
            with suppress(OSError):
                damaged.unlink()
                self._log.warning("responses_set_aside_removed", path=str(damaged))

    def _try(self, event: str, write: Callable[[], None]) -> Exception | None:
        """Change the tables; returns why that failed."""
        try:
            self._keep_in_place()
            write()
        except (sqlite3.Error, CacheError, OSError) as error:
            self._log.error(event, error=repr(error))
            return error
        return None

    def _keep_in_place(self) -> None:
        """Open the database again where its file was removed.

        Raises:
            CacheError: The folder is gone, or a newer version wrote what lies there now.
            sqlite3.Error: It cannot be opened.
            OSError: Its file cannot be made.
        """
        if self._folder is not None:
            self._folder.keep_in_place(self._log)
        if not self._tables.place.is_held():
            self._log.error("responses_opened_anew", path=str(self._path), reason="the file was removed")
            self._tables.close()
            self._tables = ResponseTables(self._path)

    def _ask(self, question: Callable[[], _T | None]) -> _T | None:
        try:
            return question()
        except (sqlite3.Error, ValueError) as error:
            self._log.error("response_not_read", error=repr(error))
            return None


def _with_room(
    ballast: Ballast | None, action: Callable[[], _T], *, after: Callable[[], object] = lambda: None
) -> _T:
    return action() if ballast is None else ballast.make_room_for(action, after=after)


def _num_bytes(response: StoredResponse) -> int:
    return len(response.document) + sum(len(item.document) for item in response.items)
