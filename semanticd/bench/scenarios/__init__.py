"""The scenarios, one file each: `run` measures through the session and returns figures.

They run in this order: `cold_ttft` begins the conversations that `warm_ttft` and `restart_ttft` continue.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from semanticd.bench.result import Figure
    from semanticd.bench.session import BenchSession

Scenario = Callable[["BenchSession"], Awaitable["list[Figure]"]]

SCENARIOS: Final[Mapping[str, str]] = {
    "cold_ttft": "time to first token of a prompt that the server has never seen, by prompt length",
    "warm_ttft": "time to first token of the next turn of a conversation, by conversation length",
    "restart_ttft": "time to first token of the next turn after a server restart (needs --restart-command)",
    "agents": "agents that take turns and share a system prompt: total time, and time to first token of later turns",
    "concurrent_decode": "concurrent answers: combined tokens per second, and the gaps between tokens of one answer",
    "interference": "decode rate of one agent during the prefill of another agent's long prompt",
    "cancel": "time to first token of a short request after another client dropped a long prompt",
    "swap": "delay of a request while another model becomes the current one (needs --swap-command)",
}
"""Every scenario's name and what it measures."""


class Skipped(Exception):  # noqa: N818 (a decision, no error)
    """The scenario cannot be measured here; the message says why."""


def scenario(name: str) -> Scenario:
    """Return a scenario of the table."""
    return cast("Scenario", importlib.import_module(f"semanticd.bench.scenarios.{name}").run)
