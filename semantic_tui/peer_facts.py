"""The machines that blocks are read from, as text: a line for all, and a few for each. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content

from semantic_tui.plain import shortened, size
from semanticd.control.results import PeerFacts


def peers_line(peers: Sequence[PeerFacts]) -> tuple[str, str]:
    """Return how many peers are ready and the bytes they sent, and for the right side how many are not ready."""
    resting = sum(peer.state == "resting" for peer in peers)
    brought = size(sum(peer.num_bytes for peer in peers))
    return f"{len(peers) - resting} of {len(peers)} ready, {brought}", f"{resting} resting" if resting else ""


def peers_text(peers: Sequence[PeerFacts], width: int) -> Content:
    """Return each peer in a few lines of `width` characters: queries, replies, failures."""
    if not peers:
        return Content.styled(
            "No peers. SEMANTIC_PEERS=http://mac-2:8000 lets this daemon read blocks from another machine's disk.",
            "$muted",
        )
    parts: list[tuple[str, str] | str] = []
    for peer in peers:
        ready = peer.state == "ready"
        rate = "" if peer.bytes_per_s is None else f" at {size(peer.bytes_per_s)}/s"
        parts += [
            ("● " if ready else "○ ", "$success" if ready else "$warning"),
            (shortened(peer.address, max(8, width - 14)), "bold"),
            f"  {peer.state or '-'}\n",
            f"  asked about {peer.num_asked:,} prompts; {peer.num_found:,} blocks found, {peer.num_blocks:,} read\n",
            f"  {size(peer.num_bytes)} read{rate}\n",
        ]
        if peer.num_failures:
            failures = f"  {peer.num_failures:,} failure{'' if peer.num_failures == 1 else 's'}, last: "
            parts += [(failures, "$warning"), f"{peer.last_failure or '-'}\n"]
        parts.append("\n")
    parts.append(
        ("The doctor (6) checks that each peer accepts the key and computes the same values.", "$muted")
    )
    return Content.assemble(*parts)
