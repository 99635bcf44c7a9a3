"""The index of stored blocks: SQLite in WAL mode, one connection to read, one to write, one to list.

The block files are the truth; the index only answers quickly what they say. So `synchronous=NORMAL` is
enough: a power cut may lose its last transactions, never its consistency, and recovery finds the difference
by listing files. Totals are kept by triggers, so opening costs the same for ten blocks as for a million.
Lookups never wait for a writing transaction: in WAL mode readers see the last committed state.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

from semanticd.adapters.disk.blocks import index_rows as rows_of
from semanticd.adapters.disk.blocks.eviction_order import oldest_leaves
from semanticd.adapters.disk.blocks.index_rows import (
    LARGEST_QUESTION,
    MIGRATIONS,
    SCHEMA,
    SCHEMA_VERSION,
    NewBlock,
    StoredBlock,
    Totals,
    block_of,
    find_stored,
    leading_query,
    sizes_query,
    stored_of,
)
from semanticd.adapters.disk.files.database import connect, release_pages, transaction
from semanticd.adapters.disk.files.folder import private_file
from semanticd.adapters.disk.files.placement import FilePlace
from semanticd.application.ports.warm_store import ModelSize
from semanticd.domain.block import Block, pack_token_ids
from semanticd.domain.ids import BlockHash, ModelFingerprint

MAX_CHILDREN = 512


class _NotMeantError(Exception):
    """Rolls back a transaction that only measured what it would remove."""

    def __init__(self, removed: list[StoredBlock]) -> None:
        super().__init__()
        self.removed = removed


class BlockIndex:
    """Blocks by hash, parent and last use. Methods raise `sqlite3.Error`; safe to call from any thread."""

    def __init__(self, path: Path) -> None:
        """Open or create the index; a file that is not a valid database of this schema is replaced."""
        self._path = path
        self._reading = threading.Lock()
        self._listing = threading.Lock()
        self._writing = threading.RLock()
        self._warming = False
        self.is_new = False
        """Whether this index began empty, so that the files must be scanned."""
        self._open()

    def _open(self) -> None:
        if not self._path.exists():
            self._discard()  # what SQLite kept alongside a file that is gone
        try:
            self._connect()
        except sqlite3.DatabaseError as error:
            # "unable to open", "disk I/O error": the index may be fine, so it is left alone.
            if isinstance(error, sqlite3.OperationalError) and not str(error).startswith("no such"):
                raise
            self._discard()
            self._connect()

    def _connect(self) -> None:
        self.place = FilePlace.of(private_file(self._path))
        self._writer = self._connection()
        try:
            (version,) = self._writer.execute("PRAGMA user_version").fetchone()
            while version in MIGRATIONS:
                self._writer.executescript(f"BEGIN; {MIGRATIONS[version]} COMMIT;")
                (version,) = self._writer.execute("PRAGMA user_version").fetchone()
            if version != SCHEMA_VERSION:
                if self._writer.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    raise sqlite3.DatabaseError(f"schema version {version} is not {SCHEMA_VERSION}")
                self.is_new = True
                self._writer.executescript(f"BEGIN; {SCHEMA} COMMIT;")
            self.totals()
            self._reader = self._connection()
            # A connection of its own: a long listing must not make lookups wait.
            self._lister = self._connection()
        except sqlite3.Error:
            self._writer.close()
            raise

    def _connection(self) -> sqlite3.Connection:
        return connect(self._path, {"synchronous": "NORMAL", "cache_size": -16384})

    def _discard(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        self.is_new = True

    def recreate(self) -> None:
        """Replace a damaged index by an empty one."""
        with self._writing, self._reading, self._listing:
            self._close()
            self._discard()
            self._connect()

    def close(self) -> None:
        """Close all connections. Idempotent."""
        with self._writing, self._reading, self._listing:
            self._close()

    def _close(self) -> None:
        self._lister.close()
        self._reader.close()
        self._writer.close()  # the last one to go folds the log into the file

    def get(self, block_hash: BlockHash) -> Block | None:
        """Return a stored block's facts."""
        with self._reading:
            row = self._reader.execute(rows_of.GET, (block_hash,)).fetchone()
        return None if row is None else block_of(row)

    def get_leading(self, hashes: Sequence[BlockHash]) -> list[Block]:
        """Return the facts of the leading hashes that are stored, up to the first that is not."""
        found: list[Block] = []
        while len(found) < len(hashes):
            # Short questions first: most prefixes that miss do so early.
            part = hashes[len(found) : len(found) + min(128, 8 + 2 * len(found))]
            with self._reading:
                rows = self._reader.execute(leading_query(len(part)), part).fetchall()
            by_hash = {row[0]: row for row in rows}
            for block_hash in part:
                if block_hash not in by_hash:
                    return found
                found.append(block_of(by_hash[block_hash]))
        return found

    def children(self, parent: BlockHash) -> list[Block]:
        """Return the blocks stored under `parent`, most recently used first, at most `MAX_CHILDREN`."""
        with self._reading:
            rows = self._reader.execute(rows_of.CHILDREN, (parent, MAX_CHILDREN)).fetchall()
        return [block_of(row) for row in rows]

    def block_bytes(self, hashes: Sequence[BlockHash]) -> dict[BlockHash, int]:
        """Return the tensor bytes of those of these blocks that are stored."""
        found: dict[BlockHash, int] = {}
        for first in range(0, len(hashes), LARGEST_QUESTION):
            part = hashes[first : first + LARGEST_QUESTION]
            # One question at a time holds the connection, so that the engine's lookups come in between.
            with self._reading:
                found.update(self._reader.execute(sizes_query(len(part)), part).fetchall())
        return found

    def names(self, fingerprint: ModelFingerprint, layout: str) -> list[BlockHash]:
        """Return the names of a model's blocks in one layout; its cost grows with their number."""
        with self._listing:
            rows = self._lister.execute(rows_of.NAMES, (fingerprint, layout)).fetchall()
        return [BlockHash(row[0]) for row in rows]

    def stored(self, block_hash: BlockHash) -> StoredBlock | None:
        """Return where a block's file is."""
        with self._reading:
            return find_stored(self._reader, block_hash)

    def written_on(self, day: str) -> int:
        """Return how many bytes were written on a day (`YYYY-MM-DD`, UTC)."""
        with self._reading:
            row = self._reader.execute(rows_of.DAY, (day,)).fetchone()
        return 0 if row is None else cast("int", row[0])

    def warm_up(self) -> None:
        """Read the hash index through once, so that the first lookups find it in the system's page cache."""
        with self._listing, suppress(sqlite3.OperationalError):  # interrupted
            self._warming = True
            try:
                self._lister.execute("SELECT count(hash) FROM blocks INDEXED BY blocks_by_hash").fetchone()
            finally:
                self._warming = False

    def stop_warming_up(self) -> None:
        """End it early, because the store is closing."""
        if self._warming:
            self._lister.interrupt()

    def shard(self, shard: str) -> list[StoredBlock]:
        """Return all blocks whose hash begins with these two hex digits."""
        low = bytes.fromhex(shard)
        with self._listing:
            rows = self._lister.execute(rows_of.SHARD, (low, low + b"\xff" * 32)).fetchall()
        return [stored_of(row) for row in rows]

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make the changes inside all or none."""
        with self._writing:
            if self._writer.in_transaction:
                yield
                return
            with transaction(self._writer):
                yield

    def sizes(self) -> tuple[ModelSize, ...]:
        """Return what each model's blocks take, largest first; totals that triggers keep."""
        query = (
            "SELECT fingerprint, layout, num_blocks, file_bytes FROM models WHERE num_blocks > 0"
            " ORDER BY file_bytes DESC, id"
        )
        with self._reading:
            rows = self._reader.execute(query).fetchall()
        return tuple(ModelSize(ModelFingerprint(row[0]), *row[1:]) for row in rows)

    def totals(self) -> Totals:
        """Return the stored rows, including changes not yet committed."""
        with self._writing:
            row = self._writer.execute("SELECT total(num_blocks), total(file_bytes) FROM models").fetchone()
        return Totals(int(row[0]), int(row[1]))

    def has(self, block_hash: BlockHash) -> bool:
        """Return whether a block is stored, including uncommitted changes."""
        with self._writing:
            row = self._writer.execute(rows_of.HAS, (block_hash,)).fetchone()
        return row is not None

    def add(self, blocks: Iterable[NewBlock]) -> None:
        """Add rows; blocks that are already there stay unchanged."""
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
                stored = find_stored(self._writer, block_hash)
                if stored is not None:
                    self._writer.execute(rows_of.REMOVE, (block_hash,))
                    removed.append(stored)
        return removed

    def scrub(self) -> None:
        """Empty the log, in which deleted rows may still be read."""
        with self._writing:
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def rest(self) -> None:
        """Free the memory of what was written and listed. Lookups, which prompts wait for, keep theirs."""
        with self._writing:
            release_pages(self._writer)
        # A long listing goes on: its pages are freed at the next rest.
        if self._listing.acquire(blocking=False):
            try:
                release_pages(self._lister)
            finally:
                self._listing.release()

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

    def remove_oldest_leaves(
        self, num_bytes: int, *, spare: Container[BlockHash], limit: int | None = None
    ) -> list[StoredBlock]:
        """Remove least recently used blocks without stored children until their files make up `num_bytes`.

        A parent becomes a leaf when its last child goes. Blocks in `spare` stay, and with them all before
        them. No more than `limit` blocks are removed.
        """
        removed: list[StoredBlock] = []
        freed = 0
        with self.transaction():
            for block_id, stored in oldest_leaves(self._writer, spare=spare):
                if freed >= num_bytes or len(removed) == limit:
                    break
                self._writer.execute("DELETE FROM blocks WHERE id = ?", (block_id,))
                removed.append(stored)
                freed += stored.file_bytes
        return removed

    def oldest_leaves(
        self, num_bytes: int, *, spare: Container[BlockHash], limit: int | None = None
    ) -> list[StoredBlock]:
        """Return what `remove_oldest_leaves` would remove, the first `limit` of it; nothing is."""
        try:
            with self.transaction():
                raise _NotMeantError(self.remove_oldest_leaves(num_bytes, spare=spare, limit=limit))
        except _NotMeantError as undone:
            return undone.removed

    def touch(self, used: Iterable[tuple[BlockHash, float, int]]) -> None:
        """Record uses: (block, when last, how many more)."""
        with self.transaction():
            self._writer.executemany(
                rows_of.TOUCH, [(when, uses, block_hash) for block_hash, when, uses in used]
            )

    def count_written(self, day: str, num_bytes: int) -> None:
        """Add to a day's written bytes; days before it are forgotten."""
        with self.transaction():
            self._writer.execute("DELETE FROM daily_writes WHERE day < ?", (day,))
            self._writer.execute(
                "INSERT INTO daily_writes VALUES (?, ?)"
                " ON CONFLICT(day) DO UPDATE SET num_bytes = num_bytes + excluded.num_bytes",
                (day, num_bytes),
            )
