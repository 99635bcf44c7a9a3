"""The index of stored blocks: SQLite in WAL mode, one reading and one writing connection.

The block files are the truth; the index only answers quickly what they say. So `synchronous=NORMAL` is
enough: a power cut may lose its last transactions, never its consistency, and recovery finds the difference
by listing files. Totals are kept by triggers, so opening costs the same for ten blocks as for a million.
Lookups never wait for a writing transaction: in WAL mode readers see the last committed state.
"""

# ruff: noqa: S608 (queries are put together from this file's constants only; values are always bound)

from __future__ import annotations

import heapq
import sqlite3
import threading
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from semanticd.adapters.disk.folder import private_file
from semanticd.domain.block import Block, BlockKind, pack_token_ids, unpack_token_ids
from semanticd.domain.ids import BlockHash, ModelFingerprint

SCHEMA_VERSION = 1
MAX_CHILDREN = 512

_SCHEMA = f"""
CREATE TABLE models(
  id INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL, layout TEXT NOT NULL,
  num_blocks INTEGER NOT NULL DEFAULT 0, file_bytes INTEGER NOT NULL DEFAULT 0, UNIQUE(fingerprint, layout));
CREATE TABLE blocks(
  id INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, parent BLOB NOT NULL, model INTEGER NOT NULL,
  kind TEXT NOT NULL, num_tokens INTEGER NOT NULL, tensor_bytes INTEGER NOT NULL, file_bytes INTEGER NOT NULL,
  created_at REAL NOT NULL, last_used_at REAL NOT NULL, uses INTEGER NOT NULL DEFAULT 0,
  num_children INTEGER NOT NULL DEFAULT 0, token_ids BLOB NOT NULL);
CREATE INDEX blocks_by_parent ON blocks(parent);
CREATE INDEX blocks_by_model ON blocks(model);
CREATE INDEX leaves_by_use ON blocks(last_used_at, id) WHERE num_children = 0;
CREATE TABLE daily_writes(day TEXT PRIMARY KEY, num_bytes INTEGER NOT NULL);
CREATE TRIGGER block_added AFTER INSERT ON blocks BEGIN
  UPDATE blocks SET num_children = num_children + 1 WHERE hash = NEW.parent;
  UPDATE models SET num_blocks = num_blocks + 1, file_bytes = file_bytes + NEW.file_bytes
    WHERE id = NEW.model;
END;
CREATE TRIGGER block_removed AFTER DELETE ON blocks BEGIN
  UPDATE blocks SET num_children = num_children - 1 WHERE hash = OLD.parent;
  UPDATE models SET num_blocks = num_blocks - 1, file_bytes = file_bytes - OLD.file_bytes
    WHERE id = OLD.model;
END;
PRAGMA user_version = {SCHEMA_VERSION};
"""

_BLOCK = "hash, parent, kind, tensor_bytes, token_ids"
_STORED = "b.hash, m.fingerprint, b.file_bytes"


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """A row of the index as far as files are concerned."""

    block_hash: BlockHash
    fingerprint: ModelFingerprint
    file_bytes: int


@dataclass(frozen=True, slots=True)
class NewBlock:
    """A row to be: the block, whose it is, and its file's size."""

    block: Block
    fingerprint: ModelFingerprint
    layout: str
    file_bytes: int
    used_at: float


@dataclass(frozen=True, slots=True)
class Totals:
    """What the index holds."""

    num_blocks: int
    file_bytes: int


class BlockIndex:
    """Blocks by hash, parent and last use. Methods raise `sqlite3.Error`; safe to call from any thread."""

    def __init__(self, path: Path) -> None:
        """Open or create the index; what is no database, or of another schema, gives way to an empty one."""
        self._path = path
        self._reading = threading.Lock()
        self._writing = threading.RLock()
        self.is_new = False
        """Whether this index began empty, so that the files must be looked through."""
        self._open()

    def _open(self) -> None:
        if not self._path.exists():
            self._discard()  # what SQLite kept beside a file that is gone
        try:
            self._connect()
        except sqlite3.DatabaseError as error:
            # "unable to open", "disk I/O error": the index may be fine, so it is left alone.
            if isinstance(error, sqlite3.OperationalError) and not str(error).startswith("no such"):
                raise
            self._discard()
            self._connect()

    def _connect(self) -> None:
        private_file(self._path)
        self._writer = self._connection()
        try:
            (version,) = self._writer.execute("PRAGMA user_version").fetchone()
            if version != SCHEMA_VERSION:
                if self._writer.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    raise sqlite3.DatabaseError(f"schema version {version} is not {SCHEMA_VERSION}")
                self.is_new = True
                self._writer.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
            self.totals()
            self._reader = self._connection()
        except sqlite3.Error:
            self._writer.close()
            raise

    def _connection(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=10.0)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA cache_size = -16384")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _discard(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        self.is_new = True

    def recreate(self) -> None:
        """Throw the index away and begin an empty one, after it was found damaged."""
        with self._writing, self._reading:
            self._reader.close()
            self._writer.close()
            self._discard()
            self._connect()

    def close(self) -> None:
        """Close both connections. Idempotent."""
        with self._writing, self._reading:
            self._reader.close()
            self._writer.close()

    # ---- questions, answered on the reading connection

    def get(self, block_hash: BlockHash) -> Block | None:
        """Return a stored block's facts."""
        with self._reading:
            row = self._reader.execute(
                f"SELECT {_BLOCK} FROM blocks WHERE hash = ?", (block_hash,)
            ).fetchone()
        return None if row is None else _block(row)

    def get_leading(self, hashes: Sequence[BlockHash]) -> list[Block]:
        """Return the facts of the leading hashes that are stored, up to the first that is not."""
        found: list[Block] = []
        while len(found) < len(hashes):
            # Short questions first: most prefixes that miss do so early.
            part = hashes[len(found) : len(found) + min(128, 8 + 2 * len(found))]
            marks = ",".join("?" * len(part))
            with self._reading:
                rows = self._reader.execute(
                    f"SELECT {_BLOCK} FROM blocks WHERE hash IN ({marks})", part
                ).fetchall()
            by_hash = {row[0]: row for row in rows}
            for block_hash in part:
                if block_hash not in by_hash:
                    return found
                found.append(_block(by_hash[block_hash]))
        return found

    def children(self, parent: BlockHash) -> list[Block]:
        """Return the blocks stored under `parent`, most recently used first, at most `MAX_CHILDREN`."""
        query = (
            f"SELECT {_BLOCK} FROM blocks WHERE id IN"
            " (SELECT id FROM blocks WHERE parent = ? ORDER BY last_used_at DESC, id DESC LIMIT ?)"
            " ORDER BY last_used_at DESC, id DESC"
        )
        with self._reading:
            rows = self._reader.execute(query, (parent, MAX_CHILDREN)).fetchall()
        return [_block(row) for row in rows]

    def stored(self, block_hash: BlockHash) -> StoredBlock | None:
        """Return where a block's file is."""
        with self._reading:
            return _find_stored(self._reader, block_hash)

    def written_on(self, day: str) -> int:
        """Return how many bytes were written on a day (`YYYY-MM-DD`, UTC)."""
        with self._reading:
            row = self._reader.execute("SELECT num_bytes FROM daily_writes WHERE day = ?", (day,)).fetchone()
        return 0 if row is None else cast("int", row[0])

    def shard(self, shard: str) -> list[StoredBlock]:
        """Return all blocks whose hash begins with these two hex digits."""
        low = bytes.fromhex(shard)
        query = f"SELECT {_STORED} FROM blocks b JOIN models m ON m.id = b.model WHERE b.hash BETWEEN ? AND ?"
        # A connection of its own: a long listing must not make lookups wait.
        with closing(self._connection()) as connection:
            rows = connection.execute(query, (low, low + b"\xff" * 32)).fetchall()
        return [_stored(row) for row in rows]

    # ---- changes, made on the writing connection

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make the changes inside all or none."""
        with self._writing:
            if self._writer.in_transaction:
                yield
                return
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:  # a full disk may have rolled it back already
                    self._writer.execute("ROLLBACK")
                raise

    def totals(self) -> Totals:
        """Return what is stored, including changes not yet committed."""
        with self._writing:
            row = self._writer.execute("SELECT total(num_blocks), total(file_bytes) FROM models").fetchone()
        return Totals(int(row[0]), int(row[1]))

    def has(self, block_hash: BlockHash) -> bool:
        """Whether a block is stored, including changes not yet committed."""
        with self._writing:
            row = self._writer.execute("SELECT 1 FROM blocks WHERE hash = ?", (block_hash,)).fetchone()
        return row is not None

    def add(self, blocks: Iterable[NewBlock]) -> None:
        """Add rows; a block that is there already is left as it is."""
        query = (
            "INSERT OR IGNORE INTO blocks(hash, parent, model, kind, num_tokens, tensor_bytes, file_bytes,"
            " created_at, last_used_at, num_children, token_ids)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, (SELECT count(*) FROM blocks WHERE parent = ?), ?)"
        )
        with self.transaction():
            models: dict[tuple[str, str], int] = {}
            for new in blocks:
                key = (new.fingerprint, new.layout)
                if key not in models:
                    models[key] = self._model_id(*key)
                b = new.block
                facts = (
                    b.block_hash,
                    b.parent,
                    models[key],
                    b.kind,
                    b.num_tokens,
                    b.num_bytes,
                    new.file_bytes,
                )
                times = (new.used_at, new.used_at)
                self._writer.execute(query, (*facts, *times, b.block_hash, pack_token_ids(b.token_ids)))

    def _model_id(self, fingerprint: str, layout: str) -> int:
        key = (fingerprint, layout)
        self._writer.execute("INSERT OR IGNORE INTO models(fingerprint, layout) VALUES (?, ?)", key)
        row = self._writer.execute(
            "SELECT id FROM models WHERE fingerprint = ? AND layout = ?", key
        ).fetchone()
        return cast("int", row[0])

    def remove(self, hashes: Iterable[BlockHash]) -> list[StoredBlock]:
        """Remove rows; returns those that were there, whose files are now to be removed."""
        removed = []
        with self.transaction():
            for block_hash in hashes:
                stored = _find_stored(self._writer, block_hash)
                if stored is not None:
                    self._writer.execute("DELETE FROM blocks WHERE hash = ?", (block_hash,))
                    removed.append(stored)
        return removed

    def remove_model(self, fingerprint: ModelFingerprint | None) -> int:
        """Remove all rows (of one model); returns their files' bytes."""
        with self.transaction():
            before = self.totals().file_bytes
            if fingerprint is None:
                self._writer.execute("DELETE FROM blocks")
            else:
                self._writer.execute(
                    "DELETE FROM blocks WHERE model IN (SELECT id FROM models WHERE fingerprint = ?)",
                    (fingerprint,),
                )
            return before - self.totals().file_bytes

    def remove_oldest_leaves(self, num_bytes: int, *, spare: Container[BlockHash]) -> list[StoredBlock]:
        """Remove least recently used blocks without stored children until their files make up `num_bytes`.

        A parent becomes a leaf when its last child goes. Blocks in `spare` stay, and with them all before
        them.
        """
        removed: list[StoredBlock] = []
        freed = 0
        with self.transaction():
            for block_id, stored in self._leaves(spare):
                if freed >= num_bytes:
                    break
                self._writer.execute("DELETE FROM blocks WHERE id = ?", (block_id,))
                removed.append(stored)
                freed += stored.file_bytes
        return removed

    def _leaves(self, spare: Container[BlockHash]) -> Iterator[tuple[int, StoredBlock]]:
        """Yield leaves, oldest first; the caller removes each before asking for the next."""
        leaf = (
            f"SELECT b.last_used_at, b.id, b.parent, {_STORED} FROM blocks b JOIN models m ON m.id = b.model"
            " WHERE b.num_children = 0"
        )
        waiting: list[tuple[float, int, bytes, bytes, str, int]] = []
        seen: set[int] = set()
        cursor = (-1e300, -1)
        exhausted = False
        while True:
            while not exhausted and (not waiting or waiting[0][:2] > cursor):
                page = self._writer.execute(
                    f"{leaf} AND (b.last_used_at, b.id) > (?, ?) ORDER BY b.last_used_at, b.id LIMIT 64",
                    cursor,
                ).fetchall()
                exhausted = not page
                for row in page:
                    cursor = row[:2]
                    if row[1] not in seen:
                        seen.add(row[1])
                        heapq.heappush(waiting, row)
            if not waiting:
                return
            _, block_id, parent, *stored = heapq.heappop(waiting)
            if stored[0] in spare:
                continue
            yield block_id, _stored(stored)
            row = self._writer.execute(f"{leaf} AND b.hash = ?", (parent,)).fetchone()
            if row is not None and row[1] not in seen:
                seen.add(row[1])
                heapq.heappush(waiting, row)

    def touch(self, used: Iterable[tuple[BlockHash, float, int]]) -> None:
        """Record uses: (block, when last, how many more)."""
        query = "UPDATE blocks SET last_used_at = max(last_used_at, ?), uses = uses + ? WHERE hash = ?"
        with self.transaction():
            self._writer.executemany(query, [(when, uses, block_hash) for block_hash, when, uses in used])

    def count_written(self, day: str, num_bytes: int) -> None:
        """Add to a day's written bytes; days before it are forgotten."""
        with self.transaction():
            self._writer.execute("DELETE FROM daily_writes WHERE day < ?", (day,))
            self._writer.execute(
                "INSERT INTO daily_writes VALUES (?, ?)"
                " ON CONFLICT(day) DO UPDATE SET num_bytes = num_bytes + excluded.num_bytes",
                (day, num_bytes),
            )


def _block(row: tuple[bytes, bytes, str, int, bytes]) -> Block:
    block_hash, parent, kind, tensor_bytes, token_ids = row
    return Block(
        BlockHash(block_hash),
        BlockHash(parent),
        unpack_token_ids(token_ids),
        tensor_bytes,
        cast("BlockKind", kind),
    )


def _find_stored(connection: sqlite3.Connection, block_hash: BlockHash) -> StoredBlock | None:
    query = f"SELECT {_STORED} FROM blocks b JOIN models m ON m.id = b.model WHERE b.hash = ?"
    row = connection.execute(query, (block_hash,)).fetchone()
    return None if row is None else _stored(row)


def _stored(row: Sequence[Any]) -> StoredBlock:
    return StoredBlock(BlockHash(row[0]), ModelFingerprint(row[1]), row[2])
