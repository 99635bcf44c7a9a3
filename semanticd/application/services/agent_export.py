"""AgentExporter: agent exports, that is an agent and its blocks in one file, written and read.

Blocks travel one at a time, or a few at a time, alongside the answers that run: the engine only copies one out
between two steps, and the event loop waits for nothing.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from semanticd.application.cache.agent_cache_store import AgentCacheStore
from semanticd.application.engine.loop import BlockPoolBatchEngine
from semanticd.application.ports.agent_export import AgentExportFile, ExportedAgent
from semanticd.application.ports.inference import LoadedModel
from semanticd.application.ports.telemetry import Clock
from semanticd.application.ports.warm_store import BlockRecord
from semanticd.domain.agent import Agent
from semanticd.domain.agent_name import checked_agent_id
from semanticd.domain.block import hash_block
from semanticd.domain.errors import AgentExportError, CacheError, InvalidRequestError
from semanticd.domain.ids import AgentId, BlockHash
from semanticd.domain.transcript import outside_vocabulary
from semanticd.domain.whole_text import has_half

_IMPORT_BYTES = 64 * 1024 * 1024
"""Tensor bytes that an import reads before it hands them to the store."""


@dataclass(frozen=True, slots=True)
class AgentExport:
    """A written agent export: its size, its blocks, and the number of missing ones."""

    id: AgentId
    path: str
    bytes: int
    num_blocks: int
    num_missing_blocks: int


@dataclass(frozen=True, slots=True)
class AgentImport:
    """An agent that is known here now, and how many of its export's blocks were kept."""

    agent: Agent
    num_kept: int
    num_blocks: int


class AgentExporter:
    """Exports and imports agents of one engine; asyncio thread."""

    def __init__(
        self,
        *,
        engine: BlockPoolBatchEngine,
        store: AgentCacheStore,
        clock: Clock,
        export_file: AgentExportFile | None = None,
        why_none: str = "this daemon keeps no files (cache folder switched off): it cannot export or import",
    ) -> None:
        """Without an `export_file` every call is refused, with the reason `why_none`."""
        self._why_none = why_none
        self._engine = engine
        self._store = store
        self._clock = clock
        self._file = export_file

    async def export(self, agent: Agent, path: str) -> AgentExport:
        """Write an agent export at an absolute path; blocks that are gone are left out and counted.

        Raises:
            SemanticError: As in `AgentExportFile.write`.
        """
        file = self._need_file()
        store = self._store
        names = await asyncio.wrap_future(self._engine.call(lambda: _names_to_move(store, agent.block_table)))

        def records() -> Iterator[BlockRecord | None]:
            # Asked for one by one, so that neither the engine nor the memory is taken by a long conversation.
            for name in names:
                yield self._engine.call(partial(store.record, name)).result().result()

        written = await asyncio.to_thread(file.write, path, agent, names, records())
        return AgentExport(
            id=agent.agent_id,
            path=path,
            bytes=written.num_bytes,
            num_blocks=written.num_blocks,
            num_missing_blocks=written.num_missing,
        )

    async def import_(
        self, path: str, *, new_id: str | None, check_free: Callable[[AgentId], None], trust: bool = False
    ) -> AgentImport:
        """Read an agent export and keep its blocks; the agent, unpinned and as just used, is for the caller to keep.

        A file's tensors and ids are its maker's word. Unless an administrator says `trust`, they are kept below a root
        of the agent's own, where no other agent's prompt finds them, and every text must be what its ids decode to.
        `check_free` raises when an id is taken; it may read the archive.

        Raises:
            AgentExportError: The file is damaged, or its model, or that model in this layout, is not loaded here, or
                its token ids are not the model's or not those of their text.
            CacheError: The file cannot be read, or this daemon keeps none.
        """
        file = self._need_file()
        exported = await asyncio.to_thread(file.read, path)
        model = self._check_importable(exported)
        await asyncio.to_thread(_check_transcript, exported.agent, model, trust=trust)
        agent_id = checked_agent_id(new_id, param="new_id") if new_id else exported.agent.agent_id
        _check_id(agent_id)
        await asyncio.to_thread(check_free, agent_id)
        agent, records = exported.agent, file.records(path)
        names: dict[BlockHash, BlockHash] = {}
        if model is not None and not trust:
            agent = replace(agent, salt=secrets.token_hex(16))
            spec = model.runner.spec
            names[spec.root_of(exported.agent.salt)] = spec.root_of(agent.salt)
            records = _rerooted(records, names)
        num_kept = 0
        while batch := await asyncio.to_thread(_take, records, _IMPORT_BYTES):
            num_kept += await self._adopt(batch)
        now = self._clock.wall()
        if agent.salt != exported.agent.salt:
            table = tuple(names[name] for name in exported.agent.block_table if name in names)
            agent = replace(agent, block_table=table)
        agent = replace(
            agent,
            agent_id=agent_id,
            last_used_at=now,
            pinned=False,
            pinned_until=None,
            anonymous=False,
            snapshots=(),  # only their names count, and those are in the table
        )
        return AgentImport(agent, num_kept, exported.num_blocks)

    def _check_importable(self, exported: ExportedAgent) -> LoadedModel | None:
        agent = exported.agent
        if agent.model is None:
            return None
        loaded = {model.fingerprint: model for model in self._engine.models.values()}
        if agent.model not in loaded:
            here = ", ".join(f"{m.model_id} ({_short(name)})" for name, m in loaded.items()) or "none"
            raise AgentExportError(
                f"cannot import agent {agent.agent_id!r}: its blocks were computed by {agent.model_id} "
                f"({_short(agent.model)}), loaded here: {here}; load exactly that model first",
                param="path",
            )
        layout = loaded[agent.model].runner.spec.layout
        if exported.layout not in ("", layout):
            raise AgentExportError(
                f"cannot import agent {agent.agent_id!r}: its blocks are laid out as {exported.layout}, this "
                f"daemon's as {layout}; start it with the same SEMANTIC_MLX_KV_BITS and "
                "SEMANTIC_MLX_BLOCK_TOKENS, on the same kind of chip and with the same mlx and mlx-lm",
                param="path",
            )
        return loaded[agent.model]

    async def _adopt(self, batch: list[BlockRecord]) -> int:
        store = self._store
        result = await asyncio.wrap_future(store.adopt(batch))
        refused = set(result.refused)
        left = [record for record in batch if record.block.block_hash in refused]
        num_hot = 0
        if left:
            num_hot = await asyncio.wrap_future(self._engine.call(lambda: sum(map(store.promote, left))))
        return result.num_written + result.num_present + num_hot

    def _need_file(self) -> AgentExportFile:
        if self._file is None:
            raise CacheError(self._why_none)
        return self._file


def _check_id(agent_id: AgentId) -> None:
    try:
        checked_agent_id(agent_id, param="path")
    except InvalidRequestError as error:
        raise AgentExportError(
            f"cannot import an agent with the id {agent_id[:80]!r}: {error.message}; give it another (`--as`, `?id=`, "
            "`new_id`)",
            param="path",
        ) from None


def _check_transcript(agent: Agent, model: LoadedModel | None, *, trust: bool) -> None:
    """Refuse ids that the model does not have, even from a trusted file, and ids of another text than they stand by."""

    def refused(at: int, reason: str) -> AgentExportError:
        return AgentExportError(
            f"cannot import agent {agent.agent_id!r}: segment {at} of its transcript {reason}; export the agent again",
            param="path",
        )

    if model is None:
        if agent.transcript.segments or agent.block_table:
            raise refused(0, "belongs to no model")
        return
    tokenizer = model.tokenizer
    for at, segment in enumerate(agent.transcript.segments):
        bad = outside_vocabulary(segment.token_ids, tokenizer.vocab_size)
        if bad is not None:
            raise refused(
                at, f"has token id {bad}, and the model's vocabulary ends at {tokenizer.vocab_size - 1}"
            )
        if trust:
            continue
        decoded = tokenizer.decode(segment.token_ids)
        # Not every tokenizer gives a text back as it was, so the text's own ids may be asked what they decode to.
        # None takes half of a surrogate pair.
        if decoded != segment.text and (
            has_half(segment.text) or decoded != tokenizer.decode(tokenizer.encode(segment.text))
        ):
            raise refused(
                at,
                "has token ids that decode to a different text (an administrator can import it with `--trust`)",
            )


def _rerooted(records: Iterator[BlockRecord], names: dict[BlockHash, BlockHash]) -> Iterator[BlockRecord]:
    """Yield blocks under the names that they have below another root, and note old and new in `names`.

    A block is left out where the one before it was: no prompt would find it.
    """
    for record in records:
        block = record.block
        parent = names.get(block.parent)
        if parent is None:
            continue
        name = hash_block(
            fingerprint=record.fingerprint,
            layout=record.layout,
            parent=parent,
            token_ids=block.token_ids,
            kind=block.kind,
        )
        names[block.block_hash] = name
        yield replace(record, block=replace(block, block_hash=name, parent=parent))


def _take(records: Iterator[BlockRecord], num_bytes: int) -> list[BlockRecord]:
    """Return the next records, up to this number of tensor bytes, but at least one if any are left."""
    taken: list[BlockRecord] = []
    for record in records:
        taken.append(record)
        num_bytes -= record.block.num_bytes
        if num_bytes <= 0:
            break
    return taken


def _short(fingerprint: str) -> str:
    return f"fingerprint {fingerprint[:12]}…"


def _names_to_move(store: AgentCacheStore, table: Sequence[BlockHash]) -> list[BlockHash]:
    """Return a table's blocks and the snapshots behind them, parents first."""
    found: dict[BlockHash, None] = {}
    with store.lock:
        for name in table:
            states = [child.block_hash for child in store.children(name) if child.kind == "state"]
            found |= dict.fromkeys([name, *states])
    return list(found)
