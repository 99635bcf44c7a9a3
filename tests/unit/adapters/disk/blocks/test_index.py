"""The index's queries: each by an index, none by a scan or a sort; and old indexes are brought up to date in place."""

from __future__ import annotations

import gc
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from semanticd.adapters.disk.blocks import index_rows as rows
from semanticd.adapters.disk.blocks.index import BlockIndex
from semanticd.adapters.disk.blocks.index_rows import NewBlock
from semanticd.domain.block import Block
from semanticd.domain.ids import BlockHash, ModelFingerprint
from tests.fakes.sqlite_memory import sqlite_bytes

QUERIES = {
    "get": rows.GET,
    "get many": rows.leading_query(128),
    "sizes": rows.sizes_query(500),
    "children": rows.CHILDREN,
    "stored": rows.STORED,
    "shard": rows.SHARD,
    "has": rows.HAS,
    "names of a model": rows.NAMES,
    "touch": rows.TOUCH,
    "remove": rows.REMOVE,
    "oldest leaves": rows.LEAF_PAGE,
    "a leaf": rows.LEAF_BY_HASH,
    "written today": rows.DAY,
}
V1_PARENTS = (
    "DROP INDEX blocks_by_parent; DROP INDEX block_sizes; CREATE INDEX blocks_by_parent ON blocks(parent);"
)
ROOT = BlockHash(b"\1" * 32)


def plan(connection: sqlite3.Connection, query: str) -> list[str]:
    values = [None] * query.count("?")
    return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}", values)]


def rows_under(parent: BlockHash, number: int) -> list[NewBlock]:
    return [
        NewBlock(
            block=Block(BlockHash(n.to_bytes(32, "big")), parent, (n, 2, 3), 100 + n),
            fingerprint=ModelFingerprint("f" * 64),
            layout="l",
            file_bytes=1000,
            used_at=float(n % 7),
        )
        for n in range(1, number + 1)
    ]


@pytest.mark.parametrize("name", QUERIES)
def test_every_query_goes_by_an_index(name: str, tmp_path: Path) -> None:
    BlockIndex(tmp_path / "index.sqlite").close()
    with closing(sqlite3.connect(tmp_path / "index.sqlite")) as connection:
        steps = plan(connection, QUERIES[name])
    assert steps
    assert all(step.startswith("SEARCH") for step in steps), steps
    assert name != "sizes" or "COVERING INDEX block_sizes" in steps[0], "without reading the rows"


def test_children_come_newest_first_and_sizes_are_those_of_what_is_stored(tmp_path: Path) -> None:
    with closing(BlockIndex(tmp_path / "index.sqlite")) as index:
        index.add(rows_under(ROOT, 1200))
        children = index.children(ROOT)
        assert len(children) == 512
        order = [(int.from_bytes(child.block_hash, "big") % 7) for child in children]
        assert order == sorted(order, reverse=True)
        names = [BlockHash(n.to_bytes(32, "big")) for n in range(1190, 1210)]
        assert index.block_bytes(names) == {
            name: 100 + n for n, name in zip(range(1190, 1201), names, strict=False)
        }
        many = [BlockHash(n.to_bytes(32, "big")) for n in range(1, 1201)]
        assert len(index.block_bytes(many)) == 1200
        assert index.block_bytes([]) == {}


def test_an_index_of_version_1_is_brought_up_to_date_with_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    with closing(BlockIndex(path)) as index:
        index.add(rows_under(ROOT, 3))
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(f"{V1_PARENTS} PRAGMA user_version = 1;")
    with closing(BlockIndex(path)) as index:
        assert not index.is_new
        assert len(index.children(ROOT)) == 3
        assert index.totals().num_blocks == 3
    with closing(sqlite3.connect(path)) as connection:
        assert plan(connection, rows.CHILDREN) == ["SEARCH blocks USING INDEX blocks_by_parent (parent=?)"]


def test_the_pages_of_what_was_written_and_listed_are_freed_at_rest(tmp_path: Path) -> None:
    gc.collect()  # connections that other tests left
    before = sqlite_bytes()
    with closing(BlockIndex(tmp_path / "index.sqlite")) as index:
        index.add(rows_under(ROOT, 20_000))
        assert sum(len(index.shard(f"{number:02x}")) for number in range(256)) == 20_000
        index.sizes()
        assert sqlite_bytes() - before > 5 << 20
        index.rest()
        assert sqlite_bytes() - before < 1 << 20
        assert index.totals().num_blocks == 20_000
