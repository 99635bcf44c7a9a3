"""Agent exports: the port of an adapter that writes and reads these files.

The methods block: they are called from a worker thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from semanticd.application.ports.warm_store import BlockRecord
from semanticd.domain.agent import Agent
from semanticd.domain.ids import BlockHash


@dataclass(frozen=True, slots=True)
class ExportWritten:
    """The contents of a written export."""

    num_bytes: int
    num_blocks: int
    num_missing: int
    """Blocks that the agent names and that were gone: they are computed again after the import."""


@dataclass(frozen=True, slots=True)
class ExportedAgent:
    """The contents of a checked export, except its blocks."""

    agent: Agent
    layout: str
    """Layout of its blocks; empty when it has none."""
    num_blocks: int


class AgentExportFile(Protocol):
    """Writes and reads an agent with its blocks as one checksummed file."""

    def write(
        self, path: str, agent: Agent, names: list[BlockHash], records: Iterable[BlockRecord | None]
    ) -> ExportWritten:
        """Write the file, whole or not at all; `records` come in the order of `names`, None where one is gone.

        Raises:
            InvalidRequestError: The path is not possible.
            ConflictError: There is something else at the path.
            CacheError: The disk refuses the file.
        """

    def read(self, path: str) -> ExportedAgent:
        """Check the whole file.

        Raises:
            CacheError: The file is not valid; the message has the cause and the remedy.
        """

    def records(self, path: str) -> Iterator[BlockRecord]:
        """Yield the blocks of a file that was checked, parents first.

        Raises:
            CacheError: As in `read`.
        """
