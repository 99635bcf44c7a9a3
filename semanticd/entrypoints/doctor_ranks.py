"""The doctor's check of ranks: which machines of the hostfile have joined, and what to do where one is missing."""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from semanticd.adapters.config import Settings
from semanticd.adapters.ranks.hosts import Hosts, read_hosts
from semanticd.application.ports.ranks import RankFacts
from semanticd.domain.errors import ConfigurationError
from semanticd.domain.memory_plan import DeviceMemory
from semanticd.entrypoints.findings import Finding

_SKIPPED = "skipped: "


def check_ranks(settings: Settings, facts: Sequence[RankFacts] | None) -> list[Finding]:
    """Return what is found of the ranks; nothing where this machine computes alone.

    `facts` are the running daemon's; None: there is no daemon, and only the hostfile can be judged.
    """
    if settings.distributed.hosts is None:
        return []
    if facts is None:
        return [_hostfile(settings)]
    missing = [one for one in facts if one.state == "missing"]
    if not missing:
        return [_all_joined(facts)]
    found = []
    if joined := [one for one in facts if one.state != "missing"]:
        found.append(Finding("ranks", "ok", f"joined: {_named(joined)}"))
    reasons = Counter(one.last_failure for one in missing if one.last_failure)
    shared = [reason for reason, number in reasons.items() if number > 1]
    # A formation that ended for no single rank's fault failed for all of them.
    found += [Finding("ranks", "error", f"lost: {reason}", "see `semanticd logs`") for reason in shared]
    for one in missing:
        own = replace(one, last_failure=None) if one.last_failure in shared else one
        found.append(_missing(settings, own, first=facts[0].address))
    return found


def memory_of_all(settings: Settings, device: DeviceMemory) -> DeviceMemory:
    """Return the memory that a model may take: this machine's, for each machine of the hostfile."""
    distributed = settings.distributed
    if distributed.hosts is None:
        return device
    with contextlib.suppress(ConfigurationError):  # another finding has the reason
        hosts = read_hosts(distributed.hosts, ring_port=distributed.ring_port, join_port=distributed.port)
        return device.times(hosts.world_size)
    return device


def why_no_generation(settings: Settings, facts: Sequence[RankFacts] | None) -> Finding | None:
    """Return why the doctor cannot ask for tokens because of the ranks; None: they do not prevent it."""
    if settings.distributed.hosts is None:
        return None
    if facts is None:
        return Finding(
            "generation",
            "warning",
            f"{_SKIPPED}several machines compute the model",
            "start the daemon and its workers, and run `semanticd doctor` again",
        )
    missing = [one for one in facts if one.state == "missing"]
    if missing:
        return Finding(
            "generation",
            "warning",
            f"{_SKIPPED}the model needs all {len(facts)} machines; missing: {_named(missing)}",
            "start them as described under `ranks`",
        )
    return None


def _missing(settings: Settings, one: RankFacts, *, first: str) -> Finding:
    text = f"rank {one.rank} ({one.address}) has not joined" + (
        f": {one.last_failure}" if one.last_failure else ""
    )
    facts = {"rank": one.rank, "address": one.address}
    if one.rank == 0:
        advice = "the daemon starts it by itself; if it has not joined in a minute, read `semanticd logs`"
        return Finding("ranks", "error", text, advice, facts)
    advice = (
        f"on {one.address}, run `semanticd worker {first}:{settings.distributed.port} --rank {one.rank}` with this "
        "daemon's SEMANTIC_DISTRIBUTED_KEY; if it runs already, do what it prints"
    )
    return Finding("ranks", "error", text, advice, facts)


def _all_joined(facts: Sequence[RankFacts]) -> Finding:
    if all(one.state == "ready" for one in facts):
        return Finding("ranks", "ok", f"all {len(facts)} machines compute: {_named(facts)}")
    why = next((one.last_failure for one in facts if one.last_failure), None)
    text = f"all {len(facts)} machines have joined, and no model is loaded"
    if why is None:
        return Finding("ranks", "ok", text)
    return Finding("ranks", "warning", f"{text}: {why}", "`semanticd status` shows when it is loaded again")


def _named(ranks: Sequence[RankFacts]) -> str:
    return ", ".join(f"rank {one.rank} ({one.address})" for one in ranks)


def _hostfile(settings: Settings) -> Finding:
    distributed = settings.distributed
    assert distributed.hosts is not None, "the caller has looked"
    try:
        hosts = read_hosts(distributed.hosts, ring_port=distributed.ring_port, join_port=distributed.port)
    except ConfigurationError as error:
        return Finding("ranks", "error", error.message, "correct the hostfile; see docs/distributed.md")
    if not _is_own(hosts):
        return Finding(
            "ranks",
            "error",
            f"{hosts.first_ip}, the first address of {distributed.hosts}, is not an address of this machine",
            "put this machine first, with its address in the network of the others",
        )
    return Finding(
        "ranks",
        "ok",
        f"{distributed.hosts} names {hosts.world_size} machines; a running daemon knows which of them have joined",
    )


def _is_own(hosts: Hosts) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((hosts.first_ip, 0))
        except OSError:
            return False
    return True
