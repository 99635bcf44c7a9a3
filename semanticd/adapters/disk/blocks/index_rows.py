"""The rows of the index: their tables, and their conversion to values."""

# ruff: noqa: S608 (queries are put together from this file's constants only; values are always bound)

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from semanticd.application.ports.warm_store import BlockRecord
from semanticd.domain.block import Block, BlockKind, unpack_token_ids
from semanticd.domain.ids import BlockHash, ModelFingerprint

SCHEMA_VERSION = 2

_COMPOSITE = """
CREATE INDEX blocks_by_parent ON blocks(parent, last_used_at, id);
CREATE INDEX block_sizes ON blocks(hash, tensor_bytes);
"""

MIGRATIONS = {1: f"DROP INDEX blocks_by_parent; {_COMPOSITE} PRAGMA user_version = 2;"}
"""Statements that upgrade an index by one version, in place."""

SCHEMA = f"""
CREATE TABLE models(
  id INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL, layout TEXT NOT NULL,
  num_blocks INTEGER NOT NULL DEFAULT 0, file_bytes INTEGER NOT NULL DEFAULT 0, UNIQUE(fingerprint, layout));
CREATE TABLE blocks(
  id INTEGER PRIMARY KEY, hash BLOB NOT NULL, parent BLOB NOT NULL, model INTEGER NOT NULL,
  kind TEXT NOT NULL, num_tokens INTEGER NOT NULL, tensor_bytes INTEGER NOT NULL, file_bytes INTEGER NOT NULL,
  created_at REAL NOT NULL, last_used_at REAL NOT NULL, uses INTEGER NOT NULL DEFAULT 0,
  num_children INTEGER NOT NULL DEFAULT 0, token_ids BLOB NOT NULL);
CREATE UNIQUE INDEX blocks_by_hash ON blocks(hash);
{_COMPOSITE}
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

BLOCK_COLUMNS = "hash, parent, kind, tensor_bytes, token_ids"
STORED_COLUMNS = "b.hash, m.fingerprint, b.file_bytes"

LARGEST_QUESTION = 500
"""Hashes that one query asks for, at most."""


def sizes_query(number: int) -> str:
    """Return the query for the tensor bytes of `number` blocks."""
    return f"SELECT hash, tensor_bytes FROM blocks INDEXED BY block_sizes WHERE hash IN ({','.join('?' * number)})"


def leading_query(number: int) -> str:
    """Return the query for the facts of `number` blocks."""
    return f"SELECT {BLOCK_COLUMNS} FROM blocks WHERE hash IN ({','.join('?' * number)})"


GET = f"SELECT {BLOCK_COLUMNS} FROM blocks WHERE hash = ?"
CHILDREN = f"SELECT {BLOCK_COLUMNS} FROM blocks WHERE parent = ? ORDER BY last_used_at DESC, id DESC LIMIT ?"
STORED = f"SELECT {STORED_COLUMNS} FROM blocks b JOIN models m ON m.id = b.model WHERE b.hash = ?"
SHARD = f"SELECT {STORED_COLUMNS} FROM blocks b JOIN models m ON m.id = b.model WHERE b.hash BETWEEN ? AND ?"
NAMES = "SELECT b.hash FROM models m JOIN blocks b ON b.model = m.id WHERE m.fingerprint = ? AND m.layout = ?"
HAS = "SELECT 1 FROM blocks WHERE hash = ?"
TOUCH = "UPDATE blocks SET last_used_at = max(last_used_at, ?), uses = uses + ? WHERE hash = ?"
REMOVE = "DELETE FROM blocks WHERE hash = ?"
LEAF = (
    f"SELECT b.last_used_at, b.id, b.parent, {STORED_COLUMNS} FROM blocks b JOIN models m ON m.id = b.model"
    " WHERE b.num_children = 0"
)
LEAF_PAGE = f"{LEAF} AND (b.last_used_at, b.id) > (?, ?) ORDER BY b.last_used_at, b.id LIMIT 64"
LEAF_BY_HASH = f"{LEAF} AND b.hash = ?"
DAY = "SELECT num_bytes FROM daily_writes WHERE day = ?"


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

    @classmethod
    def of(cls, record: BlockRecord, *, file_bytes: int, used_at: float) -> NewBlock:
        """Return the row of a record whose file is written."""
        return cls(record.block, record.fingerprint, record.layout, file_bytes=file_bytes, used_at=used_at)


@dataclass(frozen=True, slots=True)
class Totals:
    """The contents of the index."""

    num_blocks: int
    file_bytes: int


def block_of(row: tuple[bytes, bytes, str, int, bytes]) -> Block:
    """Return the block of a row of `BLOCK_COLUMNS`."""
    block_hash, parent, kind, tensor_bytes, token_ids = row
    return Block(
        BlockHash(block_hash),
        BlockHash(parent),
        unpack_token_ids(token_ids),
        tensor_bytes,
        cast("BlockKind", kind),
    )


def find_stored(connection: sqlite3.Connection, block_hash: BlockHash) -> StoredBlock | None:
    """Return where a block's file is."""
    row = connection.execute(STORED, (block_hash,)).fetchone()
    return None if row is None else stored_of(row)


def stored_of(row: Sequence[Any]) -> StoredBlock:
    """Return the value of a row of `STORED_COLUMNS`."""
    return StoredBlock(BlockHash(row[0]), ModelFingerprint(row[1]), row[2])
