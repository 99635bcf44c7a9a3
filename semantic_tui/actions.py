"""Texts of the actions: labels, questions, confirmations and reports. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

AGENT_ACTIONS: Mapping[str, str] = {
    "pin": "Pin or unpin",
    "fork": "Fork",
    "rewind": "Rewind",
    "evict": "Evict to disk",
    "cancel": "Cancel requests of",
    "export": "Export",
    "delete": "Delete",
}
"""Actions on an agent, as the palette calls them."""
MODEL_ACTIONS: Mapping[str, str] = {
    "swap": "Swap to",
    "load": "Load",
    "unload": "Unload",
    "pull": "Pull",
}
_DONE: Mapping[str, str] = {
    "agents.pin": "{} is pinned: its blocks stay in RAM.",
    "agents.unpin": "{} is no longer pinned.",
    "agents.fork": "{} was forked.",
    "agents.rewind": "{} was rewound.",
    "agents.evict": "The blocks of {} are on disk.",
    "agents.delete": "{} was deleted.",
    "agents.export": "{} was exported.",
    "models.swap": "{} is the current model.",
    "models.load": "{} is loaded.",
    "models.unload": "{} was unloaded.",
    "models.pull": "{} was pulled.",
    "requests.cancel": "The request was cancelled.",
}
_FAILED: Mapping[str, str] = {
    "agents.pin": "{} could not be pinned",
    "agents.unpin": "{} could not be unpinned",
    "agents.fork": "{} could not be forked",
    "agents.rewind": "{} could not be rewound",
    "agents.evict": "{} could not be evicted",
    "agents.delete": "{} could not be deleted",
    "agents.export": "{} could not be exported",
    "agents.say": "{} did not answer",
    "models.swap": "Swapping to {} failed",
    "models.load": "{} could not be loaded",
    "models.unload": "{} could not be unloaded",
    "models.pull": "{} could not be pulled",
    "requests.cancel": "The request could not be cancelled",
}


def done_text(cmd: str, args: Mapping[str, Any]) -> str:
    """Return the confirmation of a command."""
    text = _DONE.get(cmd, f"{cmd}: done").format(_object(args))
    if cmd == "agents.export":
        text += f" File: {args.get('path')}."
    return text


def failed_text(cmd: str, args: Mapping[str, Any]) -> str:
    """Return what could not be done; the reason is shown below it."""
    return _FAILED.get(cmd, f"{cmd} failed").format(_object(args))


def _object(args: Mapping[str, Any]) -> str:
    return str(args.get("agent") or args.get("model") or args.get("request") or "")


def question(action: str, agent: str) -> tuple[str, str, str]:
    """Return the title, the question and the suggested answer of an action that needs a word."""
    if action == "fork":
        return f"Fork {agent}", "Id of the copy; empty: generated. The copy shares all blocks.", ""
    if action == "rewind":
        return f"Rewind {agent}", "Number of turns to forget; the rest stays cached.", "1"
    path = str(Path.cwd() / f"{agent}.agent")
    return f"Export {agent}", "Absolute path of the file on the daemon's machine.", path


def arguments(action: str, answer: str) -> Mapping[str, Any]:
    """Return the command's arguments for an answer.

    Raises:
        ValueError: The answer is not a number of turns.
    """
    if action == "fork":
        return {"new_id": answer or None}
    return {"turns": int(answer)} if action == "rewind" else {"path": answer}
