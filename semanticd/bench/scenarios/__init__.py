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
    "cold_ttft": "time to the first token of a prompt that the server has never seen, by length",
    "warm_ttft": "the same for the next turn of a conversation, by the length that it already has",
    "restart_ttft": "the same after the server was restarted (needs --restart-command)",
    "agents": "agents in turn, sharing a system prompt: whole time, and the later turns' first tokens",
    "concurrent_decode": "several answers at once: tokens per second together, and the gaps within one",
    "interference": "what a decoding agent keeps while another's long prompt is computed",
    "cancel": "first token of a short request after another client dropped a long prompt",
    "swap": "how long a request waits while another model is made the current one (needs --swap-command)",
}
"""Every scenario's name and what it measures."""


class Skipped(Exception):  # noqa: N818 (a decision, no error)
    """The scenario cannot be measured here; the message says why."""


def scenario(name: str) -> Scenario:
    """Return a scenario of the table."""
    return cast("Scenario", importlib.import_module(f"semanticd.bench.scenarios.{name}").run)
