"""An agent's parts as JSON documents, and back.

Reading is forgiving where it can be (unknown fields are skipped, missing ones take their defaults, so that an
older or newer version's agents still load) and strict where it must be (a wrong type, or a value that the rest of
the program cannot take, is an error). Text travels as ASCII JSON: a conversation may hold half of a surrogate pair,
which UTF-8 cannot.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from semanticd.domain.agent import Agent, AgentConfig, Turn
from semanticd.domain.agent_bounds import check_agent, check_summary, check_turn
from semanticd.domain.agent_summary import AgentSummary
from semanticd.domain.chat import Message, Part, Role, TextPart, ThinkingPart, ToolCallPart, ToolResultPart
from semanticd.domain.conversation_key import ConversationKey
from semanticd.domain.ids import AgentId, BlockHash, ModelFingerprint
from semanticd.domain.snapshots import Snapshot

FORMAT_VERSION = 1

_PARTS: dict[str, type[Part]] = {
    "text": TextPart,
    "thinking": ThinkingPart,
    "tool_call": ToolCallPart,
    "tool_result": ToolResultPart,
}
_PART_NAMES = {kind: name for name, kind in _PARTS.items()}

DocumentError = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    OverflowError,
    RecursionError,
    msgspec.ValidationError,
)
"""Errors that decoding a damaged document may raise."""


_SnapshotRow = tuple[int, str, str | None, int, bool, int]
"""Position, hash of the state (hex), hash of the tail, bytes, whether it is at a boundary, turn."""


class _Document(msgspec.Struct):
    """The document of `encode_agent` with its types; msgspec accepts no other types."""

    version: int
    created_at: float
    last_used_at: float
    config: AgentConfig
    anonymous: bool
    pinned: bool
    pinned_until: float | None
    model: str | None
    model_id: str
    num_turns: int
    lengths: dict[str, int]
    kept_until: float | None = None
    salt: str = ""
    conversation: ConversationKey | None = None
    snapshots: tuple[_SnapshotRow, ...] = ()


class _MessageDocument(msgspec.Struct):
    """The document of `encode_message`."""

    role: Role
    parts: list[dict[str, Any]]


def encode_agent(agent: Agent) -> bytes:
    """Return an agent without its lists (transcript, messages, turns, blocks), but with their lengths."""
    return _pack(
        {
            "version": FORMAT_VERSION,
            "created_at": agent.created_at,
            "last_used_at": agent.last_used_at,
            "config": msgspec.to_builtins(agent.config),
            "anonymous": agent.anonymous,
            "pinned": agent.pinned,
            "pinned_until": agent.pinned_until,
            "kept_until": agent.kept_until,
            "model": agent.model,
            "model_id": agent.model_id,
            "num_turns": agent.num_turns,
            "salt": agent.salt,
            "conversation": None if agent.conversation is None else msgspec.to_builtins(agent.conversation),
            "snapshots": [_encode_snapshot(one) for one in agent.snapshots],
            "lengths": lengths(agent),
        }
    )


def lengths(agent: Agent) -> dict[str, int]:
    """Return how long each of an agent's lists is."""
    return {
        "segments": len(agent.transcript.segments),
        "messages": len(agent.messages),
        "turns": len(agent.turns),
        "blocks": len(agent.block_table),
    }


def decode_agent(agent_id: AgentId, data: bytes) -> tuple[Agent, Mapping[str, int]]:
    """Return an agent without its lists, and the lengths they must have.

    Raises:
        DocumentError: The document cannot be decoded (one of the tuple).
    """
    document = msgspec.convert(_unpack(data), _Document)
    if document.version != FORMAT_VERSION:
        raise ValueError(f"agent format version {document.version} is not known")
    agent = Agent(
        agent_id=agent_id,
        created_at=document.created_at,
        last_used_at=document.last_used_at,
        config=document.config,
        anonymous=document.anonymous,
        pinned=document.pinned,
        pinned_until=document.pinned_until,
        kept_until=document.kept_until,
        model=None if document.model is None else ModelFingerprint(document.model),
        model_id=document.model_id,
        num_turns=document.num_turns,
        salt=document.salt,
        conversation=document.conversation,
        snapshots=tuple(map(_decode_snapshot, document.snapshots)),
    )
    check_agent(agent)
    return agent, document.lengths


def encode_summary(summary: AgentSummary) -> bytes:
    """Return an agent's summary without its id."""
    document = msgspec.to_builtins(summary)
    del document["agent_id"]
    return _pack(document)


def decode_summary(agent_id: AgentId, data: bytes) -> AgentSummary:
    """Undo `encode_summary`.

    Raises:
        DocumentError: The document cannot be decoded (one of the tuple).
    """
    summary = msgspec.convert({**_unpack(data), "agent_id": agent_id}, AgentSummary)
    check_summary(summary)
    return summary


def _encode_snapshot(snapshot: Snapshot) -> list[object]:
    tail = None if snapshot.tail is None else snapshot.tail.hex()
    numbers = (snapshot.num_bytes, snapshot.at_boundary, snapshot.turn)
    return [snapshot.position, snapshot.state.hex(), tail, *numbers]


def _decode_snapshot(row: _SnapshotRow) -> Snapshot:
    position, state, tail, num_bytes, at_boundary, turn = row
    return Snapshot(
        position=position,
        state=BlockHash(bytes.fromhex(state)),
        tail=None if tail is None else BlockHash(bytes.fromhex(tail)),
        num_bytes=num_bytes,
        at_boundary=at_boundary,
        turn=turn,
    )


def encode_turn(turn: Turn) -> bytes:
    """Return one turn."""
    return _pack(msgspec.to_builtins(turn))


def decode_turn(data: bytes) -> Turn:
    """Undo `encode_turn`.

    Raises:
        DocumentError: The document cannot be decoded (one of the tuple).
    """
    turn = msgspec.convert(_unpack(data), Turn)
    check_turn(turn)
    return turn


def encode_message(message: Message) -> bytes:
    """Return one message; each part carries its type's name."""
    parts = [{"type": _PART_NAMES[type(part)], **msgspec.to_builtins(part)} for part in message.parts]
    return _pack({"role": message.role, "parts": parts})


def decode_message(data: bytes) -> Message:
    """Undo `encode_message`.

    Raises:
        DocumentError: The document cannot be decoded (one of the tuple).
    """
    document = msgspec.convert(_unpack(data), _MessageDocument)
    parts = tuple(msgspec.convert(part, _PARTS[part["type"]]) for part in document.parts)
    return Message(role=document.role, parts=parts)


def _pack(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode("ascii")


def _unpack(data: bytes) -> dict[str, Any]:
    document = json.loads(data)
    if not isinstance(document, dict):
        raise TypeError("the document is not a map")
    return document
