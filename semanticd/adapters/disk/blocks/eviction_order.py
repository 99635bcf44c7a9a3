"""The order in which blocks leave: least recently used first, children before their parents."""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Container, Iterator

from semanticd.adapters.disk.blocks.index_rows import LEAF_BY_HASH, LEAF_PAGE, StoredBlock, stored_of
from semanticd.domain.ids import BlockHash


def oldest_leaves(
    connection: sqlite3.Connection, *, spare: Container[BlockHash]
) -> Iterator[tuple[int, StoredBlock]]:
    """Yield leaves, oldest first; the caller removes each before asking for the next."""
    waiting: list[tuple[float, int, bytes, bytes, str, int]] = []
    seen: set[int] = set()
    cursor = (-1e300, -1)
    exhausted = False
    while True:
        while not exhausted and (not waiting or waiting[0][:2] > cursor):
            page = connection.execute(LEAF_PAGE, cursor).fetchall()
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
        row = connection.execute(LEAF_BY_HASH, (parent,)).fetchone()
        if row is not None and row[1] not in seen:
            seen.add(row[1])
            heapq.heappush(waiting, row)
