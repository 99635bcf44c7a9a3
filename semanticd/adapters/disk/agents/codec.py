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
from semanticd.domain.chat import Message, Part, TextPart, ThinkingPart, ToolCallPart, ToolResultPart
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
"""What decoding a broken document may raise."""


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
    """Return an agent without its lists, and the lengths they must have. Raises one of `DocumentError`."""
    document = _unpack(data)
    if document["version"] != FORMAT_VERSION:
        raise ValueError(f"agent format version {document['version']} is not known")
    model, conversation = document["model"], document.get("conversation")
    agent = Agent(
        agent_id=agent_id,
        created_at=float(document["created_at"]),
        last_used_at=float(document["last_used_at"]),
        config=msgspec.convert(document["config"], AgentConfig),
        anonymous=bool(document["anonymous"]),
        pinned=bool(document["pinned"]),
        pinned_until=document["pinned_until"],
        kept_until=document.get("kept_until"),
        model=None if model is None else ModelFingerprint(str(model)),
        model_id=str(document["model_id"]),
        num_turns=int(document["num_turns"]),
        salt=str(document.get("salt", "")),
        conversation=None if conversation is None else msgspec.convert(conversation, ConversationKey),
        snapshots=tuple(map(_decode_snapshot, document.get("snapshots", ()))),
    )
    check_agent(agent)
    return agent, msgspec.convert(document["lengths"], dict[str, int])


def encode_summary(summary: AgentSummary) -> bytes:
    """Return an agent's summary without its id."""
    document = msgspec.to_builtins(summary)
    del document["agent_id"]
    return _pack(document)


def decode_summary(agent_id: AgentId, data: bytes) -> AgentSummary:
    """Undo `encode_summary`. Raises one of `DocumentError`."""
    summary = msgspec.convert({**_unpack(data), "agent_id": agent_id}, AgentSummary)
    check_summary(summary)
    return summary


def _encode_snapshot(snapshot: Snapshot) -> list[object]:
    tail = None if snapshot.tail is None else snapshot.tail.hex()
    numbers = (snapshot.num_bytes, snapshot.at_boundary, snapshot.turn)
    return [snapshot.position, snapshot.state.hex(), tail, *numbers]


def _decode_snapshot(document: list[Any]) -> Snapshot:
    position, state, tail, num_bytes, at_boundary, turn = document
    return Snapshot(
        position=int(position),
        state=BlockHash(bytes.fromhex(state)),
        tail=None if tail is None else BlockHash(bytes.fromhex(tail)),
        num_bytes=int(num_bytes),
        at_boundary=bool(at_boundary),
        turn=int(turn),
    )


def encode_turn(turn: Turn) -> bytes:
    """Return one turn."""
    return _pack(msgspec.to_builtins(turn))


def decode_turn(data: bytes) -> Turn:
    """Undo `encode_turn`. Raises one of `DocumentError`."""
    turn = msgspec.convert(_unpack(data), Turn)
    check_turn(turn)
    return turn


def encode_message(message: Message) -> bytes:
    """Return one message; each part carries its type's name."""
    parts = [{"type": _PART_NAMES[type(part)], **msgspec.to_builtins(part)} for part in message.parts]
    return _pack({"role": message.role, "parts": parts})


def decode_message(data: bytes) -> Message:
    """Undo `encode_message`. Raises one of `DocumentError`."""
    document = _unpack(data)
    parts = tuple(msgspec.convert(part, _PARTS[part["type"]]) for part in document["parts"])
    role = document["role"]
    if role not in ("system", "user", "assistant", "tool"):
        raise ValueError(f"role {role!r} is not known")
    return Message(role=role, parts=parts)


def _pack(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode("ascii")


def _unpack(data: bytes) -> dict[str, Any]:
    document = json.loads(data)
    if not isinstance(document, dict):
        raise TypeError("the document is not a map")
    return document
