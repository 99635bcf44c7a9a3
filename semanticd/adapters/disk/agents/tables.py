"""The agents' database: small rows per agent, and text segments stored once, whichever agents use them.

Unlike the block index it is the only copy of what it holds, so every transaction is durable before it counts
(`synchronous=FULL`, and a full flush of the drive on macOS). A save writes what changed since the last one:
new segments, new turns, new messages, the changed end of the block table, and one short row.
"""

# ruff: noqa: S608 (queries are put together from this file's constants only; values are always bound)

from __future__ import annotations

import hashlib
import json
import sqlite3
import struct
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from semanticd.adapters.disk.agents import codec as agent_document
from semanticd.adapters.disk.files.database import connect, schema_version, transaction
from semanticd.adapters.disk.files.folder import private_file
from semanticd.adapters.disk.files.placement import FilePlace
from semanticd.domain.agent import Agent
from semanticd.domain.agent_bounds import MAX_COUNT, MAX_TIME, count_or_nothing, time_or_nothing
from semanticd.domain.agent_name import MAX_AGENT_ID_CHARACTERS, RESERVED_AGENT_IDS
from semanticd.domain.agent_summary import AgentOrder, AgentQuery, AgentSummary, summary_of
from semanticd.domain.errors import CacheError
from semanticd.domain.ids import AgentId, BlockHash
from semanticd.domain.transcript import Segment, Transcript

SCHEMA_VERSION = 2

_AGENTS = """
CREATE TABLE agents(
  id INTEGER PRIMARY KEY, agent_id TEXT NOT NULL UNIQUE, last_used_at REAL NOT NULL, created_at REAL NOT NULL,
  expires_at REAL, anonymous INTEGER NOT NULL, pinned INTEGER NOT NULL, model_id TEXT NOT NULL,
  num_tokens INTEGER NOT NULL, num_turns INTEGER NOT NULL, summary BLOB NOT NULL, document BLOB NOT NULL);
CREATE INDEX agents_by_use ON agents(last_used_at DESC, agent_id);
CREATE INDEX agents_by_creation ON agents(created_at DESC, agent_id);
CREATE INDEX agents_by_tokens ON agents(num_tokens DESC, agent_id);
CREATE INDEX agents_by_turns ON agents(num_turns DESC, agent_id);
CREATE INDEX agents_by_end ON agents(expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX anonymous_agents ON agents(last_used_at DESC, agent_id) WHERE anonymous = 1;
CREATE INDEX pinned_agents ON agents(agent_id) WHERE pinned = 1;
CREATE TABLE past_blocks(agent_id TEXT NOT NULL, hash BLOB NOT NULL, PRIMARY KEY(agent_id, hash)) WITHOUT ROWID;
CREATE INDEX agents_by_past_block ON past_blocks(hash);
"""

_SCHEMA = f"""
{_AGENTS}
CREATE TABLE segments(
  id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, text BLOB NOT NULL, token_ids BLOB NOT NULL);
CREATE TABLE agent_segments(
  agent INTEGER NOT NULL, position INTEGER NOT NULL, segment INTEGER NOT NULL,
  PRIMARY KEY(agent, position)) WITHOUT ROWID;
CREATE INDEX agents_by_segment ON agent_segments(segment);
CREATE TABLE agent_blocks(
  agent INTEGER NOT NULL, position INTEGER NOT NULL, hash BLOB NOT NULL,
  PRIMARY KEY(agent, position)) WITHOUT ROWID;
CREATE INDEX agents_by_block ON agent_blocks(hash);
CREATE TABLE agent_messages(
  agent INTEGER NOT NULL, position INTEGER NOT NULL, document BLOB NOT NULL, PRIMARY KEY(agent, position));
CREATE TABLE agent_turns(
  agent INTEGER NOT NULL, position INTEGER NOT NULL, document BLOB NOT NULL, PRIMARY KEY(agent, position));
PRAGMA user_version = {SCHEMA_VERSION};
"""

PAGES: Mapping[AgentOrder, tuple[str, str]] = {
    "used": ("-last_used_at", "last_used_at DESC, agent_id"),
    "created": ("-created_at", "created_at DESC, agent_id"),
    "tokens": ("-num_tokens", "num_tokens DESC, agent_id"),
    "turns": ("-num_turns", "num_turns DESC, agent_id"),
    "name": ("0.0", "agent_id"),
}
"""For each order its value, as `sort_key` has it, and how SQLite sorts."""
EXPIRED = "SELECT agent_id FROM agents WHERE expires_at <= ? LIMIT ?"
_LONGEST_UNUSED = "ORDER BY last_used_at, agent_id DESC"
"""The index of anonymous agents, from its end."""
SURPLUS = (
    f"SELECT agent_id FROM agents WHERE anonymous = 1 {_LONGEST_UNUSED}"
    " LIMIT min(?, max(0, (SELECT count(*) FROM agents WHERE anonymous = 1) - ?))"
)
UNUSED = f"SELECT agent_id FROM agents WHERE anonymous = 1 AND last_used_at <= ? {_LONGEST_UNUSED} LIMIT ?"
PINNED = "SELECT agent_id FROM agents WHERE pinned = 1"
HOLDERS = (
    "SELECT a.agent_id FROM agent_blocks b JOIN agents a ON a.id = b.agent WHERE b.hash = ?"
    " UNION SELECT agent_id FROM past_blocks WHERE hash = ?"
)
OWN_BLOCKS = (
    "WITH mine(hash) AS (SELECT b.hash FROM agents a JOIN agent_blocks b ON b.agent = a.id WHERE a.agent_id = :agent"
    " UNION SELECT hash FROM past_blocks WHERE agent_id = :agent)"
    " SELECT hash FROM mine WHERE NOT EXISTS(SELECT 1 FROM past_blocks p WHERE p.hash = mine.hash"
    " AND p.agent_id <> :agent) AND NOT EXISTS(SELECT 1 FROM agent_blocks b JOIN agents a ON a.id = b.agent"
    " WHERE b.hash = mine.hash AND a.agent_id <> :agent)"
)


def page_query(query: AgentQuery) -> tuple[str, list[object]]:
    """Return the query for a page of summaries without the cursor's and the limit's values, and the filters' values."""
    where = ["1"]
    values: list[object] = []
    for condition, value in (
        ("instr(agent_id, ?)", query.name),
        ("model_id = ?", query.model_id),
        ("anonymous = ?", query.anonymous),
        ("pinned = ?", query.pinned),
        *(("instr(lower(agent_id || ' ' || model_id), lower(?))", word) for word in query.words),
    ):
        if value is not None:
            where.append(condition)
            values.append(value)
    if query.among is not None:
        where.append("agent_id IN (SELECT value FROM json_each(?))")
        values.append(json.dumps(sorted(query.among)))
    return " AND ".join(where), values


@dataclass(frozen=True, slots=True)
class StoredSummary:
    """A stored summary."""

    summary: AgentSummary
    error: str = ""
    """Reason why the stored record is unreadable; the summary then has only the values of the other columns."""


_T = TypeVar("_T")
_HASH_BYTES = 32
_SUMMARY = "agent_id, last_used_at, created_at, anonymous, pinned, model_id, num_tokens, num_turns, summary"

_ODD_IDS = (
    "SELECT id, CAST(agent_id AS BLOB) FROM agents WHERE typeof(agent_id) <> 'text'"
    f" OR length(CAST(agent_id AS BLOB)) NOT BETWEEN 1 AND {MAX_AGENT_ID_CHARACTERS}"
    " OR length(agent_id) <> length(CAST(agent_id AS BLOB))"
    " OR agent_id GLOB '*[^A-Za-z0-9._:@+=-]*' OR agent_id NOT GLOB '[A-Za-z0-9]*'"
    f" OR agent_id IN ({', '.join(repr(one) for one in RESERVED_AGENT_IDS)})"
)
"""Agents whose id no request could name."""
_SORTED = {"last_used_at": ("real", MAX_TIME), "created_at": ("real", MAX_TIME)}
_SORTED |= {"num_tokens": ("integer", MAX_COUNT), "num_turns": ("integer", MAX_COUNT)}
"""Columns by which lists are sorted: their type, and the largest value."""

# Pages of documents are read once: of 2 MiB of them, as SQLite keeps of its own accord, none is asked for again.
_PRAGMAS: dict[str, str | int] = {
    "synchronous": "FULL",
    "fullfsync": 1,
    "checkpoint_fullfsync": 1,
    "cache_size": -512,
}


class AgentTables:
    """Agents in SQLite. Methods raise `sqlite3.Error`; safe to call from any thread."""

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
            if version == 1:
                self._migrate()
                version = SCHEMA_VERSION
            if version not in (0, SCHEMA_VERSION):
                raise sqlite3.DatabaseError(f"schema version {version} is not {SCHEMA_VERSION}")
            if version == 0:
                self._writer.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
            self.renamed = self._mend()
            self._reader = connect(path, _PRAGMAS)
            # One damaged name must not hide all others.
            self._reader.text_factory = _readable
        except (sqlite3.Error, CacheError):
            self._writer.close()
            raise

    def _mend(self) -> dict[str, AgentId]:
        """Make each agent one that can be listed in order, named and deleted; returns new ids by the old ones.

        Earlier versions took over what a forged file said. It reads indexes only.
        """
        renamed: dict[str, AgentId] = {}
        with transaction(self._writer):
            for row_id, old in self._writer.execute(_ODD_IDS).fetchall():
                new = AgentId(f"renamed-{hashlib.sha256(old).hexdigest()[:16]}")
                self._writer.execute("UPDATE OR REPLACE agents SET agent_id = ? WHERE id = ?", (new, row_id))
                self._writer.execute(
                    "UPDATE OR REPLACE past_blocks SET agent_id = ? WHERE CAST(agent_id AS BLOB) = ?",
                    (new, old),
                )
                renamed[_readable(old)] = new
            for column, (kind, largest) in _SORTED.items():
                self._writer.execute(
                    f"UPDATE agents SET {column} = 0 WHERE typeof({column}) <> ? OR {column} NOT BETWEEN 0 AND ?",
                    (kind, largest),
                )
        return renamed

    def _migrate(self) -> None:
        """Bring a database of version 1 up to date: summaries are made from the documents."""
        with transaction(self._writer):
            self._writer.execute("ALTER TABLE agents RENAME TO old_agents")
            self._writer.execute("DROP INDEX agents_by_use")
            for statement in _AGENTS.split(";"):
                self._writer.execute(statement)
            for row_id, agent_id, used_at, document in self._writer.execute(
                "SELECT id, agent_id, last_used_at, document FROM old_agents"
            ).fetchall():
                try:
                    summary = _summary_from(self._writer, row_id, AgentId(agent_id), document)
                except agent_document.DocumentError:
                    summary = AgentSummary(AgentId(agent_id), used_at, used_at)
                self._writer.execute(_INSERT, (row_id, *_row(summary), document))
            self._writer.execute("DROP TABLE old_agents")
            self._writer.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def close(self) -> None:
        """Close both connections. Idempotent."""
        with self._writing, self._reading:
            self._reader.close()
            self._writer.close()

    def ids(self) -> dict[AgentId, float]:
        """Return all agents with when each was last used."""
        rows = self._ask("SELECT agent_id, last_used_at FROM agents")
        return {AgentId(agent_id): last_used_at for agent_id, last_used_at in rows}

    def pinned(self) -> list[AgentId]:
        """Return the agents that are or were pinned."""
        return [AgentId(agent_id) for (agent_id,) in self._ask(PINNED)]

    def holders(self, block_hash: BlockHash) -> list[AgentId]:
        """Return the agents that name a block, in their table or among the blocks of their past."""
        return [AgentId(agent_id) for (agent_id,) in self._ask(HOLDERS, block_hash, block_hash)]

    def page(
        self, query: AgentQuery, *, without: Iterable[AgentId]
    ) -> tuple[list[StoredSummary], int, tuple[float, str] | None]:
        """Return one page and one agent more where there is one, how many agents there are, and the cursor's sort key.

        Agents in `without` are left out. The key is None where the query has no cursor, or its agent is not stored.
        """
        where, values = page_query(query)
        left_out = list(without)
        if left_out:
            where += " AND agent_id NOT IN (SELECT value FROM json_each(?))"
            values.append(json.dumps(left_out))
        value, order = PAGES[query.order]
        with self._reading:
            (number,) = self._reader.execute(f"SELECT count(*) FROM agents WHERE {where}", values).fetchone()
            after = None
            if query.after is not None:
                after = self._reader.execute(
                    f"SELECT {value}, agent_id FROM agents WHERE agent_id = ?", (query.after,)
                ).fetchone()
            if after is not None:
                where += f" AND ({value}, agent_id) > (?, ?)"
                values += after
            limit = -1 if query.limit is None else query.limit + 1
            rows = self._reader.execute(
                f"SELECT {_SUMMARY} FROM agents WHERE {where} ORDER BY {order} LIMIT ?",
                (*values, limit),
            ).fetchall()
        return [_stored_summary(*row) for row in rows], number, after

    def own_blocks(self, agent_id: AgentId) -> list[BlockHash]:
        """Return the blocks that this agent names, or named before, and no other does."""
        with self._reading:
            rows = self._reader.execute(OWN_BLOCKS, {"agent": agent_id}).fetchall()
        return [BlockHash(name) for (name,) in rows if _is_hash(name)]

    def note_blocks(self, blocks: Iterable[tuple[AgentId, BlockHash]]) -> None:
        """Note that agents made blocks.

        This survives the end of the process, and is durable with the next save: it is done before each write of blocks.
        """
        with self._writing:
            self._writer.execute("PRAGMA synchronous = NORMAL")
            try:
                with transaction(self._writer):
                    self._writer.executemany("INSERT OR IGNORE INTO past_blocks VALUES (?, ?)", blocks)
            finally:
                self._writer.execute("PRAGMA synchronous = FULL")

    def forget_blocks(self, blocks: Iterable[BlockHash], *, agent_id: AgentId | None = None) -> None:
        """Forget which agent made these blocks, or that this one did: they are gone."""
        query = "DELETE FROM past_blocks WHERE hash = :hash AND (:agent IS NULL OR agent_id = :agent)"
        with self._writing, transaction(self._writer):
            self._writer.executemany(query, [{"hash": name, "agent": agent_id} for name in blocks])

    def forget_all_past_blocks(self) -> None:
        """Forget which agents made which blocks: all blocks are gone."""
        with self._writing, transaction(self._writer):
            self._writer.execute("DELETE FROM past_blocks")

    def scrub(self) -> None:
        """Empty the log, in which deleted rows may still be read."""
        with self._writing:
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def summary(self, agent_id: AgentId) -> StoredSummary | None:
        """Return an agent's summary, None if there is none."""
        rows = self._ask(f"SELECT {_SUMMARY} FROM agents WHERE agent_id = ?", agent_id)
        return _stored_summary(*rows[0]) if rows else None

    def block_tables(self, agents: Sequence[AgentId]) -> dict[AgentId, tuple[BlockHash, ...]]:
        tables: dict[AgentId, list[BlockHash]] = {agent_id: [] for agent_id in agents}
        for agent_id, block_hash in self._ask(
            "SELECT a.agent_id, b.hash FROM json_each(?) j JOIN agents a ON a.agent_id = j.value"
            " JOIN agent_blocks b ON b.agent = a.id ORDER BY j.key, b.position",
            json.dumps(list(agents)),
        ):
            if _is_hash(block_hash):
                tables[AgentId(agent_id)].append(BlockHash(block_hash))
        return {agent_id: tuple(table) for agent_id, table in tables.items()}

    def first_blocks(self) -> dict[AgentId, BlockHash | None]:
        """Return each stored agent's first block."""
        rows = self._ask(
            "SELECT a.agent_id, b.hash FROM agents a LEFT JOIN agent_blocks b ON b.agent = a.id AND b.position = 0"
        )
        return {AgentId(agent_id): BlockHash(name) if _is_hash(name) else None for agent_id, name in rows}

    def expired(self, now: float, *, limit: int) -> list[AgentId]:
        """Return agents whose time to live has ended."""
        return [AgentId(agent_id) for (agent_id,) in self._ask(EXPIRED, now, limit)]

    def surplus_anonymous(self, *, used_before: float, max_agents: int, limit: int) -> list[AgentId]:
        """Return anonymous agents not used since a time, then the longest unused ones beyond a number."""
        rows = [*self._ask(UNUSED, used_before, limit), *self._ask(SURPLUS, limit, max_agents)]
        return [AgentId(agent_id) for (agent_id,) in dict.fromkeys(rows)][:limit]

    def load(self, agent_id: AgentId) -> Agent | None:
        """Return a stored agent, None if there is none.

        Raises:
            DocumentError: The agent is unreadable (one of the tuple).
        """
        with self._reading:
            self._reader.execute("BEGIN")  # one state for all tables
            try:
                return _load(self._reader, agent_id)
            finally:
                self._reader.execute("COMMIT")

    def _ask(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._reading:
            return self._reader.execute(query, values).fetchall()

    def save(self, agent: Agent, *, known: Agent | None) -> None:
        """Store an agent durably; `known` is its stored state (None: nothing, or unreadable)."""
        with self._writing, transaction(self._writer):
            if known is None:
                self._delete(agent.agent_id)
            self._writer.execute(
                f"{_INSERT} ON CONFLICT(agent_id) DO UPDATE SET {_UPDATED}",
                (None, *_row(summary_of(agent)), agent_document.encode_agent(agent)),
            )
            query = "SELECT id FROM agents WHERE agent_id = ?"
            (row_id,) = self._writer.execute(query, (agent.agent_id,)).fetchone()
            self._save_lists(row_id, agent, known or _without_lists(agent))

    def _save_lists(self, row_id: int, agent: Agent, known: Agent) -> None:
        old, new = known.transcript.segments, agent.transcript.segments
        same = _num_same(old, new)
        if same < len(old):
            self._drop_segments(row_id, same)
        links = [(row_id, at, self._segment_id(new[at])) for at in range(same, len(new))]
        self._writer.executemany("INSERT INTO agent_segments VALUES (?, ?, ?)", links)
        past = set(known.block_table) - set(agent.block_table)
        self._writer.executemany(
            "INSERT OR IGNORE INTO past_blocks VALUES (?, ?)", [(agent.agent_id, name) for name in past]
        )
        self._save_tail("agent_blocks", row_id, known.block_table, agent.block_table, bytes)
        self._save_tail(
            "agent_messages", row_id, known.messages, agent.messages, agent_document.encode_message
        )
        self._save_turns(row_id, agent, known)

    def _save_tail(
        self, table: str, row_id: int, old: Sequence[_T], new: Sequence[_T], encode: Callable[[_T], bytes]
    ) -> None:
        same = _num_same(old, new)
        if same < len(old):
            self._writer.execute(f"DELETE FROM {table} WHERE agent = ? AND position >= ?", (row_id, same))
        rows = [(row_id, at, encode(new[at])) for at in range(same, len(new))]
        self._writer.executemany(f"INSERT INTO {table} VALUES (?, ?, ?)", rows)

    def _save_turns(self, row_id: int, agent: Agent, known: Agent) -> None:
        # Turns are numbered from the agent's first, so that dropping the oldest rewrites nothing.
        stored = {known.num_turns - len(known.turns) + at: turn for at, turn in enumerate(known.turns)}
        first = agent.num_turns - len(agent.turns)
        changed = [
            (row_id, first + at, agent_document.encode_turn(turn))
            for at, turn in enumerate(agent.turns)
            if stored.get(first + at) != turn
        ]
        self._writer.execute(
            "DELETE FROM agent_turns WHERE agent = ? AND (position < ? OR position >= ?)",
            (row_id, first, agent.num_turns),
        )
        self._writer.executemany("INSERT OR REPLACE INTO agent_turns VALUES (?, ?, ?)", changed)

    def _segment_id(self, segment: Segment) -> int:
        text, token_ids = _segment_bytes(segment)
        digest = _digest(text, token_ids)
        self._writer.execute(
            "INSERT OR IGNORE INTO segments(digest, text, token_ids) VALUES (?, ?, ?)",
            (digest, text, token_ids),
        )
        row = self._writer.execute("SELECT id FROM segments WHERE digest = ?", (digest,)).fetchone()
        return int(row[0])

    def delete(self, agent_id: AgentId) -> None:
        """Forget an agent and the segments that no other agent uses."""
        with self._writing, transaction(self._writer):
            self._delete(agent_id)
            self._writer.execute("DELETE FROM past_blocks WHERE agent_id = ?", (agent_id,))

    def _delete(self, agent_id: AgentId) -> None:
        row = self._writer.execute("SELECT id FROM agents WHERE agent_id = ?", (agent_id,)).fetchone()
        if row is None:
            return
        self._drop_segments(row[0], 0)
        for table in ("agent_blocks", "agent_messages", "agent_turns"):
            self._writer.execute(f"DELETE FROM {table} WHERE agent = ?", row)
        self._writer.execute("DELETE FROM agents WHERE id = ?", row)

    def _drop_segments(self, row_id: int, first: int) -> None:
        where = "WHERE agent = ? AND position >= ?"
        used = self._writer.execute(
            f"SELECT DISTINCT segment FROM agent_segments {where}", (row_id, first)
        ).fetchall()
        self._writer.execute(f"DELETE FROM agent_segments {where}", (row_id, first))
        self._writer.executemany(
            "DELETE FROM segments WHERE id = ?"
            " AND id NOT IN (SELECT segment FROM agent_segments WHERE segment = ?)",
            [(segment, segment) for (segment,) in used],
        )


_COLUMNS = (
    "last_used_at",
    "created_at",
    "expires_at",
    "anonymous",
    "pinned",
    "model_id",
    "num_tokens",
    "num_turns",
    "summary",
    "document",
)
_INSERT = f"INSERT INTO agents(id, agent_id, {', '.join(_COLUMNS)}) VALUES ({', '.join('?' * 12)})"
_UPDATED = ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS)


def _row(summary: AgentSummary) -> tuple[object, ...]:
    """Return an agent's columns from its id to its summary."""
    return (
        summary.agent_id,
        summary.last_used_at,
        summary.created_at,
        summary.expires_at,
        summary.anonymous,
        summary.may_be_pinned,
        summary.model_id,
        summary.num_tokens,
        summary.num_turns,
        agent_document.encode_summary(summary),
    )


def _stored_summary(agent_id: str, used_at: float, created_at: float, *columns: Any) -> StoredSummary:
    anonymous, pinned, model_id, num_tokens, num_turns, data = columns
    # Sort keys come from the columns: a summary with other values would make a paged list skip agents.
    known = AgentSummary(
        AgentId(agent_id),
        time_or_nothing(created_at),
        time_or_nothing(used_at),
        num_tokens=count_or_nothing(num_tokens),
        num_turns=count_or_nothing(num_turns),
    )
    try:
        summary = agent_document.decode_summary(known.agent_id, data)
    except agent_document.DocumentError as error:
        # One broken row must not hide all others, nor its own agent.
        known = replace(known, anonymous=bool(anonymous), pinned=bool(pinned), model_id=model_id)
        return StoredSummary(known, repr(error))
    summary = replace(
        summary,
        created_at=known.created_at,
        last_used_at=known.last_used_at,
        num_tokens=known.num_tokens,
        num_turns=known.num_turns,
    )
    return StoredSummary(summary)


def _summary_from(
    connection: sqlite3.Connection, row_id: int, agent_id: AgentId, document: bytes
) -> AgentSummary:
    """Return the summary of an agent of which only the document and the lists are stored."""
    agent, lengths = agent_document.decode_agent(agent_id, document)
    (num_bytes,) = connection.execute(
        "SELECT total(length(s.token_ids)) FROM agent_segments a JOIN segments s ON s.id = a.segment"
        " WHERE a.agent = ?",
        (row_id,),
    ).fetchone()
    last = connection.execute(
        "SELECT document FROM agent_turns WHERE agent = ? ORDER BY position DESC LIMIT 1", (row_id,)
    ).fetchone()
    if last is not None:
        agent = replace(agent, turns=(agent_document.decode_turn(last[0]),))
    return replace(summary_of(agent), num_tokens=int(num_bytes) // 4, num_blocks=lengths["blocks"])


def _without_lists(agent: Agent) -> Agent:
    return replace(agent, transcript=Transcript(), messages=(), block_table=(), turns=())


def _load(connection: sqlite3.Connection, agent_id: AgentId) -> Agent | None:
    query = "SELECT id, document FROM agents WHERE agent_id = ?"
    row = connection.execute(query, (agent_id,)).fetchone()
    if row is None:
        return None
    row_id, document = row
    agent, lengths = agent_document.decode_agent(agent_id, document)

    def column(table: str) -> list[bytes]:
        query = f"SELECT * FROM {table} WHERE agent = ? ORDER BY position"
        return [row[2] for row in connection.execute(query, (row_id,))]

    segments = connection.execute(
        "SELECT s.digest, s.text, s.token_ids FROM agent_segments a JOIN segments s ON s.id = a.segment"
        " WHERE a.agent = ? ORDER BY a.position",
        (row_id,),
    ).fetchall()
    agent = replace(
        agent,
        transcript=Transcript(tuple(_segment(*row) for row in segments)),
        messages=tuple(agent_document.decode_message(data) for data in column("agent_messages")),
        block_table=tuple(BlockHash(data) for data in column("agent_blocks") if _is_hash(data)),
        turns=tuple(agent_document.decode_turn(data) for data in column("agent_turns")),
    )
    if agent_document.lengths(agent) != lengths:
        raise ValueError(f"parts are missing: {agent_document.lengths(agent)} instead of {dict(lengths)}")
    return agent


def _is_hash(value: object) -> bool:
    return isinstance(value, bytes) and len(value) == _HASH_BYTES


def _readable(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _segment_bytes(segment: Segment) -> tuple[bytes, bytes]:
    return segment.text.encode("utf-8", "surrogatepass"), segment.packed_ids


def _segment(digest: bytes, text: bytes, token_ids: bytes) -> Segment:
    # Text with another text's tokens would be the worst of all mistakes, so this is checked at every load.
    if _digest(text, token_ids) != digest:
        raise ValueError("a segment's text or tokens are not what was stored")
    return Segment(text.decode("utf-8", "surrogatepass"), token_ids)


def _digest(text: bytes, token_ids: bytes) -> bytes:
    return hashlib.sha256(struct.pack("<Q", len(text)) + text + token_ids).digest()


def _num_same(old: Sequence[object], new: Sequence[object]) -> int:
    """Return how many leading items are the same."""
    for position, (a, b) in enumerate(zip(old, new, strict=False)):
        if a is not b and a != b:
            return position
    return min(len(old), len(new))
