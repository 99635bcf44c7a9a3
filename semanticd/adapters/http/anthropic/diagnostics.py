"""`diagnostics.previous_message_id`: why a prompt left the cache, in Anthropic's words, from our miss report.

A miss is reported against the last prompt of the same conversation. A message that this server did not answer lately is
not found; one of another conversation cannot be compared.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from semanticd.domain.generation import CacheReport
from semanticd.domain.ids import AgentId

_REASONS = {
    "model_changed": "model_changed",
    "system_changed": "system_changed",
    "date_changed": "system_changed",
    "tools_changed": "tools_changed",
    "tools_reordered": "tools_changed",
    "history_changed": "messages_changed",
    "thinking_dropped": "messages_changed",
}
_MAX_MESSAGES = 10_000


class AnsweredMessages:
    """The agent of each recent response, by message id."""

    def __init__(self, *, max_messages: int = _MAX_MESSAGES) -> None:
        self._max_messages = max_messages
        self._agents: OrderedDict[str, AgentId] = OrderedDict()

    def note(self, message_id: str, agent_id: AgentId) -> None:
        """Remember a message."""
        self._agents[message_id] = agent_id
        if len(self._agents) > self._max_messages:
            self._agents.popitem(last=False)

    def diagnose(self, previous_id: str, agent_id: AgentId, cache: CacheReport) -> dict[str, Any] | None:
        """Return the answer's `diagnostics`; None where all that could be reused was."""
        previous = self._agents.get(previous_id)
        if previous is None:
            return {"cache_miss_reason": {"type": "previous_message_not_found"}}
        if cache.miss is None:
            return None
        reason = _REASONS.get(cache.miss.cause)
        if reason is None or previous != agent_id:
            return {"cache_miss_reason": {"type": "unavailable"}}
        return {"cache_miss_reason": {"type": reason, "cache_missed_input_tokens": cache.computed_tokens}}
