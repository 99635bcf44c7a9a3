"""The rule for agent ids from every source: HTTP, the control socket, files."""

from __future__ import annotations

import re

from semanticd.domain.errors import InvalidRequestError
from semanticd.domain.ids import AgentId

MAX_AGENT_ID_CHARACTERS = 128
AGENT_ID_PATTERN = f"[A-Za-z0-9][A-Za-z0-9._:@+=-]{{0,{MAX_AGENT_ID_CHARACTERS - 1}}}"
"""Pattern of an id, which is safe in a URL, on a command line and in a log."""

RESERVED_AGENT_IDS = ("stats", "import")
"""Ids that are paths of the agent API."""

_SAFE_ID = re.compile(AGENT_ID_PATTERN)


def is_agent_id(value: str) -> bool:
    """Return whether a value has the form of an id; this includes reserved ids."""
    return _SAFE_ID.fullmatch(value) is not None


def checked_agent_id(value: str, *, param: str) -> AgentId:
    """Return the value as an agent id.

    Raises:
        InvalidRequestError: The value cannot stand in a URL.
    """
    if not is_agent_id(value):
        raise InvalidRequestError(
            f"an agent id is 1 to {MAX_AGENT_ID_CHARACTERS} letters, digits and . _ : @ + = -, "
            "and begins with a letter or digit",
            param=param,
        )
    if value in RESERVED_AGENT_IDS:
        raise InvalidRequestError(
            f"{value!r} is a path of the agent API and cannot be an agent's id", param=param
        )
    return AgentId(value)


def stand_in(request_id: str) -> str:
    """Return what stands for a request without an agent where agents' ids stand too: no agent can have this name."""
    return f"\0{request_id}"
