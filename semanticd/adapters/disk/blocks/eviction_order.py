"""The order in which blocks leave: least recently used first, children before their parents."""

# ruff: noqa: S608 (queries are put together from this file's constants only; values are always bound)

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Container, Iterator

from semanticd.adapters.disk.blocks.index_rows import STORED_COLUMNS, StoredBlock, stored_of
from semanticd.domain.ids import BlockHash


def oldest_leaves(
    connection: sqlite3.Connection, *, spare: Container[BlockHash]
) -> Iterator[tuple[int, StoredBlock]]:
    """Yield leaves, oldest first; the caller removes each before asking for the next."""
    leaf = (
        f"SELECT b.last_used_at, b.id, b.parent, {STORED_COLUMNS} FROM blocks b JOIN models m ON m.id = b.model"
        " WHERE b.num_children = 0"
    )
    waiting: list[tuple[float, int, bytes, bytes, str, int]] = []
    seen: set[int] = set()
    cursor = (-1e300, -1)
    exhausted = False
    while True:
        while not exhausted and (not waiting or waiting[0][:2] > cursor):
            page = connection.execute(
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
        yield block_id, stored_of(stored)
        row = connection.execute(f"{leaf} AND b.hash = ?", (parent,)).fetchone()
        if row is not None and row[1] not in seen:
            seen.add(row[1])
            heapq.heappush(waiting, row)
