"""The responses' database: each item once, as a node of a tree, and a short row per response that names its last item.

Conversations that begin alike share their nodes, so that a conversation of n turns takes n items of room, not n².
A response can be gone on from though the one before it was deleted.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from semanticd.adapters.disk.files.database import connect, schema_version, transaction
from semanticd.adapters.disk.files.folder import private_file
from semanticd.adapters.disk.files.placement import FilePlace
from semanticd.application.ports.response_archive import StoredItem, StoredResponse
from semanticd.domain.errors import CacheError
from semanticd.domain.ids import AgentId

SCHEMA_VERSION = 2

_SCHEMA = f"""
CREATE TABLE items(
  id INTEGER PRIMARY KEY, parent INTEGER NOT NULL, digest BLOB NOT NULL UNIQUE,
  item_id TEXT NOT NULL, document BLOB NOT NULL,
  is_referable INTEGER NOT NULL);
CREATE INDEX items_by_parent ON items(parent);
CREATE INDEX items_by_item ON items(item_id) WHERE is_referable;
CREATE TABLE responses(
  id INTEGER PRIMARY KEY, response_id TEXT NOT NULL UNIQUE, agent_id TEXT, created_at REAL NOT NULL,
  last_item INTEGER NOT NULL, num_items INTEGER NOT NULL, num_output INTEGER NOT NULL, document BLOB NOT NULL,
  held_by TEXT);
CREATE INDEX responses_by_age ON responses(created_at);
CREATE INDEX responses_by_agent ON responses(agent_id);
CREATE INDEX responses_by_item ON responses(last_item);
CREATE INDEX responses_by_holder ON responses(held_by);
PRAGMA user_version = {SCHEMA_VERSION};
"""
# Of items from version 1 only the id's form says who made it: the server's end in 24 hexadecimal digits.
_FROM_1 = """
ALTER TABLE items ADD COLUMN is_referable INTEGER NOT NULL DEFAULT 1;
UPDATE items SET is_referable = 0 WHERE item_id NOT GLOB '*_' || replace(hex(zeroblob(12)), '0', '[0-9a-f]');
DROP INDEX items_by_item;
CREATE INDEX items_by_item ON items(item_id) WHERE is_referable;
ALTER TABLE responses ADD COLUMN held_by TEXT;
CREATE INDEX responses_by_holder ON responses(held_by);
PRAGMA user_version = 2;
"""

# A response that is lost with the machine's power is asked for again with its whole conversation.
# Pages of documents are read once: of 2 MiB of them, as SQLite keeps of its own accord, none is asked for again.
_PRAGMAS: dict[str, str | int] = {"synchronous": "NORMAL", "cache_size": -512}
_ROOT = 0
_PRUNE_TO = 0.9
"""Share of the allowed bytes that pruning keeps, so that not every new response has to prune."""
_PRUNED_AT_ONCE = 20


class ResponseTables:
    """Responses in SQLite. Methods raise `sqlite3.Error`; safe to call from any thread."""

    def __init__(self, path: Path) -> None:
        """Open or create the database.

        Raises:
            CacheError: A newer version wrote it.
            sqlite3.DatabaseError: It is damaged.
        """
        self._reading = threading.Lock()
        self._writing = threading.Lock()
        self.place = FilePlace.of(private_file(path))
        self._writer = connect(path, _PRAGMAS)
        try:
            version = schema_version(self._writer, path, newest=SCHEMA_VERSION)
            if version != SCHEMA_VERSION:
                self._writer.executescript(f"BEGIN; {_FROM_1 if version == 1 else _SCHEMA} COMMIT;")
            self._writer.execute("SELECT response_id FROM responses LIMIT 1").fetchall()
            self._reader = connect(path, _PRAGMAS)
        except (sqlite3.Error, CacheError):
            self._writer.close()
            raise

    def close(self) -> None:
        """Close both connections. Idempotent."""
        with self._writing, self._reading:
            self._reader.close()
            self._writer.close()

    def load(self, response_id: str) -> StoredResponse | None:
        """Return a stored response.

        Raises:
            ValueError: A part of the conversation is missing.
        """
        with self._reading, closing(self._reader.cursor()) as cursor:
            cursor.execute("BEGIN")  # one state for both tables
            try:
                row = cursor.execute(
                    "SELECT agent_id, held_by, created_at, last_item, num_items, num_output, document"
                    " FROM responses WHERE response_id = ?",
                    (response_id,),
                ).fetchone()
                if row is None:
                    return None
                agent_id, held_by, created_at, last, num_items, num_output, document = row
                items = cursor.execute(
                    "WITH RECURSIVE path(parent, item_id, document, is_referable, depth) AS ("
                    " SELECT parent, item_id, document, is_referable, 0 FROM items WHERE id = ?"
                    " UNION ALL SELECT i.parent, i.item_id, i.document, i.is_referable, p.depth + 1"
                    " FROM items i JOIN path p ON i.id = p.parent)"
                    " SELECT item_id, document, is_referable FROM path ORDER BY depth DESC",
                    (last,),
                ).fetchall()
            finally:
                cursor.execute("COMMIT")
        if len(items) != num_items:
            raise ValueError(f"{len(items)} of {num_items} items are there")
        return StoredResponse(
            response_id=response_id,
            agent_id=None if agent_id is None else AgentId(agent_id),
            created_at=created_at,
            document=document,
            items=tuple(StoredItem(name, text, bool(referable)) for name, text, referable in items),
            num_output=num_output,
            held_by=None if held_by is None else AgentId(held_by),
        )

    def item(
        self,
        item_id: str,
        *,
        without: frozenset[str] = frozenset(),
        without_agents: frozenset[AgentId] = frozenset(),
    ) -> bytes | None:
        """Return the referable item that was stored last under this id.

        One that only these responses hold, or responses that these agents asked for or hold, is left out.
        """
        query = "SELECT id, document FROM items WHERE item_id = ? AND is_referable ORDER BY id DESC"
        with self._reading, closing(self._reader.cursor()) as found:
            for row_id, document in found.execute(query, (item_id,)):
                if not (without or without_agents):
                    return bytes(document)
                holders = self._reader.execute(
                    "WITH RECURSIVE below(id) AS (VALUES(?) UNION ALL"
                    " SELECT i.id FROM items i JOIN below b ON i.parent = b.id)"
                    " SELECT r.response_id, r.agent_id, r.held_by FROM below b JOIN responses r ON r.last_item = b.id",
                    (row_id,),
                ).fetchall()
                if any(one not in without and without_agents.isdisjoint(of) for one, *of in holders):
                    return bytes(document)
        return None

    def save(self, response: StoredResponse) -> None:
        """Store a response with those of its items that are not there."""
        with self._writing, transaction(self._writer):
            self._delete(response.response_id)
            self._writer.execute(
                "INSERT INTO responses"
                "(response_id, agent_id, created_at, last_item, num_items, num_output, document, held_by)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    response.response_id,
                    response.agent_id,
                    response.created_at,
                    self._add_items(response.items),
                    len(response.items),
                    response.num_output,
                    response.document,
                    response.held_by,
                ),
            )

    def _add_items(self, items: Sequence[StoredItem]) -> int:
        digests = _chain(items)
        known, parent = len(items), _ROOT
        # From the end: mostly all but the last few are there.
        while known:
            row = self._writer.execute(
                "SELECT id FROM items WHERE digest = ?", (digests[known - 1],)
            ).fetchone()
            if row is not None:
                parent = row[0]
                break
            known -= 1
        for item, digest in zip(items[known:], digests[known:], strict=True):
            added = self._writer.execute(
                "INSERT INTO items(parent, digest, item_id, document, is_referable) VALUES (?, ?, ?, ?, ?)",
                (parent, digest, item.item_id, item.document, item.is_referable),
            )
            parent = int(added.lastrowid or _ROOT)
        return parent

    def delete(self, response_id: str) -> None:
        """Forget a response, and the items that no other holds."""
        with self._writing, transaction(self._writer):
            self._delete(response_id)

    def delete_agent(self, agent_id: AgentId) -> None:
        """Forget all responses that an agent asked for or holds."""
        with self._writing, transaction(self._writer):
            query = "SELECT response_id FROM responses WHERE agent_id = ?1 OR held_by = ?1"
            for (response_id,) in self._writer.execute(query, (agent_id,)).fetchall():
                self._delete(response_id)

    def scrub(self) -> None:
        """Empty the log, in which deleted rows may still be read."""
        with self._writing:
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def prune(self, *, max_bytes: int, before: float) -> int:
        """Delete responses older than a time (since the epoch), then the oldest beyond `max_bytes`; count them."""
        query = "SELECT response_id FROM responses WHERE created_at < ? ORDER BY created_at LIMIT ?"
        num_pruned = self._prune_batch(query, before, _PRUNED_AT_ONCE)
        if self.num_bytes() <= max_bytes:
            return num_pruned
        query = "SELECT response_id FROM responses ORDER BY created_at LIMIT ?"
        while self.num_bytes() > _PRUNE_TO * max_bytes:
            pruned = self._prune_batch(query, _PRUNED_AT_ONCE)
            if not pruned:
                break
            num_pruned += pruned
        return num_pruned

    def _prune_batch(self, query: str, *values: object) -> int:
        with self._writing, transaction(self._writer):
            oldest = self._writer.execute(query, values).fetchall()
            for (response_id,) in oldest:
                self._delete(response_id)
        return len(oldest)

    def num_bytes(self) -> int:
        """Return how many bytes of the file are in use."""
        with self._writing:
            pages, free, size = (
                self._writer.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_count", "freelist_count", "page_size")
            )
        return int((pages - free) * size)

    def _delete(self, response_id: str) -> None:
        query = "SELECT last_item FROM responses WHERE response_id = ?"
        row = self._writer.execute(query, (response_id,)).fetchone()
        if row is None:
            return
        self._writer.execute("DELETE FROM responses WHERE response_id = ?", (response_id,))
        (item,) = row
        while item != _ROOT and not self._is_held(item):
            (parent,) = self._writer.execute("SELECT parent FROM items WHERE id = ?", (item,)).fetchone()
            self._writer.execute("DELETE FROM items WHERE id = ?", (item,))
            item = parent

    def _is_held(self, item: int) -> bool:
        (held,) = self._writer.execute(
            "SELECT EXISTS(SELECT 1 FROM items WHERE parent = ?)"
            " OR EXISTS(SELECT 1 FROM responses WHERE last_item = ?)",
            (item, item),
        ).fetchone()
        return bool(held)


def _chain(items: Sequence[StoredItem]) -> list[bytes]:
    """Return a digest per item, which depends on all items before it."""
    digests: list[bytes] = []
    digest = b""
    for item in items:
        named = b"\0" if item.is_referable else b"\1"
        state = hashlib.sha256(digest + item.item_id.encode("utf-8", "replace") + named)
        state.update(item.document)
        digest = state.digest()
        digests.append(digest)
    return digests
