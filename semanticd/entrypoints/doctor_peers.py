"""The doctor's check of peers: one finding for each, with the remedy."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from semanticd import __version__
from semanticd.adapters.config import Settings
from semanticd.adapters.peers.probe import PeerTree, Probe, ProbeOutcome, probe
from semanticd.entrypoints.findings import Finding

_ADVICE: dict[ProbeOutcome, str] = {
    "unreachable": "start semanticd there with SEMANTIC_SERVER_HOST=0.0.0.0, and let its port through the firewall; "
    "until then its blocks are computed here",
    "key_refused": "set SEMANTIC_PEER_KEY here to one of the keys in SEMANTIC_API_KEY there",
    "not_allowed": "there, set SEMANTIC_API_KEY, and name this address's host in SEMANTIC_SERVER_ALLOWED_HOSTS",
    "busy": "it is busy; run the doctor again",
    "no_peer": "check that the port is semanticd's: a router in front of it blocks /v1/blocks, and versions before 0.2 "
    "have no peers; give the daemon's own address, and use the same version as here",
}
_SAYS: dict[ProbeOutcome, str] = {
    "unreachable": "cannot be asked",
    "key_refused": "rejects the key",
    "not_allowed": "refuses this machine",
    "busy": "is busy",
    "no_peer": "does not respond as a peer",
}


async def check_peers(settings: Settings, own: Sequence[PeerTree]) -> list[Finding]:
    """Ask all peers at once; `own` are the models that are loaded here."""
    key = settings.security.key_for_peers
    probes = await asyncio.gather(*(probe(url, key=key) for url in settings.agent.peers))
    return [peer_finding(one, own) for one in probes]


def peer_finding(asked: Probe, own: Sequence[PeerTree]) -> Finding:
    """Judge one peer."""
    outcome, facts = asked.outcome, {"address": asked.url, "version": asked.version}
    if outcome != "ready":
        state = "error" if outcome in ("key_refused", "not_allowed") else "warning"
        text = f"{asked.url} {_SAYS[outcome]}: {asked.message}"
        return Finding("peer", "error" if state == "error" else "warning", text, _ADVICE[outcome], facts)
    said, advice = [], []
    for tree in own:
        text, what = _compared(tree, asked.trees)
        said.append(text)
        advice += [what] if what else []
    if not own:
        models = ", ".join(tree.model for tree in asked.trees) or "no model"
        said.append(f"it serves {models}; a running daemon compares it with its own")
    other = f" (version {asked.version}, here {__version__})" if asked.version != __version__ else ""
    text = f"{asked.url} accepts the key{other}; {'; '.join(said)}"
    return Finding("peer", "warning" if advice else "ok", text, "; ".join(dict.fromkeys(advice)), facts)


def _compared(tree: PeerTree, theirs: Iterable[PeerTree]) -> tuple[str, str]:
    """Return whether a peer computes a model as this machine does, and the remedy where it does not."""
    alike = [one for one in theirs if one.fingerprint == tree.fingerprint]
    if any(one.layout == tree.layout for one in alike):
        return f"it computes {tree.model} identically", ""
    if alike:
        return (
            f"it computes {tree.model} differently ({alike[0].layout} there, {tree.layout} here): no block is shared",
            "use one SEMANTIC_MLX_KV_BITS, one SEMANTIC_MLX_BLOCK_TOKENS, and one minor version of mlx and mlx-lm on "
            "both, on chips of one family",
        )
    if any(one.model == tree.model for one in theirs):
        return (
            f"its files of {tree.model} differ: no block is shared",
            f"download it again on one of them: `semanticd models pull {tree.model}`",
        )
    return f"it has not loaded {tree.model}: only blocks already on its disk are found", ""
