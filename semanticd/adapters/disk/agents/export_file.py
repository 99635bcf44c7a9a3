"""DiskAgentExportFile: agent exports, one file with an agent and its blocks that another machine can import.

The file is specified in docs/formats/agent-export.md. Rule: nothing that a file says is believed before the checksum
over all of its bytes agreed, and every block is checked once more by its own name and checksum when it is read.
Blocks pass through one at a time; neither writing nor reading holds the file in memory.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import msgspec

from semanticd.adapters.disk.agents import codec as agent_codec
from semanticd.adapters.disk.blocks import codec as block_file
from semanticd.adapters.disk.files.atomic import FileSystem, NewFile, write_group
from semanticd.adapters.disk.files.database import is_out_of_room
from semanticd.application.ports.agent_export import ExportedAgent, ExportWritten
from semanticd.application.ports.warm_store import BlockRecord
from semanticd.control.private_files import REGULAR, kind_of
from semanticd.domain.agent import MAX_TURNS_KEPT, Agent, Turn
from semanticd.domain.agent_bounds import (
    OutOfBoundsError,
    check_arguments,
    check_config,
    check_summary,
)
from semanticd.domain.agent_summary import summary_of
from semanticd.domain.chat import Message, ToolCallPart
from semanticd.domain.errors import (
    AgentExportError,
    CacheError,
    ConflictError,
    InvalidRequestError,
    StorageFullError,
)
from semanticd.domain.ids import AgentId, BlockHash
from semanticd.domain.json_text import parse_json_text
from semanticd.domain.limits import LIMITS
from semanticd.domain.transcript import Segment, Transcript
from semanticd.domain.whole_text import has_half

FORMAT_VERSION = 1
MAGIC = b"semanticd.agent\n"

_HEAD = struct.Struct("<16sIIQ")  # magic, version, number of block frames, bytes of the manifest
_FRAME = struct.Struct("<Q")
_DIGEST_BYTES = 32
_MAX_MANIFEST_BYTES = 1 << 30
_MAX_NESTING = LIMITS.nesting + 8
"""Levels of the manifest: what a request brought (a tool, a call) lies a few levels inside of it."""
_READ_BYTES = 4 * 1024 * 1024


_BlockName = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]


class _Document(msgspec.Struct):
    """The document of `_encode_manifest` with its types; msgspec accepts no other types, and names the place."""

    agent_id: str
    agent: dict[str, Any]
    segments: list[tuple[str, list[int]]]
    messages: list[dict[str, Any]]
    turns: list[dict[str, Any]]
    block_table: list[_BlockName]
    layout: str
    blocks: list[_BlockName]


@dataclass(frozen=True, slots=True)
class _Manifest:
    """The part of a file before its blocks."""

    agent: Agent
    layout: str
    blocks: tuple[BlockHash, ...]
    first_frame_at: int


class DiskAgentExportFile:
    """`AgentExportFile` in a file of framed block files; callable from any thread but the event loop's."""

    def __init__(self, fs: FileSystem | None = None) -> None:
        self._fs = fs or FileSystem()

    def write(
        self, path: str, agent: Agent, names: list[BlockHash], records: Iterable[BlockRecord | None]
    ) -> ExportWritten:
        """Write the file, whole or not at all; `records` come in the order of `names`, None where one is gone.

        Raises:
            InvalidRequestError: The path is not that of a file in an existing folder.
            ConflictError: Something other than an agent export lies there.
            CacheError: The disk does not take it; StorageFullError (one of them): it has no room.
        """
        target = self._target(Path(path))
        writing = _Writing(agent, names)
        try:
            write_group(self._fs, [NewFile(target, writing.pieces(records))])
        except OSError as error:
            kind = StorageFullError if is_out_of_room(error, folder=target.parent) else CacheError
            raise kind(
                f"cannot write agent {agent.agent_id!r} to {target}: {error.strerror or error}; "
                "make room, or choose another folder"
            ) from error
        return ExportWritten(writing.num_bytes, writing.num_blocks, writing.num_missing)

    def _target(self, path: Path) -> Path:
        _check_name(str(path))
        if not path.is_absolute():
            raise InvalidRequestError(f"cannot write to {path}: give an absolute path", param="path")
        try:
            if not path.parent.is_dir():
                raise InvalidRequestError(
                    f"cannot write to {path}: there is no folder {path.parent}; create it first", param="path"
                )
            if path.is_symlink() or path.exists():
                # A mistyped name must not cost a file; an earlier export may be replaced.
                start = b"" if path.is_dir() or path.is_symlink() else self._fs.read_start(path, len(MAGIC))
                if not start or (start[1] and start[0] != MAGIC):
                    raise ConflictError(
                        f"cannot write to {path}: something is there that is not an agent export; "
                        "choose another name or remove it"
                    )
        except OSError as error:
            raise CacheError(f"cannot write to {path}: {error.strerror or error}") from error
        return path

    def read(self, path: str) -> ExportedAgent:
        """Check every byte of the file and return its contents, without its blocks.

        Raises:
            AgentExportError: It is damaged, cut off, no such file, or of a newer version.
            CacheError: It cannot be read.
        """
        with self._opened(path) as file:
            _check_bytes(file, path)
            manifest = _read_manifest(file, path)
            _check_frames(file, manifest, path)
        return ExportedAgent(manifest.agent, manifest.layout, len(manifest.blocks))

    def records(self, path: str) -> Iterator[BlockRecord]:
        """Yield the file's blocks, parents first, each checked; call `read` before.

        Raises:
            CacheError: A block is broken or the file cannot be read, as in `read`.
        """
        with self._opened(path) as file:
            manifest = _read_manifest(file, path)
            file.seek(manifest.first_frame_at)
            for name in manifest.blocks:
                (num_bytes,) = _FRAME.unpack(_exactly(file, _FRAME.size, path))
                if num_bytes == 0:
                    continue
                try:
                    record = block_file.decode(_exactly(file, num_bytes, path), expected=name)
                except block_file.BrokenBlockError as error:
                    raise _refused(path, f"block {name.hex()} in it is broken: {error}") from error
                if record.fingerprint != manifest.agent.model or record.layout != manifest.layout:
                    raise _refused(path, f"block {name.hex()} in it belongs to another model or layout")
                yield record

    def _opened(self, path: str) -> _Opened:
        return _Opened(path, self._fs)


def _check_name(path: str) -> None:
    if "\0" in path:
        raise InvalidRequestError(f"a file name cannot contain a zero byte: {path!r}", param="path")


class _Opened:
    """A file open for reading, its errors translated."""

    def __init__(self, path: str, fs: FileSystem) -> None:
        self._path = path
        self._fs = fs

    def __enter__(self) -> BinaryIO:
        _check_name(self._path)
        if not Path(self._path).is_absolute():
            # A relative path is the client's, whose working directory the daemon does not know.
            raise InvalidRequestError(f"cannot import {self._path}: give an absolute path", param="path")
        try:
            # Not `Path.resolve`: a link that leads to itself is no `OSError` there.
            path = Path(os.path.realpath(self._path, strict=True))
            # Opened, a device may do something, and a pipe waits for its other end.
            if (kind := kind_of(path.stat().st_mode)) != REGULAR:
                raise AgentExportError(f"cannot import {self._path}: it is {kind}, not a file", param="path")
            self._file: BinaryIO = io.BufferedReader(self._fs.open_regular(path))
        except FileNotFoundError as error:
            raise AgentExportError(
                f"cannot import {self._path}: there is no such file", param="path"
            ) from error
        except OSError as error:
            raise CacheError(f"cannot import {self._path}: {error.strerror or error}") from error
        return self._file

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._file.close()
        if isinstance(error, OSError):
            raise CacheError(f"cannot import {self._path}: {error.strerror or error}") from error


class _Writing:
    """One file's bytes, produced while they are written, with their totals."""

    def __init__(self, agent: Agent, names: list[BlockHash]) -> None:
        self._agent = agent
        self._names = names
        self._digest = hashlib.sha256()
        self.num_bytes = 0
        self.num_blocks = 0
        self.num_missing = 0

    def pieces(self, records: Iterable[BlockRecord | None]) -> Iterator[bytes | memoryview]:
        """Yield head, manifest, frames and checksum."""
        coming = iter(records)
        # The layout stands in the manifest, and the first block that is there knows it.
        waiting: list[BlockRecord | None] = []
        layout = ""
        for record in coming:
            waiting.append(record)
            if record is not None:
                layout = record.layout
                break
        manifest = _encode_manifest(self._agent, self._names, layout)
        yield self._out(_HEAD.pack(MAGIC, FORMAT_VERSION, len(self._names), len(manifest)))
        yield self._out(manifest)
        while waiting:
            yield from self._frame(waiting.pop(0))
        for record in coming:
            yield from self._frame(record)
        digest = self._digest.digest()
        self.num_bytes += len(digest)
        yield digest

    def _frame(self, record: BlockRecord | None) -> Iterator[bytes | memoryview]:
        if record is None:
            self.num_missing += 1
            yield self._out(_FRAME.pack(0))
            return
        encoded = block_file.encode(record)
        self.num_blocks += 1
        yield self._out(_FRAME.pack(encoded.num_bytes))
        for piece in encoded.pieces:
            yield self._out(piece)

    def _out(self, piece: bytes | memoryview) -> bytes | memoryview:
        self._digest.update(piece)
        self.num_bytes += len(piece)
        return piece


def _encode_manifest(agent: Agent, names: list[BlockHash], layout: str) -> bytes:
    document = {
        "agent_id": agent.agent_id,
        "agent": json.loads(agent_codec.encode_agent(agent)),
        "segments": [[segment.text, segment.token_ids] for segment in agent.transcript.segments],
        "messages": [json.loads(agent_codec.encode_message(message)) for message in agent.messages],
        "turns": [json.loads(agent_codec.encode_turn(turn)) for turn in agent.turns],
        "block_table": [name.hex() for name in agent.block_table],
        "layout": layout,
        "blocks": [name.hex() for name in names],
    }
    # ASCII, because text may hold half of a surrogate pair, which UTF-8 cannot carry.
    return json.dumps(document, separators=(",", ":")).encode("ascii")


def _check_bytes(file: BinaryIO, path: str) -> None:
    """Raise unless the file is an agent export of a known version, and every byte is as it was written."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(_HEAD.size)
    if head[: len(MAGIC)] != MAGIC[: len(head)] or not head:
        raise _refused(path, "it is not an agent export")
    if len(head) < _HEAD.size or size < _HEAD.size + _DIGEST_BYTES:
        raise _refused(path, f"it is cut off after {size} bytes")
    _, version, _, _ = _HEAD.unpack(head)
    if version != FORMAT_VERSION:
        raise _refused(
            path,
            f"it has format version {version}, this semanticd knows {FORMAT_VERSION} only",
            cure="update semanticd, or copy the file again in case it is damaged",
        )
    digest = hashlib.sha256(head)
    left = size - _HEAD.size - _DIGEST_BYTES
    while left:
        piece = file.read(min(left, _READ_BYTES))
        if not piece:
            raise _refused(path, "it was truncated while it was read")
        digest.update(piece)
        left -= len(piece)
    if file.read(_DIGEST_BYTES) != digest.digest():
        raise _refused(path, "it is damaged or truncated: its checksum does not match its content")


def _read_manifest(file: BinaryIO, path: str) -> _Manifest:
    file.seek(0)
    _, _, num_blocks, num_bytes = _HEAD.unpack(_exactly(file, _HEAD.size, path))
    if num_bytes > _MAX_MANIFEST_BYTES:
        raise _refused(path, f"its manifest claims {num_bytes} bytes, more than {_MAX_MANIFEST_BYTES}")
    data = _exactly(file, num_bytes, path)
    try:
        document = msgspec.convert(parse_json_text(data, max_nesting=_MAX_NESTING, finite=False), _Document)
        agent = _decode_agent(document)
        blocks = _hashes(document.blocks)
        if len(blocks) != num_blocks:
            raise ValueError("the list of blocks does not match the head")
        if has_half(document.layout):
            raise OutOfBoundsError("layout holds half of a surrogate pair")
    except (msgspec.ValidationError, OutOfBoundsError) as error:
        raise _refused(path, f"in its manifest, {error}") from error
    except agent_codec.DocumentError as error:
        raise _refused(path, f"its manifest cannot be read: {error!r}") from error
    return _Manifest(agent, document.layout, blocks, _HEAD.size + num_bytes)


def _check_frames(file: BinaryIO, manifest: _Manifest, path: str) -> None:
    """Raise unless the frames end where the checksum begins: bytes that belong to no part are refused."""
    end = os.fstat(file.fileno()).st_size - _DIGEST_BYTES
    at = manifest.first_frame_at
    for _ in manifest.blocks:
        file.seek(at)
        (num_bytes,) = _FRAME.unpack(_exactly(file, _FRAME.size, path))
        at += _FRAME.size + num_bytes
        if at > end:
            raise _refused(path, "it ends unexpectedly")
    if at != end:
        raise _refused(path, f"it has {end - at} unexpected bytes after its last block")


def _hashes(names: list[str]) -> tuple[BlockHash, ...]:
    return tuple(BlockHash(bytes.fromhex(name)) for name in names)


def _decode_agent(document: _Document) -> Agent:
    with _named("agent"):
        agent, lengths = agent_codec.decode_agent(AgentId(document.agent_id), _encoded(document.agent))
        check_config(agent.config)
    segments = (Segment(text, ids) for text, ids in document.segments)
    agent = replace(
        agent,
        transcript=Transcript(tuple(segments)),
        messages=tuple(_decode_message(at, part) for at, part in enumerate(document.messages)),
        turns=tuple(_decode_turn(at, part) for at, part in enumerate(document.turns)),
        block_table=_hashes(document.block_table),
    )
    if agent_codec.lengths(agent) != lengths:
        raise ValueError("parts of the agent are missing")
    if agent.num_turns < len(agent.turns):
        raise OutOfBoundsError(f"agent.num_turns is {agent.num_turns}, fewer than the turns in the file")
    if len(agent.turns) > MAX_TURNS_KEPT:
        raise OutOfBoundsError(f"turns are {len(agent.turns)}, more than {MAX_TURNS_KEPT}")
    # Listed values are computed from the last turn, and may overflow although the turn's own numbers do not.
    with _named("turns[-1]"):
        check_summary(summary_of(agent))
    return agent


def _decode_turn(at: int, document: object) -> Turn:
    with _named(f"turns[{at}]"):
        return agent_codec.decode_turn(_encoded(document))


def _decode_message(at: int, document: object) -> Message:
    with _named(f"messages[{at}]"):
        message = agent_codec.decode_message(_encoded(document))
    for part in message.parts:
        if isinstance(part, ToolCallPart):
            check_arguments(part, f"messages[{at}].arguments")
    return message


def _encoded(part: object) -> bytes:
    return json.dumps(part).encode("ascii")


@contextmanager
def _named(part: str) -> Iterator[None]:
    """Add the part of the manifest to the error about a value out of bounds or of another type."""
    try:
        yield
    except OutOfBoundsError as error:
        raise OutOfBoundsError(f"{part}.{error}") from None
    except msgspec.ValidationError as error:
        raise msgspec.ValidationError(f"{part}: {error}") from None


def _exactly(file: BinaryIO, num_bytes: int, path: str) -> bytes:
    # Asked before reading: a length that is too large must not make us allocate it.
    if num_bytes > os.fstat(file.fileno()).st_size - file.tell():
        raise _refused(path, "it ends unexpectedly")
    return file.read(num_bytes)


def _refused(
    path: str, reason: str, *, cure: str = "copy the file again or export the agent again"
) -> AgentExportError:
    return AgentExportError(f"cannot import {path}: {reason}; {cure}", param="path")
