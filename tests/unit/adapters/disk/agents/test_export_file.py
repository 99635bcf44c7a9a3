"""Agent exports: whole when it comes back, refused when a single byte of it is not what was written."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from semanticd.adapters.disk.agents.export_file import MAGIC, DiskAgentExportFile
from semanticd.application.ports.agent_export import ExportWritten
from semanticd.application.ports.warm_store import BlockRecord
from semanticd.domain.agent import Agent
from semanticd.domain.chat import Message, ToolCallPart
from semanticd.domain.conversation_key import ConversationKey
from semanticd.domain.errors import (
    AgentExportError,
    CacheError,
    ConflictError,
    InvalidRequestError,
    StorageFullError,
)
from semanticd.domain.ids import AgentId, BlockHash
from semanticd.domain.limits import LIMITS
from semanticd.domain.snapshots import Snapshot
from tests.fakes.agent_file import forge
from tests.fakes.agents import full_agent, make_turn
from tests.fakes.blocks import FINGERPRINT, LAYOUT, make_chain, make_record, same
from tests.fakes.disk import FaultyFileSystem

FIXTURE = Path(__file__).resolve().parents[4] / "data" / "disk" / "agent-v1.agent"


def agent_of(chain: list[BlockRecord]) -> Agent:
    names = tuple(record.block.block_hash for record in chain)
    return replace(full_agent(), model=FINGERPRINT, block_table=names)


def export(path: Path, chain: list[BlockRecord], *, agent: Agent | None = None) -> ExportWritten:
    names: list[BlockHash] = [record.block.block_hash for record in chain]
    return DiskAgentExportFile().write(str(path), agent or agent_of(chain), names, iter(chain))


def export_small(path: Path) -> bytearray:
    """Write an agent with one block and nothing else, and return the file's bytes."""
    chain = make_chain(1, num_bytes=64)
    export(path, chain, agent=Agent(AgentId("a"), 1.0, 2.0, model=FINGERPRINT))
    return bytearray(path.read_bytes())


def read_all(path: Path) -> tuple[Agent, list[BlockRecord]]:
    file = DiskAgentExportFile()
    return file.read(str(path)).agent, list(file.records(str(path)))


def test_an_agent_and_its_blocks_come_back_as_they_were(tmp_path: Path) -> None:
    chain = make_chain(3)
    chain.append(make_record((), parent=chain[-1].block.block_hash, kind="state"))
    path = tmp_path / "a.agent"
    written = export(path, chain)
    assert written == ExportWritten(path.stat().st_size, 4, 0)
    exported = DiskAgentExportFile().read(str(path))
    assert (exported.agent, exported.layout, exported.num_blocks) == (agent_of(chain), LAYOUT, 4)
    records = read_all(path)[1]
    assert len(records) == 4
    assert all(same(one, other) for one, other in zip(records, chain, strict=True))


def test_the_file_is_its_owners_alone_and_nothing_else_is_left_beside_it(tmp_path: Path) -> None:
    export(tmp_path / "a.agent", make_chain(1))
    assert [(path.name, path.stat().st_mode & 0o777) for path in tmp_path.iterdir()] == [("a.agent", 0o600)]


def test_an_agent_that_was_never_asked_is_a_file_without_blocks(tmp_path: Path) -> None:
    agent = Agent(AgentId("new"), 1.0, 2.0)
    export(tmp_path / "a.agent", [], agent=agent)
    assert read_all(tmp_path / "a.agent") == (agent, [])


def test_blocks_that_are_gone_are_left_out_and_counted(tmp_path: Path) -> None:
    chain = make_chain(3)
    names = [record.block.block_hash for record in chain]
    path = tmp_path / "a.agent"
    coming = iter([None, chain[1], None])
    written = DiskAgentExportFile().write(str(path), agent_of(chain), names, coming)
    assert (written.num_blocks, written.num_missing) == (1, 2)
    agent, records = read_all(path)
    assert agent == agent_of(chain)
    assert [record.block for record in records] == [chain[1].block]


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.agent"
    data = export_small(path)
    for position in range(len(data)):
        data[position] ^= 0x5A
        path.write_bytes(data)
        with pytest.raises(AgentExportError, match=r"cannot import .*; .*again"):
            DiskAgentExportFile().read(str(path))
        data[position] ^= 0x5A
    path.write_bytes(data)
    assert read_all(path)[1]


def test_a_file_that_is_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.agent"
    data = export_small(path)
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(AgentExportError, match="export the agent again"):
            DiskAgentExportFile().read(str(path))
    path.write_bytes(data + b"\0")
    with pytest.raises(AgentExportError, match="checksum"):
        DiskAgentExportFile().read(str(path))


def test_a_newer_version_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "a.agent"
    path.write_bytes(MAGIC + struct.pack("<IIQ", 2, 0, 0) + b"?" * 100)
    with pytest.raises(
        AgentExportError, match="format version 2, this semanticd knows 1 only; update semanticd"
    ):
        DiskAgentExportFile().read(str(path))


def test_a_block_that_changes_after_the_check_is_noticed_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.agent"
    export(path, make_chain(2))
    DiskAgentExportFile().read(str(path))
    with path.open("r+b") as file:
        file.seek(-40, os.SEEK_END)
        file.write(b"!")
    with pytest.raises(AgentExportError, match="is broken"):
        list(DiskAgentExportFile().records(str(path)))


def test_blocks_of_another_model_are_refused(tmp_path: Path) -> None:
    chain = make_chain(1)
    export(tmp_path / "a.agent", chain, agent=replace(agent_of(chain), model=None))
    with pytest.raises(AgentExportError, match="another model"):
        read_all(tmp_path / "a.agent")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("missing.agent", "there is no such file"),
        ("folder", "it is a folder, not a file"),
        ("pipe", "it is a named pipe, not a file"),
        ("link", "it is a named pipe, not a file"),
        ("socket", "it is a socket, not a file"),
        ("/dev/null", "it is a device, not a file"),
    ],
)
def test_what_is_no_file_cannot_be_imported_and_is_called_what_it_is(
    tmp_path: Path, short_tmp_path: Path, name: str, what: str
) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    path = (short_tmp_path if name == "socket" else tmp_path) / name
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short_tmp_path / "socket"))
        with pytest.raises(AgentExportError, match=f"cannot import {path}: {what}"):
            DiskAgentExportFile().read(str(path))


@pytest.mark.parametrize("path", ["a.agent", "./a.agent", "", "~/a.agent"])
def test_a_path_that_depends_on_where_one_is_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    export(tmp_path / "a.agent", make_chain(1))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidRequestError, match="give an absolute path"):
        DiskAgentExportFile().read(path)


def test_an_earlier_export_and_an_empty_file_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.agent"
    path.touch()
    export(path, make_chain(1))
    export(path, make_chain(3))
    assert len(read_all(path)[1]) == 3


def test_other_files_are_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "thesis.txt"
    path.write_text("years of work")
    (tmp_path / "link").symlink_to(path)
    (tmp_path / "folder").mkdir()
    for name in ("thesis.txt", "link", "folder"):
        with pytest.raises(ConflictError, match="choose another name"):
            export(tmp_path / name, make_chain(1))
    assert path.read_text() == "years of work"


def test_a_path_without_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="create it first"):
        export(tmp_path / "nowhere" / "a.agent", make_chain(1))
    with pytest.raises(InvalidRequestError, match="absolute"):
        export(Path("a.agent"), make_chain(1))


def test_a_full_disk_leaves_the_earlier_export_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.agent"
    export(path, make_chain(1))
    before = path.read_bytes()
    disk = FaultyFileSystem()
    disk.room_bytes = 1000
    chain = make_chain(5)
    with pytest.raises(StorageFullError, match=os.strerror(errno.ENOSPC)):
        DiskAgentExportFile(disk).write(
            str(path), agent_of(chain), [r.block.block_hash for r in chain], iter(chain)
        )
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_of_version_1_loads_for_ever() -> None:
    chain = make_chain(2)
    agent, records = read_all(FIXTURE)
    assert agent == replace(agent_of(chain), agent_id=AgentId("agent/ä")), "an import gives it another id"
    assert len(records) == 1, "the second block was gone when it was written"
    assert same(records[0], chain[0])


@pytest.mark.parametrize(("depth", "is_read"), [(LIMITS.nesting, True), (400, False), (900, False)])
def test_calls_nested_as_deep_as_clients_may_send_come_back(
    tmp_path: Path, depth: int, is_read: bool
) -> None:
    value: Any = 1
    for _ in range(depth - 1):
        value = [value]
    call = ToolCallPart("c1", "look", {"at": value})
    agent = replace(agent_of([]), messages=(Message("assistant", (call,)),))
    export(tmp_path / "a", [], agent=agent)
    if is_read:
        assert read_all(tmp_path / "a")[0].messages == agent.messages
    else:
        with pytest.raises(AgentExportError, match="nested deeper"):
            read_all(tmp_path / "a")


def test_a_path_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    loop = tmp_path / "loop.agent"
    loop.symlink_to(loop)
    with pytest.raises(InvalidRequestError, match="zero byte"):
        export(tmp_path / "a\0.agent", make_chain(1))
    with pytest.raises(InvalidRequestError, match="zero byte"):
        DiskAgentExportFile().read(str(tmp_path / "a\0.agent"))
    with pytest.raises(CacheError, match="symbolic links"):
        DiskAgentExportFile().read(str(loop))


WRONG: dict[type, tuple[Any, ...]] = {
    int: (1.5, 1.0, True, "1", [1], {"a": 1}),
    float: (True, "1.5", [1.5], {"a": 1.5}),
    str: (1, 1.5, True, ["a"], {"a": "b"}),
    bool: (0, 1, 1.0, "true", [True], {"a": True}),
    list: ("ab", 1, 1.5, True, {"a": 1}),
    dict: ("ab", 1, 1.5, True, [["a", 1]]),
    type(None): ([], {"a": 1}, [None]),
}
OR_NOTHING = {
    "pinned_until", "kept_until", "model", "conversation", "ttl_s", "system", "miss", "cut", "wait_reason",
}  # fmt: skip
TAIL = ("snapshots", 0, 2)
FREE = {"arguments", "parameters"}
"""JSON of clients' own: of what is in it, only that it is a mapping."""


def every_field() -> Agent:
    """Return an agent that says something wherever its file has a field."""
    name = BlockHash(b"c" * 32)
    return replace(
        full_agent(),
        model=FINGERPRINT,
        kept_until=7.5,
        salt="s",
        conversation=ConversationKey("head", (1, 2), ("opening",), 2),
        snapshots=(Snapshot(4, name, BlockHash(b"d" * 32), 9, turn=1),),
        turns=(replace(make_turn(1), wait_reason="memory"), make_turn(2)),
    )


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield every field of a document with its value: members, the first element of a list and the last."""
    if path:
        yield path, value
    if isinstance(value, dict) and not (path and path[-1] in FREE):
        for key, item in value.items():
            yield from places(item, (*path, key))
    elif isinstance(value, list):
        for at in sorted({0, len(value) - 1} if value else ()):
            yield from places(value[at], (*path, at))


def test_no_field_of_the_manifest_takes_a_value_of_another_type(tmp_path: Path) -> None:
    path = tmp_path / "a.agent"
    export(path, make_chain(1, num_bytes=64), agent=every_field())
    content, found = path.read_bytes(), []
    forge(path, found.append)
    fields = list(places(found[0]))
    assert len(fields) > 100
    taken, reasons = [], []
    for where, value in fields:
        *outer, last = where
        kind = float if "timings" in outer else type(value)  # a whole one is written without its point
        nothing = () if value is None or last in OR_NOTHING or where[-3:] == TAIL else (None,)
        for wrong in (*WRONG[kind], *nothing):

            def put(manifest: Any) -> None:
                for key in outer:  # noqa: B023 - called before the next round
                    manifest = manifest[key]
                manifest[last] = wrong  # noqa: B023

            path.write_bytes(content)
            forge(path, put)
            try:
                read_all(path)
            except AgentExportError as error:
                reasons.append(error.message)
            else:
                taken.append((where, wrong))
    assert taken == []
    assert [one for one in reasons if "in its manifest" not in one and "cannot be read" not in one] == []


@pytest.mark.parametrize("wrong", [1.5, True, "1", 2.0])
def test_a_token_id_of_another_type_is_refused_and_named(tmp_path: Path, wrong: object) -> None:
    path = tmp_path / "a.agent"
    export(path, make_chain(1, num_bytes=64))
    forge(path, lambda manifest: manifest["segments"][1][1].__setitem__(2, wrong))
    with pytest.raises(
        AgentExportError, match=r"in its manifest, Expected `int`.*\$\.segments\[1\]\[1\]\[2\]"
    ):
        DiskAgentExportFile().read(str(path))


@pytest.mark.parametrize("name", ["61" * 31, "6A" * 32, "61" * 32 + "\n", " " + "61" * 32, ""])
def test_a_blocks_name_has_one_spelling(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.agent"
    export(path, make_chain(1, num_bytes=64))
    forge(path, lambda manifest: manifest["block_table"].__setitem__(0, name))
    with pytest.raises(AgentExportError, match=r"block_table"):
        DiskAgentExportFile().read(str(path))
